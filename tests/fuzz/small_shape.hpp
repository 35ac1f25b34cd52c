#ifndef RECURFORMER_TESTS_FUZZ_SMALL_SHAPE_HPP
#define RECURFORMER_TESTS_FUZZ_SMALL_SHAPE_HPP

// The model that the seeds of plans and analyses are for.

#include "recurformer/spec/model_spec.hpp"

namespace rf::test {

inline constexpr ModelShape small_shape{
    .vocabulary = 256,
    .layers = 2,
    .layer = {.d_model = 32, .d_head = 16, .kv_groups = 2, .queries_per_group = 2, .d_ff = 48},
    .tied_embeddings = true};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_FUZZ_SMALL_SHAPE_HPP
