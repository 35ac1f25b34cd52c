// Mamba heads over whole prompts of 1k to 64k tokens, a sequence at a time and several: standard Mamba, whose
// parameters at the start are random, with 16 states per channel. The floor counts what
// cuda/mamba_prefill.hpp counts: d_state + 4 special functions per token and channel, and x, z and the output
// once.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "harness.cuh"
#include "locals.cuh"
#include "random_array.cuh"
#include "recurformer/cuda/mamba_parameters.hpp"
#include "recurformer/cuda/mamba_prefill.hpp"

namespace rf::benchmarks {
namespace {

using Standard = Mamba<ScanShape{}, standard_mamba>;

template <int D>
void selective_scan(benchmark::State& state) {
  using Head = cuda::mamba::DimensionsOf<Standard, D>;
  const std::int64_t tokens = state.range(0), columns = state.range(1);
  const int heads = static_cast<int>(columns / D), sequence_count = static_cast<int>(state.range(2));
  const std::int64_t rows = tokens * sequence_count;
  std::vector<SequenceRows> sequences;
  std::vector<int> numbers;
  for (int s = 0; s < sequence_count; ++s) sequences.push_back({.first_row = s * tokens, .rows = tokens});
  for (int h = 0; h < heads; ++h) numbers.push_back(h);

  const auto local = local_parameters<Standard>({.d_model = static_cast<int>(columns), .d_head = D}, heads);
  std::vector<const float*> declared;
  for (const auto& values : local) declared.push_back(values.data());
  const DeviceArray<float> prepared(gpu(), cuda::mamba::prepared_bytes<Head>(heads) / sizeof(float));
  cuda::mamba::prepare<Head>(gpu(), cuda::mamba::local_parameters<Head>(declared), heads, prepared.data());

  const auto projected = random_array<bf16>(rows * 2 * columns);
  const DeviceArray<bf16> out(gpu(), static_cast<std::size_t>(rows * columns));
  const auto device_sequences = on_device(sequences);
  const auto group_index = on_device(numbers);
  const cuda::mamba::Plan plan =
      cuda::mamba::plan_prefill<Head, bf16>(sequences, heads, gpu().multiprocessors());
  const DeviceArray<std::byte> workspace(gpu(), cuda::mamba::workspace_bytes<Head>(plan, heads));
  const cuda::mamba::Arguments<bf16> arguments{.sequences = device_sequences.data(),
                                               .sequence_count = sequence_count,
                                               .groups = heads,
                                               .heads_per_group = 1,
                                               .projected = {projected.data(), 2 * columns},
                                               .out = {out.data(), columns},
                                               .group_index = group_index.data(),
                                               .prepared = prepared.data(),
                                               .states = nullptr};
  const double channels = static_cast<double>(rows * columns);
  measure(state, {.bytes = channels * 3 * sizeof(bf16), .exponentials = channels * (Head::states + 4)},
          [&] { cuda::mamba::prefill<Head>(gpu(), plan, arguments, workspace.data()); });
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
