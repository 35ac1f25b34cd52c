#ifndef RECURFORMER_CUDA_PACKED_ELEMENTS_HPP
#define RECURFORMER_CUDA_PACKED_ELEMENTS_HPP

// Eight neighbouring bf16 or fp16 elements: one 16-byte access, eight floats in registers.

#include "recurformer/arch/math.hpp"
#include "recurformer/arch/types.hpp"

namespace rf::cuda {
inline namespace RECURFORMER_ARCH {

/// Reads 16 bytes, 16-byte aligned, that the running kernel may have written.
template <class T>
RECURFORMER_DEVICE arch::Words4 load_words(const T* from) {
  return *reinterpret_cast<const arch::Words4*>(from);
}

template <class T>
RECURFORMER_DEVICE void unpack_eight(const arch::Words4& words, float* out) {
  RECURFORMER_UNROLL
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = arch::unpack_low<T>(words.word[i]);
    out[2 * i + 1] = arch::unpack_high<T>(words.word[i]);
  }
}

/// Rounds to nearest even.
template <class T>
RECURFORMER_DEVICE arch::Words4 pack_eight(const float* in) {
  arch::Words4 words;
  RECURFORMER_UNROLL
  for (int i = 0; i < 4; ++i) words.word[i] = arch::pack<T>(in[2 * i], in[2 * i + 1]);
  return words;
}

template <class T>
RECURFORMER_DEVICE void store_eight(T* to, const float* values) {
  *reinterpret_cast<arch::Words4*>(to) = pack_eight<T>(values);
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_PACKED_ELEMENTS_HPP
