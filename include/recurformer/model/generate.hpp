#ifndef RECURFORMER_MODEL_GENERATE_HPP
#define RECURFORMER_MODEL_GENERATE_HPP

#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/model/backend.hpp"
#include "recurformer/model/sampler.hpp"

namespace rf {

/// Feeds `prompt` (at least one token) to sequence `sequence` of the cache, then draws `count` tokens one by
/// one, each fed back. on_token(token) is called for each as it is drawn; returning false ends the
/// generation. Returns the drawn tokens. The last drawn token is not fed: pass it as the next prompt to go
/// on. The model and its cache may be on any backend.
template <class M, class C, class OnToken>
std::vector<Token> generate(M& model, C& cache, std::span<const Token> prompt, std::int64_t count,
                            const SamplingOptions& options, OnToken&& on_token, std::int64_t sequence = 0) {
  check(!prompt.empty(), "generation needs a prompt of at least one token");
  Sampler sampler(options);
  std::vector<Token> out;
  std::span<const Token> next = prompt;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto step = static_cast<std::uint64_t>(i);
    if constexpr (requires { model.next_token(next, cache, options, step, sequence); })
      out.push_back(model.next_token(next, cache, options, step, sequence));  // logits stay on the device
    else
      out.push_back(sampler.sample(model.next_logits(next, cache, sequence),
                                   static_cast<std::uint64_t>(sequence), step));
    if (!on_token(out.back())) break;
    next = std::span(out).last(1);
  }
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_GENERATE_HPP
