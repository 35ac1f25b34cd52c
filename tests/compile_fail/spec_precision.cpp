// expect: a precision needs the types Weight, Cache, State
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/run.hpp"

struct Double {
  using Weight = double;
  using Cache = double;
  using State = double;
  using Accumulator = double;
  static constexpr std::string_view name = "fp64";
};
using Mixer = rf::Kind<rf::Attention<>, Double>::Mixer;
