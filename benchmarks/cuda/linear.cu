// Linear layers and MLPs of a large model, from one row (decode: the weights' bytes are the work) to 8192
// (prefill: the operations are), and the same products through cuBLAS.
#include <cmath>
#include <cstdint>
#include <vector>

#include "cublas.cuh"
#include "harness.cuh"
#include "random_array.cuh"
#include "recurformer/cuda/linear.hpp"
#include "recurformer/cuda/mlp.hpp"

namespace rf::benchmarks {
namespace {

/// A product of (rows, in) with (out, in): operands and result once.
Work product_work(double rows, double out, double in) {
  return {.operations = 2 * rows * out * in, .bytes = 2 * (rows * in + out * in + rows * out)};
}

/// x (rows, in), W (out, in), y (rows, out).
struct Matrices {
  explicit Matrices(const benchmark::State& state)
      : rows(static_cast<int>(state.range(0))),
        out(static_cast<int>(state.range(1))),
        in(static_cast<int>(state.range(2))),
        x(random_array<bf16>(std::int64_t{rows} * in)),
        w(random_array<bf16>(std::int64_t{out} * in)),
        y(gpu(), static_cast<std::size_t>(rows) * static_cast<std::size_t>(out)) {}
  int rows, out, in;
  DeviceArray<bf16> x, w, y;
};

void linear(benchmark::State& state) {
  const Matrices m(state);
  const cuda::GemmOperands<cuda::DenseRows<bf16>> operands{
      .rows = {{m.x.data(), m.in}, m.rows}, .weights = m.w.data(), .columns = m.out, .inner = m.in};
  measure(state, product_work(m.rows, m.out, m.in), [&] {
    cuda::launch_linear(gpu(), operands, cuda::NoNorm{},
                        cuda::Store<bf16>{.out = {m.y.data(), m.out}, .columns = m.out});
  });
}

void linear_by_cublas(benchmark::State& state) {
  const Matrices m(state);
  measure(state, product_work(m.rows, m.out, m.in),
          [&] { cublas().multiply(m.x.data(), m.w.data(), m.y.data(), m.rows, m.out, m.in); });
}

void mlp(benchmark::State& state) {
  const int rows = static_cast<int>(state.range(0)), d_model = static_cast<int>(state.range(1)),
            d_ff = static_cast<int>(state.range(2));
  // weights of the size that keeps activations at 1 from layer to layer: x is overwritten again and again
  const float bound = 1.7f / std::sqrt(static_cast<float>(d_model));
  const auto x = random_array<bf16>(std::int64_t{rows} * d_model);
  const auto gate_up = random_array<bf16>(std::int64_t{2} * d_ff * d_model, bound);
  const auto down = random_array<bf16>(std::int64_t{d_model} * d_ff, bound);
  const DeviceArray<bf16> workspace(gpu(), static_cast<std::size_t>(rows) * static_cast<std::size_t>(d_ff));
  const int parts = cuda::row_parts(rows, d_model);
  const auto sums = on_device(std::vector<float>(
      static_cast<std::size_t>(rows) * static_cast<std::size_t>(parts), static_cast<float>(d_model / parts)));
  const auto counters = on_device(std::vector<unsigned>(cuda::mlp_counters(rows)));
  const double r = rows, width = d_model, inner = d_ff;
  measure(state, {.operations = 6 * r * width * inner, .bytes = 2 * (3 * width * inner + 2 * r * width)},
          [&] {
            cuda::mlp<bf16>(gpu(), {.x = {x.data(), d_model},
                                    .rows = rows,
                                    .d_model = d_model,
                                    .d_ff = d_ff,
                                    .gate_up = gate_up.data(),
                                    .down = down.data(),
                                    .norm = {{sums.data(), parts}, 1e-5f},
                                    .new_sums = {sums.data(), parts},
                                    .workspace = workspace.data(),
                                    .counters = {counters.data()}});
          });
}

void add_sizes(benchmark::internal::Benchmark* b, const char* out, const char* in, std::int64_t columns,
               std::int64_t inner) {
  b->ArgNames({"rows", out, in});
  for (const std::int64_t rows : {1, 8, 32, 128, 512, 2048, 8192}) b->Args({rows, columns, inner});
}

[[maybe_unused]] const bool registered = [] {
  add_sizes(add("linear", linear), "out", "in", 6144, 4096);  // projections of grouped queries
  add_sizes(add("linear", linear), "out", "in", 4096, 14336);
  add_sizes(add("cublas/linear", linear_by_cublas), "out", "in", 6144, 4096);
  add_sizes(add("cublas/linear", linear_by_cublas), "out", "in", 4096, 14336);
  add_sizes(add("mlp", mlp), "d_model", "d_ff", 4096, 14336);
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
