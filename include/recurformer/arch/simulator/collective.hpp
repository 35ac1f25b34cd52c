#ifndef RECURFORMER_ARCH_SIMULATOR_COLLECTIVE_HPP
#define RECURFORMER_ARCH_SIMULATOR_COLLECTIVE_HPP

// What threads do together: instructions of a warp, and barriers of a block.

#include "recurformer/arch/simulator/machine.hpp"

namespace rf::arch::simulator {

/// An instruction of the lanes in `lanes`, computed once by the last of them to arrive:
/// compute(in, out, lanes) reads *in[l] and writes *out[l] of every lane l in the mask. Lanes of one mask
/// must arrive from the same place with the same instruction.
template <class In, class Out, class Compute>
void collective(unsigned lanes, const In& in, Out& out, Compute compute, const char* name, Caller caller) {
  static constexpr char kind = 0;  // its address tells instructions apart
  Bookkeeping hidden;
  Thread& thread = this_thread();
  const auto lane = static_cast<unsigned>(thread.lane());
  if (!(lanes >> lane & 1u))
    throw SimulationError(
        text(name, " at ", place(caller), ": lane ", lane, " is not in its own mask of lanes"));

  auto& operations = thread.block->warps[static_cast<std::size_t>(thread.warp())].operations;
  auto operation = std::find_if(operations.begin(), operations.end(),
                                [&](const WarpOperation& o) { return o.arrived != 0 && o.lanes == lanes; });
  if (operation == operations.end()) {
    operation = std::find_if(operations.begin(), operations.end(),
                             [](const WarpOperation& o) { return o.arrived == 0; });
    if (operation == operations.end()) operation = operations.emplace(operations.end());
    operation->lanes = lanes;
    operation->kind = &kind;
    operation->name = name;
    operation->caller = caller;
  }
  if (operation->kind != &kind || operation->caller != caller)
    throw SimulationError(text("diverged warp: lane ", lane, " executes ", name, " at ", place(caller),
                               " while lanes of the same mask wait in ", operation->name, " at ",
                               place(operation->caller)));
  operation->in[lane] = &in;
  operation->out[lane] = &out;
  operation->arrived |= 1u << lane;
  if (operation->arrived != lanes) return wait_for_change(operation->generation, name, caller);
  compute(reinterpret_cast<const In* const*>(operation->in), reinterpret_cast<Out* const*>(operation->out),
          lanes);
  operation->arrived = 0;
  ++operation->generation;
}

struct Nothing {};

/// bar.sync (`waits`) or bar.arrive on barrier `id` of the block, for `threads` threads.
inline void barrier(int id, int threads, bool waits, const char* name, Caller caller) {
  Bookkeeping hidden;
  Thread& thread = this_thread();
  if (id < 0 || id >= 16)
    throw SimulationError(text(name, " at ", place(caller), ": barrier ", id, "; a block has 0 to 15"));
  if (threads <= 0 || (threads % warp_size != 0 && threads != thread.block->grid.threads()))
    throw SimulationError(
        text(name, " at ", place(caller), ": ", threads, " threads; must be whole warps or the whole block"));
  Barrier& state = thread.block->barriers[static_cast<std::size_t>(id)];
  if (state.arrived == 0) state.expected = threads;
  if (state.expected != threads)
    throw SimulationError(text(name, " at ", place(caller), " expects ", threads, " threads at barrier ", id,
                               ", where others expect ", state.expected));
  Barrier::Arrivals& warp = state.warps[static_cast<std::size_t>(thread.warp())];
  const unsigned lane = 1u << thread.lane();
  if (warp.lanes & lane)
    throw SimulationError(text(name, " at ", place(caller), ": thread ", thread.index,
                               " arrives twice at barrier ", id, " before it opens"));
  if (warp.lanes != 0 && warp.caller != caller)
    throw SimulationError(text("divergent barrier: thread ", thread.index, " is in ", name, " at ",
                               place(caller), ", others of its warp at ", place(warp.caller)));
  warp.lanes |= lane;
  warp.caller = caller;
  release(&state);
  if (++state.arrived == threads) {
    state.arrived = 0;
    state.warps.fill({});
    ++state.generation;
  } else if (waits) {
    wait_for_change(state.generation, name, caller);
  }
  if (waits) acquire(&state);
}

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_COLLECTIVE_HPP
