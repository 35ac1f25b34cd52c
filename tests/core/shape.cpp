#include "recurformer/core/shape.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "../support/error_message.hpp"

using rf::Dims;
using rf::dynamic;
using rf::Extents;

// What the types know.
static_assert(Extents<>::rank() == 0 && Extents<>::rank_dynamic() == 0);
static_assert(Extents<2, 3>::rank() == 2 && Extents<2, 3>::rank_dynamic() == 0);
static_assert(Extents<2, dynamic, 3, dynamic>::rank() == 4);
static_assert(Extents<2, dynamic, 3, dynamic>::rank_dynamic() == 2);
static_assert(Extents<2, dynamic, 3>::static_extent(0) == 2);
static_assert(Extents<2, dynamic, 3>::static_extent(1) == dynamic);
static_assert(Extents<2, dynamic, 3>::static_extent(2) == 3);
static_assert(std::is_same_v<Dims<0>, Extents<>> && std::is_same_v<Dims<1>, Extents<dynamic>>);
static_assert(std::is_same_v<Dims<3>, Extents<dynamic, dynamic, dynamic>>);
static_assert(std::is_same_v<decltype(Extents(2, 3u, std::int64_t{4})), Dims<3>>);
static_assert(sizeof(Dims<3>) == 3 * sizeof(std::int64_t));
static_assert(sizeof(Extents<2, dynamic, 4>) == sizeof(std::int64_t));
static_assert(std::is_trivially_copyable_v<Extents<2, dynamic>>);

// Extents, whichever way they are given.
template <class E>
constexpr bool is(const E& e, std::int64_t a, std::int64_t b, std::int64_t c) {
  return e.extent(0) == a && e.extent(1) == b && e.extent(2) == c && e.size() == a * b * c;
}
static_assert(is(Extents<2, 3, 4>(), 2, 3, 4));
static_assert(is(Extents<2, 3, 4>(2, 3, 4), 2, 3, 4));
static_assert(is(Extents<dynamic, 3, 4>(2), 2, 3, 4) && is(Extents<dynamic, 3, 4>(2, 3, 4), 2, 3, 4));
static_assert(is(Extents<2, dynamic, 4>(3), 2, 3, 4) && is(Extents<2, dynamic, 4>(2, 3, 4), 2, 3, 4));
static_assert(is(Extents<2, 3, dynamic>(4), 2, 3, 4) && is(Extents<2, 3, dynamic>(2, 3, 4), 2, 3, 4));
static_assert(is(Extents<dynamic, dynamic, 4>(2, 3), 2, 3, 4));
static_assert(is(Extents<dynamic, 3, dynamic>(2, 4), 2, 3, 4));
static_assert(is(Extents<2, dynamic, dynamic>(3, 4), 2, 3, 4));
static_assert(is(Dims<3>(2, 3, 4), 2, 3, 4) && is(Dims<3>::from_array({2, 3, 4}), 2, 3, 4));
static_assert(is(Extents<2, dynamic, 4>::from_array({2, 3, 4}), 2, 3, 4));
static_assert(is(Extents<2, dynamic, 4>::from_valid({2, 3, 4}), 2, 3, 4));
static_assert(is(Extents<2, dynamic, 4>(), 2, 0, 4) && is(Dims<3>(), 0, 0, 0));
static_assert(Extents<>().size() == 1 && Extents<0>().size() == 0);
static_assert(Extents<2, dynamic, 4>(3).array() == std::array<std::int64_t, 3>{2, 3, 4});

// Conversions: implicit towards dynamic, explicit towards static, none between ranks.
template <class From, class To>
constexpr bool implicit = std::is_convertible_v<From, To>;
template <class From, class To>
constexpr bool explicit_only = std::is_constructible_v<To, From> && !implicit<From, To>;
static_assert(implicit<Extents<2, 3>, Dims<2>> && implicit<Extents<2, 3>, Extents<2, dynamic>>);
static_assert(implicit<Extents<2, dynamic>, Dims<2>> && implicit<Extents<2, dynamic>, Extents<2, dynamic>>);
static_assert(explicit_only<Dims<2>, Extents<2, 3>> && explicit_only<Dims<2>, Extents<dynamic, 3>>);
static_assert(explicit_only<Extents<2, dynamic>, Extents<dynamic, 3>>);
static_assert(!std::is_constructible_v<Dims<2>, Dims<3>> && !std::is_constructible_v<Dims<3>, int, int>);
static_assert(!std::is_constructible_v<Dims<1>, double> && !std::is_constructible_v<Extents<>, int>);
static_assert(is(Dims<3>(Extents<2, 3, 4>()), 2, 3, 4));
static_assert(is(Extents<dynamic, 3, dynamic>(Extents<2, dynamic, 4>(3)), 2, 3, 4));

// Equality is that of the sizes.
static_assert(Extents<2, 3>() == Dims<2>(2, 3) && Extents<2, dynamic>(3) == Extents<dynamic, 3>(2));
static_assert(!(Extents<2, 3>() == Dims<2>(3, 2)) && Extents<2, 3>() != Dims<2>(2, 4));
static_assert(Dims<1>(6) != Dims<2>(2, 3) && Extents<>() == Extents<>());
static_assert(rf::can_be_equal<Extents<2, 3>, Dims<2>>() && rf::can_be_equal<Extents<>, Extents<>>());
static_assert(!rf::can_be_equal<Extents<2, 3>, Extents<2, 4>>() && !rf::can_be_equal<Dims<1>, Dims<2>>());

namespace {
template <class Make>
std::string error(Make make) {
  return rf::test::message_of<rf::ArgumentError>([&] { (void)make(); });
}
}  // namespace

TEST_CASE("shape: text") {
  CHECK(rf::to_text(Extents<>()) == "()");
  CHECK(rf::to_text(Dims<1>(5)) == "(5)");
  CHECK(rf::to_text(Extents<2, dynamic>(3)) == "(2, 3)");
  CHECK(rf::to_text(Dims<3>(0, 10, 200)) == "(0, 10, 200)");
  CHECK(rf::to_text(Dims<8>(1, 2, 3, 4, 5, 6, 7, 8)) == "(1, 2, 3, 4, 5, 6, 7, 8)");
  CHECK(rf::shape_text(std::array<std::int64_t, 9>{1, 2, 3, 4, 5, 6, 7, 8, 9}) ==
        "(1, 2, 3, 4, 5, 6, 7, 8, ... 9 dimensions)");
}

TEST_CASE("shape: extents at run-time indices") {
  const Extents<2, dynamic, 4, dynamic> e(3, 5);
  const std::int64_t expected[] = {2, 3, 4, 5};
  for (int i = 0; i < e.rank(); ++i) CHECK(e.extent(i) == expected[i]);
}

TEST_CASE("shape: errors say which extent, and why not") {
  CHECK(error([] { return Dims<2>(3, -4); }) ==
        "extent 1 of shape (3, -4) is negative; extents are 0 or more");
  CHECK(error([] { return Extents<2, dynamic>(-1); }) ==
        "extent 1 of shape (2, -1) is negative; extents are 0 or more");
  CHECK(error([] { return Extents<2, dynamic>(3, 4); }) ==
        "extent 0 of shape (3, 4) is 3, but the type fixes it at 2");
  CHECK(error([] { return Extents<2, 3>(Dims<2>(2, 5)); }) ==
        "extent 1 of shape (2, 5) is 5, but the type fixes it at 3");
  CHECK(error([] {
          return Extents<dynamic, 7>::from_array({1, 6});
        }) == "extent 1 of shape (1, 6) is 6, but the type fixes it at 7");
  CHECK(error([] { return Dims<1>::from_array({-2}); }) ==
        "extent 0 of shape (-2) is negative; extents are 0 or more");
  CHECK(error([] { return Dims<1>(~std::uint64_t{0}); }) ==
        "extent 0 of shape (-1) is negative; extents are 0 or more");
}

TEST_CASE("shape: the number of elements fits, with empty dimensions left out") {
  const std::int64_t big = std::int64_t{1} << 31;
  CHECK(Dims<3>(big, big, 1).size() == std::int64_t{1} << 62);
  CHECK(error([&] { return Dims<3>(big, big, 2); }) ==
        "shape (2147483648, 2147483648, 2) has more than 2^63 - 1 elements");
  CHECK_THROWS_AS(Dims<4>(big, big, 0, 2), rf::ArgumentError);
  CHECK(Dims<3>(big, 0, big).size() == 0);
  CHECK(Dims<1>(std::numeric_limits<std::int64_t>::max()).size() == std::numeric_limits<std::int64_t>::max());
}
