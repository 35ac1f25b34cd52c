// Encoding and decoding equal the reference library's on hard texts; tests/golden/make_tokenizers.py says how
// the files were made.

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/tokenizer/tokenizer.hpp"

namespace {

using nlohmann::json;
using Tokens = std::vector<rf::Token>;

const std::string folder = std::string(RECURFORMER_TEST_DATA) + "/tokenizers/";

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
void check_results(const rf::Tokenizer& tokenizer, const json& texts, const json& expected) {
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

}  // namespace

TEST_CASE("tokenizer: styles of published tokenizers give the reference library's tokens and texts") {
  const json cases = rf::parse_json_file(folder + "cases.json");
  CHECK(cases["tokenizers"].size() == 5);
  for (const auto& [style, expected] : cases["tokenizers"].items()) {
    INFO("style ", style);
    check_results(rf::Tokenizer::load(folder + style + ".json"), cases["texts"], expected);
  }
}

TEST_CASE("tokenizer: so does every other part of a file") {
  const json file = rf::parse_json_file(folder + "variants.json");
  for (const json& variant : file["variants"]) {
    const std::string name = variant["name"].get<std::string>();
    INFO("variant ", name);
    check_results(rf::Tokenizer::parse(variant["tokenizer"].dump(), name), file["texts"], variant);
  }
}
