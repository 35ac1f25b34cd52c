#ifndef RECURFORMER_ARCH_SIMULATOR_PROXY_HPP
#define RECURFORMER_ARCH_SIMULATOR_PROXY_HPP

// Shared memory as the asynchronous proxy (TMA, wgmma) sees it: a second copy, into which ordinary stores
// come only by a fence. Where it reads bytes that differ from what the threads see, a fence is missing. A
// fence refreshes all bytes, whoever wrote them: what threads write without a fence of theirs and before
// another's is found only by schedules in which that fence comes first.

#include "recurformer/arch/simulator/machine.hpp"

namespace rf::arch::simulator {

class AsyncProxy : public Unit {
 public:
  explicit AsyncProxy(Block& block) : shared_(block.shared), seen_(block.shared.bytes(), 0xff) {}

  void fence() {
    if (!seen_.empty()) std::memcpy(seen_.data(), shared_.begin(), seen_.size());
  }

  /// An asynchronous read of shared memory, started by an instruction `name` at `caller`.
  void read(SharedAddress address, void* to, std::size_t bytes, const char* name, Caller caller) const {
    {
      KernelAccess visible;
      std::memcpy(to, shared_.begin() + address, bytes);
    }
    check_seen(address, bytes, "reads", name, caller);
  }

  /// An asynchronous write.
  void write(SharedAddress address, const void* from, std::size_t bytes) {
    {
      KernelAccess visible;
      std::memcpy(shared_.begin() + address, from, bytes);
    }
    std::memcpy(seen_.data() + address, from, bytes);
  }

  /// Throws if ordinary stores to these bytes are not yet seen. `does` is "reads" or "writes".
  void check_seen(SharedAddress address, std::size_t bytes, const char* does, const char* name,
                  Caller caller) const {
    if (std::memcmp(seen_.data() + address, shared_.begin() + address, bytes) != 0)
      throw SimulationError(
          text(name, " at ", place(caller), " ", does, " shared bytes ", address, " to ", address + bytes,
               " that threads wrote after the last fence: fence_async_shared by the threads "
               "that write, then a barrier, then the asynchronous access"));
  }

 private:
  const SharedMemory& shared_;
  std::vector<unsigned char> seen_;
};

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_PROXY_HPP
