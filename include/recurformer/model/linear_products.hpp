#ifndef RECURFORMER_MODEL_LINEAR_PRODUCTS_HPP
#define RECURFORMER_MODEL_LINEAR_PRODUCTS_HPP

// The products of rf::Linear on the CPU.

#include <cstdint>
#include <memory>

#include "recurformer/cpu/gemm.hpp"
#include "recurformer/cpu/packed_matrix.hpp"
#include "recurformer/model/linear.hpp"

namespace rf {

template <StorageType T, InferenceType Packed>
void Linear<T, Packed>::pack(KeepRows keep) {
  if (is_packed() || size() == 0) return;
  packed_ = std::make_shared<cpu::PackedMatrix<Packed>>(out_, in_, cpu::row_major(elements(), in_));
  if (keep == KeepRows::no) rows_ = nullptr;
}

template <StorageType T, InferenceType Packed>
void Linear<T, Packed>::forward(const float* x, std::int64_t x_stride, std::int64_t rows, float* y,
                                std::int64_t y_stride, cpu::Accumulate accumulate, const float* bias) const {
  if (size() == 0 || rows == 0) return;
  if (is_packed()) {
    static_cast<const cpu::PackedMatrix<Packed>*>(packed_.get())
        ->multiply(x, x_stride, rows, y, y_stride, accumulate, bias);
    return;
  }
  cpu::gemm({rows, out_, in_}, cpu::row_major(x, x_stride), cpu::row_major(elements(), in_).transposed(), y,
            y_stride, accumulate);
  if (bias)
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < out_; ++i) y[r * y_stride + i] += bias[i];
}

template <StorageType T, InferenceType Packed>
void Linear<T, Packed>::backward(const float* dy, std::int64_t dy_stride, std::int64_t rows, float* dx,
                                 std::int64_t dx_stride, cpu::Accumulate accumulate) const {
  if (size() == 0 || rows == 0) return;
  cpu::gemm({rows, in_, out_}, cpu::row_major(dy, dy_stride), cpu::row_major(data(), in_), dx, dx_stride,
            accumulate);
}

template <StorageType T, InferenceType Packed>
void Linear<T, Packed>::add_gradient(const float* dy, std::int64_t dy_stride, const float* x,
                                     std::int64_t x_stride,
                                     std::int64_t rows) requires std::same_as<T, float> {
  if (size() == 0 || rows == 0) return;
  cpu::gemm({out_, in_, rows}, cpu::row_major(dy, dy_stride).transposed(), cpu::row_major(x, x_stride),
            data(), in_, cpu::Accumulate::yes);
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_LINEAR_PRODUCTS_HPP
