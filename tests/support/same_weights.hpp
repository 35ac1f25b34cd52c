#ifndef RECURFORMER_TESTS_SUPPORT_SAME_WEIGHTS_HPP
#define RECURFORMER_TESTS_SUPPORT_SAME_WEIGHTS_HPP

#include <doctest/doctest.h>

#include <cstddef>
#include <cstring>

#include "recurformer/model/weights.hpp"

namespace rf::test {

/// Checks that two models have the same weights, bit for bit.
template <class Model>
void check_same_weights(Model& a, Model& b) {
  const auto left = rf::parameter_refs(a.weights()), right = rf::parameter_refs(b.weights());
  REQUIRE(left.size() == right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    CAPTURE(left[i].name);
    REQUIRE(left[i].size == right[i].size);
    CHECK(std::memcmp(left[i].data, right[i].data,
                      static_cast<std::size_t>(left[i].size) * rf::size_of(left[i].dtype)) == 0);
  }
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_SAME_WEIGHTS_HPP
