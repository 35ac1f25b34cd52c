#ifndef RECURFORMER_ARCH_SIMULATOR_WARPGROUP_HPP
#define RECURFORMER_ARCH_SIMULATOR_WARPGROUP_HPP

// Instructions that the four warps 4·i to 4·i + 3 of a warpgroup execute alike. The warps need not come
// together at one: each goes through the group's list of them at its own pace, the first to arrive appending.

#include "recurformer/arch/simulator/collective.hpp"

namespace rf::arch::simulator {

/// One instruction, with the operands that must be the same in all four warps.
struct WarpgroupStep {
  const char* name = "";
  Caller caller;
  std::array<std::uint64_t, 4> operands{};
};

class Warpgroups : public Unit {
 public:
  static constexpr int warps = 4;

  explicit Warpgroups(Block& block) : block_(block), groups_(block.warps.size() / warps) {}

  /// The warp of `thread` executes its next instruction of this kind. Called once per warp.
  void step(const Thread& thread, const WarpgroupStep& step) {
    const auto index = static_cast<std::size_t>(thread.warp() / warps);
    if (index >= groups_.size() || block_.threads.size() < (index + 1) * warps * warp_size)
      throw SimulationError(text(step.name, " at ", place(step.caller), ": warp ", thread.warp(),
                                 " is not in a whole warpgroup; warps 0 to 3, 4 to 7, … of a block make one "
                                 "each, and the block has ",
                                 block_.threads.size(), " threads"));
    Group& group = groups_[index];
    std::size_t& executed = group.executed[static_cast<std::size_t>(thread.warp() % warps)];
    const std::size_t position = executed++ - group.dropped;
    if (position == group.steps.size()) return group.steps.push_back(step);
    const WarpgroupStep& others = group.steps[position];
    if (std::string_view(others.name) != step.name || others.caller != step.caller ||
        others.operands != step.operands)
      throw SimulationError(text("diverged warpgroup: warp ", thread.warp(), " executes ", step.name, " at ",
                                 place(step.caller), " where another warp of it executed ", others.name,
                                 " at ", place(others.caller),
                                 step.caller == others.caller ? " with other operands" : ""));
    if (position == 0 && *std::min_element(group.executed.begin(), group.executed.end()) > group.dropped) {
      group.steps.pop_front();
      ++group.dropped;
    }
  }

  void thread_ends(Thread& thread) override {
    const auto index = static_cast<std::size_t>(thread.warp() / warps);
    if (index >= groups_.size() || groups_[index].steps.empty()) return;
    const auto first = block_.threads.begin() + static_cast<std::ptrdiff_t>(index) * warps * warp_size;
    if (std::count_if(first, first + warps * warp_size, [](const Thread& t) { return !t.finished; }) > 1)
      return;
    const WarpgroupStep& step = groups_[index].steps.front();
    throw SimulationError(text(step.name, " at ", place(step.caller),
                               " was not executed by all four warps of warpgroup ", index));
  }

 private:
  struct Group {
    std::deque<WarpgroupStep> steps;  ///< that not all warps have executed
    std::size_t dropped = 0;          ///< steps executed by all
    std::array<std::size_t, warps> executed{};
  };
  Block& block_;
  std::vector<Group> groups_;
};

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_WARPGROUP_HPP
