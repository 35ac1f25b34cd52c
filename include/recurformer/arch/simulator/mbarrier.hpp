#ifndef RECURFORMER_ARCH_SIMULATOR_MBARRIER_HPP
#define RECURFORMER_ARCH_SIMULATOR_MBARRIER_HPP

// mbarriers. Their state is kept beside shared memory, whose 8 bytes hold a mark instead: a barrier that
// something has written over is found, and so is one that a thread uses without having met its
// initialisation.

#include <map>

#include "recurformer/arch/simulator/machine.hpp"

namespace rf::arch::simulator {

struct Mbarrier {
  std::uint32_t generation = 0;  ///< phases completed
  int expected = 0;              ///< arrivals of every phase
  int pending = 0;               ///< arrivals that this phase waits for
  std::int64_t bytes = 0;        ///< that this phase waits for
  int waiting = 0;               ///< threads

  /// Ends the phase if nothing is left to wait for.
  void advance() {
    if (pending != 0 || bytes != 0) return;
    pending = expected;
    ++generation;
  }
};

class Mbarriers : public Unit {
 public:
  static constexpr int most = (1 << 20) - 1;  ///< arrivals, and bytes, of a phase

  explicit Mbarriers(Block& block) : block_(block) {}

  void initialise(SharedAddress address, int arrivals, Caller caller) {
    unsigned char* bytes = shared_bytes(address, 8, 8, "init_mbarrier", caller);
    if (arrivals < 1 || arrivals > most)
      throw SimulationError(
          text("init_mbarrier at ", place(caller), ": ", arrivals, " arrivals; allowed are 1 to ", most));
    const auto [entry, made] =
        barriers_.try_emplace(address, Mbarrier{.expected = arrivals, .pending = arrivals});
    if (!made)
      throw SimulationError(text("init_mbarrier at ", place(caller), ": ", describe(address, entry->second),
                                 " is in use; invalidate it first"));
    KernelAccess visible;
    std::memcpy(bytes, &mark, 8);
  }

  void invalidate(SharedAddress address, Caller caller) {
    const Mbarrier& barrier = find(address, "invalidate_mbarrier", caller);
    if (barrier.bytes != 0 || barrier.pending != barrier.expected || barrier.waiting != 0)
      throw SimulationError(
          text("invalidate_mbarrier at ", place(caller), ": ", describe(address, barrier), " is in use"));
    barriers_.erase(address);
    KernelAccess visible;
    std::memset(block_.shared.begin() + address, 0xff, 8);
  }

  /// The barrier that a thread names, which must have seen its initialisation.
  Mbarrier& find(SharedAddress address, const char* name, Caller caller) {
    const unsigned char* bytes = shared_bytes(address, 8, 8, name, caller);
    Mbarrier& barrier = find_initialised(address, name, caller);
    std::uint64_t found = 0;
    {
      KernelAccess visible;
      std::memcpy(&found, bytes, 8);
    }
    if (found != mark)
      throw SimulationError(
          text(name, " at ", place(caller), ": something has written over the mbarrier at ", address));
    return barrier;
  }

  /// `bytes` bytes of a copy that `caller` started have landed.
  void complete(SharedAddress address, int bytes, const char* name, Caller caller) {
    Mbarrier& barrier = find_initialised(address, name, caller);
    if (barrier.bytes < bytes)
      throw SimulationError(text(name, " at ", place(caller), " lands ", bytes, " bytes where ",
                                 describe(address, barrier),
                                 "; expect the bytes of a copy, all of them, before starting it"));
    barrier.bytes -= bytes;
    release(&barrier);
    barrier.advance();
  }

  std::string unfinished() const override {
    std::string out;
    for (const auto& [address, barrier] : barriers_)
      if (barrier.waiting != 0) out += " " + describe(address, barrier) + ";";
    return out;
  }

 private:
  static constexpr std::uint64_t mark = 0x6d62617272696572;

  static std::string describe(SharedAddress address, const Mbarrier& barrier) {
    return text("the mbarrier at ", address, ", in phase ", barrier.generation, ", has ",
                barrier.expected - barrier.pending, " of ", barrier.expected, " arrivals and expects ",
                barrier.bytes, " bytes");
  }
  Mbarrier& find_initialised(SharedAddress address, const char* name, Caller caller) {
    const auto entry = barriers_.find(address);
    if (entry == barriers_.end())
      throw SimulationError(text(name, " at ", place(caller), ": no mbarrier at ", address,
                                 "; init_mbarrier it, then fence_mbarrier_init and sync_threads"));
    return entry->second;
  }

  Block& block_;
  std::map<SharedAddress, Mbarrier> barriers_;
};

/// Expects `bytes` bytes and, if `arrives`, arrives.
inline void arrive_mbarrier(SharedAddress address, int bytes, bool arrives, const char* name, Caller caller) {
  maybe_yield(name, caller);
  Bookkeeping hidden;
  Mbarrier& barrier = unit<Mbarriers>(*this_thread().block).find(address, name, caller);
  if (bytes < 0 || barrier.bytes + bytes > Mbarriers::most)
    throw SimulationError(text(name, " at ", place(caller), ": ", bytes, " bytes beside ", barrier.bytes,
                               " expected; a phase takes 0 to ", Mbarriers::most));
  if (arrives && barrier.pending == 0)
    throw SimulationError(text(name, " at ", place(caller), ": thread ", this_thread().index,
                               " is one arrival too many; the phase of the mbarrier at ", address, " takes ",
                               barrier.expected));
  release(&barrier);
  barrier.bytes += bytes;
  if (!arrives) return;
  --barrier.pending;
  barrier.advance();
}

inline bool phase_ended(const Mbarrier& barrier, unsigned parity, const char* name, Caller caller) {
  if (parity > 1)
    throw SimulationError(text(name, " at ", place(caller), ": parity ", parity, " is neither 0 nor 1"));
  return (barrier.generation & 1u) != parity;
}

inline bool test_mbarrier(SharedAddress address, unsigned parity, Caller caller) {
  constexpr const char* name = "test_mbarrier";
  poll(name, caller);
  Bookkeeping hidden;
  const Mbarrier& barrier = unit<Mbarriers>(*this_thread().block).find(address, name, caller);
  const bool ended = phase_ended(barrier, parity, name, caller);
  if (ended) acquire(&barrier);
  return ended;
}

inline void wait_mbarrier(SharedAddress address, unsigned parity, Caller caller) {
  constexpr const char* name = "wait_mbarrier";
  Bookkeeping hidden;
  Mbarrier& barrier = unit<Mbarriers>(*this_thread().block).find(address, name, caller);
  if (!phase_ended(barrier, parity, name, caller)) {
    const std::uint32_t phase = barrier.generation;
    ++barrier.waiting;
    wait_for_change(barrier.generation, name, caller);
    --barrier.waiting;
    if (barrier.generation != phase + 1)
      throw SimulationError(text(name, " at ", place(caller), ": the next phase of the mbarrier at ", address,
                                 " ended before thread ", this_thread().index,
                                 " saw the end of this one; a thread that waits must also be waited for"));
  }
  acquire(&barrier);
}

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_MBARRIER_HPP
