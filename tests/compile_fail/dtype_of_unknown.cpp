// expect: recurformer: not an element type
#include "recurformer/core/dtype.hpp"

constexpr auto dtype = rf::dtype_of<long double>;
