// expect: recurformer: not an element type
#include <nlohmann/json.hpp>

#include "recurformer/core/dtype.hpp"

constexpr auto dtype = rf::dtype_of<float>;
