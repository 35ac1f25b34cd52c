// expect: recurformer: attention on Hopper reads pages and has d_head 64 or 128; rings and other widths
#include "recurformer/cuda/sm90/attention_prefill.hpp"

using Attention = rf::cuda::AttentionParameters<rf::cuda::RingKeyValues<rf::bf16>>;

rf::cuda::AttentionPrefillSm90<Attention, 128>::Parameters parameters;
