// RMSNorm, SwiGLU, rotary positions and the losses, forward and backward, against this machine's ceilings.
// The floor is that of reading and writing the operands once, which total more than the caches hold, or of
// one exponential per element. Shares stay below 1 also because writing costs more than reading.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/cpu/cross_entropy.hpp"
#include "recurformer/cpu/rms_norm.hpp"
#include "recurformer/cpu/rope.hpp"
#include "recurformer/cpu/swiglu.hpp"

namespace {

using rf::benchmarks::measure;

constexpr std::int64_t rows = 4096;

std::vector<float> numbers(std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(i % 17) * 0.125f - 1.0f;
  return out;
}

/// Work of reading or writing `count` floats and taking so many exponentials.
rf::benchmarks::Work floats(std::int64_t count, std::int64_t exponentials = 0) {
  return {.bytes = static_cast<double>(count) * sizeof(float),
          .exponentials = static_cast<double>(exponentials)};
}

void rms_norm(benchmark::State& state) {
  const std::int64_t width = state.range(0);
  const auto x = numbers(rows * width), gain = numbers(width);
  std::vector<float> y(x.size()), scale(static_cast<std::size_t>(rows));
  measure(state, floats(2 * rows * width),
          [&] { rf::cpu::rms_norm(x.data(), gain.data(), 1e-5, rows, width, y.data(), scale.data()); });
}

void rms_norm_backward(benchmark::State& state) {
  const std::int64_t width = state.range(0);
  const auto x = numbers(rows * width), gain = numbers(width), dy = numbers(rows * width),
             scale = numbers(rows);
  std::vector<float> dx(x.size()), d_gain(gain.size());
  measure(state, floats(4 * rows * width), [&] {
    rf::cpu::rms_norm_backward(x.data(), gain.data(), scale.data(), dy.data(), rows, width, dx.data(),
                               rf::cpu::Accumulate::yes, d_gain.data());
  });
}

void swiglu(benchmark::State& state) {
  const std::int64_t width = state.range(0);
  const auto projected = numbers(rows * 2 * width);
  std::vector<float> act(static_cast<std::size_t>(rows * width));
  measure(state, floats(3 * rows * width, rows * width), [&] {
    rf::cpu::swiglu(projected.data(), projected.data() + width, 2 * width, rows, width, act.data());
  });
}

void swiglu_backward(benchmark::State& state) {
  const std::int64_t width = state.range(0);
  const auto projected = numbers(rows * 2 * width), d_act = numbers(rows * width);
  std::vector<float> gradient(projected.size());
  measure(state, floats(5 * rows * width, rows * width), [&] {
    rf::cpu::swiglu_backward(projected.data(), projected.data() + width, 2 * width, d_act.data(), rows, width,
                             gradient.data(), gradient.data() + width);
  });
}

void rope_rotate(benchmark::State& state) {
  const int d_head = static_cast<int>(state.range(0)), heads = 1024 / d_head;
  rf::cpu::RopeTable table(d_head, 10000.0);
  table.reserve(rows);
  auto x = numbers(rows * heads * d_head);
  measure(state, floats(2 * rows * heads * d_head + rows * d_head), [&] {
    rf::parallel_for(
        rows, [&](std::int64_t r) { rf::cpu::rope_rotate(table, r, x.data() + r * heads * d_head, heads); });
  });
}

void loss_with_gradient(benchmark::State& state, bool teacher) {
  const std::int64_t vocabulary = state.range(0), tokens = (1 << 25) / vocabulary;
  const auto logits = numbers(tokens * vocabulary);
  const auto teacher_logits = numbers(teacher ? tokens * vocabulary : 0);
  const std::vector<std::int32_t> targets(static_cast<std::size_t>(tokens), 1);
  std::vector<float> gradient(logits.size());
  const std::int64_t rows_read = teacher ? 2 : 1;  // of logits; one of gradients is written
  measure(state, floats((rows_read + 1) * tokens * vocabulary, rows_read * tokens * vocabulary), [&] {
    benchmark::DoNotOptimize(
        rf::cpu::next_token_loss({.rows = tokens,
                                  .vocabulary = vocabulary,
                                  .logits = logits.data(),
                                  .targets = targets.data(),
                                  .teacher_logits = teacher ? teacher_logits.data() : nullptr,
                                  .divergence_weight = teacher ? 1.0 : 0.0,
                                  .d_logits = gradient.data(),
                                  .gradient_scale = 1.0 / static_cast<double>(tokens)}));
  });
}
void cross_entropy(benchmark::State& state) { loss_with_gradient(state, false); }
void cross_entropy_and_divergence(benchmark::State& state) { loss_with_gradient(state, true); }

BENCHMARK(rms_norm)->Arg(896)->Arg(4096)->UseRealTime();
BENCHMARK(rms_norm_backward)->Arg(896)->Arg(4096)->UseRealTime();
BENCHMARK(swiglu)->Arg(4864)->UseRealTime();
BENCHMARK(swiglu_backward)->Arg(4864)->UseRealTime();
BENCHMARK(rope_rotate)->Arg(64)->Arg(80)->Arg(128)->UseRealTime();
BENCHMARK(cross_entropy)->Arg(256)->Arg(32000)->Arg(151936)->UseRealTime();
BENCHMARK(cross_entropy_and_divergence)->Arg(256)->Arg(32000)->Arg(151936)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
