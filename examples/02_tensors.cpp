// 02  Tensors and views: the library's, and views of memory that is yours.
//
//   g++ -std=c++20 -O2 -pthread -I include examples/02_tensors.cpp -o 02_tensors && ./02_tensors
//
// A Tensor owns row-major elements; a TensorView is a pointer, extents and strides. Everything in the library
// takes views, so memory that you already have is used where it is. Next: 03_hybrid_cache.cpp.

#include <array>
#include <cstdio>
#include <memory_resource>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/memory.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/core/tensor_ops.hpp"

#if __has_include(<dlpack/dlpack.h>)  // Debian: libdlpack-dev
#include "recurformer/interop/dlpack.hpp"
#define HAS_DLPACK 1
#else
#define HAS_DLPACK 0
#endif

using Matrix = rf::TensorView<float, rf::Dims<2>>;

int mistakes = 0;
void check(bool holds, const char* what) {
  std::printf("%-70s %s\n", what, holds ? "yes" : "NO");
  mistakes += !holds;
}

/// Sums of the rows of any matrix, by its strides: the plain version of what a view is.
std::vector<float> row_sums(const float* data, std::array<std::int64_t, 2> extents,
                            std::array<std::int64_t, 2> strides) {
  std::vector<float> out;
  for (std::int64_t r = 0; r < extents[0]; ++r) {
    float sum = 0;
    for (std::int64_t c = 0; c < extents[1]; ++c) sum += data[r * strides[0] + c * strides[1]];
    out.push_back(sum);
  }
  return out;
}
/// The same with the library's.
std::vector<float> row_sums(rf::TensorView<const float, rf::Dims<2>> m) {
  std::vector<float> out;
  for (std::int64_t r = 0; r < m.extent(0); ++r) out.push_back(static_cast<float>(rf::sum(m.sub(r))));
  return out;
}

void own_tensors() {
  rf::Tensor<float, rf::Dims<2>> t({3, 4});  // zeros, aligned for vectors
  for (std::int64_t r = 0; r < 3; ++r)
    for (std::int64_t c = 0; c < 4; ++c) t(r, c) = static_cast<float>(10 * r + c);
  std::printf("%s\n", rf::to_text(t).c_str());

  // Nothing below copies an element.
  const Matrix all = t, middle = all.slice(1, 1, 3), turned = middle.transposed();
  check(turned(0, 2) == t(2, 1), "a transposed slice sees the tensor's own elements");
  check(row_sums(turned) == row_sums(turned.data(), {2, 3}, {1, 4}),
        "a view is a pointer, extents and strides");
  check(all.reshaped(rf::Dims<1>(12))(5) == t(1, 1), "contiguous views take another shape");

  // Element types: arithmetic is in float, bf16 and fp16 store.
  rf::Tensor<rf::bf16, rf::Dims<2>> narrow({3, 4});
  rf::copy(t, narrow);
  check(rf::convert<float>(narrow(2, 3)) == 23, "rf::copy converts between element types");
}

void your_memory() {
  // Rows of four in a buffer whose rows are six apart, two of them padding.
  std::vector<float> buffer(18, -1);
  const Matrix rows(buffer.data(), {3, 4}, {6, 1});
  rf::fill(rows, 2.0f);
  check(buffer[9] == 2 && buffer[10] == -1 && buffer[12] == 2,
        "a view with strides leaves the padding alone");

  // A shape may be known at compile time, in part or whole.
  using FourColumns = rf::Extents<rf::dynamic, 4>;
  const rf::TensorView<float, FourColumns> fixed(rows);
  check(fixed.extent(0) == 3 && decltype(fixed)::extents_type::static_extent(1) == 4,
        "a static extent is checked once");
}

void your_allocator() {
  // Tensors, caches and all take a std::pmr::memory_resource. This one is a buffer on the stack.
  alignas(rf::tensor_alignment) std::array<std::byte, 4096> stack;
  std::pmr::monotonic_buffer_resource arena(stack.data(), stack.size(), std::pmr::null_memory_resource());
  const rf::Tensor<float> t({100}, &arena);
  const auto* first = reinterpret_cast<const std::byte*>(t.data());
  check(first >= stack.data() && first < stack.data() + stack.size(),
        "a tensor in memory of your own allocator");
}

#if HAS_DLPACK
void other_frameworks() {
  rf::Tensor<float, rf::Dims<2>> t({2, 3});
  t(1, 2) = 5;
  const float* const elements = t.data();
  DLManagedTensor* capsule =
      rf::to_dlpack(std::move(t)).release();           // to Python: PyCapsule_New(capsule, "dltensor", …)
  rf::DlpackTensor<float, rf::Dims<2>> back(capsule);  // from PyTorch, JAX, NumPy, …
  check(back.view()(1, 2) == 5 && back.view().data() == elements, "through DLPack and back without a copy");
  try {
    rf::dlpack_view<rf::bf16, rf::Dims<2>>(capsule->dl_tensor);
    check(false, "a wrong type is an error");
  } catch (const rf::ArgumentError& error) {
    std::printf("  %s\n", error.what());
  }
}
#endif

int main() {
  own_tensors();
  your_memory();
  your_allocator();
#if HAS_DLPACK
  other_frameworks();
#endif
  return mistakes == 0 ? 0 : 1;
}
