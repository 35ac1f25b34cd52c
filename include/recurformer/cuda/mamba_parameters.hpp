#ifndef RECURFORMER_CUDA_MAMBA_PARAMETERS_HPP
#define RECURFORMER_CUDA_MAMBA_PARAMETERS_HPP

// The local parameters of Mamba heads, laid out once per set of weights for the kernels: per head one block
// of floats, channels (or output columns) innermost, all but the decays copied to shared memory as they are.
//
//   x_proj (d_head, columns) | x_proj_bias (columns) | conv_weight (taps, d_head) | conv_bias (d_head)
//   | dt_weight (rank, d_head) | dt_bias (d_head) | skip (d_head) | decay (padded_states, d_head)
//
// with columns in the order of Dimensions, zeros where it pads, and decay = -exp(A_log) · log2 e, so that
// exp(Δ A) = 2^(Δ decay).

#include <cstddef>
#include <cstdint>
#include <span>

#include "recurformer/arch/arch.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/cuda/mamba_dimensions.hpp"
#include "recurformer/cuda/mamba_math.hpp"

namespace rf::cuda::mamba {

/// Offsets within one head's prepared parameters, in floats; all are multiples of 4.
template <class Head>
struct ParameterLayout {
  static constexpr int d = Head::d_head;
  static constexpr int x_proj = 0;
  static constexpr int x_proj_bias = x_proj + d * Head::columns;
  static constexpr int conv_weight = x_proj_bias + Head::columns;
  static constexpr int conv_bias = conv_weight + Head::taps * d;
  static constexpr int dt_weight = conv_bias + d;
  static constexpr int dt_bias = dt_weight + Head::rank * d;
  static constexpr int skip = dt_bias + d;
  static constexpr int decay = skip + d;  ///< everything before it is staged in shared memory
  static constexpr int size = decay + Head::padded_states * d;
};

/// The parameters as the mixer declares them: device arrays (heads, slice) of float.
struct LocalParameters {
  const float* conv_weight = nullptr;  ///< (d_head, taps)
  const float* conv_bias = nullptr;    ///< (d_head)
  const float* x_proj = nullptr;       ///< (rank + 2·states, d_head): δ | B | C
  const float* x_proj_bias = nullptr;  ///< (rank + 2·states); null without biases
  const float* dt_weight = nullptr;    ///< (d_head, rank)
  const float* dt_bias = nullptr;      ///< (d_head)
  const float* a_log = nullptr;        ///< (d_head, states)
  const float* skip = nullptr;         ///< (d_head), D
};

/// Device arrays in declared order, by name.
template <class Head>
LocalParameters local_parameters(std::span<const float* const> declared) {
  constexpr std::size_t bias = Head::bias ? 1 : 0;
  check(declared.size() == 7 + bias, "Mamba has ", 7 + bias, " local parameters, got ", declared.size());
  return {.conv_weight = declared[0],
          .conv_bias = declared[1],
          .x_proj = declared[2],
          .x_proj_bias = Head::bias ? declared[3] : nullptr,
          .dt_weight = declared[3 + bias],
          .dt_bias = declared[4 + bias],
          .a_log = declared[5 + bias],
          .skip = declared[6 + bias]};
}

inline namespace RECURFORMER_ARCH {

/// One block per head.
template <class Head>
struct PrepareKernel {
  struct Parameters {
    LocalParameters local;
    float* prepared;
  };
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 4;

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    using Layout = ParameterLayout<Head>;
    constexpr int d = Head::d_head, taps = Head::taps, rank = Head::rank;
    const std::int64_t head = arch::block_index().x;
    const LocalParameters& local = parameters.local;
    float* const out = parameters.prepared + head * Layout::size;
    lay_out_x_proj(local, head, out);
    transpose(local.conv_weight + head * d * taps, taps, out + Layout::conv_weight);
    transpose(local.conv_bias + head * d, 1, out + Layout::conv_bias);
    transpose(local.dt_weight + head * d * rank, rank, out + Layout::dt_weight);
    transpose(local.dt_bias + head * d, 1, out + Layout::dt_bias);
    transpose(local.skip + head * d, 1, out + Layout::skip);
    lay_out_decay(local.a_log + head * d * Head::states, out + Layout::decay);
  }

 private:
  /// out (width, d_head) = in (d_head, width) transposed.
  RECURFORMER_DEVICE static void transpose(const float* in, int width, float* out) {
    constexpr int d = Head::d_head;
    for (int i = arch::thread_index(); i < width * d; i += threads) out[i] = in[i % d * width + i / d];
  }

  /// The declared row of x_proj behind a column of Dimensions; -1 for padding.
  RECURFORMER_DEVICE static int declared_row(int column) {
    constexpr int n = Head::states, rank = Head::rank;
    if (column < Head::first_b) return column < n ? rank + n + column : -1;
    if (column < Head::first_delta) return column - Head::first_b < n ? rank + column - Head::first_b : -1;
    return column - Head::first_delta < rank ? column - Head::first_delta : -1;
  }

  RECURFORMER_DEVICE static void lay_out_x_proj(const LocalParameters& local, std::int64_t head, float* out) {
    using Layout = ParameterLayout<Head>;
    constexpr int d = Head::d_head, columns = Head::columns;
    constexpr int rows = Head::rank + 2 * Head::states;
    const float* const weight = local.x_proj + head * rows * d;
    for (int i = arch::thread_index(); i < d * columns; i += threads) {
      const int row = declared_row(i % columns);
      out[Layout::x_proj + i] = row < 0 ? 0.0f : weight[row * d + i / columns];
    }
    for (int i = arch::thread_index(); i < columns; i += threads) {
      const int row = Head::bias ? declared_row(i) : -1;
      out[Layout::x_proj_bias + i] = row < 0 ? 0.0f : local.x_proj_bias[head * rows + row];
    }
  }

  RECURFORMER_DEVICE static void lay_out_decay(const float* a_log, float* out) {
    constexpr int d = Head::d_head, n = Head::states;
    for (int i = arch::thread_index(); i < Head::padded_states * d; i += threads)
      out[i] = i / d < n ? -log2_e * arch::exp2(log2_e * a_log[i % d * n + i / d]) : 0.0f;
  }
};

}  // namespace RECURFORMER_ARCH

/// Bytes of the prepared parameters of `heads` heads.
template <class Head>
constexpr std::size_t prepared_bytes(int heads) {
  return static_cast<std::size_t>(heads) * ParameterLayout<Head>::size * sizeof(float);
}

/// Lays out the parameters of `heads` heads; `prepared` is device memory of prepared_bytes(heads), 16-byte
/// aligned. To be repeated whenever the parameters change.
template <class Head, class Device>
void prepare(Device& device, const LocalParameters& local, int heads, float* prepared) {
  if (heads == 0) return;
  device.template launch<PrepareKernel<Head>>({.blocks = {.x = heads}},
                                              {.local = local, .prepared = prepared});
}

}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_PARAMETERS_HPP
