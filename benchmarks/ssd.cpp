// The SSD recurrence on the CPU, forward, backward and decoding, and whole Mamba2 heads (rotary positions,
// norm, gate) forward, for the widths of large models and for the demo's, against this machine's ceilings.
// Operations are those of the chunked algorithm with exact triangles; copies count as nothing. Decoding reads
// and writes the states, and both count as read from memory: a few states stay in the cache and beat the
// floor.

#include "recurformer/cpu/ssd.hpp"

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cpu/mamba2_mixer.hpp"
#include "recurformer/cpu/ssd_backward.hpp"

namespace {

using rf::benchmarks::measure;
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
        states_(static_cast<std::size_t>(sequences * rf::cpu::mamba2_form(d_head).size())),
        chunk_states_(states_.size() * static_cast<std::size_t>(rf::cpu::ssd_chunks(d_head, rows))),
        local_(static_cast<std::size_t>((d_head + 2) * heads), 0.5f),
        d_skip_(static_cast<std::size_t>(sequences * heads * d_head)),
        d_scalars_(static_cast<std::size_t>(sequences * (1 + 2 * heads))) {
    rf::Random random(1);
    for (float& x : inputs_) x = static_cast<float>(random.uniform(0.0, 0.2));
    gradients_ = inputs_;
    for (std::int64_t i = 0; i < sequences; ++i) {
      const float* first = inputs_.data() + i * rows * stride_;
      float* state = states_.data() + i * rf::cpu::mamba2_form(d_head).size();
      float* kept =
          chunk_states_.data() + i * rf::cpu::ssd_chunks(d_head, rows) * rf::cpu::mamba2_form(d_head).size();
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
                           .d_key_stride = stride_,
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

struct Sizes {
  explicit Sizes(const benchmark::State& state)
      : heads(static_cast<int>(state.range(0))), rows(state.range(1)), sequences(state.range(2)) {}
  int heads;
  std::int64_t rows, sequences;
  double tokens() const { return static_cast<double>(rows * sequences); }
};

/// Forward of the recurrence: chunks are triangles, then every token meets the state.
template <int P>
rf::benchmarks::Work forward_work(const Sizes& size) {
  constexpr double d = P, chunk = rf::cpu::ssd_chunk_rows(P);
  const double heads = size.heads;
  return {.operations = size.tokens() * (heads * (2 * d * (chunk + 1) + 2 * d * (d + 1)) + 2 * d * (d + 1)),
          .bytes = size.tokens() * 4 * (2 * heads * d + 2 * d + 1)};
}

template <int P>
void forward(benchmark::State& state) {
  const Sizes size(state);
  Work data(P, size.heads, size.rows, size.sequences);
  for (auto& s : data.work) s.chunk_states = nullptr;
  measure(state, forward_work<P>(size), [&] { rf::cpu::ssd_forward<rf::cpu::mamba2_form(P)>(data.work); });
}

template <int P>
void backward(benchmark::State& state) {
  const Sizes size(state);
  Work data(P, size.heads, size.rows, size.sequences);
  rf::cpu::ssd_forward<rf::cpu::mamba2_form(P)>(data.work);
  constexpr double d = P, chunk = rf::cpu::ssd_chunk_rows(P);
  const double heads = size.heads;
  measure(state,
          {.operations = size.tokens() * (heads * (5 * d * (chunk + 1) + 4 * d * d) + 4 * d * d),
           .bytes = size.tokens() * 4 * (3 * heads * d + 4 * d + 2 + d * (d + 1) / chunk)},
          [&] { rf::cpu::ssd_backward<rf::cpu::mamba2_form(P)>(data.work, data.gradients); });
}

/// One token for every state; with many states they are far larger than the caches.
template <int P>
void decode(benchmark::State& state) {
  const Sizes size(state);
  Work data(P, size.heads, 1, size.sequences);
  for (auto& s : data.work) s.chunk_states = nullptr;
  constexpr double d = P;
  measure(state,
          {.operations = size.tokens() * d * (d + 1) * (3 + 2 * size.heads),
           .bytes = size.tokens() * 4 * 2 * d * (d + 1)},
          [&] { rf::cpu::ssd_forward<rf::cpu::mamba2_form(P)>(data.work); });
}

/// A whole mixer without a cache: one KV group per state, each a sequence of its own.
template <int P>
void mixer_forward(benchmark::State& state) {
  using Mixer = rf::Mamba2<rf::SsdPolicy{.rope = true, .norm = true, .gate = rf::Gate::silu}>;
  const Sizes size(state);
  const rf::HeadShape shape{.d_model = P, .d_head = P, .queries_per_group = size.heads};
  const std::int64_t width = rf::projection_width(Mixer{}, shape), rows = size.rows * size.sequences;
  rf::Random random(1);
  std::vector<float> projected(static_cast<std::size_t>(rows * width));
  for (float& x : projected) x = static_cast<float>(random.uniform(0.0, 0.2));
  std::vector<float> out(static_cast<std::size_t>(rows * shape.group_width()));
  std::vector<std::vector<float>> local;
  std::vector<const float*> pointers;
  for (const rf::ParameterSpec& parameter : Mixer{}.parameters(shape)) {
    if (parameter.role != rf::Role::local) continue;
    auto& values = local.emplace_back(static_cast<std::size_t>(parameter.group_size(shape)));
    parameter.initialise(values, shape, random);
    pointers.push_back(values.data());
  }
  const std::vector<int> groups{0};
  std::vector<rf::SequenceRows> sequences;
  for (std::int64_t s = 0; s < size.sequences; ++s)
    sequences.push_back({.first_row = s * size.rows, .rows = size.rows, .position = 0});
  rf::cpu::RopeTable rope(P, shape.rope_base);
  rope.reserve(size.rows);
  const rf::cpu::ForwardArguments arguments{.shape = shape,
                                            .groups = groups,
                                            .sequences = sequences,
                                            .projected = {.data = projected.data(), .stride = width},
                                            .local = pointers,
                                            .rope = &rope,
                                            .out = {.data = out.data(), .stride = shape.group_width()}};
  auto at_least = forward_work<P>(size);
  at_least.bytes += static_cast<double>(rows * shape.group_width() * 4);    // z
  at_least.exponentials = static_cast<double>(rows * shape.group_width());  // of its gate
  measure(state, at_least, [&] {
    rf::cpu::MixerKernel<Mixer>::forward<rf::Fp32, std::integer_sequence<int, P>>({}, arguments);
  });
}

/// heads that share a state, tokens, states
void sizes(benchmark::internal::Benchmark* run, std::initializer_list<std::vector<std::int64_t>> all) {
  for (const auto& one : all) run->Args(one);
  run->ArgNames({"heads", "tokens", "states"})->Unit(benchmark::kMicrosecond)->UseRealTime();
}

BENCHMARK(forward<16>)->Apply([](auto* run) { sizes(run, {{2, 256, 32}}); });
BENCHMARK(forward<64>)->Apply([](auto* run) { sizes(run, {{1, 2048, 8}, {4, 2048, 4}, {8, 2048, 1}}); });
BENCHMARK(forward<128>)->Apply([](auto* run) {
  sizes(run, {{1, 2048, 4}, {4, 2048, 2}, {4, 4096, 1}, {4, 16, 8}});
});
BENCHMARK(backward<16>)->Apply([](auto* run) { sizes(run, {{2, 256, 32}}); });
BENCHMARK(backward<64>)->Apply([](auto* run) { sizes(run, {{1, 2048, 8}, {4, 2048, 4}}); });
BENCHMARK(backward<128>)->Apply([](auto* run) { sizes(run, {{4, 2048, 2}}); });
BENCHMARK(mixer_forward<64>)->Apply([](auto* run) { sizes(run, {{4, 2048, 4}}); });
BENCHMARK(mixer_forward<128>)->Apply([](auto* run) { sizes(run, {{4, 2048, 2}}); });
BENCHMARK(decode<64>)->Apply([](auto* run) { sizes(run, {{1, 1, 16384}}); });
BENCHMARK(decode<128>)->Apply([](auto* run) { sizes(run, {{1, 1, 4096}, {4, 1, 4096}, {4, 1, 8}}); });

}  // namespace

BENCHMARK_MAIN();
