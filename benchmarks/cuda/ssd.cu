// Mamba2 heads over whole prompts of 1k to 64k tokens, on tensor cores. The floor counts what
// cuda/mamba2_prefill.hpp counts per token of a group with P = d_head, G query heads and chunks of Q = 64:
// 2 P (3 G + 2) + 2 bytes, G (2 Q P + 2 P²) + 4 P² operations, G (Q / 2 + 2 P) + 4 special functions.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "harness.cuh"
#include "locals.cuh"
#include "random_array.cuh"
#include "recurformer/cuda/mamba2_prefill.hpp"

namespace rf::benchmarks {
namespace {

Work ssd_work(double tokens, double groups, double queries, double p) {
  constexpr double chunk = 64;
  const double units = tokens * groups;
  return {.operations = units * (queries * (2 * chunk * p + 2 * p * p) + 4 * p * p),
          .bytes = units * (2 * p * (3 * queries + 2) + 2),
          .exponentials = units * (queries * (chunk / 2 + 2 * p) + 4)};
}

template <int P>
void ssd(benchmark::State& state) {
  const std::int64_t tokens = state.range(0);
  const int groups = static_cast<int>(state.range(1)), queries = static_cast<int>(state.range(2)),
            sequence_count = static_cast<int>(state.range(3));
  const std::int64_t rows = tokens * sequence_count;
  const std::int64_t group_stride = (std::int64_t{2 * queries + 2} * P + 1 + 7) / 8 * 8;
  const std::int64_t out_columns = std::int64_t{groups} * queries * P;
  std::vector<SequenceRows> sequences;
  std::vector<int> numbers;
  for (int s = 0; s < sequence_count; ++s) sequences.push_back({.first_row = s * tokens, .rows = tokens});
  for (int g = 0; g < groups; ++g) numbers.push_back(g);

  const auto local = local_parameters<Mamba2<>>({.d_head = P, .queries_per_group = queries}, groups);
  const auto projected = random_array<bf16>(rows * groups * group_stride);
  const DeviceArray<bf16> out(gpu(), static_cast<std::size_t>(rows * out_columns));
  const auto device_sequences = on_device(sequences);
  const auto group_index = on_device(numbers);
  const cuda::Mamba2Plan plan = cuda::mamba2_plan<P>(gpu().multiprocessors(), gpu().most_shared_bytes(),
                                                     sequence_count, groups, tokens);
  const DeviceArray<std::byte> workspace(gpu(),
                                         cuda::mamba2_workspace_bytes<P>(plan, sequence_count, groups));
  const cuda::Mamba2Arguments<bf16> call{.projected = {projected.data(), groups * group_stride},
                                         .group_stride = group_stride,
                                         .out = {out.data(), out_columns},
                                         .group_index = group_index.data(),
                                         .sequences = device_sequences.data(),
                                         .sequence_count = sequence_count,
                                         .longest = tokens,
                                         .groups = groups,
                                         .queries = queries,
                                         .locals = {.dt_bias = local[0].data(),
                                                    .a_log = local[1].data(),
                                                    .c0 = local[2].data(),
                                                    .c1 = local[3].data(),
                                                    .skip = local[4].data()},
                                         .rope = {},
                                         .states = {}};
  measure(state, ssd_work(static_cast<double>(rows), groups, queries, P),
          [&] { cuda::mamba2_prefill<Mamba2<>, P>(gpu(), call, plan, workspace.data()); });
}

void add_sizes(benchmark::internal::Benchmark* b, int groups, int queries) {
  constexpr std::int64_t most_rows = 131072;
  b->ArgNames({"tokens", "groups", "queries", "sequences"});
  for (const std::int64_t tokens : {1024, 4096, 16384, 65536})
    for (const std::int64_t sequences : {1, 8})
      if (tokens * sequences <= most_rows) b->Args({tokens, groups, queries, sequences});
}

[[maybe_unused]] const bool registered = [] {
  add_sizes(add("ssd<64>", ssd<64>), 32, 1);
  add_sizes(add("ssd<128>", ssd<128>), 8, 4);
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
