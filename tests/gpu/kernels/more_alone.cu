// The kernels that compute one run of heads by themselves, for programs that want only these, and those of
// the analysis.

#include "recurformer/cuda.cuh"
#include "recurformer/cuda/attention_profile.hpp"

namespace {

using namespace rf::cuda;
using rf::bf16;
using rf::Cuda;

template <int D, class Source>
void attention(Cuda& device, const AttentionParameters<Source>& parameters) {
  attention_prefill<D, PrefillTuningOf<AttentionParameters<Source>, D>>(device, parameters, {});
  attention_decode<D>(device, parameters, {}, {});
}

template <int D>
void all(Cuda& device) {
  attention<D, PagedKeyValues<bf16>>(device, {});
  attention<D, RingKeyValues<bf16>>(device, {});
  using Probed = AttentionParameters<PagedKeyValues<bf16>, RecencyProbe>;
  attention_prefill<D, PrefillTuningOf<Probed, D>>(device, Probed{}, {});
  attention_profile<D>(device, Probed{}, {}, nullptr);
  using Head = mamba::DimensionsOf<rf::Mamba<>, D>;
  mamba::prefill<Head>(device, mamba::Plan{}, mamba::Arguments<bf16>{}, nullptr);
  mamba::decode<Head>(device, mamba::Arguments<bf16>{});
  mamba2_prefill<rf::Mamba2<>, D>(device, Mamba2Arguments<bf16>{}, {}, nullptr);
  mamba2_decode<rf::Mamba2<>, D>(device, Mamba2Arguments<bf16>{});
}

}  // namespace

void compile_kernels(Cuda& device) {
  all<64>(device);
  all<128>(device);
}
