// Malformed .safetensors files, each with the message it must give. The other half is safetensors.cpp.

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"
#include "recurformer/checkpoint/safetensors.hpp"
#include "recurformer/core/random.hpp"

namespace {

using rf::SafetensorsFile;
using rf::TensorEntry;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

std::string length_bytes(std::uint64_t length) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out;
}

/// A file of this header, correct length included, and `data_size` bytes of data.
std::string file_of(std::string_view header, std::size_t data_size) {
  return length_bytes(header.size()) + std::string(header) + std::string(data_size, 'd');
}

/// What opening a file of exactly these bytes says, without the path; "no error" if it opens.
std::string open_error(const std::string& bytes) {
  static const TemporaryFolder folder;
  const std::string path = folder.write("f", bytes);
  const std::string message = message_of<rf::FileError>([&] { SafetensorsFile file(path); });
  return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
}

}  // namespace

TEST_CASE("safetensors: hostile files, the frame") {
  CHECK(open_error("") == "has 0 bytes; a safetensors file begins with 8 bytes of header length");
  CHECK(contains(open_error("1234567"), "has 7 bytes"));
  CHECK(open_error(length_bytes(3) + "{}") ==
        "announces a header of 3 bytes, but only 2 bytes follow; it is cut short or not a safetensors file");
  CHECK(contains(open_error(length_bytes(1)), "but only 0 bytes follow"));
  CHECK(contains(open_error(length_bytes(100'000'001) + "{}"),
                 "announces a header of 100000001 bytes; allowed: at most 100000000"));
  CHECK(contains(open_error(length_bytes(~0ull) + "{}"), "announces a header of 18446744073709551615 bytes"));
  CHECK(contains(open_error(length_bytes(~0ull - 7) + "{}"),
                 "announces a header of"));  // + 8 would wrap around
  CHECK(open_error(file_of("", 4)) == "its header begins with ''; expected '{'");
  CHECK(open_error(file_of("[]", 0)) == "its header begins with '['; expected '{'");
  CHECK(open_error(file_of(" {}", 0)) == "its header begins with ' '; expected '{'");
  CHECK(open_error(file_of("\xef\xbb\xbf{}", 0)).starts_with("its header begins with "));
  CHECK(open_error(file_of("{\"a\":", 0)).starts_with("header: line 1, column 5 (byte 5): syntax error"));
  CHECK(open_error(file_of("{} x", 0)).starts_with("header: line 1, column 4 (byte 4): syntax error"));
  CHECK(open_error(file_of(std::string("{}\0\0", 4), 0)) == "header: is not JSON text: byte 3 is NUL");
  CHECK(contains(
      open_error(file_of("{\"a\":" + std::string(200'000, '[') + std::string(200'000, ']') + "}", 0)),
      "more than 64 arrays and objects within each other"));
  CHECK(open_error(file_of("{}", 3)) == "3 bytes at the end of the file belong to no tensor");
  CHECK(open_error(file_of("{}  \n\t", 0)) == "no error");
}

TEST_CASE("safetensors: hostile files, one tensor") {
  const auto of_entry = [](const std::string& entry) {
    return open_error(file_of("{\"t\":" + entry + "}", 24));
  };
  const auto of_fields = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return of_entry("{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}");
  };
  REQUIRE(of_fields("\"F32\"", "[2,3]", "[0,24]") == "no error");

  CHECK(of_entry("3") == "tensor 't': expected an object, found 3");
  CHECK(of_entry("[]") == "tensor 't': expected an object, found an array of 0");
  CHECK(of_entry(R"({"shape":[6],"data_offsets":[0,24]})") == "tensor 't': the field 'dtype' is missing");
  CHECK(of_entry(R"({"dtype":"F32","data_offsets":[0,24]})") == "tensor 't': the field 'shape' is missing");
  CHECK(of_entry(R"({"dtype":"F32","shape":[6]})") == "tensor 't': the field 'data_offsets' is missing");
  CHECK(of_entry(R"({"dtype":"F32","shape":[6],"data_offsets":[0,24],"x":1})") ==
        "tensor 't': unknown field 'x'; known: dtype, shape, data_offsets");
  CHECK(contains(of_entry(R"({"dtype":"F32","shape":[6],"data_offsets":[0,24],"shape":[6]})"),
                 "duplicate key 'shape'"));

  CHECK(of_fields("7", "[6]", "[0,24]") == "tensor 't'.dtype: expected a string, found 7");
  for (const std::string dtype : {"F8_E4M3", "U64", "f32", "", "F32 ", "C64"})
    CHECK(of_fields("\"" + dtype + "\"", "[6]", "[0,24]") ==
          "tensor 't'.dtype: unsupported dtype '" + dtype +
              "'; supported: F64, F32, BF16, F16, I64, I32, I16, I8, U32, U16, U8, BOOL");

  CHECK(of_fields("\"F32\"", "6", "[0,24]") == "tensor 't'.shape: expected an array, found 6");
  CHECK(of_fields("\"F32\"", "[6,-1]", "[0,24]") ==
        "tensor 't'.shape[1]: expected an integer of at least 0, found -1");
  CHECK(contains(of_fields("\"F32\"", "[6.0]", "[0,24]"), "expected an integer of at least 0, found 6.0"));
  CHECK(contains(of_fields("\"F32\"", "[\"6\"]", "[0,24]"), "found the string '6'"));
  CHECK(contains(of_fields("\"F32\"", "[true]", "[0,24]"),
                 "shape[0]: expected an integer of at least 0, found true"));
  CHECK(contains(of_fields("\"F32\"", "[9223372036854775808]", "[0,24]"), "found 9223372036854775808"));
  CHECK(contains(of_fields("\"F32\"", "[1e2]", "[0,24]"), "found 100.0"));
  // Products that wrap around to 24 and to 0, and one that only a size of zero saves.
  CHECK(of_fields("\"F32\"", "[4611686018427387910]", "[0,24]") ==
        "tensor 't': shape (4611686018427387910) of F32 has more than 2^63 bytes");
  CHECK(contains(of_fields("\"U8\"", "[4294967296,4294967296]", "[0,24]"), "has more than 2^63 bytes"));
  CHECK(contains(of_fields("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), "has more than 2^63 bytes"));
  CHECK(contains(of_fields("\"U8\"", "[0,4294967296,4294967296]", "[0,0]"), "has more than 2^63 bytes"));

  CHECK(of_fields("\"F32\"", "[6]", "24") == "tensor 't'.data_offsets: expected an array, found 24");
  CHECK(of_fields("\"F32\"", "[6]", "[0]") ==
        "tensor 't'.data_offsets: expected [begin, end], found an array of 1");
  CHECK(contains(of_fields("\"F32\"", "[6]", "[0,24,24]"), "expected [begin, end], found an array of 3"));
  CHECK(contains(of_fields("\"F32\"", "[6]", "[-1,23]"),
                 "data_offsets[0]: expected an integer of at least 0, found -1"));
  CHECK(contains(of_fields("\"F32\"", "[6]", "[0,24.5]"), "data_offsets[1]: expected an integer"));
  CHECK(contains(of_fields("\"F32\"", "[6]", "[0,18446744073709551615]"),
                 "data_offsets[1]: expected an integer"));
  CHECK(of_fields("\"F32\"", "[6]", "[24,0]") == "tensor 't'.data_offsets: begin 24 lies behind end 0");
  CHECK(of_fields("\"F32\"", "[7]", "[0,28]") ==
        "tensor 't'.data_offsets: end 28 lies beyond the 24 bytes of data in the file");
  CHECK(contains(of_fields("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]"),
                 "lies beyond the 24 bytes"));
  CHECK(of_fields("\"F32\"", "[5]", "[0,24]") ==
        "tensor 't'.data_offsets: [0, 24] are 24 bytes; expected 20 for shape (5) of F32");
  CHECK(contains(of_fields("\"F64\"", "[2,3]", "[0,24]"), "expected 48 for shape (2, 3) of F64"));
  CHECK(contains(of_fields("\"F32\"", "[]", "[0,24]"), "expected 4 for shape () of F32"));
  CHECK(contains(of_fields("\"F32\"", "[0]", "[0,24]"), "expected 0 for shape (0) of F32"));
}

TEST_CASE("safetensors: hostile files, names, metadata and the covering of the data") {
  const auto entry = [](const std::string& name, int begin, int end) {
    return "\"" + name + R"(":{"dtype":"U8","shape":[)" + std::to_string(end - begin) +
           R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) + "]}";
  };
  const auto of = [&](const std::vector<std::string>& entries) {
    std::string header;
    for (const std::string& one : entries) header += (header.empty() ? "{" : ",") + one;
    return open_error(file_of(header + "}", 24));
  };
  REQUIRE(of({entry("b", 10, 24), entry("a", 0, 10)}) == "no error");
  REQUIRE(of({entry("a", 0, 0), entry("b", 0, 24), entry("c", 24, 24), entry("d", 24, 24)}) == "no error");

  CHECK(contains(of({entry("a", 0, 10), entry("a", 10, 24)}), "duplicate key 'a'"));
  CHECK(contains(of({entry("a", 0, 10), entry("\\u0061", 10, 24)}), "duplicate key 'a'"));
  CHECK(of({entry("a", 0, 11), entry("b", 10, 24)}) == "tensor 'b' overlaps tensor 'a'");
  CHECK(of({entry("a", 0, 24), entry("b", 0, 24)}) == "tensor 'b' overlaps tensor 'a'");
  CHECK(of({entry("a", 0, 24), entry("b", 3, 3)}) == "tensor 'b' overlaps tensor 'a'");
  CHECK(of({entry("a", 0, 10), entry("b", 12, 24)}) ==
        "2 bytes of data before tensor 'b' belong to no tensor");
  CHECK(of({entry("a", 1, 24)}) == "1 bytes of data before tensor 'a' belong to no tensor");
  CHECK(of({entry("a", 0, 23)}) == "1 bytes at the end of the file belong to no tensor");

  CHECK(of({entry(std::string(4096, 'n'), 0, 24)}) == "no error");
  CHECK(of({entry(std::string(4097, 'n'), 0, 24)}) ==
        "a tensor's name has 4097 bytes; allowed: at most 4096");
  CHECK(of({entry("a\\n\\u001b[31m", 0, 24)}) ==
        "the tensor name 'a\\x0a\\x1b[31m' contains a control character");
  CHECK(of({entry("\\u0000", 0, 24)}) == "the tensor name '\\x00' contains a control character");
  CHECK(of({entry("\\u007f", 0, 24)}) == "the tensor name '\\x7f' contains a control character");
  CHECK(of({entry("", 0, 24)}) == "no error");

  const std::string tensor = entry("a", 0, 24);
  CHECK(of({tensor, R"("__metadata__":{"k":"v"})"}) == "no error");
  CHECK(of({tensor, R"("__metadata__":{"k":1})"}) == "__metadata__.k: expected a string, found 1");
  CHECK(of({tensor, R"("__metadata__":{"k":null})"}) == "__metadata__.k: expected a string, found null");
  CHECK(of({tensor, R"("__metadata__":{"k":{"dtype":"F32"}})"}) ==
        "__metadata__.k: expected a string, found an object");
  CHECK(of({tensor, R"("__metadata__":"v")"}) == "__metadata__: expected an object, found the string 'v'");
  CHECK(contains(of({tensor, R"("__metadata__":{"k":"v","k":"w"})"}), "duplicate key 'k'"));
  CHECK(
      contains(of({tensor, R"("__metadata__":{})", R"("__metadata__":{})"}), "duplicate key '__metadata__'"));
}

TEST_CASE("safetensors: thousands of damaged files load or throw, nothing else") {
  const TemporaryFolder folder;
  const std::string path = folder / "f";
  const std::string valid = rf::read_text_file(RECURFORMER_TEST_DATA "/files/all_dtypes.safetensors");
  rf::Random random(7);
  int opened = 0, refused = 0;
  std::size_t touched = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = valid;
    for (std::uint64_t flips = 1 + random.below(3); flips > 0; --flips)
      damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
    if (random.below(8) == 0) damaged.resize(random.below(damaged.size() + 1));
    if (random.below(8) == 0) damaged.insert(random.below(damaged.size() + 1), 1 + random.below(9), ' ');
    folder.write("f", damaged);
    try {
      const SafetensorsFile file(path);
      ++opened;
      for (const TensorEntry& tensor : file.tensors())
        for (const std::byte b : tensor.bytes) touched += static_cast<std::size_t>(b);
    } catch (const rf::Error& failure) {
      ++refused;
      CHECK(std::string_view(failure.what()).starts_with(path));
      CHECK(std::string_view(failure.what()).size() < 1000);
      CHECK(std::string_view(failure.what()).find('\n') == std::string_view::npos);
    }
  }
  CHECK(opened > 100);  // damage to the data only
  CHECK(refused > 1000);
  CHECK(touched > 0);
}
