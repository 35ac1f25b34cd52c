#ifndef RECURFORMER_MODEL_PARAMETERS_HPP
#define RECURFORMER_MODEL_PARAMETERS_HPP

// The two faces of a model's parameters, neither of which knows any mixer:
//   ParameterRef   a tensor as it lies in memory: what the optimizer walks over;
//   FileTensor     a tensor as it lies in a file: pieces of memory, in the original order of groups.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"

namespace rf {

/// A parameter (or its gradient) in memory. Refs of a model and of its gradients come in the same order.
struct ParameterRef {
  std::string name;
  DType dtype = DType::F32;  ///< F32, BF16 or F16
  void* data = nullptr;
  std::int64_t size = 0;  ///< elements
  int layer = -1;         ///< -1: embeddings, final norm
  int kind = -1;          ///< position in the model's set of kinds; -1: shared by all heads of a layer
  bool weight_decay = true;
};

/// Contiguous elements of a file tensor.
struct FilePiece {
  DType dtype = DType::F32;
  void* data = nullptr;
  std::int64_t size = 0;
  float factor = 1;    ///< of the file's elements, when they are read
  bool again = false;  ///< reads the elements of the piece before it
};

/// A tensor of a checkpoint: its pieces one after the other.
struct FileTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  DType dtype = DType::F32;  ///< of all pieces
  std::vector<FilePiece> pieces;
};

/// Calls f(const T* elements) with the piece's or ref's element type.
template <class F>
decltype(auto) with_elements(DType dtype, void* data, F&& f) {
  switch (dtype) {
    case DType::F32:
      return f(static_cast<float*>(data));
    case DType::BF16:
      return f(static_cast<bf16*>(data));
    case DType::F16:
      return f(static_cast<fp16*>(data));
    default:
      break;
  }
  throw ArgumentError(text("parameters are stored as F32, BF16 or F16, not ", name_of(dtype)));
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_PARAMETERS_HPP
