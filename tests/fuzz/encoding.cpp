// Encoding any bytes with tokenizers of the two families, and decoding what comes of it.

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/tokenizer/tokenizer.hpp"
#include "target.hpp"

namespace {

using nlohmann::json;

json added_token(int id, std::string_view content, bool strips) {
  return {{"id", id},         {"content", content}, {"special", false},    {"single_word", strips},
          {"lstrip", strips}, {"rstrip", strips},   {"normalized", strips}};
}

rf::Tokenizer tokenizer_of(json document, const json& vocabulary, const json& merges) {
  document["model"] = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}, {"byte_fallback", true}};
  return rf::Tokenizer::parse(document.dump(), "tokenizer.json");
}

/// As Llama 3's and Qwen's, in which every text comes back as it was.
rf::Tokenizer byte_level() {
  json vocabulary, document;
  for (int byte = 0; byte < 256; ++byte)
    vocabulary[rf::detail::to_byte_level(std::string(1, static_cast<char>(byte)))] = byte;
  vocabulary["aa"] = 256;
  vocabulary["Ġa"] = 257;
  vocabulary["aaaa"] = 258;
  document["pre_tokenizer"] = json::parse(R"({"type": "Sequence", "pretokenizers": [
    {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})");
  document["decoder"] = {{"type", "ByteLevel"}};
  document["added_tokens"] = {added_token(259, "<|a|>", false), added_token(260, "\n\n", false)};
  return tokenizer_of(document, vocabulary, json::parse(R"(["a a", "Ġ a", "aa aa"])"));
}

/// As Llama 2's, with a normal form and tokens that take what is beside them.
rf::Tokenizer sentence_piece() {
  json vocabulary, document;
  for (int byte = 0; byte < 256; ++byte)
    vocabulary[rf::detail::byte_token_content(static_cast<unsigned char>(byte))] = byte;
  for (const std::string_view content : {"▁", "a", "▁a", "aa", "▁aa"})
    vocabulary[content] = vocabulary.size();
  document["normalizer"] = json::parse(R"({"type": "Sequence", "normalizers": [{"type": "NFKC"},
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  document["decoder"] = json::parse(R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern":
    {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  document["added_tokens"] = {added_token(300, "<s>", true), added_token(301, "\t", true)};
  return tokenizer_of(document, vocabulary, json::parse(R"(["a a", "▁ a", "▁a a"])"));
}

void encode(std::string_view bytes) {
  static const rf::Tokenizer exact = byte_level(), other = sentence_piece();
  const std::vector<rf::Token> tokens = exact.encode(bytes);
  const std::string valid = rf::detail::replace_invalid_utf8(bytes);
  if (exact.decode(tokens) != valid || exact.decode_bytes(tokens) != valid)
    rf::test::report_finding("a text that does not come back");
  if (!rf::detail::is_utf8(other.decode(other.encode(bytes))))
    rf::test::report_finding("a text that is not UTF-8");
}

const rf::test::RegisteredTarget encoding{{"encoding", 512, 1 << 20, encode}};

}  // namespace
