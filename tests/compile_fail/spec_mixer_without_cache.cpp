// expect: a mixer needs `cache_fields.HeadShape. const` returning an array of CacheField
#include <array>

#include "recurformer/core/precision.hpp"
#include "recurformer/spec/run.hpp"

struct Forgetful {
  static constexpr std::string_view name = "forgetful";
  static constexpr std::string_view module = "forgetful";
  std::array<rf::ParameterSpec, 1> parameters(rf::HeadShape) const { return {}; }
};
using Mixer = rf::Kind<Forgetful, rf::Fp32>::Mixer;
