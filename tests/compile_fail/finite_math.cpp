// flags: -ffinite-math-only
// expect: recurformer: .*-ffinite-math-only.* breaks masked softmax; compile this file without it
#include "recurformer/core/config.hpp"
