#include "recurformer/tokenizer/utf8.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

namespace {

using namespace rf::detail;

bool is_surrogate(char32_t code) { return code >= 0xd800 && code < 0xe000; }

}  // namespace

TEST_CASE("utf8: every code point is written and read back, surrogates are not valid") {
  int wrong = 0;
  for (char32_t code = 0; code < 0x110000; ++code) {
    std::string text;
    append_utf8(text, code);
    const Utf8Sequence first = first_utf8_sequence(text);
    const bool expected = !is_surrogate(code);
    wrong +=
        first.valid != expected || (expected && (first.bytes != text.size() || code_point(text) != code));
  }
  CHECK(wrong == 0);
}

TEST_CASE("utf8: every maximal part of a character becomes one U+FFFD") {
  constexpr std::string_view r = "\xef\xbf\xbd";
  const auto replaced = [](std::string_view text) { return replace_invalid_utf8(text); };
  const auto times = [&](int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += r;
    return out;
  };
  CHECK(replaced("") == "");
  CHECK(replaced("a\xc3\xa9\xf0\x9f\x98\x80") == "a\xc3\xa9\xf0\x9f\x98\x80");
  CHECK(replaced("\x80") == times(1));
  CHECK(replaced("\xc3") == times(1));
  CHECK(replaced("\xc3(") == times(1) + "(");
  CHECK(replaced("\xe2\x82") == times(1));          // two bytes of three
  CHECK(replaced("\xf0\x9f\x98") == times(1));      // three bytes of four
  CHECK(replaced("\xf0\x9f\xe2\x82") == times(2));  // cut off twice
  CHECK(replaced("\xc0\x80") == times(2));          // overlong
  CHECK(replaced("\xe0\x80\x80") == times(3));
  CHECK(replaced("\xed\xa0\x80") == times(3));  // a surrogate
  CHECK(replaced("\xf4\x90\x80\x80") == times(4));
  CHECK(replaced("\xf5\xff") == times(2));
}
