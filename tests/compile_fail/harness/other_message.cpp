// expect: recurformer: not an element type
#include "recurformer/core/dtype.hpp"

static_assert(rf::size_of(rf::DType::BF16) == 4, "bf16 has four bytes");
