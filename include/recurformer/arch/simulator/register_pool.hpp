#ifndef RECURFORMER_ARCH_SIMULATOR_REGISTER_POOL_HPP
#define RECURFORMER_ARCH_SIMULATOR_REGISTER_POOL_HPP

// setmaxnreg: what the warps of a block have of the registers it was launched with.

#include "recurformer/arch/simulator/warpgroup.hpp"

namespace rf::arch::simulator {

class RegisterPool : public Unit {
 public:
  explicit RegisterPool(Block& block)
      : warps_(block.warps.size(),
               Share{.now = block.grid.registers_per_thread(), .wanted = block.grid.registers_per_thread()}) {
  }

  /// Asks for another count per thread, for a whole warp.
  void request(int warp, int registers, bool increase, const char* name, Caller caller) {
    Share& share = warps_[static_cast<std::size_t>(warp)];
    if (increase ? registers < share.now : registers > share.now)
      throw SimulationError(text(name, " at ", place(caller), ": from ", share.now, " to ", registers,
                                 " registers is the other direction"));
    share.wanted = registers;
    grant();
  }

  bool granted(int warp) const {
    const Share& share = warps_[static_cast<std::size_t>(warp)];
    return share.now == share.wanted;
  }
  const std::uint32_t& generation() const { return generation_; }

  std::string unfinished() const override {
    std::string out;
    for (std::size_t w = 0; w < warps_.size(); ++w)
      if (warps_[w].now != warps_[w].wanted)
        out += text(" warp ", w, " wants ", warps_[w].wanted, " registers per thread, has ", warps_[w].now,
                    " and could have ", warps_[w].now + free_, ";");
    return out;
  }

 private:
  struct Share {
    int now = 0;
    int wanted = 0;
  };

  /// What one warp gives back may be what an earlier one waits for: until nothing changes.
  void grant() {
    for (std::uint32_t before = generation_ - 1; before != generation_;) {
      before = generation_;
      for (Share& share : warps_) {
        if (share.now == share.wanted || share.wanted - share.now > free_) continue;
        free_ -= share.wanted - share.now;
        share.now = share.wanted;
        ++generation_;
      }
    }
  }

  std::vector<Share> warps_;
  int free_ = 0;  ///< registers of a warp, per thread
  std::uint32_t generation_ = 0;
};

inline void set_registers(int registers, bool increase, const char* name, Caller caller) {
  Bookkeeping hidden;
  const Thread& thread = this_thread();
  RegisterPool& pool = unit<RegisterPool>(*thread.block);
  Warpgroups& groups = unit<Warpgroups>(*thread.block);
  Nothing in, out;
  collective(
      all_lanes, in, out,
      [&](auto, auto, unsigned) {
        groups.step(thread, {name, caller, {static_cast<std::uint64_t>(registers), increase, 0, 0}});
        pool.request(thread.warp(), registers, increase, name, caller);
      },
      name, caller);
  while (!pool.granted(thread.warp())) wait_for_change(pool.generation(), name, caller);
}

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_REGISTER_POOL_HPP
