#include "recurformer/checkpoint/json.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

namespace {

using rf::JsonReader;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

std::string error(const std::function<void()>& action) { return message_of<rf::FileError>(action); }

std::string parse_error(std::string_view text) {
  return error([&] { rf::parse_json(text, "f.json"); });
}

std::string nested(std::size_t depth, char open, char close) {
  return std::string(depth, open) + std::string(depth, close);
}

}  // namespace

TEST_CASE("json: documents are built as written") {
  // Pairs of a text and its shortest form, in which objects are sorted.
  const std::string_view texts[][2] = {
      {R"({"b": {"d": [[], {}], "c": {}}, "a": [1, -2, 3.5, 1e3, true, false, null, "x\u00e9\n"]})",
       R"({"a":[1,-2,3.5,1000.0,true,false,null,"xé\n"],"b":{"c":{},"d":[[],{}]}})"},
      {"[]", "[]"},
      {"3", "3"},
      {"\"text\"", "\"text\""},
      {" { } \n", "{}"},
      {"18446744073709551615", "18446744073709551615"},
      {"{\"\": 0}", "{\"\":0}"},
      {"[[1,2],[3,[4,5],6],7]", "[[1,2],[3,[4,5],6],7]"},
      {R"([{"k":1},{"k":2}])", R"([{"k":1},{"k":2}])"}};
  for (const auto& [text, expected] : texts) CHECK(rf::parse_json(text, "f.json").dump() == expected);
  CHECK(rf::parse_json(nested(64, '[', ']'), "f.json").dump() == nested(64, '[', ']'));
}

TEST_CASE("json: errors have a line, a column, a byte and a reason") {
  CHECK(contains(parse_error("{\"a\": 1,\n \"b\": x}"), "f.json: line 2, column 7 (byte 16): syntax error"));
  CHECK(contains(parse_error("tru"), "f.json: line 1, column 3 (byte 3): syntax error"));
  CHECK(contains(parse_error(""), "f.json: line 1, column 0 (byte 0): syntax error"));
  CHECK(contains(parse_error("{} {}"), "f.json: line 1, column 4 (byte 4): syntax error"));
  CHECK(contains(parse_error("[1e999]"), "number overflow"));
  CHECK(contains(parse_error("[NaN]"), "syntax error"));
  CHECK(contains(parse_error("[1,]"), "syntax error"));
  CHECK(contains(parse_error("\"\xff\""), "invalid"));
  CHECK(contains(parse_error("{\"a\": \"\x01\"}"), "control character"));
  // Whatever the file holds, the message is one line of reasonable length.
  const std::string message = parse_error("[\"" + std::string(100'000, 'x') + "\x1b\n");
  CHECK(message.size() < 300);
  CHECK(!contains(message, "\n"));
}

TEST_CASE("json: what the library below accepts in silence") {
  CHECK(parse_error("{\"a\": 1,\n\"a\": 2}") == "f.json: line 2, column 3 (byte 12): duplicate key 'a'");
  CHECK(contains(parse_error(R"([0, {"x": {"k": [], "\u006b": 2}}])"), "duplicate key 'k'"));
  CHECK(parse_error(std::string_view("{}\0garbage", 10)) == "f.json: is not JSON text: byte 3 is NUL");
  CHECK(contains(parse_error(nested(65, '[', ']')),
                 "line 1, column 65 (byte 65): more than 64 arrays and objects within each other"));
  CHECK(contains(parse_error(nested(3'000'000, '[', ']')), "more than 64 arrays"));
  std::string objects;
  for (int i = 0; i < 65; ++i) objects += "{\"a\":";
  CHECK(contains(parse_error(objects), "more than 64 arrays and objects"));
}

TEST_CASE("json: files") {
  const TemporaryFolder folder;
  const std::string path = folder / "f.json";
  rf::write_file_atomically(path, R"({"a": [1, 2]})");
  CHECK(rf::parse_json_file(path).at("a").size() == 2);
  rf::write_file_atomically(path, "{\n]");
  CHECK(contains(error([&] { rf::parse_json_file(path); }),
                 path + ": line 2, column 1 (byte 3): syntax error"));
  CHECK(contains(error([&] { rf::parse_json_file(folder / "g"); }), "No such file or directory"));
}

TEST_CASE("json reader: values") {
  const nlohmann::json document = rf::parse_json(
      R"({"i": -3, "u": 9223372036854775807, "n": 2.5, "s": "text", "t": true, "z": null, "l": [1, [2]]})",
      "f.json");
  const JsonReader reader("f.json", document);
  CHECK(reader.at("i").integer() == -3);
  CHECK(reader.at("i").integer(-3, -3) == -3);
  CHECK(reader.at("i").number() == -3.0);
  CHECK(reader.at("u").integer() == std::numeric_limits<std::int64_t>::max());
  CHECK(reader.at("n").number(2.5, 2.5) == 2.5);
  CHECK(reader.at("s").string() == "text");
  CHECK(reader.at("t").boolean());
  CHECK(reader.at("l").array()[1].array()[0].integer() == 2);
  CHECK(reader.object_keys() == std::vector<std::string>{"i", "l", "n", "s", "t", "u", "z"});
  CHECK(reader.optional("n")->number() == 2.5);
  CHECK(!reader.optional("z"));
  CHECK(!reader.optional("absent"));
  reader.reject_unknown({"i", "u", "n", "s", "t", "z", "l", "never there"});
  CHECK(reader.at("l").file() == "f.json");
}

TEST_CASE("json reader: errors name file, field, expected and found") {
  const nlohmann::json document = rf::parse_json(
      R"({"recurformer": {"layers": [{}, {"groups": "many", "x\ny": 1, "f": 2.0, "big": 18446744073709551615,
          "kinds": [1, 2, 3], "neg": -1}]}})",
      "f.json");
  const JsonReader reader("f.json", document);
  const JsonReader layer = reader.at("recurformer").at("layers").array()[1];
  CHECK(layer.path() == "recurformer.layers[1]");
  CHECK(error([&] { layer.at("groups").integer(1, 64); }) ==
        "f.json: recurformer.layers[1].groups: expected an integer from 1 to 64, found the string 'many'");
  CHECK(error([&] { layer.at("f").integer(); }) ==
        "f.json: recurformer.layers[1].f: expected an integer of at most 64 bits, found 2.0");
  CHECK(contains(error([&] { layer.at("big").integer(); }),
                 "expected an integer of at most 64 bits, found 18446744073709551615"));
  CHECK(contains(error([&] { layer.at("neg").integer(0); }), "expected an integer of at least 0, found -1"));
  CHECK(contains(error([&] { layer.at("neg").integer(-9, -2); }),
                 "expected an integer from -9 to -2, found -1"));
  CHECK(contains(error([&] { layer.at("neg").number(0, 1); }), "expected a number from 0 to 1, found -1"));
  CHECK(contains(error([&] { layer.at("groups").number(); }), "expected a number, found the string 'many'"));
  CHECK(contains(error([&] { layer.at("f").string(); }), "expected a string, found 2.0"));
  CHECK(contains(error([&] { layer.at("neg").boolean(); }), "expected true or false, found -1"));
  CHECK(contains(error([&] { layer.at("kinds").boolean(); }), "expected true or false, found an array of 3"));
  CHECK(contains(error([&] { layer.array(); }), "recurformer.layers[1]: expected an array, found an object"));
  CHECK(contains(error([&] { layer.at("f").at("x"); }), "layers[1].f: expected an object, found 2.0"));
  CHECK(contains(error([&] { layer.at("f").optional("x"); }), "expected an object, found 2.0"));
  CHECK(contains(error([&] { layer.at("kinds").object_keys(); }), "expected an object, found an array of 3"));
  CHECK(contains(error([&] { layer.at("x\ny").string(); }),
                 "layers[1]['x\\x0ay']: expected a string, found 1"));
  CHECK(error([&] { layer.at("absent"); }) == "f.json: recurformer.layers[1]: the field 'absent' is missing");
  CHECK(error([&] { reader.at("absent"); }) == "f.json: the field 'absent' is missing");
  CHECK(error([&] {
          reader.reject_unknown({"a", "b"});
        }) == "f.json: unknown field 'recurformer'; known: a, b");
  CHECK(error([&] { layer.at("f").fail("got ", 3); }) == "f.json: recurformer.layers[1].f: got 3");
}
