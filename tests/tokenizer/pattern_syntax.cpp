#include "recurformer/tokenizer/pattern_syntax.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include "../support/error_message.hpp"

namespace {

using rf::test::contains;
using rf::test::message_of;

std::string translated(std::string_view pattern) {
  return rf::detail::PatternTranslator(pattern).translate();
}

std::string error(std::string_view pattern) {
  return message_of<rf::ArgumentError>([&] { translated(pattern); });
}

}  // namespace

TEST_CASE("pattern syntax: what PCRE2 reads alike stays as it is") {
  for (const std::string_view pattern :
       {"", "abc é世", "a|b|", "^a.$", "a*b+c?d*?e+?f??g*+h++i?+", "a{2}b{2,}c{2,3}",
        "(a)(?:b)(?>c)(?=d)(?!e)(?<=f)(?<!g)", R"(\p{L}\p{Lu}\p{^N}\P{Zs})", R"([a-z]|[^a-zé-ö.*+?(){}|^$])",
        R"(\r\n\t\f\.\\\[\{\-\ \')", "(?i:'s|'t)(?i:[sdmt]|ll)", R"([\p{L}\p{M}\r\n])", "]}"})
    CHECK(translated(pattern) == pattern);
}

TEST_CASE("pattern syntax: patterns of published tokenizers are accepted") {
  for (
      const std::string_view pattern :
      {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
       R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
       R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+)",
       R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)",
       "[一-龥\u3040-ゟ゠-ヿ]+"})
    CHECK(error(pattern) == "no error");
}

TEST_CASE("pattern syntax: what PCRE2 reads otherwise is rewritten") {
  CHECK(translated(R"(\d\D)") == R"(\p{Nd}\P{Nd})");
  CHECK(translated(R"([\d\D-])") == R"([\p{Nd}\P{Nd}\-])");
  CHECK(translated(R"([-a])") == R"([\-a])");
  CHECK(translated(R"(\v\x41\x{1f600}\u00e9)") == R"(\x{b}\x{41}\x{1f600}\x{00e9})");
  CHECK(contains(translated(R"(\s)"), R"(\x{1680}\x{2000})"));
  CHECK(!contains(translated(R"(\s)"), "180e"));  // white space for PCRE2, but not in Unicode since 2013
  CHECK(contains(translated(R"([^\S\n])"), R"(\x{1681}-\x{1fff})"));
}

TEST_CASE("pattern syntax: what would mean something else is refused, with its place") {
  CHECK(error(R"(ab\w)") == "byte 3 of the pattern, '\\w': this escape is not supported");
  for (const std::string_view escape : {R"(\h)", R"(\b)", R"(\A)", R"(\K)", R"(\C)", R"(\R)", R"(\X)",
                                        R"(\1)", R"(\Q)", R"(\0)", R"([\b])", R"([\w])"})
    CHECK(contains(error(escape), "this escape is not supported"));
  CHECK(contains(error("a\\"), "byte 2 of the pattern, '\\': nothing follows"));
  for (const std::string_view number :
       {R"(\x)", R"(\x4)", R"(\xe9)", R"(\x{})", R"(\x{41)", R"(\x{1234567})", R"(\u12)"})
    CHECK(contains(error(number), "expected \\x{"));
  for (const std::string_view property :
       {R"(\p{Han})", R"(\p{L)", R"(\pL)", R"(\p{})", R"(\p{l})", R"(\p{L Ll})", R"(\p{^^L})", R"(\p)"})
    CHECK(contains(error(property), "this property is not supported"));
  for (const std::string_view group :
       {"(?i)a", "(?m:a)", "(?x:a)", "(?<name>a)", "(?|a)", "(?#a)", "(?R)", "(?", "(?-i:a)"})
    CHECK(contains(error(group), "this kind of group is not supported"));
  CHECK(contains(error("(*FAIL)"), "verbs"));
  for (const std::string_view interval : {"a{", "a{,3}", "a{x}", "a{1,2", "{"})
    CHECK(contains(error(interval), "{n,m}"));
  for (const std::string_view quantifier : {"a{2}?", "a{2}+", "a{2}{3}", "a**", "a+?*", "a??+", "a*{2}"})
    CHECK(contains(error(quantifier), "this combination of quantifiers"));
  CHECK(contains(error("[]a]"), "an empty class"));
  CHECK(contains(error("[^]"), "an empty class"));
  CHECK(contains(error("[a"), "the class has no end"));
  CHECK(contains(error("[a[b]]"), "a class within a class"));
  CHECK(contains(error("[[:alpha:]]"), "a class within a class"));
  CHECK(contains(error("[a&&b]"), "intersections"));
  CHECK(contains(error(R"([\s-a])"), "not a range"));
  CHECK(contains(error("[a-c-e]"), "not a range"));
  CHECK(contains(error(R"([a-\s])"), "a range ends in a set"));
  CHECK(contains(error(R"((?i:\p{L}))"), "a set of characters inside (?i:"));
  CHECK(contains(error(R"((?i:([^\s])))"), "a set of characters inside (?i:"));
  CHECK(contains(error(R"((?i:[a-z]))"), "a range inside (?i:"));
  CHECK(error(R"((?i:a)[a-z]\s)") == "no error");
}
