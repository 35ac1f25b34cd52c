// Element access with bounds checks, in whatever build: the checks are inlined into the file that asks for
// them, so this file does not change the others of the program.
#undef RECURFORMER_BOUNDS_CHECK
#define RECURFORMER_BOUNDS_CHECK 1

#include <doctest/doctest.h>

#include <cstdint>
#include <string>

#include "../support/error_message.hpp"
#include "recurformer/core/tensor.hpp"

namespace {
template <class Action>
std::string error(Action action) {
  return rf::test::message_of<rf::ArgumentError>([&] { (void)action(); });
}
}  // namespace

TEST_CASE("bounds check: an index that is out of bounds is named with its dimension and extent") {
  rf::Tensor<float, rf::Extents<3, rf::dynamic>> t({4});
  const auto v = t.view();
  CHECK(error([&] { return v(2, 3); }) == "no error");
  CHECK(error([&] { return v(0, 4); }) ==
        "index 4 of dimension 1 is out of bounds: the extent is 4 (shape (3, 4), indices count from 0)");
  CHECK(error([&] { return v(-1, 0); }) ==
        "index -1 of dimension 0 is out of bounds: the extent is 3 (shape (3, 4), indices count from 0)");
  CHECK(error([&] { return t(3, 0); }) ==
        "index 3 of dimension 0 is out of bounds: the extent is 3 (shape (3, 4), indices count from 0)");
  CHECK_THROWS_AS((void)v(0, ~std::uint64_t{0}), rf::ArgumentError);
  CHECK_THROWS_AS((void)v.sub(3), rf::ArgumentError);
  CHECK_THROWS_AS((void)v.sub(0).sub(-1), rf::ArgumentError);
  CHECK_THROWS_AS((void)v.transposed()(3, 3), rf::ArgumentError);
  CHECK_THROWS_AS((void)v.slice(1, 1, 3)(0, 2), rf::ArgumentError);  // inside the tensor, outside the view
  CHECK_THROWS_AS((void)(rf::Tensor<float>()(0)), rf::ArgumentError);
}
