// Tokenizer::parse, and texts through whatever it accepts.

#include "recurformer/tokenizer/tokenizer.hpp"

#include <string>
#include <string_view>
#include <vector>

#include "target.hpp"

namespace {

void read_tokenizer(std::string_view bytes) {
  const rf::Tokenizer tokenizer = rf::Tokenizer::parse(bytes, "tokenizer.json");
  for (const std::string_view text :
       {"", "a", "Hello,  world!\n\n 123 <s></s>",
        "e\xcc\x81\xe2\x96\x81 \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80\xff\xe0\x80"})
    rf::test::expect_success_or_error([&] {
      const std::vector<rf::Token> tokens = tokenizer.encode_with_specials(text);
      if (!rf::detail::is_utf8(tokenizer.decode(tokens, false)))
        rf::test::report_finding("a decoded text is not UTF-8");
      tokenizer.decode_bytes(tokens);
    });
}

const rf::test::RegisteredTarget tokenizer_target{
    {"tokenizer", rf::test::json_memory, 1 << 17, read_tokenizer}};

}  // namespace
