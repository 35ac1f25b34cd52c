#ifndef RECURFORMER_BENCHMARKS_CUDA_CUBLAS_CUH
#define RECURFORMER_BENCHMARKS_CUDA_CUBLAS_CUH

// NVIDIA's matrix product, to compare with. The library is looked for when the program runs, so that the
// program needs neither it nor a copy of it in order to start.

#include <dlfcn.h>

#include <string>

#include "harness.cuh"

#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>
#define RECURFORMER_BENCHMARKS_CUBLAS
#endif

namespace rf::benchmarks {

/// cuBLAS on a stream, or the reason why there is none. It is never given back: it lives as long as the
/// program.
class Cublas {
 public:
  explicit Cublas(cudaStream_t stream) {
#if defined(RECURFORMER_BENCHMARKS_CUBLAS)
    const std::string name = text("libcublas.so.", CUBLAS_VER_MAJOR);
    library_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library_) {
      missing_ = dlerror();
      return;
    }
    const auto create = function<cublasStatus_t(cublasHandle_t*)>("cublasCreate_v2");
    const auto set_stream = function<cublasStatus_t(cublasHandle_t, cudaStream_t)>("cublasSetStream_v2");
    gemm_ = function<Gemm>("cublasGemmEx");
    if (!create || !set_stream || !gemm_)
      missing_ = text(name, " lacks the functions of cuBLAS");
    else if (create(&handle_) != CUBLAS_STATUS_SUCCESS ||
             set_stream(handle_, stream) != CUBLAS_STATUS_SUCCESS)
      missing_ = text(name, " does not start");
#else
    (void)stream;
    missing_ = "this program was compiled without cublas_v2.h";
#endif
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  /// Empty if multiply() can be called.
  const std::string& missing() const { return missing_; }

  /// y (rows, columns) = x (rows, inner) Wᵀ, W (columns, inner), all bf16, sums in float.
  void multiply(const void* x, const void* w, void* y, int rows, int columns, int inner) const {
    check(missing_.empty(), "cuBLAS is missing: ", missing_);
#if defined(RECURFORMER_BENCHMARKS_CUBLAS)
    // row-major matrices are the transposes of the column-major ones that cuBLAS computes with
    const float one = 1, zero = 0;
    const cublasStatus_t status =
        gemm_(handle_, CUBLAS_OP_T, CUBLAS_OP_N, columns, rows, inner, &one, w, CUDA_R_16BF, inner, x,
              CUDA_R_16BF, inner, &zero, y, CUDA_R_16BF, columns, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    check(status == CUBLAS_STATUS_SUCCESS, "cublasGemmEx failed with status ", static_cast<int>(status));
#else
    (void)x, (void)w, (void)y, (void)rows, (void)columns, (void)inner;
#endif
  }

 private:
  void* library_ = nullptr;
  std::string missing_;
#if defined(RECURFORMER_BENCHMARKS_CUBLAS)
  using Gemm = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                              const void*, const void*, cudaDataType, int, const void*, cudaDataType, int,
                              const void*, void*, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

  template <class F>
  F* function(const char* name) const {
    return reinterpret_cast<F*>(dlsym(library_, name));
  }

  cublasHandle_t handle_ = nullptr;
  Gemm* gemm_ = nullptr;
#endif
};

/// That of all benchmarks.
inline const Cublas& cublas() {
  static const Cublas library(gpu().stream());
  return library;
}

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CUDA_CUBLAS_CUH
