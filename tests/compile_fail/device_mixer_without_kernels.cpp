// expect: recurformer: a kind of this model has a mixer without kernels for a device; include the header
#include "recurformer/cuda/simulated.hpp"
#include "recurformer/model/device_weights.hpp"
#include "recurformer/spec/standard_mamba2.hpp"

using Kind = rf::Kind<rf::StandardMamba2<>, rf::Bf16>;
constexpr auto size = sizeof(rf::DeviceRunWeights<Kind, rf::Simulated>);
