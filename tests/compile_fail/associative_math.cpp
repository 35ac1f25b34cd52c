// flags: -O2 -funsafe-math-optimizations
// expect: recurformer: -fassociative-math .* breaks exponentials; compile this file without it
#include "recurformer/core/config.hpp"
