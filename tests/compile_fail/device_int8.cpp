// expect: and states are float; 8-bit integers are for the CPU
#include "recurformer/cuda/simulated.hpp"
#include "recurformer/model/device_weights.hpp"
#include "recurformer/spec/attention.hpp"

using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Int8Weights>>;
constexpr auto size = sizeof(rf::DeviceLayerWeights<Kinds, rf::Bf16, rf::Simulated>);
