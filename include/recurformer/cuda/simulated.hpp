#ifndef RECURFORMER_CUDA_SIMULATED_HPP
#define RECURFORMER_CUDA_SIMULATED_HPP

// The device that is no device: runs CUDA kernels written on rf::arch on the CPU, thread by thread, exactly
// and slowly. It is how kernels are tested where there is no GPU, and how they are stepped through in a
// debugger. Everything that launches kernels is a template over the device, and so runs on this one too.

#if defined(__CUDACC__)
#error \
    "recurformer: rf::Simulated is for files that nvcc does not compile; in this one kernels are for rf::Cuda"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#include "recurformer/arch/kernel.hpp"
#include "recurformer/arch/simulator/machine.hpp"

namespace rf {

class Simulated {
 public:
  static constexpr std::string_view name = "simulated";

  explicit Simulated(const arch::SimulatorOptions& options = {}) : options_(options) {}

  /// Runs the kernel to its end. Pointers in the parameters are ordinary memory. Throws arch::SimulationError
  /// for what a GPU forbids or leaves undefined (arch/simulator/machine.hpp), ArgumentError for an impossible
  /// shape.
  template <arch::Kernel K>
  void launch(const arch::LaunchShape& shape, const typename K::Parameters& parameters) {
    static_assert(arch::least_compute_capability<K>() <= simulated_compute_capability,
                  "recurformer: the simulator has the instructions of compute capability 9.0");
    ++launches_;
    arch::simulator::Grid grid(
        shape.blocks, K::threads, static_cast<std::size_t>(shape.shared_bytes), shape.cooperative,
        [](const void* p) { K::run(*static_cast<const typename K::Parameters*>(p)); }, &parameters, options_,
        K::blocks_per_multiprocessor);
    grid.run();
  }

  /// Kernels launched so far: what a GPU would spend some microseconds on each.
  std::int64_t launches() const { return launches_; }

  std::string description() const { return "simulated (CUDA kernels on the CPU, thread by thread)"; }
  /// That of an H100, all of whose instructions are simulated.
  int compute_capability() const { return simulated_compute_capability; }
  /// Blocks that run at once: what a persistent grid counts on.
  int multiprocessors() const { return options_.resident_blocks; }
  /// Dynamic shared memory that a block can have: that of an H100.
  int most_shared_bytes() const { return 227 * 1024; }

  /// `bytes` bytes, 256-byte aligned as cudaMalloc's, filled with 0xff (NaNs); sanitizers see its exact end.
  void* allocate(std::size_t bytes) {
    void* memory = ::operator new(bytes, alignment);
    std::memset(memory, 0xff, bytes);
    return memory;
  }
  void deallocate(void* memory, std::size_t) { ::operator delete(memory, alignment); }
  void copy_to_device(void* to, const void* from, std::size_t bytes) {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  /// The ranges must not overlap.
  void copy_on_device(void* to, const void* from, std::size_t bytes) { copy_to_device(to, from, bytes); }
  void zero(void* memory, std::size_t bytes) {
    if (bytes != 0) std::memset(memory, 0, bytes);
  }
  /// Waits for the launches and copies so far; reports their errors.
  void synchronize() {}

 private:
  static constexpr int simulated_compute_capability = 90;
  static constexpr std::align_val_t alignment{256};
  arch::SimulatorOptions options_;
  std::int64_t launches_ = 0;
};

}  // namespace rf

#endif  // RECURFORMER_CUDA_SIMULATED_HPP
