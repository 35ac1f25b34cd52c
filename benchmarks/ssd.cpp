// The SSD recurrence on the CPU: forward, backward and decoding, for the widths of large models and for the
// demo's. Every line prints the share of its floor, max(operations / FMA peak, bytes / read bandwidth), both
// ceilings measured on this machine; the label says which of the two it is. Operations are those of the
// chunked algorithm with exact triangles; exponentials, copies and gates count as nothing. Decoding reads and
// writes the states, and both count as read from memory: a few states stay in the cache and beat the floor.

#include "recurformer/cpu/ssd.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cpu/ssd_backward.hpp"

namespace {

using rf::cpu::SsdGradient;
using rf::cpu::SsdSequence;

/// `sequences` states of `rows` tokens each, with everything forward and backward need.
class Work {
 public:
  Work(int d_head, int heads, std::int64_t rows, std::int64_t sequences)
      : stride_(std::int64_t{2 * heads + 2} * d_head + 1),
        inputs_(static_cast<std::size_t>(sequences * rows * stride_)),
        gradients_(inputs_.size()),
        y_(static_cast<std::size_t>(sequences * rows * heads * d_head)),
        states_(static_cast<std::size_t>(sequences * rf::cpu::ssd_state_size(d_head))),
        chunk_states_(states_.size() * static_cast<std::size_t>(rf::cpu::ssd_chunks(d_head, rows))),
        local_(static_cast<std::size_t>((d_head + 2) * heads), 0.5f),
        d_skip_(static_cast<std::size_t>(sequences * heads * d_head)),
        d_scalars_(static_cast<std::size_t>(sequences * (1 + 2 * heads))) {
    rf::Random random(1);
    for (float& x : inputs_) x = static_cast<float>(random.uniform(0.0, 0.2));
    gradients_ = inputs_;
    for (std::int64_t i = 0; i < sequences; ++i) {
      const float* first = inputs_.data() + i * rows * stride_;
      float* state = states_.data() + i * rf::cpu::ssd_state_size(d_head);
      float* kept =
          chunk_states_.data() + i * rf::cpu::ssd_chunks(d_head, rows) * rf::cpu::ssd_state_size(d_head);
      work.push_back({.rows = rows,
                      .heads = heads,
                      .q = first,
                      .k = first + heads * d_head,
                      .v = first + (heads + 1) * d_head,
                      .step = first + stride_ - 1,
                      .stride = stride_,
                      .rate = -1.0f,
                      .c0 = local_.data(),
                      .c1 = local_.data() + heads,
                      .skip = local_.data() + 2 * heads,
                      .initial_state = state,
                      .final_state = state,
                      .y = y_.data() + i * rows * heads * d_head,
                      .y_stride = std::int64_t{heads} * d_head,
                      .chunk_states = kept});
      float* d = gradients_.data() + i * rows * stride_;
      double* scalars = d_scalars_.data() + i * (1 + 2 * heads);
      gradients.push_back({.chunk_states = kept,
                           .dy = y_.data() + i * rows * heads * d_head,
                           .dy_stride = std::int64_t{heads} * d_head,
                           .dq = d,
                           .dk = d + heads * d_head,
                           .dv = d + (heads + 1) * d_head,
                           .d_step = d + stride_ - 1,
                           .d_stride = stride_,
                           .d_rate = scalars,
                           .d_c0 = scalars + 1,
                           .d_c1 = scalars + 1 + heads,
                           .d_skip = d_skip_.data() + i * heads * d_head});
    }
  }

  std::vector<SsdSequence> work;
  std::vector<SsdGradient> gradients;

 private:
  std::int64_t stride_;
  std::vector<float> inputs_, gradients_, y_, states_, chunk_states_, local_, d_skip_;
  std::vector<double> d_scalars_;
};

/// Times `body` and reports the fastest call: the share of the floor of so many operations and bytes, and
/// tokens per second. Other work on the machine lengthens calls, it cannot shorten them.
template <class Body>
void measure(benchmark::State& state, double operations, double bytes, double tokens, Body&& body) {
  double best = 1e30;
  for (auto _ : state) {
    const double seconds = rf::benchmarks::fastest(1, body);
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  const bool memory = bytes / rf::benchmarks::read_bandwidth() > operations / rf::benchmarks::peak_flops();
  state.SetLabel(memory ? "floor: bytes" : "floor: operations");
  state.counters["of_floor"] = rf::benchmarks::floor_seconds(operations, bytes) / best;
  state.counters["tokens_per_s"] = tokens / best;
}

struct Sizes {
  explicit Sizes(const benchmark::State& state)
      : heads(static_cast<int>(state.range(0))), rows(state.range(1)), sequences(state.range(2)) {}
  int heads;
  std::int64_t rows, sequences;
  double tokens() const { return static_cast<double>(rows * sequences); }
};

template <int P>
void forward(benchmark::State& state) {
  const Sizes size(state);
  Work data(P, size.heads, size.rows, size.sequences);
  for (auto& s : data.work) s.chunk_states = nullptr;
  constexpr double d = P, chunk = rf::cpu::ssd_chunk_rows(P);
  const double heads = size.heads;
  measure(state, size.tokens() * (heads * (2 * d * (chunk + 1) + 2 * d * (d + 1)) + 2 * d * (d + 1)),
          size.tokens() * 4 * (2 * heads * d + 2 * d + 1), size.tokens(),
          [&] { rf::cpu::ssd_forward<P>(data.work); });
}

template <int P>
void backward(benchmark::State& state) {
  const Sizes size(state);
  Work data(P, size.heads, size.rows, size.sequences);
  rf::cpu::ssd_forward<P>(data.work);
  constexpr double d = P, chunk = rf::cpu::ssd_chunk_rows(P);
  const double heads = size.heads;
  measure(state, size.tokens() * (heads * (5 * d * (chunk + 1) + 4 * d * d) + 4 * d * d),
          size.tokens() * 4 * (3 * heads * d + 4 * d + 2 + d * (d + 1) / chunk), size.tokens(),
          [&] { rf::cpu::ssd_backward<P>(data.work, data.gradients); });
}

/// One token for every state; with many states they are far larger than the caches.
template <int P>
void decode(benchmark::State& state) {
  const Sizes size(state);
  Work data(P, size.heads, 1, size.sequences);
  for (auto& s : data.work) s.chunk_states = nullptr;
  constexpr double d = P;
  measure(state, size.tokens() * d * (d + 1) * (3 + 2 * size.heads), size.tokens() * 4 * 2 * d * (d + 1),
          size.tokens(), [&] { rf::cpu::ssd_forward<P>(data.work); });
}

/// heads that share a state, tokens, states
void sizes(benchmark::internal::Benchmark* run, std::initializer_list<std::vector<std::int64_t>> all) {
  for (const auto& one : all) run->Args(one);
  run->ArgNames({"heads", "tokens", "states"})->Unit(benchmark::kMicrosecond)->UseManualTime();
}

BENCHMARK(forward<16>)->Apply([](auto* run) { sizes(run, {{2, 256, 32}}); });
BENCHMARK(forward<64>)->Apply([](auto* run) { sizes(run, {{1, 2048, 8}, {4, 2048, 4}}); });
BENCHMARK(forward<128>)->Apply([](auto* run) {
  sizes(run, {{1, 2048, 4}, {4, 2048, 2}, {4, 4096, 1}, {4, 16, 8}});
});
BENCHMARK(backward<16>)->Apply([](auto* run) { sizes(run, {{2, 256, 32}}); });
BENCHMARK(backward<64>)->Apply([](auto* run) { sizes(run, {{1, 2048, 8}, {4, 2048, 4}}); });
BENCHMARK(backward<128>)->Apply([](auto* run) { sizes(run, {{4, 2048, 2}}); });
BENCHMARK(decode<64>)->Apply([](auto* run) { sizes(run, {{1, 1, 16384}}); });
BENCHMARK(decode<128>)->Apply([](auto* run) { sizes(run, {{1, 1, 4096}, {4, 1, 4096}, {4, 1, 8}}); });

}  // namespace

BENCHMARK_MAIN();
