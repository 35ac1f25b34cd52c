// Tokenizer::parse, and with what it accepts a few texts there and back.

#include "recurformer/tokenizer/tokenizer.hpp"

#include <string>
#include <string_view>
#include <vector>

#include "target.hpp"

namespace {

void round_trip(const rf::Tokenizer& tokenizer, std::string_view text) {
  for (const rf::Token token : tokenizer.encode_with_specials(text))
    if (token < 0 || token >= tokenizer.vocabulary()) rf::test::report_finding("an id beyond the vocabulary");
  const std::vector<rf::Token> tokens = tokenizer.encode(text);
  if (!rf::detail::is_utf8(tokenizer.decode(tokens))) rf::test::report_finding("a text that is not UTF-8");
  tokenizer.decode_bytes(tokens, false);
}

void parse_tokenizer(std::string_view bytes) {
  const rf::Tokenizer tokenizer = rf::Tokenizer::parse(bytes, "tokenizer.json");
  const std::vector<std::string> texts = {"", "a b  ab-ab\n\n 123 <m>ab", "é世e\u0301▁ </s>\xff\xf0\x9f",
                                          std::string(60, 'a'), std::string(30, ' ') + "x"};
  for (const std::string& text : texts)
    rf::test::expect_success_or_error([&] { round_trip(tokenizer, text); });
}

const rf::test::RegisteredTarget tokenizer{{"tokenizer", rf::test::json_memory, 1 << 22, parse_tokenizer}};

}  // namespace
