// Texts through tokenizers of published styles: the first byte says which one, the others are the text.

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/tokenizer/tokenizer.hpp"
#include "target.hpp"

namespace {

struct Style {
  std::string_view file;
  bool keeps_text;  ///< decoding gives the very text
};
constexpr std::array<Style, 5> styles = {
    {{"gpt2", true}, {"llama3", true}, {"qwen2", false}, {"llama2", false}, {"llama2_new", false}}};

/// Read before the first text is, so that they do not count as its memory.
const std::vector<rf::Tokenizer> tokenizers = [] {
  std::vector<rf::Tokenizer> out;
  for (const Style& style : styles)
    out.push_back(rf::Tokenizer::load(rf::text(RECURFORMER_TEST_DATA, "/tokenizers/", style.file, ".json")));
  return out;
}();

void encode(std::string_view bytes) {
  if (bytes.empty()) return;
  const std::size_t style = static_cast<unsigned char>(bytes[0]) % styles.size();
  const rf::Tokenizer& tokenizer = tokenizers[style];
  const std::string_view text = bytes.substr(1);
  const std::vector<rf::Token> tokens = tokenizer.encode(text);
  const std::string decoded = tokenizer.decode(tokens, false);
  if (!rf::detail::is_utf8(decoded)) rf::test::report_finding("a decoded text is not UTF-8");
  if (styles[style].keeps_text && decoded != rf::detail::replace_invalid_utf8(text))
    rf::test::report_finding("decoding does not give the text back");
}

const rf::test::RegisteredTarget encode_target{{"encode", 256, 1 << 16, encode}};

}  // namespace
