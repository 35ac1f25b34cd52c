// expect: two runs of a layer have the same kind; write one run with the sum
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"

using Runs = rf::Runs<rf::Run<1, rf::Attention<>, rf::Fp32>, rf::Run<2, rf::Attention<>, rf::Fp32>>;
constexpr auto groups = Runs::static_groups;
