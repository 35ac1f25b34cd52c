#ifndef RECURFORMER_CPU_MATRIX_VIEW_HPP
#define RECURFORMER_CPU_MATRIX_VIEW_HPP

// How the dense CPU kernels are told about matrices: a pointer and two strides, so that a transposed matrix
// is the same data with its strides swapped.

#include <cstdint>

#include "recurformer/core/config.hpp"
#include "recurformer/core/precision.hpp"

namespace rf::cpu {

/// What a kernel does with its output: overwrite it (its old contents are never read) or add to it.
enum class Accumulate : bool { no, yes };

inline namespace RECURFORMER_ISA {

/// Element (i, j) is data[i * row_stride + j * column_stride]. Strides count elements.
template <StorageType T>
struct MatrixView {
  const T* data = nullptr;
  std::int64_t row_stride = 0;
  std::int64_t column_stride = 1;

  /// The same elements read as the transposed matrix.
  MatrixView transposed() const { return {data, column_stride, row_stride}; }
};

/// A row-major matrix whose rows start `row_stride` elements apart.
template <StorageType T>
MatrixView<T> row_major(const T* data, std::int64_t row_stride) {
  return {data, row_stride, 1};
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MATRIX_VIEW_HPP
