// The selective scan on the CPU, alone and as whole Mamba heads (convolution, projections, scan, gate),
// forward, backward and decoding, against this machine's ceilings. What mostly limits it is the exponential
// of every state, which backward takes once as well. Bytes are inputs and outputs moved once; decoding also
// reads and writes every state.

#include "recurformer/cpu/selective_scan.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/cpu/selective_scan_backward.hpp"

namespace {

using rf::benchmarks::measure;
using rf::cpu::SelectiveScan, rf::cpu::SelectiveScanGradient;

constexpr int states = 16;  // of the heads

/// As the library's own: lines that start where vectors do, and few pages.
using Buffer = rf::cpu::AlignedBuffer<float>;

Buffer uniform(std::int64_t count, double low, double high) {
  rf::Random random(static_cast<std::uint64_t>(count));
  Buffer values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) values.data()[i] = static_cast<float>(random.uniform(low, high));
  return values;
}
Buffer filled(std::size_t count, float value = 0) {
  Buffer values(count);
  std::fill_n(values.data(), count, value);
  return values;
}

/// One scan of N states per channel, with its gradients' memory.
template <int N>
class Work {
 public:
  Work(std::int64_t channels, std::int64_t rows)
      : x_(uniform(rows * channels, -1, 1)),
        delta_(uniform(rows * channels, 0.01, 0.3)),
        coefficients_(uniform(rows * 2 * N, -1, 1)),
        a_(uniform(N * channels, -3, -0.01)),
        skip_(uniform(channels, -1, 1)),
        y_(filled(x_.size())),
        d_x_(filled(x_.size())),
        d_delta_(filled(x_.size())),
        d_coefficients_(filled(coefficients_.size())),
        state_(filled(a_.size())),
        d_state_(filled(a_.size())),
        d_a_(filled(a_.size())),
        d_skip_(filled(skip_.size())),
        chunk_states_(filled(static_cast<std::size_t>(rf::cpu::scan_chunks(rows)) * a_.size())) {
    scan = {.rows = rows,
            .channels = channels,
            .x = {x_.data(), channels},
            .delta = {delta_.data(), channels},
            .b = {coefficients_.data(), 2 * N},
            .c = {coefficients_.data() + N, 2 * N},
            .a = a_.data(),
            .skip = skip_.data(),
            .y = {y_.data(), channels},
            .state = state_.data(),
            .chunk_states = {}};
    gradient = {.forward = scan,
                .d_y = {y_.data(), channels},
                .d_x = {d_x_.data(), channels},
                .d_delta = {d_delta_.data(), channels},
                .d_b = {d_coefficients_.data(), 2 * N},
                .d_c = {d_coefficients_.data() + N, 2 * N},
                .d_state = d_state_.data(),
                .d_a = d_a_.data(),
                .d_skip = d_skip_.data()};
    gradient.forward.chunk_states = {chunk_states_.data(), channels};
    rf::cpu::selective_scan<N>(gradient.forward);
  }

  SelectiveScan scan;
  SelectiveScanGradient gradient;

 private:
  Buffer x_, delta_, coefficients_, a_, skip_, y_, d_x_, d_delta_, d_coefficients_;
  Buffer state_, d_state_, d_a_, d_skip_, chunk_states_;
};

/// A layer of independent heads, d_head wide: `sequences` of them, `rows` tokens each.
class Heads {
 public:
  using Mixer = rf::Mamba<>;
  using Kernel = rf::cpu::MixerKernel<Mixer>;
  using Widths = std::integer_sequence<int, 64, 128>;

  Heads(int d_head, int heads, std::int64_t rows, std::int64_t sequences = 1)
      : shape_{.d_model = d_head, .d_head = d_head},
        projected_(uniform(sequences * rows * 2 * heads * d_head, -1, 1)),
        out_(filled(static_cast<std::size_t>(sequences * rows * heads * d_head), 0.1f)) {
    for (std::int64_t s = 0; s < sequences; ++s)
      sequences_.push_back({.first_row = s * rows, .rows = rows, .position = 0});
    rf::Random random(1);
    for (int i = 0; i < heads; ++i) groups_.push_back(i);
    for (const rf::ParameterSpec& parameter : Mixer{}.parameters(shape_)) {
      if (parameter.role != rf::Role::local) continue;
      auto& values = local_.emplace_back(static_cast<std::size_t>(heads * parameter.slice.size()));
      const auto size = static_cast<std::size_t>(parameter.slice.size());
      for (std::size_t i = 0; i < values.size(); i += size)
        parameter.initialise(std::span(values).subspan(i, size), shape_, random);
      d_local_.emplace_back(values.size());
    }
    for (auto& values : local_) pointers_.push_back(values.data());
    for (auto& values : d_local_) d_pointers_.push_back(values.data());
  }

  /// Makes room for backward and saves what it needs.
  void prepare_backward() {
    d_out_ = filled(out_.size(), 0.1f);
    d_projected_ = filled(projected_.size());
    saved_ = filled(static_cast<std::size_t>(
        Kernel::saved_size(Mixer{}, shape_, static_cast<std::int64_t>(groups_.size()), sequences_)));
    forward();
  }
  /// Gives every sequence a cache, which each forward goes on from. Returns its bytes.
  double prepare_cache() {
    std::int64_t floats = 0;
    for (std::size_t s = 0; s < sequences_.size(); ++s)
      for (const rf::CacheField& field : Mixer{}.cache_fields(shape_)) {
        const std::int64_t size = static_cast<std::int64_t>(groups_.size()) * field.slice.size();
        fields_.push_back({.data = states_.emplace_back(static_cast<std::size_t>(size)).data()});
        floats += size;
      }
    return static_cast<double>(floats) * sizeof(float);
  }

  void forward() {
    const std::int64_t width = static_cast<std::int64_t>(groups_.size()) * shape_.d_head;
    Kernel::forward<rf::Fp32, Widths>(Mixer{}, {.shape = shape_,
                                                .groups = groups_,
                                                .sequences = sequences_,
                                                .projected = {projected_.data(), 2 * width},
                                                .local = pointers_,
                                                .cache = cache(),
                                                .out = {out_.data(), width},
                                                .saved = saved_.data()});
  }
  void backward() {
    const std::int64_t width = static_cast<std::int64_t>(groups_.size()) * shape_.d_head;
    Kernel::backward<rf::Fp32, Widths>(Mixer{}, {.shape = shape_,
                                                 .groups = groups_,
                                                 .sequences = sequences_,
                                                 .projected = {projected_.data(), 2 * width},
                                                 .local = pointers_,
                                                 .saved = saved_.data(),
                                                 .out = {out_.data(), width},
                                                 .d_out = {d_out_.data(), width},
                                                 .d_projected = {d_projected_.data(), 2 * width},
                                                 .d_local = d_pointers_});
  }

 private:
  rf::cpu::CacheView cache() const {
    return {.fields = fields_, .fields_per_sequence = fields_.size() / sequences_.size()};
  }

  rf::HeadShape shape_;
  std::vector<rf::SequenceRows> sequences_;
  std::vector<rf::cpu::FieldView> fields_;
  std::vector<std::vector<float>> states_;
  std::vector<int> groups_;
  Buffer projected_, out_, d_out_, d_projected_, saved_;
  std::vector<std::vector<float>> local_, d_local_;
  std::vector<const float*> pointers_;
  std::vector<float*> d_pointers_;
};

/// Work of a scan over so many tokens times channels, with n states each, that moves so many floats.
rf::benchmarks::Work work_of(double token_channels, double floats_moved, int n = states) {
  return {.bytes = 4 * floats_moved, .exponentials = n * token_channels};
}

template <int N>
void scan_forward(benchmark::State& state) {
  const auto channels = state.range(0), rows = state.range(1);
  Work<N> work(channels, rows);
  const auto tokens = static_cast<double>(rows), width = static_cast<double>(channels);
  measure(state, work_of(tokens * width, tokens * (3 * width + 2 * N), N),
          [&] { rf::cpu::selective_scan<N>(work.scan); });
}

template <int N>
void scan_backward(benchmark::State& state) {
  const auto channels = state.range(0), rows = state.range(1);
  Work<N> work(channels, rows);
  const auto tokens = static_cast<double>(rows), width = static_cast<double>(channels);
  constexpr double saved = static_cast<double>(N) / rf::cpu::scan_chunk;
  measure(state, work_of(tokens * width, tokens * ((5 + saved) * width + 4 * N), N),
          [&] { rf::cpu::selective_scan_backward<N>(work.gradient); });
}

void heads_forward(benchmark::State& state) {
  const auto d_head = state.range(0), heads = state.range(1), rows = state.range(2);
  Heads work(static_cast<int>(d_head), static_cast<int>(heads), rows);
  const auto token_channels = static_cast<double>(rows * d_head * heads);
  measure(state, work_of(token_channels, 3 * token_channels), [&] { work.forward(); });
}

void heads_backward(benchmark::State& state) {
  const auto d_head = state.range(0), heads = state.range(1), rows = state.range(2);
  Heads work(static_cast<int>(d_head), static_cast<int>(heads), rows);
  work.prepare_backward();
  const auto token_channels = static_cast<double>(rows * d_head * heads);
  constexpr double saved = static_cast<double>(states) / rf::cpu::scan_chunk;
  measure(state, work_of(token_channels, (5 + saved) * token_channels), [&] { work.backward(); });
}

/// One token for every sequence of a batch.
void heads_decode(benchmark::State& state) {
  const auto d_head = state.range(0), heads = state.range(1), sequences = state.range(2);
  Heads work(static_cast<int>(d_head), static_cast<int>(heads), 1, sequences);
  const double cache = work.prepare_cache();
  const auto token_channels = static_cast<double>(sequences * d_head * heads);
  auto at_least = work_of(token_channels, 3 * token_channels);
  at_least.bytes += 2 * cache;
  measure(state, at_least, [&] { work.forward(); });
}

/// channels, tokens
void scan_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({64, 1024})->Args({64, 65536})->Args({512, 4096})->Args({2048, 1024})->Args({2048, 16384});
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK(scan_forward<16>)->Apply(scan_sizes);
BENCHMARK(scan_backward<16>)->Apply(scan_sizes);
// The channels and states of the SSD recurrence with eight heads of 64 (ssd.cpp).
BENCHMARK(scan_forward<64>)->Args({512, 2048})->Unit(benchmark::kMillisecond)->UseRealTime();

/// d_head, heads, tokens
void head_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({64, 8, 1024})->Args({64, 8, 16384})->Args({128, 16, 2048});
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK(heads_forward)->Apply(head_sizes);
BENCHMARK(heads_backward)->Apply(head_sizes);
BENCHMARK(heads_decode)  // d_head, heads, sequences
    ->Args({64, 8, 1})
    ->Args({64, 8, 64})
    ->Args({128, 16, 1024})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
// one head only: its channels are shared among the threads
BENCHMARK(heads_forward)->Args({128, 1, 4096})->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
