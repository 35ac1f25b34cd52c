#ifndef EXAMPLES_RECURFORMER_KINDS_HPP
#define EXAMPLES_RECURFORMER_KINDS_HPP

// The kinds of heads this program has kernels for. It runs every plan made of them; a new kind is a new line.

#include "biased_kinds.hpp"
#include "recurformer/recurformer.hpp"

namespace cli {

struct ProgramSpec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>,           //
                          rf::Kind<rf::StreamingAttention<>, rf::Fp32>,  //
                          rf::Kind<rf::Mamba<>, rf::Fp32>,               //
                          rf::Kind<rf::Mamba2<>, rf::Fp32>,              //
                          rf::Kind<BiasedAttention, rf::Fp32>,           //
                          rf::Kind<BiasedStreaming, rf::Fp32>>;
  using Precision = rf::Fp32;
};

using Model = rf::Model<ProgramSpec>;

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_KINDS_HPP
