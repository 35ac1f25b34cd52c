#ifndef RECURFORMER_CUDA_MAMBA_LAUNCH_HPP
#define RECURFORMER_CUDA_MAMBA_LAUNCH_HPP

// What the launches of Mamba's kernels have in common, on the host.

#include <cstdint>

#include "recurformer/core/error.hpp"
#include "recurformer/cuda/mamba_dimensions.hpp"

namespace rf::cuda::mamba {

/// Throws ArgumentError unless rows of activations can be moved 16 bytes at a time.
template <class Head, class T>
void check_arguments(const Arguments<T>& arguments) {
  const auto aligned = [](RowsView<const T> rows) {
    return reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 &&
           rows.stride * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
  };
  check(aligned(arguments.projected), "Mamba: the projected rows must start at multiples of 16 bytes; pad ",
        "their stride of ", arguments.projected.stride, " elements");
  check(aligned({arguments.out.data, arguments.out.stride}),
        "Mamba: the output rows must start at multiples of 16 bytes; pad their stride of ",
        arguments.out.stride, " elements");
  check(reinterpret_cast<std::uintptr_t>(arguments.prepared) % 16 == 0,
        "Mamba: the prepared parameters must start at a multiple of 16 bytes");
  check(arguments.heads_per_group >= 1 && arguments.groups >= 0 && arguments.sequence_count >= 0 &&
            arguments.sequence_count < 65536,
        "Mamba: ", arguments.groups, " groups of ", arguments.heads_per_group, " heads, ",
        arguments.sequence_count, " sequences; allowed are 65535 sequences at most");
}

}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_LAUNCH_HPP
