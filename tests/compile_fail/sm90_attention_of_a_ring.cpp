// expect: recurformer: attention on Hopper reads pages and has no recency probe; rings and the probe
#include "recurformer/cuda/sm90/attention_prefill.hpp"

using Attention = rf::cuda::AttentionParameters<rf::cuda::RingKeyValues<rf::bf16>>;

rf::cuda::AttentionPrefillSm90<Attention, 128>::Parameters parameters;
