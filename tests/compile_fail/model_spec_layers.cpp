// expect: the layers of a model have different shapes; give every layer spec the same LayerShape
// expect: the layers of a model have different Precisions; give every layer spec the same one
// expect: a model spec with Layers needs static runs; for plans known at run time write `using Kinds`
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/model_spec.hpp"

template <int DModel, class P, std::int64_t Groups>
struct MyLayer {
  static constexpr rf::LayerShape shape{.d_model = DModel, .d_head = 16, .kv_groups = 2};
  using Precision = P;
  using Runs = rf::Runs<rf::Run<Groups, rf::Attention<>, rf::Fp32>>;
};
using First = MyLayer<32, rf::Fp32, 2>;

template <class Second>
struct MyModel {
  static constexpr rf::ModelShape shape{.vocabulary = 10};
  using Layers = rf::Layers<First, Second>;
};
static_assert(rf::ModelSpec<MyModel<MyLayer<48, rf::Fp32, 2>>>);
static_assert(rf::ModelSpec<MyModel<MyLayer<32, rf::Bf16, 2>>>);
static_assert(rf::ModelSpec<MyModel<MyLayer<32, rf::Fp32, rf::dynamic>>>);
