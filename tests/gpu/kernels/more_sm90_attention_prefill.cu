// Hopper's attention prefill at both widths, in fp16, and with the recency probe.
#include "recurformer/cuda/device.cuh"
#include "recurformer/cuda/sm90/attention_prefill.hpp"

namespace rf::cuda {

using Attention = AttentionParameters<PagedKeyValues<fp16>>;
using Probed = AttentionParameters<PagedKeyValues<fp16>, RecencyProbe>;

template void attention_prefill_sm90<64>(Cuda&, const sm90::MappedAttention<Attention>&, std::span<const AttentionItem>);
template void attention_prefill_sm90<128>(Cuda&, const sm90::MappedAttention<Attention>&, std::span<const AttentionItem>);
template void attention_prefill_sm90<64>(Cuda&, const sm90::MappedAttention<Probed>&, std::span<const AttentionItem>);
template void attention_prefill_sm90<128>(Cuda&, const sm90::MappedAttention<Probed>&, std::span<const AttentionItem>);

}  // namespace rf::cuda
