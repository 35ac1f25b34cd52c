#ifndef RECURFORMER_CORE_ROWS_VIEW_HPP
#define RECURFORMER_CORE_ROWS_VIEW_HPP

#include <cstdint>

#include "recurformer/core/config.hpp"

namespace rf {

/// Rows of a larger row-major matrix, on the host or on a device.
template <class T>
struct RowsView {
  T* data = nullptr;
  std::int64_t stride = 0;  ///< elements from one row to the next

  RECURFORMER_HOST_DEVICE constexpr T* row(std::int64_t i) const { return data + i * stride; }
};

}  // namespace rf

#endif  // RECURFORMER_CORE_ROWS_VIEW_HPP
