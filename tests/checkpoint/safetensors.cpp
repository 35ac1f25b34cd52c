#include "recurformer/checkpoint/safetensors.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

namespace {

using rf::DType;
using rf::SafetensorsFile;
using rf::SafetensorsWriter;
using rf::TensorEntry;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

const std::string golden = RECURFORMER_TEST_DATA "/files/";

std::string error(const std::function<void()>& action) { return message_of<rf::FileError>(action); }
std::string argument_error(const std::function<void()>& action) {
  return message_of<rf::ArgumentError>(action);
}

std::string length_bytes(std::uint64_t length) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out;
}

/// A file of this header, correct length included, and `data_size` bytes of data.
std::string file_of(std::string_view header, std::size_t data_size) {
  return length_bytes(header.size()) + std::string(header) + std::string(data_size, 'd');
}

template <class T>
std::vector<T> values(const TensorEntry& tensor) {
  REQUIRE(tensor.dtype == rf::dtype_of<T>);
  std::vector<T> out(tensor.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(static_cast<void*>(out.data()), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

using Shape = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("safetensors: a file of the reference implementation") {
  const SafetensorsFile file(golden + "all_dtypes.safetensors");
  CHECK(file.names() == std::vector<std::string>{"i64", "f64", "empty", "f32", "i32", "bf16", "f16", "i16",
                                                 "i8", "u8", "bool"});
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"note", "a\nb"}});
  CHECK(file.contains("f32"));
  CHECK(!file.contains("f3"));
  CHECK(!file.contains("f322"));
  CHECK(!file.contains("__metadata__"));
  CHECK(file.tensor("f32").name == "f32");
  CHECK(file.tensor("f32").shape == Shape{3, 2});
  CHECK(file.tensor("i32").shape == Shape{});
  CHECK(file.tensor("empty").shape == Shape{0, 5});
  CHECK(file.tensor("empty").bytes.empty());
  CHECK(values<float>(file.tensor("f32")) == std::vector<float>{1, -2, 0.5f, 3, -0.25f, 100});
  CHECK(values<double>(file.tensor("f64")) == std::vector<double>{1, -2, 0.5, 3, -0.25, 100});
  CHECK(values<std::int64_t>(file.tensor("i64")) ==
        std::vector<std::int64_t>{std::numeric_limits<std::int64_t>::min(),
                                  std::numeric_limits<std::int64_t>::max()});
  CHECK(values<std::int32_t>(file.tensor("i32")) == std::vector<std::int32_t>{-7});
  CHECK(values<std::int16_t>(file.tensor("i16")) == std::vector<std::int16_t>{-300});
  CHECK(values<std::int8_t>(file.tensor("i8")) == std::vector<std::int8_t>{-1, 0, 127});
  CHECK(values<std::uint8_t>(file.tensor("u8")) == std::vector<std::uint8_t>{200});
  CHECK(file.tensor("bool").dtype == DType::BOOL);
  CHECK(file.tensor("bool").bytes[0] == std::byte{1});
  CHECK(file.tensor("bool").bytes[1] == std::byte{0});
  CHECK(error([&] { file.tensor("nothing"); }) ==
        file.path() + ": has no tensor 'nothing'; it has 11 tensors, the first being 'i64'");
}

TEST_CASE("safetensors: our writer and the reference implementation write the same bytes") {
  const TemporaryFolder folder;
  const std::string expected = golden + "one_dtype.safetensors";
  const float matrix[] = {0, 1, 2, 3}, scalar = 9, one = 7;
  for (const bool backwards : {false, true}) {
    SafetensorsWriter writer;
    std::vector<std::function<void()>> steps = {[&] {
                                                  writer.add("b.weight", {2, 2}, matrix);
                                                },
                                                [&] { writer.add("a.bias", {}, &scalar); },
                                                [&] {
                                                  writer.add<float>("c", {0, 5}, nullptr);
                                                },
                                                [&] { writer.add("größe \"q\" \\", {1}, &one); },
                                                [&] { writer.metadata("format", "pt"); }};
    if (backwards) std::reverse(steps.begin(), steps.end());
    for (const auto& step : steps) step();
    writer.write(folder / "f");
    CHECK(rf::read_text_file(folder / "f") == rf::read_text_file(expected));
  }
}

TEST_CASE("safetensors: every dtype survives a round trip, aligned for its type") {
  const TemporaryFolder folder;
  const SafetensorsFile source(golden + "all_dtypes.safetensors");
  SafetensorsWriter writer;
  for (const TensorEntry& tensor : source.tensors())
    writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
  for (const auto& [key, value] : source.metadata()) writer.metadata(key, value);
  writer.write(folder / "f");
  const SafetensorsFile copy(folder / "f");
  REQUIRE(copy.tensors().size() == source.tensors().size());
  CHECK(copy.metadata() == source.metadata());
  for (const TensorEntry& tensor : copy.tensors()) {
    const TensorEntry& original = source.tensor(tensor.name);
    CHECK(tensor.dtype == original.dtype);
    CHECK(tensor.shape == original.shape);
    CHECK(std::equal(tensor.bytes.begin(), tensor.bytes.end(), original.bytes.begin(), original.bytes.end()));
    CHECK(reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % rf::size_of(tensor.dtype) == 0);
  }
}

TEST_CASE("safetensors: no tensors, with and without metadata") {
  const TemporaryFolder folder;
  SafetensorsWriter writer;
  writer.write(folder / "f");
  CHECK(rf::read_text_file(folder / "f") == file_of("{}      ", 0));
  CHECK(SafetensorsFile(folder / "f").names().empty());
  writer.metadata("key", "first");
  writer.metadata("key", "\"\\\x1f\n");
  writer.write(folder / "f");
  CHECK(SafetensorsFile(folder / "f").metadata() ==
        std::map<std::string, std::string>{{"key", "\"\\\x1f\n"}});
  CHECK(error([&] { SafetensorsFile(folder / "f").tensor("x"); }) ==
        (folder / "f") + ": has no tensor 'x'; it has 0 tensors");
}

TEST_CASE("safetensors: a file can be written over the one its tensors come from, and moved") {
  const TemporaryFolder folder;
  const std::string path = folder / "f";
  const std::vector<float> content(50'000, 1.5f);
  SafetensorsWriter first;
  first.add("x", {50'000}, content.data());
  first.write(path);
  SafetensorsFile file(path);
  SafetensorsWriter second;
  second.add("y", DType::F32, {50'000}, file.tensor("x").bytes);
  second.write(path);
  CHECK(values<float>(SafetensorsFile(path).tensor("y")) == content);
  SafetensorsFile moved(std::move(file));
  CHECK(values<float>(moved.tensor("x")) == content);
  moved = SafetensorsFile(path);
  CHECK(values<float>(moved.tensor("y")) == content);
  CHECK(!moved.contains("x"));
}

TEST_CASE("read_tensor: converts, rounding once, and writes nothing else") {
  const TemporaryFolder folder;
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  const float source[] = {0.0f,  -0.0f, 1.00390625f, -65519.0f, 65520.0f,
                          1e-8f, 1e38f, infinity,    -infinity, nan};
  constexpr std::int64_t count = std::size(source);
  double doubles[count];
  rf::bf16 small[count];
  rf::fp16 halves[count];
  for (std::int64_t i = 0; i < count; ++i) {
    doubles[i] = source[i];
    small[i] = rf::bf16(source[i]);
    halves[i] = rf::fp16(source[i]);
  }
  SafetensorsWriter writer;
  writer.add("f32", {count}, source);
  writer.add("f64", {count}, doubles);
  writer.add("bf16", {count}, small);
  writer.add("f16", {count}, halves);
  writer.write(folder / "f");
  const SafetensorsFile file(folder / "f");

  const auto compare = [&]<class To>(const char* name, const auto* from, To) {
    To out[count + 2];
    for (To& value : out) value = rf::convert<To>(-77.0f);
    rf::read_tensor(file, name, Shape{count}, out + 1);
    CHECK(float(out[0]) == -77.0f);
    CHECK(float(out[count + 1]) == -77.0f);
    for (std::int64_t i = 0; i < count; ++i) {
      const To expected = rf::convert<To>(from[i]);
      CHECK(std::memcmp(&out[i + 1], &expected, sizeof(To)) == 0);
    }
  };
  compare("f32", source, float{});
  compare("f64", doubles, float{});
  compare("bf16", small, float{});
  compare("f16", halves, float{});
  compare("f32", source, rf::bf16{});
  compare("f64", doubles, rf::bf16{});
  compare("bf16", small, rf::bf16{});
  compare("f16", halves, rf::bf16{});
  compare("f32", source, rf::fp16{});
  compare("f64", doubles, rf::fp16{});
  compare("bf16", small, rf::fp16{});
  compare("f16", halves, rf::fp16{});
}

TEST_CASE("read_tensor: misaligned data") {
  const TemporaryFolder folder;
  const float source[] = {1.0f, -2.5f, 3e-3f};
  std::string bytes = file_of(R"({"pad":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                              R"("x":{"dtype":"F32","shape":[3],"data_offsets":[1,13]}}   )",
                              13);
  std::memcpy(bytes.data() + bytes.size() - 12, source, 12);
  rf::write_file_atomically(folder / "f", bytes);
  const SafetensorsFile file(folder / "f");
  REQUIRE(reinterpret_cast<std::uintptr_t>(file.tensor("x").bytes.data()) % 4 != 0);
  float same[3] = {};
  rf::read_tensor(file, "x", Shape{3}, same);
  rf::bf16 converted[3] = {};
  rf::read_tensor(file, "x", Shape{3}, converted);
  for (int i = 0; i < 3; ++i) {
    CHECK(same[i] == source[i]);
    CHECK(converted[i] == rf::bf16(source[i]));
  }
}

TEST_CASE("read_tensor: wrong expectations") {
  const SafetensorsFile file(golden + "all_dtypes.safetensors");
  float out[6] = {};
  const auto read = [&](const char* name, const Shape& shape) {
    return error([&] { rf::read_tensor(file, name, shape, out); });
  };
  CHECK(read("f32", {2, 3}) == file.path() + ": tensor 'f32' has shape (3, 2); expected (2, 3)");
  CHECK(contains(read("f32", {3, 2, 1}), "has shape (3, 2); expected (3, 2, 1)"));
  CHECK(contains(read("f32", {}), "has shape (3, 2); expected ()"));
  CHECK(contains(read("i64", {2}), "tensor 'i64' has dtype I64; expected F64, F32, BF16 or F16"));
  CHECK(contains(read("f", {2}), "has no tensor 'f'"));
  CHECK(read("empty", {0, 5}) == "no error");
  CHECK(std::count(std::begin(out), std::end(out), 0.0f) == 6);
}

TEST_CASE("safetensors writer: what it refuses") {
  SafetensorsWriter writer;
  const float x[6] = {};
  writer.add("x", {6}, x);
  CHECK(argument_error([&] { writer.add("x", {6}, x); }) == "SafetensorsWriter: tensor 'x' was added twice");
  CHECK(contains(argument_error([&] { writer.add("__metadata__", {6}, x); }), "is not a tensor"));
  CHECK(
      contains(argument_error([&] { writer.add("a\nb", {6}, x); }), "the name 'a\\x0ab' contains a control"));
  CHECK(contains(argument_error([&] { writer.add(std::string(4097, 'n'), {6}, x); }), "has 4097 bytes"));
  CHECK(contains(argument_error([&] { writer.add("\xff", {6}, x); }), "is not UTF-8"));
  CHECK(contains(argument_error([&] { writer.metadata("k", "\xff"); }), "is not UTF-8"));
  CHECK(contains(argument_error([&] { writer.add("y", {-1}, x); }),
                 "needs non-negative sizes below 2^63 bytes"));
  CHECK(argument_error([&] {
          writer.add("y", DType::F16, {2, 3}, std::as_bytes(std::span(x)));
        }) == "SafetensorsWriter: tensor 'y' got 24 bytes; shape (2, 3) of F16 needs 12");
  const TemporaryFolder folder;
  writer.write(folder / "f");
  CHECK(SafetensorsFile(folder / "f").names() == std::vector<std::string>{"x"});
}
