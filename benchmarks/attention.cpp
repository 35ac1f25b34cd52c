// Attention on the CPU: prefill and training forward, backward, decoding, streaming heads, for the widths of
// large models and for the demo's, against this machine's ceilings.
// Operations count two products per visible (query, key) pair forward and five backward, exponentials one per
// pair. Decoding counts every visible cached row read once; the caches are larger than the last-level cache.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/attention_mixer.hpp"

namespace {

using rf::AttentionMask;
using rf::benchmarks::measure;

// Arguments of every benchmark: new tokens per sequence, KV groups, query heads per group, sequences, and the
// past (decode) or the window (streaming).
struct Sizes {
  explicit Sizes(const benchmark::State& state)
      : tokens(state.range(0)),
        groups(static_cast<int>(state.range(1))),
        queries(static_cast<int>(state.range(2))),
        sequences(state.range(3)),
        past_or_window(state.range(4)) {}
  std::int64_t tokens;
  int groups, queries;
  std::int64_t sequences, past_or_window;
  std::int64_t rows() const { return tokens * sequences; }
};

/// Activations of one run and everything a call needs; sequences start at `past`.
template <int D>
struct Activations {
  Activations(const Sizes& size, std::int64_t past)
      : columns(std::int64_t{size.groups} * (size.queries + 2) * D),
        out_columns(std::int64_t{size.groups} * size.queries * D),
        projected(numbers(size.rows() * columns)),
        d_projected({size.rows() * columns}),
        out({size.rows() * out_columns}),
        d_out(numbers(size.rows() * out_columns)),
        saved({size.rows() * size.groups * size.queries}),
        rope(D, 10000.0) {
    rope.reserve(past + size.tokens);
    for (int g = 0; g < size.groups; ++g) groups.push_back(g);
    for (std::int64_t s = 0; s < size.sequences; ++s)
      sequences.push_back({.first_row = s * size.tokens, .rows = size.tokens, .position = past});
    forward = {.shape = {.d_model = 0, .d_head = D, .queries_per_group = size.queries},
               .groups = groups,
               .sequences = sequences,
               .projected = {.data = projected.data(), .stride = columns},
               .local = {},
               .rope = &rope,
               .cache = {},
               .out = {.data = out.data(), .stride = out_columns},
               .saved = saved.data()};
    backward = {.shape = forward.shape,
                .groups = groups,
                .sequences = sequences,
                .projected = {.data = projected.data(), .stride = columns},
                .local = {},
                .rope = &rope,
                .saved = saved.data(),
                .out = {.data = out.data(), .stride = out_columns},
                .d_out = {.data = d_out.data(), .stride = out_columns},
                .d_projected = {.data = d_projected.data(), .stride = columns},
                .d_local = {}};
  }

  static rf::Tensor<float> numbers(std::int64_t count) {
    rf::Random random(1);
    rf::Tensor<float> values({count});
    for (std::int64_t i = 0; i < count; ++i) values(i) = static_cast<float>(random.uniform(-1.5, 1.5));
    return values;
  }

  std::int64_t columns, out_columns;
  rf::Tensor<float> projected, d_projected, out, d_out, saved;
  rf::cpu::RopeTable rope;
  std::vector<int> groups;
  std::vector<rf::SequenceRows> sequences;
  rf::cpu::ForwardArguments forward;
  rf::cpu::BackwardArguments backward;
};

/// Pages of keys and of values for every sequence.
template <int D, class Cache>
struct Pages {
  Pages(const Sizes& size, std::int64_t positions) {
    const std::int64_t pages = (positions + rf::cache_page_rows - 1) / rf::cache_page_rows;
    const std::int64_t page = size.groups * rf::cache_page_rows * D;
    memory = rf::cpu::AlignedBuffer<Cache>(static_cast<std::size_t>(2 * size.sequences * pages * page));
    for (std::int64_t i = 0; i < 2 * size.sequences * pages * page; ++i)
      memory.data()[i] = rf::convert<Cache>(static_cast<float>(i % 61) * 0.05f - 1.5f);
    tables.resize(static_cast<std::size_t>(2 * size.sequences));
    Cache* next = memory.data();
    for (auto& table : tables) {
      for (std::int64_t p = 0; p < pages; ++p, next += page) table.push_back(next);
      fields.push_back({.pages = table.data()});
    }
  }
  rf::cpu::CacheView view() const { return {.fields = fields, .fields_per_sequence = 2}; }

  rf::cpu::AlignedBuffer<Cache> memory;
  std::vector<std::vector<void*>> tables;
  std::vector<rf::cpu::FieldView> fields;
};

/// Rings of keys and of values for every sequence.
template <int D, class Cache>
struct Rings {
  Rings(const Sizes& size, const AttentionMask& mask) {
    const std::int64_t ring = size.groups * (mask.sink + mask.window) * D;
    memory = rf::cpu::AlignedBuffer<Cache>(static_cast<std::size_t>(2 * size.sequences * ring));
    for (std::int64_t i = 0; i < 2 * size.sequences * ring; ++i)
      memory.data()[i] = rf::convert<Cache>(static_cast<float>(i % 61) * 0.05f - 1.5f);
    for (std::int64_t i = 0; i < 2 * size.sequences; ++i)
      fields.push_back({.data = memory.data() + i * ring, .capacity = mask.window});
  }
  rf::cpu::CacheView view() const { return {.fields = fields, .fields_per_sequence = 2}; }

  rf::cpu::AlignedBuffer<Cache> memory;
  std::vector<rf::cpu::FieldView> fields;
};

/// (query, key) pairs that the mask lets through, over all sequences and heads.
double visible_pairs(const Sizes& size, const AttentionMask& mask, std::int64_t past) {
  double pairs = 0;
  for (std::int64_t i = past; i < past + size.tokens; ++i)
    for (const rf::KeyRange& range : mask.seen_by_any(i, i)) pairs += static_cast<double>(range.size());
  return pairs * static_cast<double>(size.sequences * size.groups * size.queries);
}

/// Work of so many products per visible pair.
template <int D>
rf::benchmarks::Work work(const Sizes& size, const AttentionMask& mask, std::int64_t past, int products) {
  const double pairs = visible_pairs(size, mask, past);
  return {.operations = pairs * products * 2 * D, .exponentials = pairs};
}

template <int D>
void run_forward(benchmark::State& state, const AttentionMask& mask) {
  const Sizes size(state);
  Activations<D> a(size, 0);
  measure(state, work<D>(size, mask, 0, 2),
          [&] { rf::cpu::AttentionForward<D, float>(a.forward, mask, false).run(); });
}

template <int D>
void run_backward(benchmark::State& state, const AttentionMask& mask) {
  const Sizes size(state);
  Activations<D> a(size, 0);
  rf::cpu::AttentionForward<D, float>(a.forward, mask, false).run();
  measure(state, work<D>(size, mask, 0, 5), [&] { rf::cpu::attention_run_backward<D>(a.backward, mask); });
}

AttentionMask streaming_of(const benchmark::State& state) { return {.sink = 4, .window = state.range(4)}; }

template <int D>
void forward(benchmark::State& state) {
  run_forward<D>(state, {});
}
template <int D>
void backward(benchmark::State& state) {
  run_backward<D>(state, {});
}
template <int D>
void streaming_forward(benchmark::State& state) {
  run_forward<D>(state, streaming_of(state));
}
template <int D>
void streaming_backward(benchmark::State& state) {
  run_backward<D>(state, streaming_of(state));
}

/// New tokens of every sequence on `cache`, which holds `past` tokens or the last of them.
template <int D, class Cache>
void run_decode(benchmark::State& state, const AttentionMask& mask, std::int64_t past,
                const rf::cpu::CacheView& cache, bool ring) {
  const Sizes size(state);
  Activations<D> a(size, past);
  a.forward.cache = cache;
  a.forward.saved = nullptr;
  std::int64_t rows = 0;
  for (const rf::KeyRange& range : mask.seen_by_any(past, past + size.tokens - 1)) rows += range.size();
  auto at_least = work<D>(size, mask, past, 2);
  at_least.bytes = static_cast<double>(size.sequences * size.groups * rows * 2 * D) * sizeof(Cache);
  measure(state, at_least, [&] { rf::cpu::AttentionForward<D, Cache>(a.forward, mask, ring).run(); });
}

template <int D, class Cache>
void decode(benchmark::State& state) {
  const Sizes size(state);
  const Pages<D, Cache> pages(size, size.past_or_window + size.tokens);
  run_decode<D, Cache>(state, {}, size.past_or_window, pages.view(), false);
}

/// Far behind the start, so that the ring is full.
template <int D, class Cache>
void streaming_decode(benchmark::State& state) {
  const AttentionMask mask = streaming_of(state);
  const Rings<D, Cache> rings(Sizes(state), mask);
  run_decode<D, Cache>(state, mask, 4 * mask.window, rings.view(), true);
}

const std::vector<std::string> names = {"tokens", "groups", "queries", "sequences", "past_or_window"};

void settings(benchmark::internal::Benchmark* b) {
  b->ArgNames(names)->UseRealTime()->Unit(benchmark::kMicrosecond);
}

BENCHMARK(forward<16>)->Apply(settings)->Args({256, 4, 2, 8, 0});
BENCHMARK(forward<64>)
    ->Apply(settings)
    ->Args({512, 2, 7, 1, 0})
    ->Args({1024, 14, 1, 1, 0})
    ->Args({4096, 4, 1, 1, 0})
    ->Args({4096, 2, 7, 1, 0})
    ->Args({16384, 2, 1, 1, 0});
BENCHMARK(forward<128>)
    ->Apply(settings)
    ->Args({512, 2, 7, 1, 0})
    ->Args({1024, 8, 4, 1, 0})
    ->Args({4096, 2, 1, 1, 0})
    ->Args({16384, 2, 1, 1, 0});
BENCHMARK(streaming_forward<64>)->Apply(settings)->Args({4096, 4, 1, 1, 256});
BENCHMARK(backward<16>)->Apply(settings)->Args({256, 4, 2, 8, 0});
BENCHMARK(backward<64>)
    ->Apply(settings)
    ->Args({512, 4, 2, 4, 0})
    ->Args({2048, 2, 7, 1, 0})
    ->Args({4096, 2, 1, 1, 0});
BENCHMARK(backward<128>)->Apply(settings)->Args({2048, 2, 1, 1, 0});
BENCHMARK(streaming_backward<64>)->Apply(settings)->Args({4096, 4, 1, 1, 256});
BENCHMARK(decode<16, float>)->Apply(settings)->Args({1, 4, 2, 1, 255})->Args({1, 4, 2, 8, 255});
BENCHMARK(decode<64, rf::bf16>)
    ->Apply(settings)
    ->Args({1, 14, 1, 1, 32767})
    ->Args({1, 8, 4, 1, 65535})
    ->Args({1, 2, 7, 1, 65535})
    ->Args({1, 2, 7, 8, 65535});
BENCHMARK(decode<128, rf::bf16>)
    ->Apply(settings)
    ->Args({1, 8, 1, 1, 32767})
    ->Args({1, 8, 4, 1, 32767})
    ->Args({1, 4, 7, 1, 32767})
    ->Args({4, 8, 4, 1, 32764});
BENCHMARK(streaming_decode<64, rf::bf16>)->Apply(settings)->Args({1, 14, 1, 64, 1024});
BENCHMARK(streaming_decode<128, rf::bf16>)->Apply(settings)->Args({1, 8, 4, 64, 1024});

}  // namespace

BENCHMARK_MAIN();
