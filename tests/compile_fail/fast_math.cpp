// flags: -ffast-math
// expect: recurformer: -ffast-math .* breaks masked softmax; compile this file without it
#include "recurformer/core/config.hpp"
