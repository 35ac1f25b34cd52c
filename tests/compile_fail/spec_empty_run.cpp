// expect: a run of 0 KV groups; remove it, or write rf::dynamic
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"

using Runs = rf::Runs<rf::Run<0, rf::Attention<>, rf::Fp32>>;
constexpr auto groups = Runs::static_groups;
