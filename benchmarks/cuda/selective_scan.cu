// Mamba heads over whole prompts of 1k to 64k tokens, a sequence at a time and several: standard Mamba, whose
// parameters at the start are random, with 16 states per channel. The floor counts what
// cuda/mamba_prefill.hpp counts.
#include <cstddef>
#include <cstdint>

#include "selective_scan.cuh"

namespace rf::benchmarks {
namespace {

using Standard = Mamba<ScanShape{}, standard_mamba>;

template <int D>
void selective_scan(benchmark::State& state) {
  using Batch = ScanBatch<Standard, D>;
  const int heads = static_cast<int>(state.range(1) / D);
  const Batch batch(state.range(0), heads, static_cast<int>(state.range(2)));
  const cuda::mamba::Plan plan = cuda::mamba::plan_prefill<typename Batch::Head, bf16>(
      batch.sequences(), heads, gpu().multiprocessors());
  const DeviceArray<std::byte> workspace(gpu(),
                                         cuda::mamba::workspace_bytes<typename Batch::Head>(plan, heads));
  measure(state, batch.work(), [&] {
    cuda::mamba::prefill<typename Batch::Head>(gpu(), plan, batch.arguments(), workspace.data());
  });
}

void add_sizes(benchmark::internal::Benchmark* b) {
  constexpr std::int64_t most_rows = 131072;
  b->ArgNames({"tokens", "channels", "sequences"});
  for (const std::int64_t tokens : {1024, 4096, 16384, 65536})
    for (const std::int64_t sequences : {1, 8})
      if (tokens * sequences <= most_rows) b->Args({tokens, 2048, sequences});
  b->Args({16384, 512, 1})->Args({16384, 8192, 1});
}

[[maybe_unused]] const bool registered = [] {
  add_sizes(add("selective_scan<64>", selective_scan<64>));
  add_sizes(add("selective_scan<128>", selective_scan<128>));
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
