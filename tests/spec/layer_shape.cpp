#include "recurformer/spec/layer_shape.hpp"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <utility>

#include "support/error_message.hpp"

namespace {

constexpr rf::LayerShape shape{
    .d_model = 48, .d_head = 32, .kv_groups = 3, .queries_per_group = 2, .d_ff = 64, .rope_base = 1e6};

/// The message that validate() throws for the shape with one change.
template <class Change>
std::string error(Change change) {
  rf::LayerShape other = shape;
  change(other);
  return rf::test::message_of<rf::ArgumentError>([&] { rf::validate(other); });
}

}  // namespace

TEST_CASE("layer shape: what follows from its members") {
  CHECK(shape.heads() == 6);
  CHECK(shape.heads_width() == 192);
  CHECK(shape.head_shape().group_width() == 64);
  CHECK(shape.head_shape().d_model == 48);
  CHECK(shape.head_shape().rope_base == 1e6);
}

TEST_CASE("layer shape: the widths of kernels, as numbers and as a type") {
  []<int... Width>(std::integer_sequence<int, Width...>) {
    CHECK(rf::supported_d_head == std::array{Width...});
  }
  (rf::AllWidths{});
  CHECK(rf::is_supported_d_head(80));
  CHECK_FALSE(rf::is_supported_d_head(48));
  CHECK_FALSE(rf::is_supported_d_head(0));
}

TEST_CASE("layer shape: validation names the member and what is allowed") {
  CHECK(error([](rf::LayerShape&) {}) == "no error");
  CHECK(error([](rf::LayerShape& s) { s.d_ff = 0; }) == "no error");
  CHECK(error([](rf::LayerShape& s) { s.d_model = 0; }) == "d_model is 0; it must be at least 1");
  CHECK(error([](rf::LayerShape& s) { s.d_head = 50; }) ==
        "d_head is 50; kernels exist for 16, 32, 64, 80, 96, 128 and 256, and Mamba's for other multiples of "
        "16 up to "
        "65536");
  CHECK(error([](rf::LayerShape& s) { s.kv_groups = 0; }) == "kv_groups is 0; it must be at least 1");
  CHECK(error([](rf::LayerShape& s) { s.queries_per_group = -1; }) ==
        "queries_per_group is -1; it must be at least 1");
  CHECK(error([](rf::LayerShape& s) { s.d_ff = -4; }) ==
        "d_ff is -4; it must be positive, or 0 for a layer without an MLP");
  CHECK(error([](rf::LayerShape& s) { s.norm_epsilon = 0; }) == "norm_epsilon is 0; it must be positive");
  CHECK(error([](rf::LayerShape& s) { s.rope_base = 1; }) == "rope_base is 1; it must be larger than 1");
  CHECK(error([](rf::LayerShape& s) { s.step_limits = {.least = 0.5, .most = 0.5}; }) ==
        "step_limits are 0.5 and 0.5; the first must be at least 0, and less than the second");
}
