// Matrix products of training (gemm) and of inference (PackedMatrix) against this machine's ceilings.
// Inference cycles through weights of more than 256 MiB, so that they come from memory as in a real model.

#include "recurformer/cpu/gemm.hpp"

#include <benchmark/benchmark.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/cpu/packed_matrix.hpp"

namespace {

using rf::benchmarks::measure;
using rf::cpu::gemm;
using rf::cpu::row_major;

/// Numbers that start at a cache line, as a model's do.
template <class T = float>
rf::Tensor<T> numbers(std::int64_t count) {
  rf::Tensor<T> out({count});
  for (std::int64_t i = 0; i < count; ++i) out(i) = T(static_cast<float>(i % 17) * 0.125f - 1.0f);
  return out;
}

// Arguments: rows, out, in of y (rows, out) = x (rows, in) · Wᵀ.
rf::benchmarks::Work multiply_adds(const benchmark::State& state) {
  return {.operations = 2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2))};
}

void linear_forward(benchmark::State& state) {
  const std::int64_t rows = state.range(0), out = state.range(1), in = state.range(2);
  const auto x = numbers(rows * in), w = numbers(out * in);
  rf::Tensor<float> y({rows * out});
  measure(state, multiply_adds(state), [&] {
    gemm({rows, out, in}, row_major(x.data(), in), row_major(w.data(), in).transposed(), y.data(), out);
  });
}

void linear_input_gradient(benchmark::State& state) {
  const std::int64_t rows = state.range(0), out = state.range(1), in = state.range(2);
  const auto dy = numbers(rows * out), w = numbers(out * in);
  rf::Tensor<float> dx({rows * in});
  measure(state, multiply_adds(state), [&] {
    gemm({rows, in, out}, row_major(dy.data(), out), row_major(w.data(), in), dx.data(), in);
  });
}

void linear_weight_gradient(benchmark::State& state) {
  const std::int64_t rows = state.range(0), out = state.range(1), in = state.range(2);
  const auto dy = numbers(rows * out), x = numbers(rows * in);
  rf::Tensor<float> dw({out * in});
  measure(state, multiply_adds(state), [&] {
    gemm({out, in, rows}, row_major(dy.data(), out).transposed(), row_major(x.data(), in), dw.data(), in,
         rf::cpu::Accumulate::yes);
  });
}

template <class T>
void packed(benchmark::State& state) {
  using From = std::conditional_t<rf::has_scales<T>, rf::bf16, T>;
  const std::int64_t rows = state.range(0), out = state.range(1), in = state.range(2);
  const auto w = numbers<From>(out * in);
  std::vector<rf::cpu::PackedMatrix<T>> layers;
  for (std::size_t bytes = 0; bytes < (std::size_t{256} << 20); bytes += layers.back().bytes())
    layers.emplace_back(out, in, row_major(w.data(), in));
  const auto x = numbers(rows * in);
  rf::Tensor<float> y({rows * out});
  auto work = multiply_adds(state);
  work.bytes = static_cast<double>(layers.front().bytes());
  std::size_t layer = 0;
  measure(state, work, [&] {
    layers[layer].multiply(x.data(), in, rows, y.data(), out);
    layer = (layer + 1) % layers.size();
  });
}

void training_shapes(benchmark::internal::Benchmark* b) {
  b->Args({2048, 128, 128})->Args({2048, 512, 128})->Args({2048, 128, 512});
  b->Args({128, 896, 896})->Args({512, 4864, 896})->Args({512, 896, 4864})->Args({2048, 896, 896});
  b->Args({128, 2048, 2048})->Args({512, 8192, 2048})->Args({4096, 2048, 8192});
  b->ArgNames({"rows", "out", "in"})->UseRealTime();
}
void inference_shapes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t rows : {1, 2, 4, 8, 32, 128, 512}) b->Args({rows, 4864, 896});
  b->Args({1, 896, 896})->Args({1, 896, 4864});
  for (const std::int64_t rows : {1, 8, 128, 512}) b->Args({rows, 8192, 2048});
  b->ArgNames({"rows", "out", "in"})->UseRealTime();
}

BENCHMARK(linear_forward)->Apply(training_shapes);
BENCHMARK(linear_input_gradient)->Apply(training_shapes);
BENCHMARK(linear_weight_gradient)->Apply(training_shapes);
BENCHMARK(packed<float>)->Apply(inference_shapes);
BENCHMARK(packed<rf::bf16>)->Apply(inference_shapes);
BENCHMARK(packed<rf::fp16>)->Apply(inference_shapes);
BENCHMARK(packed<std::int8_t>)->Apply(inference_shapes);

}  // namespace

BENCHMARK_MAIN();
