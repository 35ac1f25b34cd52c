#ifndef RECURFORMER_MODEL_LINEAR_HPP
#define RECURFORMER_MODEL_LINEAR_HPP

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <memory>
#include <utility>

#include "recurformer/core/error.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/cpu/matrix_view.hpp"

namespace rf {

/// Whether pack() keeps the row-major copy.
enum class KeepRows : bool { no, yes };

/// A weight matrix W (out, in) and its products: y = x Wᵀ (+ bias), dx = dy W, dW += dyᵀ x.
/// Row-major and in T while it may change; pack() trades that for the layout, and where it is another the
/// type, that inference streams through: integers (Packed = std::int8_t) are rounded to then, and not before.
/// This header is enough to hold and to fill it; the products, on the CPU, are in model/linear_products.hpp.
template <StorageType T, InferenceType Packed = T>
class Linear {
 public:
  Linear() = default;
  /// Not set yet: zeros, allocated when somebody asks to write to them, and an error to read before.
  Linear(std::int64_t out, std::int64_t in) : out_(out), in_(in) {}
  /// Row-major elements that are somewhere already, such as in a mapped file.
  Linear(std::int64_t out, std::int64_t in, std::shared_ptr<T> rows)
      : out_(out), in_(in), rows_(std::move(rows)) {}
  Linear(Linear&&) noexcept = default;
  Linear& operator=(Linear&&) noexcept = default;

  /// A copy of a matrix that is not packed; copies of weights are never made by accident.
  Linear clone() const {
    Linear copy(out_, in_);
    if (size() > 0) std::copy_n(data(), size(), copy.data());
    return copy;
  }

  std::int64_t out() const { return out_; }
  std::int64_t in() const { return in_; }
  std::int64_t size() const { return out_ * in_; }
  bool is_packed() const { return packed_ != nullptr; }

  /// Row-major elements. Only before pack(), and to read them only once they were set.
  T* data() {
    check_row_major();
    if (rows_ == nullptr && size() > 0) {
      const auto rows = std::make_shared<Tensor<T, Dims<2>>>(Dims<2>(out_, in_));
      rows_ = {rows, rows->data()};
    }
    return rows_.get();
  }
  const T* data() const {
    check_row_major();
    return elements();
  }
  /// Elements of one row, as long as there is a row-major copy.
  const T* row(std::int64_t index) const { return elements() + index * in_; }

  /// Rearranges the weights for inference: they can no longer be changed or trained. The row-major copy goes
  /// too, unless rows are still looked up (a tied embedding); these stay in T.
  void pack(KeepRows keep = KeepRows::no);
  /// y (rows, out) = or += x (rows, in) Wᵀ + bias; bias (out) may be null.
  void forward(const float* x, std::int64_t x_stride, std::int64_t rows, float* y, std::int64_t y_stride,
               cpu::Accumulate accumulate = cpu::Accumulate::no, const float* bias = nullptr) const;
  /// dx (rows, in) = or += dy (rows, out) W.
  void backward(const float* dy, std::int64_t dy_stride, std::int64_t rows, float* dx, std::int64_t dx_stride,
                cpu::Accumulate accumulate = cpu::Accumulate::no) const;
  /// This matrix, as a gradient, += dyᵀ x.
  void add_gradient(const float* dy, std::int64_t dy_stride, const float* x, std::int64_t x_stride,
                    std::int64_t rows) requires std::same_as<T, float>;

 private:
  void check_row_major() const {
    check(!is_packed(), "these weights were packed for inference; load the model again to train or save it");
  }
  const T* elements() const {
    check(rows_ != nullptr || size() == 0, "these weights (", out_, ", ", in_, ") were never set");
    return rows_.get();
  }

  std::int64_t out_ = 0, in_ = 0;
  std::shared_ptr<T> rows_;  // row-major, its own or part of something larger; null: not set, or packed
  std::shared_ptr<const void> packed_;  // a cpu::PackedMatrix<Packed> of the instruction set that packed it
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_LINEAR_HPP
