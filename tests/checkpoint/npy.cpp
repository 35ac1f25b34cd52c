#include "recurformer/checkpoint/npy.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"
#include "recurformer/core/random.hpp"

namespace {

using rf::DType;
using rf::NpyArray;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;
using Shape = std::vector<std::int64_t>;

const std::string golden = RECURFORMER_TEST_DATA "/files/";

template <class T>
std::vector<T> values(const NpyArray& array) {
  REQUIRE(array.dtype == rf::dtype_of<T>);
  std::vector<T> out(array.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(static_cast<void*>(out.data()), array.bytes.data(), array.bytes.size());
  return out;
}

std::string load_error(const std::string& path) {
  const std::string message = message_of<rf::FileError>([&] { rf::load_npy(path); });
  return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
}

/// What loading a file of exactly these bytes says, without the path; "no error" if it loads.
std::string error_of_bytes(std::string_view bytes) {
  static const TemporaryFolder folder;
  const std::string path = folder.write("f.npy", bytes);
  return load_error(path);
}

/// A file of format 1.0 with this header and `data_size` bytes of data.
std::string file_of(const std::string& header, std::size_t data_size) {
  const auto length = static_cast<std::uint16_t>(header.size());
  std::string out("\x93NUMPY\x01\x00", 8);
  out.append(reinterpret_cast<const char*>(&length), 2);
  return out + header + std::string(data_size, 'd');
}

std::string error_of_header(const std::string& header) { return error_of_bytes(file_of(header, 24)); }

std::string error_of_shape(const std::string& shape) {
  return error_of_header("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + "}");
}

std::string error_of_descr(const std::string& descr) {
  return error_of_header("{'descr': " + descr + ", 'fortran_order': False, 'shape': (2, 3)}");
}

std::string save_error(DType dtype, const Shape& shape, std::size_t size) {
  const std::vector<std::byte> bytes(size);
  return message_of<rf::ArgumentError>([&] { rf::save_npy("/nowhere/f.npy", dtype, shape, bytes); });
}

}  // namespace

TEST_CASE("npy: floating-point files of numpy") {
  const NpyArray array = rf::load_npy(golden + "float32.npy");
  CHECK(array.shape == Shape{3, 4});
  using Limits = std::numeric_limits<float>;
  const float expected[] = {0.0f,
                            -0.0f,
                            1.0f,
                            -1.5f,
                            Limits::infinity(),
                            -Limits::infinity(),
                            Limits::quiet_NaN(),
                            Limits::max(),
                            Limits::denorm_min(),
                            1.0f / 3.0f,
                            -2.0f / 3.0f,
                            100.0f};
  REQUIRE(array.bytes.size() == sizeof expected);
  CHECK(std::memcmp(array.bytes.data(), expected, sizeof expected) == 0);

  const auto doubles = values<double>(rf::load_npy(golden + "float64.npy"));
  CHECK(doubles[7] == std::numeric_limits<double>::max());
  CHECK(doubles[8] == std::numeric_limits<double>::denorm_min());
  CHECK(doubles[9] == 1.0 / 3.0);
  const auto halves = values<rf::fp16>(rf::load_npy(golden + "float16.npy"));
  CHECK(float(halves[7]) == 65504.0f);
  CHECK(float(halves[8]) == 0x1p-24f);
  CHECK(halves[9] == rf::fp16(1.0f / 3.0f));
}

TEST_CASE("npy: integer files of numpy") {
  const NpyArray bytes = rf::load_npy(golden + "uint8.npy");
  CHECK(bytes.shape == Shape{1, 2, 3});
  CHECK(values<std::uint8_t>(bytes) == std::vector<std::uint8_t>{0, 255, 0, 1, 2, 3});
  CHECK(values<std::int32_t>(rf::load_npy(golden + "int32.npy")) ==
        std::vector<std::int32_t>{std::numeric_limits<std::int32_t>::min(),
                                  std::numeric_limits<std::int32_t>::max(), 0, 1, 2, 3});
  CHECK(values<std::int64_t>(rf::load_npy(golden + "int64.npy")) ==
        std::vector<std::int64_t>{std::numeric_limits<std::int64_t>::min(),
                                  std::numeric_limits<std::int64_t>::max(), 0, 1, 2, 3});
}

TEST_CASE(
    "npy: unsigned integers of 16 and 32 bits, as token files have them, and files that are only looked at") {
  const TemporaryFolder folder;
  const std::uint16_t words[] = {0, 1, 65535};
  const std::uint32_t longs[] = {0, 65536, 4294967295u};
  rf::save_npy(folder / "u2.npy", DType::U16, {3}, std::as_bytes(std::span(words)));
  rf::save_npy(folder / "u4.npy", DType::U32, {3}, std::as_bytes(std::span(longs)));
  CHECK(contains(rf::read_text_file(folder / "u2.npy"),
                 "{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }"));
  CHECK(contains(rf::read_text_file(folder / "u4.npy"), "'<u4'"));
  CHECK(values<std::uint16_t>(rf::load_npy(folder / "u2.npy")) == std::vector<std::uint16_t>{0, 1, 65535});
  const rf::NpyFile file(folder / "u4.npy");
  CHECK(file.path() == folder / "u4.npy");
  CHECK(file.dtype() == DType::U32);
  CHECK(file.shape() == Shape{3});
  REQUIRE(file.bytes().size() == sizeof longs);
  CHECK(std::memcmp(file.bytes().data(), longs, sizeof longs) == 0);
}

TEST_CASE("npy: scalars, vectors, empty arrays, formats 2.0 and 3.0") {
  const NpyArray scalar = rf::load_npy(golden + "scalar.npy");
  CHECK(scalar.shape == Shape{});
  CHECK(values<float>(scalar) == std::vector<float>{2.5f});
  const NpyArray vector = rf::load_npy(golden + "vector.npy");
  CHECK(vector.shape == Shape{3});
  CHECK(values<float>(vector) == std::vector<float>{0, 1, 2});
  const NpyArray empty = rf::load_npy(golden + "empty.npy");
  CHECK(empty.shape == Shape{2, 0, 3});
  CHECK(empty.bytes.empty());
  for (const char* name : {"version2.npy", "version3.npy"}) {
    const NpyArray array = rf::load_npy(golden + name);
    CHECK(array.shape == Shape{2, 3});
    CHECK(values<std::int32_t>(array) == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5});
  }
}

TEST_CASE("npy: we write the bytes that numpy writes") {
  const TemporaryFolder folder;
  for (const std::string name :
       {"float16", "float32", "float64", "uint8", "int32", "int64", "scalar", "vector", "empty"}) {
    const std::string original = golden + name + ".npy";
    const NpyArray array = rf::load_npy(original);
    rf::save_npy(folder / "f.npy", array.dtype, array.shape, array.bytes);
    CHECK_MESSAGE(rf::read_text_file(folder / "f.npy") == rf::read_text_file(original), name);
  }
}

TEST_CASE("npy: headers of every length keep the data aligned and load again") {
  const TemporaryFolder folder;
  const std::string path = folder / "f.npy";
  const std::vector<std::byte> one(8, std::byte{3});
  for (std::size_t dimensions = 0; dimensions <= 64; dimensions += 4) {
    const Shape shape(dimensions, 1);
    rf::save_npy(path, DType::F64, shape, one);
    const NpyArray array = rf::load_npy(path);
    CHECK(array.shape == shape);
    CHECK(array.bytes == one);
    CHECK((rf::read_text_file(path).size() - 8) % 64 == 0);
  }
}

TEST_CASE("npy: what cannot be saved") {
  CHECK(save_error(DType::BF16, {1}, 2) ==
        "save_npy: numpy has no bfloat16; save the tensor as .safetensors or as F32");
  CHECK(
      save_error(DType::I16, {1}, 2) ==
      "save_npy: cannot save I16; supported: float32, float64, float16, int32, int64, uint8, uint16, uint32");
  CHECK(save_error(DType::F32, {2, 3}, 23) == "save_npy: got 23 bytes; shape (2, 3) of F32 needs 24");
  CHECK(contains(save_error(DType::F32, {-1}, 0), "needs non-negative sizes below 2^63 bytes"));
  CHECK(contains(save_error(DType::U8, Shape(65, 1), 1), "got 65 dimensions; allowed: at most 64"));
  CHECK(contains(message_of<rf::FileError>([] { rf::save_npy("/nowhere/f.npy", DType::U8, {0}, {}); }),
                 "/nowhere/f.npy: cannot be written"));
}

TEST_CASE("npy: files of numpy that are not supported") {
  CHECK(load_error(golden + "fortran.npy") ==
        ".npy header: the array is in Fortran order; in Python, save numpy.ascontiguousarray(array)");
  CHECK(load_error(golden + "big_endian.npy") ==
        ".npy header: big-endian dtype '>f4' is not supported; in Python, convert it with .astype('<f4')");
  CHECK(contains(load_error(golden + "bool.npy"), "unsupported dtype '|b1'; supported: float32"));
  CHECK(contains(load_error(golden + "structured.npy"), "structured arrays are not supported"));
  CHECK(contains(load_error(golden + "all_dtypes.safetensors"), "it is not a .npy file"));
  CHECK(contains(load_error(golden + "absent.npy"), "No such file or directory"));
}

TEST_CASE("npy: hostile files, the frame") {
  CHECK(contains(error_of_bytes(""), "it is not a .npy file"));
  CHECK(contains(error_of_bytes("\x93NUMPY\x01"), "it is not a .npy file"));
  CHECK(contains(error_of_bytes("\x93NUMPX\x01\x01\x01\x01"), "it is not a .npy file"));
  CHECK(error_of_bytes(std::string_view("\x93NUMPY\x04\x00\x00\x00", 10)) ==
        "has .npy format 4.0; supported: 1.0, 2.0 and 3.0");
  CHECK(contains(error_of_bytes(std::string_view("\x93NUMPY\x00\x00\x00\x00", 10)), "has .npy format 0.0"));
  CHECK(contains(error_of_bytes(std::string_view("\x93NUMPY\x01\x01\x00\x00", 10)), "has .npy format 1.1"));
  CHECK(error_of_bytes(std::string_view("\x93NUMPY\x01\x00\x01", 9)) ==
        "ends within the .npy header's length");
  CHECK(contains(error_of_bytes(std::string_view("\x93NUMPY\x02\x00\x01\x00\x00", 11)), "ends within"));
  CHECK(error_of_bytes(std::string_view("\x93NUMPY\x01\x00\xff\xff{}", 12)) ==
        "announces a .npy header of 65535 bytes, but only 2 bytes follow");
  CHECK(contains(error_of_bytes(std::string_view("\x93NUMPY\x03\x00\xff\xff\xff\xff{}", 14)),
                 "announces a .npy header of 4294967295 bytes, but only 2 bytes follow"));
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}";
  CHECK(error_of_bytes(file_of(header, 24)) == "no error");
  CHECK(error_of_bytes(file_of(header, 23)) == "has 23 bytes of data; expected 24 for shape (2, 3) of F32");
  CHECK(contains(error_of_bytes(file_of(header, 25)), "has 25 bytes of data; expected 24"));
  CHECK(contains(error_of_bytes(file_of(header, 0)), "has 0 bytes of data; expected 24"));
}

TEST_CASE("npy: hostile files, the header") {
  CHECK(error_of_header("") == ".npy header: expected '{', found its end");
  CHECK(contains(error_of_header("()"), "expected '{', found '()'"));
  CHECK(error_of_header("{}") == ".npy header: the key 'descr' is missing");
  CHECK(contains(error_of_header("{'descr': '<f4'}"), "the key 'fortran_order' is missing"));
  CHECK(contains(error_of_header("{'descr': '<f4', 'fortran_order': False,}"), "the key 'shape' is missing"));
  CHECK(contains(error_of_header("{'descr': '<f4', 'descr': '<f4'}"), "unknown or repeated key 'descr'"));
  CHECK(contains(error_of_header("{'x\x1b': 1}"), "unknown or repeated key 'x\\x1b'"));
  CHECK(contains(error_of_header("{'descr': '<f4"), "expected the end of a string, found '<f4'"));
  CHECK(contains(error_of_header("{descr: '<f4'}"), "expected ''', found 'descr: '<f4'}'"));
  CHECK(contains(error_of_header("{'descr' '<f4'}"), "expected ':', found ''<f4'}'"));
  CHECK(contains(error_of_header("{'descr': '<f4' 'shape': ()}"), "expected '}', found ''shape': ()}'"));
  CHECK(contains(error_of_header("{'fortran_order': 0}"), "fortran_order: expected False, found '0}'"));
  CHECK(contains(error_of_header("{'fortran_order':"), "fortran_order: expected False, found its end"));
  CHECK(error_of_header("{\"shape\":(2,3,),'fortran_order':False\n,'descr':'<f4'} \n \n") == "no error");
  CHECK(contains(error_of_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x"),
                 "expected nothing behind '}', found 'x'"));

  CHECK(contains(error_of_descr("'<f16'"), "unsupported dtype '<f16'"));
  CHECK(contains(error_of_descr("'>c8'"), "big-endian dtype '>c8'"));
  CHECK(contains(error_of_descr("'>\x11\n'"), "convert it with .astype('<\\x11\\x0a')"));
  CHECK(contains(error_of_descr("'>'"), "convert it with .astype('<')"));
  CHECK(contains(error_of_descr("'|O'"), "unsupported dtype '|O'"));
  CHECK(contains(error_of_descr("''"), "unsupported dtype ''"));
  CHECK(contains(error_of_descr("3"), "expected ''', found '3, 'fortran_order'"));

  CHECK(error_of_shape("(6,)") == "no error");
  CHECK(contains(error_of_shape("(6)"), "shape: expected ',' after a single size, found ')}'"));
  CHECK(contains(error_of_shape("6"), "expected '(', found '6}'"));
  CHECK(contains(error_of_shape("(2, -3)"), "shape: expected a non-negative integer, found '-3)}'"));
  CHECK(contains(error_of_shape("(,)"), "shape: expected a non-negative integer, found ',)}'"));
  CHECK(contains(error_of_shape("(2.0, 3)"), "found '.0, 3)}'"));
  CHECK(contains(error_of_shape("(2, 3"), "expected ')', found '}'"));
  CHECK(contains(error_of_shape("(9223372036854775808,)"), "the size '9223372036854775808,' is too large"));
  CHECK(contains(error_of_shape("(" + std::string(500, '9') + ",)"), "is too large"));
  CHECK(error_of_shape("(9223372036854775807,)") ==
        "shape (9223372036854775807) of F32 has more than 2^63 bytes");
  CHECK(contains(error_of_shape("(4294967296, 4294967296, 0)"), "has more than 2^63 bytes"));
  std::string many = "(";
  for (int i = 0; i < 65; ++i) many += "1,";
  CHECK(contains(error_of_shape(many + ")"), "shape: more than 64 dimensions"));
}

TEST_CASE("npy: thousands of damaged files load or throw, nothing else") {
  const TemporaryFolder folder;
  const std::string path = folder / "f.npy";
  const std::string valid = rf::read_text_file(golden + "int64.npy");
  rf::Random random(11);
  int loaded = 0, refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = valid;
    // Mostly in the first bytes: behind them are spaces and data.
    for (std::uint64_t flips = 1 + random.below(3); flips > 0; --flips)
      damaged[random.below(random.below(4) == 0 ? damaged.size() : 72)] =
          static_cast<char>(random.below(256));
    if (random.below(8) == 0) damaged.resize(random.below(damaged.size() + 1));
    folder.write("f.npy", damaged);
    try {
      const NpyArray array = rf::load_npy(path);
      ++loaded;
      CHECK(array.bytes.size() <= damaged.size());
    } catch (const rf::Error& failure) {
      ++refused;
      CHECK(std::string_view(failure.what()).starts_with(path));
      CHECK(std::string_view(failure.what()).find('\n') == std::string_view::npos);
    }
  }
  CHECK(loaded > 30);
  CHECK(refused > 1000);
}
