// expect: recurformer: a static extent is negative; use 0 or more, or rf::dynamic
#include "recurformer/core/shape.hpp"

constexpr auto shape = rf::Extents<2, -3>();
