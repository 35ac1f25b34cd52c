// flags: -O2 -funsafe-math-optimizations
// expect: recurformer: -fassociative-math .* breaks exp\(\); compile without it
#include "recurformer/core/config.hpp"
