#ifndef RECURFORMER_CUDA_DEVICE_CUH
#define RECURFORMER_CUDA_DEVICE_CUH

// rf::Cuda: one stream of one GPU. Everything that launches kernels is a template over such a device. It
// needs nvcc and the CUDA runtime; the driver is found at run time, and its absence is an ordinary, catchable
// error.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "recurformer/arch/kernel.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/version.hpp"

// A kernel type of an unnamed namespace is hidden already, which nvcc would remark upon.
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1407

namespace rf {

/// No usable GPU, or an operation on one that failed.
class CudaError : public Error {
 public:
  using Error::Error;
};

namespace cuda {

/// Throws CudaError "<what>: <CUDA's description>" unless `code` is cudaSuccess.
template <class... Parts>
void check_cuda(cudaError_t code, const Parts&... what) {
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();  // the next call shall not report this one again
  throw CudaError(text(what..., ": ", cudaGetErrorString(code), " (", cudaGetErrorName(code), ")"));
}

/// The GPUs of this machine; 0 without a GPU or without a driver. `reason`, if given, says why there is none.
inline int device_count(std::string* reason = nullptr) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess) {
    (void)cudaGetLastError();
    if (reason) *reason = cudaGetErrorString(code);
    return 0;
  }
  if (count == 0 && reason) *reason = "no CUDA device";
  return count;
}

/// "rf::cuda::X<...>", for messages.
template <class K>
std::string_view kernel_name() {
  const std::string_view whole = __PRETTY_FUNCTION__;  // "… [with K = X; …]" or "… [K = X]"
  const std::size_t begin = whole.find("K = ") + 4;
  return whole.substr(begin, whole.find_first_of(";]", begin) - begin);
}

// Two libraries that both include this must not replace each other's kernels: hidden, and in a namespace that
// carries the version.
#define RECURFORMER_CUDA_JOIN(major, minor, patch) abi_##major##_##minor##_##patch
#define RECURFORMER_CUDA_EXPAND(major, minor, patch) RECURFORMER_CUDA_JOIN(major, minor, patch)
#define RECURFORMER_CUDA_ABI \
  RECURFORMER_CUDA_EXPAND(RECURFORMER_VERSION_MAJOR, RECURFORMER_VERSION_MINOR, RECURFORMER_VERSION_PATCH)
inline namespace RECURFORMER_CUDA_ABI {

/// What the GPU starts: K::run.
template <class K>
__global__ void __launch_bounds__(K::threads, K::blocks_per_multiprocessor)
    __attribute__((visibility("hidden"))) entry(const __grid_constant__ typename K::Parameters parameters) {
#if defined(__CUDA_ARCH__)
  // code for older GPUs than the kernel's is left empty; launch() refuses to start it there
  if constexpr (10 * arch::least_compute_capability<K>() <= __CUDA_ARCH__) K::run(parameters);
#endif
}

}  // namespace RECURFORMER_CUDA_ABI
#undef RECURFORMER_CUDA_ABI
#undef RECURFORMER_CUDA_EXPAND
#undef RECURFORMER_CUDA_JOIN

}  // namespace cuda

/// A stream on a GPU, with a memory pool of its own. Not copyable; several may be used side by side, each
/// from one thread at a time. Calls leave the thread's current CUDA device set to this one's; beyond that
/// nothing here is global. What goes wrong in a running kernel is reported by a later call, which cannot know
/// its name: with CUDA_LAUNCH_BLOCKING=1 in the environment it is the launch itself.
class Cuda {
 public:
  static constexpr std::string_view name = "cuda";
  static constexpr int least_compute_capability = 80;

  /// A new stream on GPU `device`. Throws CudaError without a driver, without that GPU, or if it is older
  /// than compute capability 8.0.
  explicit Cuda(int device = 0) : device_(device) {
    std::string reason;
    const int count = cuda::device_count(&reason);
    if (count == 0) throw CudaError(text("there is no GPU to use: ", reason));
    if (device < 0 || device >= count)
      throw CudaError(text("GPU ", device, " does not exist; this machine has ", count));
    cuda::check_cuda(cudaGetDeviceProperties(&properties_, device), "GPU ", device);
    if (compute_capability() < least_compute_capability)
      throw CudaError(text("GPU ", device, " (", properties_.name, ") has compute capability ",
                           properties_.major, ".", properties_.minor, "; supported are 8.0 and newer"));
    activate();
    make_pool();
    cuda::check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  }
  /// Works on a stream of the caller's, which must outlive this.
  Cuda(int device, cudaStream_t stream) : Cuda(device) {
    cudaStreamDestroy(std::exchange(stream_, stream));
    owns_stream_ = false;
  }
  /// The same with memory from a pool of the caller's, which must outlive this.
  Cuda(int device, cudaStream_t stream, cudaMemPool_t pool) : Cuda(device, stream) {
    cudaMemPoolDestroy(std::exchange(pool_, pool));
    owns_pool_ = false;
  }
  Cuda(const Cuda&) = delete;
  Cuda& operator=(const Cuda&) = delete;
  ~Cuda() {
    if (owns_stream_) cudaStreamDestroy(stream_);
    if (owns_pool_) cudaMemPoolDestroy(pool_);  // once all of its memory has been given back
  }

  /// Puts the kernel onto the stream. Throws CudaError with the kernel's name and the shape if that fails, or
  /// if the program was not compiled for this GPU. Hidden like the kernels: every library's starts its own.
  template <arch::Kernel K>
  __attribute__((visibility("hidden"))) void launch(const arch::LaunchShape& shape,
                                                    const typename K::Parameters& parameters) {
    activate();
    const auto* function = reinterpret_cast<const void*>(&cuda::entry<K>);
    const auto describe = [&] {
      return text("launching ", cuda::kernel_name<K>(), " with ", shape.blocks.x, " x ", shape.blocks.y,
                  " x ", shape.blocks.z, " blocks of ", int{K::threads}, " threads and ", shape.shared_bytes,
                  " bytes of shared memory on ", static_cast<const char*>(properties_.name));
    };
    prepare(function, arch::least_compute_capability<K>(), shape.shared_bytes, describe);
    cudaLaunchAttribute cooperative{};
    cooperative.id = cudaLaunchAttributeCooperative;
    cooperative.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks.x), static_cast<unsigned>(shape.blocks.y),
                          static_cast<unsigned>(shape.blocks.z));
    config.blockDim = dim3(static_cast<unsigned>(K::threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
    config.stream = stream_;
    config.attrs = &cooperative;
    config.numAttrs = shape.cooperative ? 1 : 0;
    void* arguments[] = {const_cast<typename K::Parameters*>(&parameters)};
    const cudaError_t code = cudaLaunchKernelExC(&config, function, arguments);
    if (code != cudaSuccess) cuda::check_cuda(code, describe());
  }

  int device() const { return device_; }
  /// "cuda (NVIDIA H100 80GB HBM3)".
  std::string description() const { return text("cuda (", static_cast<const char*>(properties_.name), ")"); }
  cudaStream_t stream() const { return stream_; }
  /// 80 for 8.0, 90 for 9.0, …
  int compute_capability() const { return 10 * properties_.major + properties_.minor; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  /// Dynamic shared memory that a block can have.
  int most_shared_bytes() const { return static_cast<int>(properties_.sharedMemPerBlockOptin); }
  const cudaDeviceProp& properties() const { return properties_; }

  /// Device memory, from the pool: usable by what is put onto the stream from now on.
  void* allocate(std::size_t bytes) {
    if (bytes == 0) return nullptr;
    activate();
    void* memory = nullptr;
    cuda::check_cuda(cudaMallocFromPoolAsync(&memory, bytes, pool_, stream_), "allocating ", bytes,
                     " bytes on GPU ", device_);
    return memory;
  }
  /// Gives memory back once what is on the stream has run.
  void deallocate(void* memory, std::size_t) { cudaFreeAsync(memory, stream_); }

  /// Copies between host and device in the stream's order. From pageable host memory the source may be reused
  /// at once; a copy to the host is complete after synchronize().
  void copy_to_device(void* to, const void* from, std::size_t bytes) {
    copy(to, from, bytes, cudaMemcpyHostToDevice);
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) {
    copy(to, from, bytes, cudaMemcpyDeviceToHost);
  }
  /// The ranges must not overlap.
  void copy_on_device(void* to, const void* from, std::size_t bytes) {
    copy(to, from, bytes, cudaMemcpyDeviceToDevice);
  }
  void zero(void* memory, std::size_t bytes) {
    if (bytes != 0)
      cuda::check_cuda(cudaMemsetAsync(memory, 0, bytes, stream_), "clearing ", bytes, " bytes");
  }
  /// Waits for the stream; reports what went wrong on it.
  void synchronize() { cuda::check_cuda(cudaStreamSynchronize(stream_), "GPU ", device_); }

 private:
  void activate() const { cuda::check_cuda(cudaSetDevice(device_), "selecting GPU ", device_); }

  /// A pool that keeps what is given back for the next time.
  void make_pool() {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location = {cudaMemLocationTypeDevice, device_};
    cuda::check_cuda(cudaMemPoolCreate(&pool_, &properties), "creating a memory pool on GPU ", device_);
    std::uint64_t kept = std::numeric_limits<std::uint64_t>::max();
    cuda::check_cuda(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &kept),
                     "setting up a memory pool on GPU ", device_);
  }

  /// Before a kernel's first launch: checks that this program holds its code for this GPU. (entry<K> is empty
  /// where it was compiled for something older than K needs.) Then allows it the shared memory it asks for.
  template <class Describe>
  void prepare(const void* function, int least, int shared_bytes, const Describe& describe) {
    auto known = shared_bytes_of_.find(function);
    if (known == shared_bytes_of_.end()) {
      const auto version = [](int x) { return text(x / 10, ".", x % 10); };
      constexpr const char* remedy =
          "; compile for sm_80 and sm_90a, and keep compute_80's PTX for other GPUs: -gencode "
          "arch=compute_80,code=[sm_80,compute_80] -gencode arch=compute_90a,code=sm_90a";
      if (compute_capability() < least)
        throw CudaError(text(describe(), ": the kernel needs compute capability ", version(least)));
      cudaFuncAttributes attributes{};
      const cudaError_t code = cudaFuncGetAttributes(&attributes, function);
      if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) {
        (void)cudaGetLastError();
        throw CudaError(text(describe(), ": this program holds no code for compute capability ",
                             version(compute_capability()), remedy));
      }
      cuda::check_cuda(code, describe());
      if (attributes.ptxVersion < least)
        throw CudaError(text(describe(), ": the kernel needs compute capability ", version(least),
                             " and was compiled for ", version(attributes.ptxVersion), remedy));
      known = shared_bytes_of_.emplace(function, 48 * 1024).first;  // what every kernel may have
    }
    if (shared_bytes <= known->second) return;
    cuda::check_cuda(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        describe());
    known->second = shared_bytes;
  }

  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes != 0)
      cuda::check_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream_), "copying ", bytes, " bytes");
  }

  int device_;
  cudaDeviceProp properties_{};
  cudaMemPool_t pool_ = nullptr;
  cudaStream_t stream_ = nullptr;
  bool owns_stream_ = true;
  bool owns_pool_ = true;
  std::unordered_map<const void*, int> shared_bytes_of_;  // kernels that were prepared
};

}  // namespace rf

#pragma nv_diagnostic pop

#endif  // RECURFORMER_CUDA_DEVICE_CUH
