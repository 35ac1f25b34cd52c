#include "recurformer/core/error.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "../support/error_message.hpp"

namespace {
using rf::test::message_of;
}

TEST_CASE("text: concatenates texts and numbers") {
  CHECK(rf::text() == "");
  CHECK(rf::text("layer ", 3, ": d_head ", std::size_t{48}) == "layer 3: d_head 48");
  CHECK(rf::text(std::string("a"), std::string_view("b"), 'c', true, false) == "abctruefalse");
  CHECK(rf::text(std::int8_t{-5}, ' ', std::uint8_t{200}) == "-5 200");
  CHECK(rf::text(std::numeric_limits<std::int64_t>::min()) == "-9223372036854775808");
  CHECK(rf::text(std::numeric_limits<std::uint64_t>::max()) == "18446744073709551615");
}

TEST_CASE("text: numbers are written in the shortest form that reads back the same") {
  CHECK(rf::text(0.1f, ' ', 0.1, ' ', 1.5, ' ', -2.0) == "0.1 0.1 1.5 -2");
  for (const double value : {std::numeric_limits<double>::max(), 1.0 / 3.0, 2.2250738585072014e-308, -1e-300})
    CHECK(std::stod(rf::text(value)) == value);
  CHECK(rf::text(std::numeric_limits<double>::infinity()) == "inf");
}

TEST_CASE("check: throws only when the condition fails, with the whole message") {
  CHECK(message_of<rf::ArgumentError>([] { rf::check(true, "window is ", 0); }) == "no error");
  CHECK(message_of<rf::ArgumentError>([] { rf::check(false, "window is ", 0, "; allowed: 1 or more"); }) ==
        "window is 0; allowed: 1 or more");
  CHECK(message_of<rf::FileError>([] { rf::check_file(true, "a.json", "truncated"); }) == "no error");
  CHECK(message_of<rf::FileError>([] { rf::check_file(false, "a.json", "line ", 3, " is cut off"); }) ==
        "a.json: line 3 is cut off");
}

TEST_CASE("errors: callers may catch one kind, all of the library, or std::exception") {
  CHECK_THROWS_AS(rf::check(false, "x"), rf::ArgumentError);
  CHECK_THROWS_AS(rf::check(false, "x"), rf::Error);
  CHECK_THROWS_AS(rf::check_file(false, "f", "x"), rf::Error);
  CHECK_THROWS_AS(rf::check_file(false, "f", "x"), std::exception);
  static_assert(!std::is_base_of_v<rf::ArgumentError, rf::FileError>);
}
