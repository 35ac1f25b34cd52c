#include "recurformer/checkpoint/tensor_io.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

namespace {

using rf::bf16;
using rf::Dims;
using rf::dynamic;
using rf::Extents;
using rf::fp16;
using rf::Tensor;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

const std::string golden = RECURFORMER_TEST_DATA "/files/";

/// Elements 0, 1, 2, … in row-major order.
template <class T, class E>
Tensor<T, E> counting(const E& extents) {
  Tensor<T, E> out(extents);
  for (std::int64_t i = 0; i < out.size(); ++i) out.data()[i] = rf::convert<T>(i);
  return out;
}

template <class T, class E>
std::vector<double> values(const Tensor<T, E>& tensor) {
  std::vector<double> out;
  for (const T x : tensor.view().span()) out.push_back(rf::convert<double>(x));
  return out;
}

template <class Action>
std::string file_error(Action action) {
  return message_of<rf::FileError>([&] { (void)action(); });
}

}  // namespace

TEST_CASE("tensor io: .npy and back") {
  const TemporaryFolder folder;
  const std::string path = folder / "x.npy";
  const auto check = [&]<class T>(T) {
    const auto x = counting<T>(Dims<2>(2, 3));
    rf::save_npy(path, x);
    const auto y = rf::load_npy<T, Extents<dynamic, 3>>(path);
    CHECK(y.extents() == x.extents());
    CHECK(values(y) == values(x));
  };
  check(fp16{});
  check(std::int64_t{});
  check(std::uint8_t{});
}

TEST_CASE("tensor io: .npy of scalars, of nothing, and of views") {
  const TemporaryFolder folder;
  const std::string path = folder / "x.npy";
  Tensor<float, Extents<>> scalar;
  scalar() = -2.5f;
  rf::save_npy(path, scalar);
  CHECK(rf::load_npy<float, Extents<>>(path)() == -2.5f);
  rf::save_npy(path, Tensor<double, Dims<2>>({0, 3}));
  CHECK(rf::load_npy<double, Dims<2>>(path).extents() == Dims<2>(0, 3));

  const auto x = counting<float>(Dims<2>(2, 3));
  rf::save_npy(path, x.view().transposed());
  CHECK(values(rf::load_npy<float, Dims<2>>(path)) == std::vector<double>{0, 3, 1, 4, 2, 5});
  rf::save_npy(path, x.view().sub(1));
  CHECK(values(rf::load_npy<float, Dims<1>>(path)) == std::vector<double>{3, 4, 5});
}

TEST_CASE("tensor io: .npy that numpy wrote") {
  const auto array = rf::load_npy(golden + "float32.npy");
  REQUIRE(array.shape.size() == 2);
  const auto x = rf::load_npy<float, Dims<2>>(golden + "float32.npy");
  CHECK(x.extents() == Dims<2>(array.shape[0], array.shape[1]));
  CHECK(std::memcmp(x.data(), array.bytes.data(), x.bytes()) == 0);
}

TEST_CASE("tensor io: reading converts between floating-point types, rounding once") {
  const TemporaryFolder folder;
  const std::string path = folder / "x.npy";
  Tensor<double> x({4});
  x(0) = 1.0 + 0x1p-8 + 0x1p-40;  // rounds up to bf16, though the nearest float is the middle
  x(1) = -0.1;
  x(2) = std::numeric_limits<double>::infinity();
  x(3) = std::numeric_limits<double>::quiet_NaN();
  rf::save_npy(path, x);
  const auto narrow = rf::load_npy<bf16, Dims<1>>(path);
  CHECK(narrow(0).bits == 0x3f81);
  CHECK(narrow(1) == bf16(-0.1f));
  CHECK(narrow(2).bits == 0x7f80);
  CHECK(std::isnan(float(narrow(3))));
  rf::save_npy(path, rf::cast<fp16>(x));
  CHECK(rf::load_npy<double, Dims<1>>(path)(1) == double(float(fp16(-0.1f))));
}

TEST_CASE("tensor io: .safetensors and back") {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const auto weight = counting<bf16>(Dims<2>(3, 4));
  const auto bias = counting<float>(Extents<3>());
  const auto steps = counting<std::int64_t>(Dims<1>(2));
  const auto tiny = counting<std::int8_t>(Dims<1>(5));
  Tensor<bool> flags({3});
  flags(1) = true;
  rf::SafetensorsWriter writer;
  rf::add_tensor(writer, "weight", weight);
  rf::add_tensor(writer, "bias", bias.view());
  rf::add_tensor(writer, "row", weight.view().sub(1));
  rf::add_tensor(writer, "steps", steps);
  rf::add_tensor(writer, "tiny", tiny);
  rf::add_tensor(writer, "flags", flags);
  writer.write(path);

  const rf::SafetensorsFile file(path);
  rf::CountingMemory memory;
  const auto read = rf::read_tensor<bf16, Dims<2>>(file, "weight", &memory);
  CHECK(memory.live_bytes() == 24);
  CHECK(values(read) == values(weight));
  CHECK(values(rf::read_tensor<float, Extents<3>>(file, "bias")) == values(bias));
  CHECK(values(rf::read_tensor<double, Dims<1>>(file, "row")) == std::vector<double>{4, 5, 6, 7});
  CHECK(values(rf::read_tensor<std::int64_t, Dims<1>>(file, "steps")) == values(steps));
  CHECK(values(rf::read_tensor<std::int8_t, Dims<1>>(file, "tiny")) == values(tiny));
  CHECK(values(rf::read_tensor<bool, Dims<1>>(file, "flags")) == std::vector<double>{0, 1, 0});
}

TEST_CASE("tensor io: a file's bools are true where they are not 0") {
  const TemporaryFolder folder;
  const std::byte odd[] = {std::byte{0}, std::byte{1}, std::byte{255}};
  rf::SafetensorsWriter writer;
  writer.add("flags", rf::DType::BOOL, {3}, odd);
  writer.write(folder / "x.safetensors");
  const auto flags = rf::read_tensor<bool, Dims<1>>(rf::SafetensorsFile(folder / "x.safetensors"), "flags");
  CHECK(values(flags) == std::vector<double>{0, 1, 1});
}

TEST_CASE("tensor io: what a file does not have is an error that names it") {
  const TemporaryFolder folder;
  const std::string npy = folder / "x.npy", tensors = folder / "x.safetensors";
  const auto x = counting<float>(Dims<2>(2, 3));
  rf::save_npy(npy, x);
  const auto integers = counting<std::int32_t>(Dims<1>(2));
  rf::SafetensorsWriter writer;
  rf::add_tensor(writer, "x", x);
  rf::add_tensor(writer, "n", integers);
  writer.write(tensors);
  const rf::SafetensorsFile file(tensors);

  CHECK(file_error([&] { return rf::load_npy<float, Dims<1>>(npy); }) ==
        npy + ": has shape (2, 3); expected one of rank 1");
  CHECK(file_error([&] { return rf::load_npy<float, Extents<dynamic, 4>>(npy); }) ==
        npy + ": extent 1 of shape (2, 3) is 3, but the type fixes it at 4");
  CHECK(file_error([&] { return rf::load_npy<std::int32_t, Dims<2>>(npy); }) ==
        npy + ": has dtype F32; expected I32");
  CHECK(contains(file_error([&] { return rf::load_npy<float, Dims<1>>(folder / "none.npy"); }), "none.npy"));

  CHECK(
      contains(file_error([&] { return rf::read_tensor<float, Dims<2>>(file, "y"); }), "has no tensor 'y'"));
  CHECK(file_error([&] { return rf::read_tensor<float, Dims<1>>(file, "x"); }) ==
        tensors + ": tensor 'x': has shape (2, 3); expected one of rank 1");
  CHECK(file_error([&] { return rf::read_tensor<float, Dims<1>>(file, "n"); }) ==
        tensors + ": tensor 'n': has dtype I32; expected F64, F32, BF16 or F16");
  CHECK(file_error([&] { return rf::read_tensor<bool, Dims<2>>(file, "x"); }) ==
        tensors + ": tensor 'x': has dtype F32; expected BOOL");
}

TEST_CASE("tensor io: tensors that a format cannot hold are errors that name the way out") {
  const TemporaryFolder folder;
  const auto x = counting<bf16>(Dims<2>(2, 3));
  CHECK(contains(message_of<rf::ArgumentError>([&] { rf::save_npy(folder / "x.npy", x); }),
                 "numpy has no bfloat16"));
  rf::SafetensorsWriter writer;
  CHECK(contains(message_of<rf::ArgumentError>([&] { rf::add_tensor(writer, "x", x.view().transposed()); }),
                 "is not contiguous; copy it to a tensor first (rf::copy)"));
}
