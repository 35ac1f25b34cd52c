// The optimizer's passes over parameters and gradients and the distance profiles of the analysis, against
// this machine's ceilings. AdamW's floor is reading g, w, m, v and writing w, m, v once; that of the profiles
// the scores' multiply-adds or exponentials.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/cpu/adamw.hpp"
#include "recurformer/cpu/attention_profile.hpp"

namespace {

using rf::benchmarks::measure;

std::vector<float> numbers(std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(i % 17) * 0.125f - 1.0f;
  return out;
}

void adamw(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  const auto gradient = numbers(n);
  auto weights = numbers(n);
  std::vector<float> first(weights.size()), second(weights.size());
  const rf::cpu::AdamwStep step{.rate = 1e-3f, .decay = 0.1f};
  measure(state, {.bytes = 7.0 * sizeof(float) * static_cast<double>(n)}, [&] {
    rf::cpu::adamw(step, n, gradient.data(), weights.data(), first.data(), second.data(), weights.data());
  });
}

void sum_of_squares(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  const auto gradient = numbers(n);
  measure(state,
          {.operations = 2.0 * static_cast<double>(n), .bytes = sizeof(float) * static_cast<double>(n)},
          [&] { benchmark::DoNotOptimize(rf::cpu::sum_of_squares(gradient.data(), n)); });
}

void attention_profile(benchmark::State& state) {
  const std::int64_t rows = state.range(0), d = state.range(1);
  const auto q = numbers(rows * d), k = numbers(rows * d);
  const std::vector<float> log_sum_exp(static_cast<std::size_t>(rows), 10.0f);
  std::vector<double> mass(static_cast<std::size_t>(rows));
  const double pairs = 0.5 * static_cast<double>(rows) * static_cast<double>(rows + 1);
  measure(state, {.operations = pairs * 2 * static_cast<double>(d), .exponentials = pairs}, [&] {
    rf::cpu::attention_profile({.rows = rows,
                                .d_head = static_cast<int>(d),
                                .q = q.data(),
                                .q_stride = d,
                                .k = k.data(),
                                .k_stride = d,
                                .log_sum_exp = log_sum_exp.data(),
                                .log_sum_exp_stride = 1},
                               mass);
  });
}

BENCHMARK(adamw)->Arg(1 << 20)->Arg(1 << 25)->UseRealTime();
BENCHMARK(sum_of_squares)->Arg(1 << 20)->Arg(1 << 25)->UseRealTime();
BENCHMARK(attention_profile)->Args({256, 16})->Args({2048, 64})->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
