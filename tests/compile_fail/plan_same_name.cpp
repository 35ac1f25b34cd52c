// expect: two kinds of this program have one name, so a plan cannot tell them apart
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/plan.hpp"

using Kinds =
    rf::Kinds<rf::Kind<rf::Mamba<>, rf::Fp32>, rf::Kind<rf::Mamba<rf::ScanShape{.d_state = 8}>, rf::Fp32>>;
auto bound = rf::bind_plan<Kinds>({});
