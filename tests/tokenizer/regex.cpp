#include "recurformer/tokenizer/regex.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include "../support/error_message.hpp"
#include "recurformer/tokenizer/split.hpp"

namespace {

using namespace rf::detail;
using rf::test::contains;
using rf::test::message_of;

/// The parts of a text, matches in brackets: "[a]b[a]".
std::string shown(const std::vector<TextPart>& parts, std::string_view text) {
  std::string out;
  for (const TextPart& part : parts) {
    const std::string inside(part.of(text));
    out += part.match ? "[" + inside + "]" : inside;
  }
  return out;
}

std::string matches(std::string_view pattern, std::string_view text) {
  return shown(Regex(pattern).parts(text), text);
}

std::string error(std::string_view pattern, std::string_view text = "") {
  return message_of<rf::ArgumentError>([&] { Regex(pattern).parts(text); });
}

std::string split(std::string_view text, SplitBehavior behavior) {
  std::string out;
  for (const TextPart& part : split_parts(Pattern(std::string("-")).parts(text), behavior))
    out += (out.empty() ? "" : " ") + std::string(part.of(text));
  return out;
}

}  // namespace

TEST_CASE("regex: matches from left to right, and what is between them") {
  CHECK(matches("a+", "baacad") == "b[aa]c[a]d");
  CHECK(matches("a", "") == "");
  CHECK(matches("x", "abc") == "abc");
  CHECK(matches("é|世", "aé世b") == "a[é][世]b");
  CHECK(matches("^a|b$", "ab\nab") == "[a][b]\n[a][b]");  // lines, as in Ruby
  CHECK(matches(".+", "a\r\nb") == "[a\r]\n[b]");
  CHECK(matches("(?i:'S)", "'s'ſ'S") == "['s]['ſ]['S]");
  CHECK(matches(R"(\s+)", "a\u00a0\u3000b\u180ec") == "a[\u00a0\u3000]b\u180ec");
  CHECK(matches(R"(\s+(?!\S)|\s+)", "a   b  ") == "a[  ][ ]b[  ]");
}

TEST_CASE("regex: empty matches count, but not directly after a match") {
  CHECK(matches("a*", "baac") == "[]b[aa]c[]");
  CHECK(matches("(?=é)|é", "aé") == "a[]é");
  CHECK(matches("é|", "aé世") == "[]a[é]世[]");
}

TEST_CASE("regex: wrong and hostile patterns are errors") {
  CHECK(contains(error(""), "the pattern is empty"));
  CHECK(contains(error("(a"), "the pattern '(a' is wrong: missing closing parenthesis"));
  CHECK(contains(error("*"), "is wrong: quantifier does not follow"));
  CHECK(contains(error("\xff"), "the pattern is not UTF-8"));
  CHECK(contains(error(std::string(5000, 'a')), "the pattern has 5000 bytes; allowed: at most 4096"));
  CHECK(
      contains(error("(?:(?:(?:a{1000}){1000}){1000}){1000}"), "is wrong: regular expression is too large"));
  CHECK(contains(error(std::string(300, '(') + std::string(300, ')')),
                 "is wrong: parentheses are too deeply nested"));
  // exponential in the text's length
  CHECK(contains(error("(?:a|aa|a?)+$", std::string(60, 'a') + "b"),
                 "on a text of 61 bytes: match limit exceeded"));
}

TEST_CASE("regex: long runs are no trouble") {
  const std::string spaces(300'000, ' '), letters(300'000, 'x');
  CHECK(Regex(R"(\s*[\r\n]+|\s+(?!\S)|\s+)").parts(spaces + "x").size() == 3);
  CHECK(Regex(R"((?:x|y)+)").parts(letters).size() == 1);  // more than the compiled code's stack holds
}

TEST_CASE("regex: a text to look for is what it is") {
  const Pattern pattern(std::string("a.*"));
  CHECK(!pattern.is_regex());
  CHECK(shown(pattern.parts("a.*a.*xa"), "a.*a.*xa") == "[a.*][a.*]xa");
  CHECK(shown(pattern.parts(""), "") == "");
  CHECK(message_of<rf::ArgumentError>([] { Pattern{std::string()}; }) == "the pattern is empty");
}

TEST_CASE("split: what becomes of matches") {
  CHECK(split("a--b-", SplitBehavior::removed) == "a b");
  CHECK(split("a--b-", SplitBehavior::isolated) == "a - - b -");
  CHECK(split("a--b-", SplitBehavior::merged_with_previous) == "a- - b-");
  CHECK(split("a--b-", SplitBehavior::merged_with_next) == "a - -b -");
  CHECK(split("a--b-", SplitBehavior::contiguous) == "a -- b -");
  CHECK(split("--a", SplitBehavior::merged_with_previous) == "- - a");
  CHECK(split("--a", SplitBehavior::contiguous) == "-- a");
}
