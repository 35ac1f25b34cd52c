#ifndef RECURFORMER_CPU_PACKED_MATRIX_HPP
#define RECURFORMER_CPU_PACKED_MATRIX_HPP

// A weight matrix packed once, multiplied often: y (rows, outputs) (+)= x (rows, inputs) · Wᵀ + bias.
//
//   W     (outputs, inputs), float, bf16 or fp16; kept in that type, in the panels of gemm_kernel.hpp, or as
//         8-bit integers with a scale for every int8_group inputs of an output
//   x, y  float, row-major
//
// Flow: up to four tiles of rows, every thread walks along its part of the panels, so that memory delivers
// every weight once and in address order; more rows share a panel's block while it is in cache. Every tile
// widens the weights anew, in ports that multiply-adds leave free.
//
// A row of y has the same bits whatever the number of rows beside it and the number of threads, and the same
// as gemm() gives, integers apart, which are multiplied by their scales group by group: decoding, chunked and
// whole prefill agree exactly.

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "recurformer/core/config.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/gemm.hpp"
#include "recurformer/cpu/gemm_kernel.hpp"
#include "recurformer/cpu/int8.hpp"
#include "recurformer/cpu/matrix_view.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Weights of a linear map in inference order, in T. Move-only; multiply() may run on several threads at
/// once.
template <InferenceType T>
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// Packs W: element (output, input) of the view, usually row_major(w, inputs). The original is not kept.
  template <StorageType From = std::conditional_t<has_scales<T>, float, T>>
  requires(has_scales<T> || std::same_as<From, T>)
      PackedMatrix(std::int64_t outputs, std::int64_t inputs, MatrixView<From> weights)
      : outputs_(outputs), inputs_(inputs) {
    check(outputs >= 0 && inputs >= 0, "PackedMatrix got the shape (", outputs, ", ", inputs,
          "); sizes cannot be negative");
    panels_.reserve(static_cast<std::size_t>(detail::padded_columns(outputs) * inputs));
    scales_.reserve(static_cast<std::size_t>(scale_count()));
    parallel_for(panel_count(), [&](std::int64_t panel) {
      if constexpr (has_scales<T>)
        pack_integers(panel * panel_width, weights);
      else
        pack(panel * panel_width, weights);
    });
  }

  std::int64_t outputs() const { return outputs_; }
  std::int64_t inputs() const { return inputs_; }
  /// Bytes of the packed weights and their scales: what one decoding step reads.
  std::size_t bytes() const {
    return static_cast<std::size_t>(detail::padded_columns(outputs_) * inputs_) * sizeof(T) +
           static_cast<std::size_t>(scale_count()) * sizeof(float);
  }

  /// y (+)= x Wᵀ (+ bias). Row r of x starts at x + r * x_stride, of y at y + r * y_stride; rows >= 0.
  /// `bias` has `outputs` floats or is null; a bias together with Accumulate::yes is an error. With
  /// Accumulate::no y's old contents are never read. y does not overlap x.
  void multiply(const float* x, std::int64_t x_stride, std::int64_t rows, float* y, std::int64_t y_stride,
                Accumulate accumulate = Accumulate::no, const float* bias = nullptr) const {
    check(rows >= 0, "PackedMatrix::multiply got ", rows, " rows; it must be 0 or more");
    check(bias == nullptr || accumulate == Accumulate::no,
          "PackedMatrix::multiply got a bias and Accumulate::yes; add the bias where y is first written");
    if (rows == 0 || outputs_ == 0) return;
    check(rows == 1 || (x_stride >= inputs_ && y_stride >= outputs_), "PackedMatrix::multiply (", outputs_,
          " outputs, ", inputs_, " inputs) got rows of x ", x_stride, " and of y ", y_stride,
          " apart; they would overlap");
    const Operands operands{x, x_stride, y, y_stride, accumulate, bias};
    if (inputs_ == 0) return start_only(operands, rows);
    const bool share = rows * outputs_ * inputs_ >= least_shared;
    if (rows <= streamed_rows)
      return detail::share_ranges_or_run(panel_count(), share, [&](std::int64_t first, std::int64_t end) {
        stream(operands, {0, rows, first * panel_width, std::min(outputs_, end * panel_width)});
      });
    const auto grid = detail::block_grid({rows, outputs_, inputs_}, share ? default_pool().threads() : 1, {});
    detail::share_or_run(grid.count(), share, [&](std::int64_t block) {
      const std::int64_t first_row = block / grid.across * grid.rows;
      const std::int64_t first = block % grid.across * grid.panels * panel_width;
      multiply_block(operands, {first_row, std::min(rows, first_row + grid.rows), first,
                                std::min(outputs_, first + grid.panels * panel_width)});
    });
  }

 private:
  static constexpr std::int64_t streamed_rows = 4 * tile_rows;
  static constexpr std::int64_t least_shared = 1 << 16;  // multiply-adds worth waking other threads for

  struct Operands {
    const float* x;
    std::int64_t x_stride;
    float* y;
    std::int64_t y_stride;
    Accumulate accumulate;
    const float* bias;
  };
  struct Block {
    std::int64_t first_row, end_row;
    std::int64_t first_column, end_column;
  };

  std::int64_t panel_count() const { return detail::divide_up(outputs_, panel_width); }
  /// Scales of one column.
  std::int64_t groups() const { return has_scales<T> ? detail::divide_up(inputs_, int8_group) : 0; }
  std::int64_t scale_count() const { return detail::padded_columns(outputs_) * groups(); }
  /// Packed row k of the panel that starts at `column`.
  std::int64_t offset(std::int64_t column, std::int64_t k) const {
    return column * inputs_ + k * detail::panel_vectors(column, outputs_) * simd::width;
  }
  /// The scales of that row, if there are any.
  std::int64_t scale_offset(std::int64_t column, std::int64_t k) const {
    return column * groups() + k / int8_group * detail::panel_vectors(column, outputs_) * simd::width;
  }
  /// The panel that starts at `column`, from row k on.
  detail::PanelB<T> panel(std::int64_t column, std::int64_t k) const {
    if constexpr (has_scales<T>)
      return {panels_.data() + offset(column, k), scales_.data() + scale_offset(column, k)};
    else
      return {panels_.data() + offset(column, k)};
  }

  template <class From>
  void pack(std::int64_t first, MatrixView<From> weights) {
    const std::int64_t width = detail::panel_vectors(first, outputs_) * simd::width;
    T* out = panels_.data() + offset(first, 0);
    for (std::int64_t j = 0; j < width; ++j)
      for (std::int64_t k = 0; k < inputs_; ++k)
        out[k * width + j] = first + j < outputs_
                                 ? weights.data[(first + j) * weights.row_stride + k * weights.column_stride]
                                 : T(0.0f);
  }

  /// The same as integers. Inputs and outputs that do not exist are zeros, which change no scale.
  template <class From>
  void pack_integers(std::int64_t first, MatrixView<From> weights) requires has_scales<T> {
    const std::int64_t width = detail::panel_vectors(first, outputs_) * simd::width;
    for (std::int64_t k = 0; k < inputs_; k += int8_group) {
      const std::int64_t depth = std::min<std::int64_t>(int8_group, inputs_ - k);
      T* out = panels_.data() + offset(first, k);
      float* scales = scales_.data() + scale_offset(first, k);
      for (std::int64_t j = 0; j < width; ++j) {
        alignas(64) float numbers[int8_group] = {};
        alignas(64) T integers[int8_group];
        for (std::int64_t i = 0; i < depth && first + j < outputs_; ++i)
          numbers[i] = convert<float>(
              weights.data[(first + j) * weights.row_stride + (k + i) * weights.column_stride]);
        scales[j] = quantise<int8_group>(numbers, integers);
        for (std::int64_t i = 0; i < depth; ++i) out[i * width + j] = integers[i];
      }
    }
  }

  /// Few rows: one panel after the other, each from its first weight to its last.
  void stream(const Operands& operands, Block block) const {
    for (std::int64_t column = block.first_column; column < block.end_column; column += panel_width)
      for (std::int64_t k = 0; k < inputs_; k += depth_block)
        tiles(operands, block, column, k, panel(column, k));
  }

  /// Many rows: the block's rows of x stay in cache while its panels pass.
  void multiply_block(const Operands& operands, Block block) const {
    for (std::int64_t k = 0; k < inputs_; k += depth_block)
      for (std::int64_t column = block.first_column; column < block.end_column; column += panel_width)
        tiles(operands, block, column, k, panel(column, k));
  }

  /// One block of k of one panel for all rows of the block.
  void tiles(const Operands& operands, Block block, std::int64_t column, std::int64_t k,
             detail::PanelB<T> panel) const {
    const std::int64_t depth = std::min(depth_block, inputs_ - k);
    const std::int64_t columns = std::min<std::int64_t>(panel_width, outputs_ - column);
    const int vectors = detail::panel_vectors(column, outputs_);
    for (std::int64_t row = block.first_row; row < block.end_row; row += tile_rows) {
      const int rows = static_cast<int>(std::min<std::int64_t>(tile_rows, block.end_row - row));
      float* y = operands.y + row * operands.y_stride + column;
      detail::TileStart start;
      if (k > 0 || operands.accumulate == Accumulate::yes)
        start = {y, operands.y_stride};
      else if (operands.bias != nullptr)
        start = {operands.bias + column, 0};
      const detail::RowMajorA a{operands.x + row * operands.x_stride + k, operands.x_stride};
      detail::pick_tile_kernel<detail::RowMajorA, detail::PanelB<T>>(rows, vectors)(
          depth, a, panel, start, y, operands.y_stride, rows, columns);
    }
  }

  /// What is left of y when there are no inputs.
  void start_only(const Operands& operands, std::int64_t rows) const {
    if (operands.accumulate == Accumulate::yes) return;
    for (std::int64_t row = 0; row < rows; ++row) {
      float* y = operands.y + row * operands.y_stride;
      for (std::int64_t j = 0; j < outputs_; ++j) y[j] = operands.bias != nullptr ? operands.bias[j] : 0.0f;
    }
  }

  std::int64_t outputs_ = 0;
  std::int64_t inputs_ = 0;
  AlignedBuffer<T> panels_;
  AlignedBuffer<float> scales_;  // of a panel: (groups, columns of the panel)
};

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_PACKED_MATRIX_HPP
