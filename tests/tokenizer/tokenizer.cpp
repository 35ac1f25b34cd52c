#include "recurformer/tokenizer/tokenizer.hpp"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "../support/error_message.hpp"
#include "recurformer/checkpoint/json.hpp"

namespace {

using nlohmann::json;
using rf::Tokenizer;
using rf::test::contains;
using rf::test::message_of;
using Tokens = std::vector<rf::Token>;

// What the reference library makes of hard texts; tests/golden/make_tokenizers.py says how the files were
// made.
const std::string golden = std::string(RECURFORMER_TEST_DATA) + "/tokenizers/";

/// The bytes of one entry of "texts".
std::string text_of(const json& entry) {
  if (entry.is_string()) return entry.get<std::string>();
  std::string out;
  if (entry.contains("repeat")) {
    for (int i = 0; i < entry["repeat"][1].get<int>(); ++i) out += entry["repeat"][0].get<std::string>();
  } else {
    const std::string hex = entry["hex"].get<std::string>();
    for (std::size_t i = 0; i < hex.size(); i += 2)
      out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

Tokens joined(const json& before, const Tokens& tokens, const json& behind) {
  Tokens out = before.get<Tokens>();
  out.insert(out.end(), tokens.begin(), tokens.end());
  for (const json& token : behind) out.push_back(token.get<rf::Token>());
  return out;
}

/// `expected`: "before", "behind" and "results", one for each of `texts`.
void check_results(const Tokenizer& tokenizer, const json& texts, const json& expected) {
  REQUIRE(expected["results"].size() == texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const json& result = expected["results"][i];
    INFO("text ", i, ": ", texts[i].dump());
    const std::string text = text_of(texts[i]);
    const Tokens tokens = result["ids"].get<Tokens>();
    CHECK(tokenizer.encode(text) == tokens);
    CHECK(tokenizer.encode_with_specials(text) == joined(expected["before"], tokens, expected["behind"]));
    const std::string decoded = result.value("text", rf::detail::replace_invalid_utf8(text));
    CHECK(tokenizer.decode(tokens) == decoded);
    CHECK(tokenizer.decode(tokens, false) == result.value("all", decoded));
  }
}

/// A correct file, which the tests spoil.
constexpr std::string_view small = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [{"id": 7, "content": "<s>", "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false}],
  "normalizer": null, "pre_tokenizer": null,
  "post_processor": {"type": "TemplateProcessing",
                     "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                     "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}},
  "decoder": {"type": "Fuse"},
  "model": {"type": "BPE", "dropout": null, "unk_token": "?", "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "?": 3, "abab": 5}, "merges": ["a b", ["ab", "ab"]]}
})";

/// `small` with one piece of its text replaced.
std::string changed(std::string_view from, std::string_view to) {
  std::string file(small);
  const std::size_t at = file.find(from);
  REQUIRE(at != file.npos);
  return file.replace(at, from.size(), to);
}

Tokenizer parsed(const std::string& file) { return Tokenizer::parse(file, "t.json"); }

/// What reading `file` says behind its name.
std::string read_error(const std::string& file) {
  const std::string message = message_of<rf::FileError>([&] { parsed(file); });
  return message.starts_with("t.json: ") ? message.substr(8) : message;
}

std::string times(std::string_view text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

}  // namespace

TEST_CASE("tokenizer: styles of published tokenizers give the reference library's tokens and texts") {
  const json cases = rf::parse_json_file(golden + "cases.json");
  CHECK(cases["tokenizers"].size() == 5);
  for (const auto& item : cases["tokenizers"].items()) {
    const std::string& style = item.key();
    INFO("style ", style);
    check_results(Tokenizer::load(golden + style + ".json"), cases["texts"], item.value());
  }
}

TEST_CASE("tokenizer: so does every other part of a file") {
  const json file = rf::parse_json_file(golden + "variants.json");
  for (const json& variant : file["variants"]) {
    const std::string name = variant["name"].get<std::string>();
    INFO("variant ", name);
    check_results(Tokenizer::parse(variant["tokenizer"].dump(), name), file["texts"], variant);
  }
}

TEST_CASE("tokenizer: tokens and their contents") {
  const Tokenizer tokenizer = parsed(std::string(small));
  CHECK(tokenizer.vocabulary() == 8);
  CHECK(tokenizer.contains(7));
  CHECK(!tokenizer.contains(8));
  CHECK(!tokenizer.contains(-1));
  CHECK(tokenizer.token("abab") == 5);
  CHECK(tokenizer.token("<s>") == 7);
  CHECK(!tokenizer.token("<"));
  CHECK(tokenizer.content(2) == "ab");
  CHECK(tokenizer.content(7) == "<s>");
  CHECK(tokenizer.is_special(7));
  CHECK(!tokenizer.is_special(2));
  CHECK(!tokenizer.is_special(99));
  CHECK(tokenizer.encode("ababab<s>bx") == Tokens{5, 2, 7, 1, 3});
  CHECK(tokenizer.encode_with_specials("ab") == Tokens{7, 2});
  CHECK(tokenizer.encode_with_specials("") == Tokens{7});
  CHECK(tokenizer.decode(Tokens{7, 5, 1}) == "ababb");
  CHECK(tokenizer.decode(Tokens{7, 5, 1}, false) == "<s>ababb");
  CHECK(tokenizer.decode(Tokens{}) == "");
}

TEST_CASE("tokenizer: copies stay when the original is gone") {
  std::vector<Tokenizer> kept;
  {
    const Tokenizer original = parsed(std::string(small));
    kept.push_back(original);
  }
  CHECK(kept[0].encode("ab<s>") == Tokens{2, 7});
  CHECK(kept[0].content(7) == "<s>");
}

TEST_CASE("tokenizer: ids that are no tokens are refused") {
  const Tokenizer tokenizer = parsed(std::string(small));
  for (const rf::Token token : {-1, 4, 6, 8, 2147483647})
    CHECK(message_of<rf::ArgumentError>([&] {
            tokenizer.decode(Tokens{0, token});
          }) == rf::text("the token ", token, " is not in the vocabulary, which has ids from 0 to 7"));
}

TEST_CASE("tokenizer: bytes of tokens are those of these and more tokens") {
  const std::string text =
      "Hi \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80 a\xcc\x81\xe4\xb8\x96 \xed\x95\x9c  x\n";
  for (const std::string style : {"gpt2", "llama3", "qwen2", "llama2", "llama2_new"}) {
    const Tokenizer tokenizer = Tokenizer::load(golden + style + ".json");
    const Tokens tokens = tokenizer.encode_with_specials(text);
    const std::string whole = tokenizer.decode_bytes(tokens);
    CHECK(whole == tokenizer.decode(tokens));
    for (std::size_t n = 0; n <= tokens.size(); ++n)
      CHECK(whole.starts_with(tokenizer.decode_bytes(std::span(tokens).first(n))));
  }
  const Tokenizer bytes = Tokenizer::load(golden + "llama2.json");
  const Tokens half = {*bytes.token("<0xE4>"), *bytes.token("<0xB8>")};
  CHECK(bytes.decode_bytes(half) == "\xe4\xb8");
  CHECK(bytes.decode(half) == "\xef\xbf\xbd\xef\xbf\xbd");
  CHECK(Tokenizer::load(golden + "gpt2.json")
            .decode_bytes(Tokenizer::load(golden + "gpt2.json").encode("\xff")) ==
        "\xef\xbf\xbd");  // replaced when it was encoded
}

TEST_CASE("tokenizer: fields that are wrong or not supported are named") {
  CHECK(read_error(std::string(small)) == "no error");
  CHECK(contains(read_error("{"), "line 1, column 1"));
  CHECK(read_error("[]") == "expected an object, found an array of 0");
  CHECK(read_error("{}") == "the field 'model' is missing");
  CHECK(read_error(changed("\"1.0\"", "\"2.0\"")) == "version: found \"2.0\"; supported: \"1.0\"");
  CHECK(read_error(changed("\"padding\": null", "\"padding\": {}")) ==
        "padding: found an object; supported: null");
  CHECK(contains(read_error(changed("\"padding\"", "\"paddling\"")),
                 "unknown field 'paddling'; known: version"));
  CHECK(read_error(changed("\"BPE\"", "\"Unigram\"")) == "model.type: found \"Unigram\"; supported: \"BPE\"");
  CHECK(read_error(changed("\"dropout\": null", "\"dropout\": 0.1")) ==
        "model.dropout: found 0.1; supported: null");
  CHECK(read_error(changed("\"dropout\": null", "\"end_of_word_suffix\": \"</w>\"")) ==
        "model.end_of_word_suffix: found \"</w>\"; supported: null, \"\"");
  CHECK(read_error(changed("\"unk_token\": \"?\"", "\"unk_token\": \"!\"")) ==
        "model.unk_token: '!' is not in the vocabulary");
  CHECK(read_error(changed("\"unk_token\": \"?\"", "\"unk_token\": \"\"")) == "no error");
  CHECK(contains(read_error(changed("\"decoder\": {\"type\": \"Fuse\"}", "\"decoder\": {\"type\": \"CTC\"}")),
                 "decoder.type: found \"CTC\"; supported: ByteFallback, "));
}

TEST_CASE("tokenizer: vocabularies and merges that contradict themselves are refused") {
  CHECK(read_error(changed("\"?\": 3", "\"?\": 2")) == "model.vocab: '?' and 'ab' have the same id 2");
  CHECK(contains(read_error(changed("\"?\": 3", "\"a\": 3")), "duplicate key 'a'"));
  for (const std::string id : {"-1", "2147483647", "99999999999999999999", "1.5", "\"3\"", "null"})
    CHECK(contains(read_error(changed("\"?\": 3", "\"?\": " + id)),
                   "model.vocab['?']: expected an integer from 0 to 2147483646"));
  CHECK(read_error(changed("\"?\": 3", "\"?\": 2147483646")) == "no error");  // gaps take no memory
  CHECK(parsed(changed("\"?\": 3", "\"?\": 2147483646")).vocabulary() == 2147483647);
  CHECK(contains(read_error(changed("{\"a\": 0, \"b\": 1, \"ab\": 2, \"?\": 3, \"abab\": 5}", "[]")),
                 "model.vocab: found an array; supported: an object"));
  CHECK(contains(read_error(changed("[\"a b\", [\"ab\", \"ab\"]]", "{}")),
                 "model.merges: expected an array, found an object"));
  CHECK(read_error(changed("\"a b\"", "\"a c\"")) == "model.merges[0]: 'c' is not in the vocabulary");
  CHECK(read_error(changed("\"a b\"", "\"b a\"")) == "model.merges[0]: 'ba' is not in the vocabulary");
  CHECK(
      contains(read_error(changed("\"a b\"", "\"ab\"")), "model.merges[0]: expected two tokens and a space"));
  CHECK(contains(read_error(changed("\"a b\"", "\"a b c\"")),
                 "model.merges[0]: expected two tokens and a space"));
  CHECK(read_error(changed("[\"ab\", \"ab\"]", "[\"ab\"]")) ==
        "model.merges[1]: expected two tokens, found 1");
}

TEST_CASE("tokenizer: added tokens that contradict themselves or the vocabulary are refused") {
  CHECK(read_error(changed("\"id\": 7, \"content\": \"<s>\"", "\"id\": 2, \"content\": \"<s>\"")) ==
        "added_tokens[0].content: expected 'ab', the content of 2 in model.vocab, found '<s>'");
  CHECK(read_error(changed("\"id\": 7, \"content\": \"<s>\"", "\"id\": 7, \"content\": \"ab\"")) ==
        "added_tokens[0].id: expected 2, the id of 'ab' in model.vocab, found 7");
  CHECK(read_error(changed("\"content\": \"<s>\"", "\"content\": \"\"")) ==
        "added_tokens[0].content: is empty");
  CHECK(contains(read_error(changed("\"content\": \"<s>\"", "\"content\": \"" + times("x", 2000) + "\"")),
                 "added_tokens[0].content: has 2000 bytes; allowed: at most 1024"));
  const auto second = [](std::string_view id, std::string_view content) {
    return changed(
        "\"normalized\": false}]",
        rf::text("\"normalized\": false}, {\"id\": ", id, ", \"content\": \"", content,
                 "\", \"special\": false, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                 "\"normalized\": true}]"));
  };
  CHECK(read_error(second("9", "<t>")) == "no error");
  CHECK(read_error(second("7", "<t>")) == "added_tokens[1].id: 7 is the id of '<s>', too");
  CHECK(read_error(second("9", "<s>")) == "added_tokens[1].content: '<s>' is listed twice");
  CHECK(read_error(changed("\"ids\": [7]", "\"ids\": [4]")) ==
        "post_processor: the id 4 is not in the vocabulary");
  CHECK(read_error(changed("\"id\": \"A\"", "\"id\": \"B\"")) ==
        "post_processor.single[1].Sequence.id: found \"B\"; supported: \"A\"");
}

TEST_CASE("tokenizer: parts that are out of hand are refused") {
  const auto normalizer = [](std::string_view part) {
    return changed("\"normalizer\": null", rf::text("\"normalizer\": ", part));
  };
  const auto pre_tokenizer = [](std::string_view part) {
    return changed("\"pre_tokenizer\": null", rf::text("\"pre_tokenizer\": ", part));
  };
  const auto split = [&](std::string_view pattern) {
    return pre_tokenizer(rf::text(R"({"type": "Split", "pattern": )", pattern,
                                  R"(, "behavior": "Isolated", "invert": false})"));
  };
  CHECK(read_error(split(R"({"Regex": "a"})")) == "no error");
  CHECK(read_error(split(R"({"Regex": ""})")) == "pre_tokenizer.pattern.Regex: the pattern is empty");
  CHECK(read_error(split(R"({"String": ""})")) == "pre_tokenizer.pattern.String: the pattern is empty");
  CHECK(contains(read_error(split(R"({"Regex": "(a"})")),
                 "pre_tokenizer.pattern.Regex: the pattern '(a' is wrong"));
  CHECK(contains(read_error(split(R"({"Regex": "\\w"})")), "this escape is not supported"));
  CHECK(read_error(split("{}")) == "pre_tokenizer.pattern: expected either String or Regex");
  CHECK(contains(read_error(pre_tokenizer(R"({"type": "Whitespace"})")),
                 "pre_tokenizer.type: found \"Whitespace\"; "));
  const std::string byte_level = R"({"type": "ByteLevel", "add_prefix_space": false})";
  CHECK(contains(read_error(pre_tokenizer(R"({"type": "Sequence", "pretokenizers": [)" + byte_level + "," +
                                          byte_level + "]}")),
                 "pre_tokenizer.pretokenizers[1]: a second ByteLevel; supported: one"));
  const std::string nfc = R"({"type": "NFC"})", sequence = R"({"type": "Sequence", "normalizers": [)";
  CHECK(read_error(normalizer(sequence + times(nfc + ",", 31) + nfc + "]}")) == "no error");
  CHECK(contains(read_error(normalizer(sequence + times(nfc + ",", 32) + nfc + "]}")),
                 "normalizer.normalizers[32]: is one of more than 32 parts"));
  CHECK(contains(read_error(normalizer(times(sequence, 40) + nfc + times("]}", 40))), "within each other"));
  CHECK(contains(read_error(normalizer(times(sequence, 20) + R"({"type": "Nmt"})" + times("]}", 20))),
                 "found \"Nmt\"; supported: NFC, "));
  const std::string special = R"({"SpecialToken": {"id": "<s>", "type_id": 0}}, )";
  CHECK(contains(read_error(changed(special, times(special, 1024))), "no error"));
  CHECK(contains(read_error(changed(special, times(special, 1025))),
                 "ids[0]: is one of more than 1024 special tokens on one side"));
}

TEST_CASE("tokenizer: texts that a file makes absurdly long are refused") {
  const std::string twice = R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})";
  const Tokenizer tokenizer =
      parsed(changed("\"normalizer\": null", R"("normalizer": {"type": "Sequence", "normalizers": [)" +
                                                 times(twice + ",", 30) + twice + "]}"));
  CHECK(message_of<rf::ArgumentError>([&] { tokenizer.encode("a"); }) ==
        "the normalizer makes 8192 bytes out of 1; allowed: at most 64 times as many, and 4096");
  const Tokenizer decoder = parsed(changed(R"({"type": "Fuse"})", R"({"type": "Sequence", "decoders": [)" +
                                                                      times(twice + ",", 30) + twice + "]}"));
  CHECK(contains(message_of<rf::ArgumentError>([&] { decoder.decode(Tokens{0}); }),
                 "the decoder makes 8192 bytes"));
  const Tokenizer long_content =
      parsed(changed("\"normalizer\": null",
                     rf::text(R"("normalizer": {"type": "Replace", "pattern": {"String": "b"}, "content": ")",
                              times("x", 3000), "\"}")));
  CHECK(long_content.encode("b").size() == 3000);
  CHECK(contains(message_of<rf::ArgumentError>([&] { long_content.encode(times("b", 1000)); }),
                 "Replace makes 3000000"));
}

TEST_CASE("tokenizer: long texts take time in proportion") {
  // Each would take minutes if it were quadratic.
  const Tokenizer llama = Tokenizer::load(golden + "llama2.json");
  CHECK(llama.decode(llama.encode(times("ab", 100'000))) == times("ab", 100'000));
  const std::string marks = "a" + times("\u0301\u0323", 50'000);
  const Tokenizer qwen = Tokenizer::load(golden + "qwen2.json");
  CHECK(qwen.decode(qwen.encode(marks)) ==  // sorted, and the first one joined to its letter
        "\u1ea1" + times("\u0323", 49'999) + times("\u0301", 50'000));
  const Tokenizer stripping =
      parsed(changed("\"content\": \"<s>\", \"special\": true, \"single_word\": false, \"lstrip\": "
                     "false,\n                    \"rstrip\": false",
                     "\"content\": \"\\n\", \"special\": true, \"single_word\": false, "
                     "\"lstrip\": true, \"rstrip\": true"));
  CHECK(stripping.encode(times("\n", 100'000)).size() == 100'000);
}
