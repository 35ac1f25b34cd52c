#ifndef RECURFORMER_ARCH_SIMULATOR_MACHINE_HPP
#define RECURFORMER_ARCH_SIMULATOR_MACHINE_HPP

// The simulated GPU: runs the blocks of a grid with every CUDA thread as a fiber, all on the calling
// operating-system thread. A thread runs until it waits for others (a barrier, a warp's instruction, an
// mbarrier) or polls; then the scheduler resumes another one. Which one is the schedule: in order, or
// shuffled by a seed. The state below is what the instructions of arch/ work on.
//
//   Grid    the launch: resident blocks, blocks to come, the schedule
//   Block   shared memory, barriers, warps, threads, copies in flight
//   Warp    instructions that some of its lanes have arrived at
//   Thread  a fiber, what it waits for, its cp.async groups
//
// What a kernel does wrong ends the launch with a SimulationError that names the place: divergent barriers,
// lanes at different instructions, shared addresses misaligned or out of range, copies in flight at the end,
// deadlock. Shared memory has exactly the size asked for and is filled with 0xff: NaNs.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/arch/simulator/fiber.hpp"
#include "recurformer/arch/simulator/options.hpp"
#include "recurformer/arch/simulator/sanitizer.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/core/error.hpp"

namespace rf::arch {

/// A kernel did something a GPU forbids or leaves undefined, or waits for what will never happen.
class SimulationError : public Error {
 public:
  using Error::Error;
};

namespace simulator {

inline std::string place(const Caller& caller) {
  const std::string_view file = caller.file;
  return text(file.substr(file.rfind('/') + 1), ":", caller.line);
}

/// Thrown into the remaining threads when a launch has failed, so that their stacks unwind.
struct Cancelled {};

class Grid;
struct Block;

/// cp.async: 16 bytes or fewer to shared memory, the first `valid` of them from global, zeros behind.
struct PendingCopy {
  unsigned char* to = nullptr;
  const unsigned char* from = nullptr;
  int bytes = 0;
  int valid = 0;
};

struct Thread {
  Fiber* fiber = nullptr;
  Block* block = nullptr;
  int index = 0;  ///< in its block
  bool finished = false;
  bool polling = false;
  const std::uint32_t* awaited = nullptr;  ///< blocked while *awaited == awaited_value
  std::uint32_t awaited_value = 0;
  const char* activity = "start";
  Caller caller;
  std::vector<PendingCopy> open_copies;
  std::vector<std::vector<PendingCopy>> committed_copies;

  int lane() const { return index % warp_size; }
  int warp() const { return index / warp_size; }
  bool runnable() const { return !finished && (!awaited || *awaited != awaited_value); }
};

/// An instruction that the lanes of a mask execute together, waiting for the last of them.
struct WarpOperation {
  unsigned lanes = 0;
  unsigned arrived = 0;
  std::uint32_t generation = 0;
  const void* kind = nullptr;
  const char* name = "";
  Caller caller;
  const void* in[warp_size] = {};
  void* out[warp_size] = {};
};

struct Warp {
  std::deque<WarpOperation> operations;  // as many as the warp has diverging groups of lanes; addresses stay
};

struct Barrier {
  std::uint32_t generation = 0;
  int arrived = 0;
  int expected = 0;
  struct Arrivals {
    unsigned lanes = 0;
    Caller caller;
  };
  std::array<Arrivals, 32> warps;  ///< of this generation
};

/// Shared memory of exactly `bytes`, aligned to 1024, every byte 0xff.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes)
      : bytes_(bytes), memory_(std::make_unique<unsigned char[]>(bytes + 2 * alignment)) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    begin_ = memory_.get() + (alignment - address % alignment);
    std::memset(begin_, 0xff, bytes_);
    poison(memory_.get(), static_cast<std::size_t>(begin_ - memory_.get()));
    poison(begin_ + bytes_, behind());
  }
  ~SharedMemory() { unpoison(memory_.get(), bytes_ + 2 * alignment); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  unsigned char* begin() const { return begin_; }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t alignment = 1024;
  std::size_t behind() const {
    return static_cast<std::size_t>(memory_.get() + bytes_ + 2 * alignment - (begin_ + bytes_));
  }
  std::size_t bytes_;
  std::unique_ptr<unsigned char[]> memory_;
  unsigned char* begin_ = nullptr;
};

/// A part that not every kernel uses, made for a block when it first does: unit<U>(block).
struct Unit {
  virtual ~Unit() = default;
  /// A thread has come to its end: throws if it has left something undone here.
  virtual void thread_ends(Thread&) {}
  /// What is unfinished, for a deadlock's message: entries that end in ';', or nothing.
  virtual std::string unfinished() const { return {}; }
};

struct Block {
  Block(Grid& launch, Dim3 at, int threads_per_block, std::size_t shared_bytes, std::size_t stack)
      : grid(launch),
        index(at),
        first_stack(stack),
        shared(shared_bytes),
        threads(static_cast<std::size_t>(threads_per_block)),
        warps(static_cast<std::size_t>((threads_per_block + warp_size - 1) / warp_size)) {}

  Grid& grid;
  Dim3 index;
  std::size_t first_stack;  ///< in the pool
  SharedMemory shared;
  std::deque<Fiber> fibers;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::array<Barrier, 16> barriers;
  /// Copies of asynchronous engines on their way: calling one lands it.
  std::vector<std::function<void()>> in_flight;
  std::vector<std::unique_ptr<Unit>> units;
  int alive = 0;
};

/// The block's U, made from the block at its first use.
template <class U>
U& unit(Block& block) {
  for (const std::unique_ptr<Unit>& candidate : block.units)
    if (U* found = dynamic_cast<U*>(candidate.get())) return *found;
  return static_cast<U&>(*block.units.emplace_back(std::make_unique<U>(block)));
}

/// "(x, y, z)".
inline std::string name_of(const Block& block) {
  return text("(", block.index.x, ", ", block.index.y, ", ", block.index.z, ")");
}

inline thread_local Thread* running_thread = nullptr;

/// The CUDA thread that is executing.
[[gnu::noinline]] inline Thread& this_thread() {
  if (!running_thread)
    throw SimulationError(
        "simulator: a function of rf::arch was called outside a kernel; launch the kernel on rf::Simulated");
  return *running_thread;
}

class Grid {
 public:
  using Body = void (*)(const void* parameters);

  Grid(Dim3 blocks, int threads, std::size_t shared_bytes, bool cooperative, Body body,
       const void* parameters, const SimulatorOptions& options, int blocks_per_multiprocessor = 1)
      : blocks_(blocks),
        threads_(threads),
        shared_bytes_(shared_bytes),
        body_(body),
        parameters_(parameters),
        options_(options),
        blocks_per_multiprocessor_(blocks_per_multiprocessor),
        dice_(options.seed) {
    check(blocks.x >= 1 && blocks.y >= 1 && blocks.z >= 1, "simulator: a grid of ", blocks.x, " x ", blocks.y,
          " x ", blocks.z, " blocks; every extent must be at least 1");
    check(threads >= 1 && threads <= 1024, "simulator: ", threads,
          " threads per block; allowed are 1 to 1024");
    check(shared_bytes <= most_shared_bytes, "simulator: ", shared_bytes,
          " bytes of shared memory per block; a block has at most ", most_shared_bytes);
    check(options.resident_blocks >= 1, "simulator: resident_blocks is ", options.resident_blocks,
          ", must be at least 1");
    total_ = std::int64_t{blocks.x} * blocks.y * blocks.z;
    most_resident_ = cooperative ? total_ : std::min<std::int64_t>(total_, options.resident_blocks);
  }

  /// Runs all blocks to their end, or throws what went wrong in one of them.
  void run();

  Dim3 blocks() const { return blocks_; }
  int threads() const { return threads_; }
  /// Registers of a thread at the launch of a kernel compiled to fill the multiprocessor, as all that
  /// reallocate registers are.
  int registers_per_thread() const {
    return std::min(256, 64 * 1024 / (threads_ * blocks_per_multiprocessor_) / 8 * 8);
  }
  const SimulatorOptions& options() const { return options_; }

  /// True if a copy issued now is to land at once.
  bool lands_at_once() {
    return options_.copies == CopyTiming::early || (options_.copies == CopyTiming::random && roll(2));
  }
  /// True once in `sides`.
  bool roll(unsigned sides) { return dice_() % sides == 0; }
  unsigned random(unsigned below) { return static_cast<unsigned>(dice_() % below); }
  bool shuffles() const { return options_.seed != 0; }

  /// Leaves the running thread; returns when the scheduler resumes it.
  void suspend() {
    Thread& thread = *running_thread;
    thread.fiber->switch_to(scheduler_);
    if (failure_) throw Cancelled{};
  }

 private:
  static constexpr std::size_t most_shared_bytes = 227 * 1024;
  static constexpr int patience = 100;  // passes in which threads only poll before that counts as a deadlock

  static void thread_main();
  void admit();
  bool run_pass(Block& block);
  bool resume(Thread& thread);
  bool land_copy(Block& block);
  void finish_blocks();
  void cancel();
  std::string describe_deadlock() const;

  Dim3 blocks_;
  int threads_;
  std::size_t shared_bytes_;
  Body body_;
  const void* parameters_;
  SimulatorOptions options_;
  int blocks_per_multiprocessor_;
  std::mt19937 dice_;
  std::int64_t total_ = 0;
  std::int64_t most_resident_ = 0;
  std::int64_t admitted_ = 0;
  std::vector<std::size_t> free_stacks_;
  std::list<Block> resident_;
  Fiber scheduler_;
  std::exception_ptr failure_;
  // Where ThreadSanitizer sees the host and the kernel's threads meet; two, so that a thread that starts is
  // not ordered after one that has ended.
  char started_ = 0;
  char ended_ = 0;
};

/// Blocks the running thread while `generation` has the value it has now.
inline void wait_for_change(const std::uint32_t& generation, const char* activity, Caller caller) {
  Thread& thread = *running_thread;
  thread.awaited = &generation;
  thread.awaited_value = generation;
  thread.activity = activity;
  thread.caller = caller;
  thread.block->grid.suspend();
  thread.awaited = nullptr;
}

/// Lets others run before a load that a loop may be polling with.
inline void poll(const char* activity, Caller caller) {
  Bookkeeping hidden;
  Thread& thread = this_thread();
  thread.polling = true;
  thread.activity = activity;
  thread.caller = caller;
  thread.block->grid.suspend();
  thread.polling = false;
}

/// With a shuffled schedule, now and then lets others run: where a real machine would interleave.
inline void maybe_yield(const char* activity, Caller caller) {
  Bookkeeping hidden;
  Thread& thread = this_thread();
  if (!thread.block->grid.shuffles() || !thread.block->grid.roll(4)) return;
  thread.activity = activity;
  thread.caller = caller;
  thread.block->grid.suspend();
}

/// `bytes` bytes of the running block's shared memory at `address`.
inline unsigned char* shared_bytes(SharedAddress address, std::size_t bytes, std::size_t alignment,
                                   const char* name, Caller caller) {
  Bookkeeping hidden;
  const Block& block = *this_thread().block;
  if (address % alignment != 0)
    throw SimulationError(
        text(name, " at ", place(caller), ": shared address ", address, " is not a multiple of ", alignment));
  if (address + bytes > block.shared.bytes())
    throw SimulationError(text(name, " at ", place(caller), ": shared bytes ", address, " to ",
                               address + bytes, " are outside the block's ", block.shared.bytes()));
  return block.shared.begin() + address;
}

// --- Grid ---

inline void Grid::thread_main() {
  detail::hide_accesses();
  Thread& thread = *running_thread;
  Grid& grid = thread.block->grid;
  Fiber::started(grid.scheduler_);
  acquire(&grid.started_);  // what happened before the launch
  const Body body = grid.body_;
  const void* const parameters = grid.parameters_;
  std::exception_ptr thrown;
  detail::show_accesses();
  try {
    body(parameters);
    Bookkeeping hidden;
    if (!thread.open_copies.empty() || !thread.committed_copies.empty())
      throw SimulationError(text("thread ", thread.index, " of block ", name_of(*thread.block),
                                 " ends with cp.async copies in flight; wait for them first"));
    for (const std::unique_ptr<Unit>& part : thread.block->units) part->thread_ends(thread);
  } catch (const Cancelled&) {
  } catch (...) {
    thrown = std::current_exception();
  }
  {
    Bookkeeping hidden;
    release(&grid.ended_);
    if (thrown && !grid.failure_) grid.failure_ = thrown;
    thrown = nullptr;
    thread.finished = true;
    --thread.block->alive;
  }
  thread.fiber->switch_to(grid.scheduler_, true);
  __builtin_unreachable();
}

inline void Grid::admit() {
  while (admitted_ < total_ && static_cast<std::int64_t>(resident_.size()) < most_resident_) {
    const std::int64_t n = admitted_++;
    const Dim3 at{.x = static_cast<int>(n % blocks_.x),
                  .y = static_cast<int>(n / blocks_.x % blocks_.y),
                  .z = static_cast<int>(n / blocks_.x / blocks_.y)};
    std::size_t first_stack = resident_.size() * static_cast<std::size_t>(threads_);
    if (!free_stacks_.empty()) {
      first_stack = free_stacks_.back();
      free_stacks_.pop_back();
    }
    Block& block = resident_.emplace_back(*this, at, threads_, shared_bytes_, first_stack);
    for (int i = 0; i < threads_; ++i) {
      Stack& stack = pooled_stack(first_stack + static_cast<std::size_t>(i), options_.stack_bytes);
      Thread& thread = block.threads[static_cast<std::size_t>(i)];
      thread.fiber = &block.fibers.emplace_back(stack, &thread_main);
      thread.block = &block;
      thread.index = i;
    }
    block.alive = threads_;
    release(&started_);
  }
}

/// Runs a thread until it waits, polls or ends. True unless it only polled.
inline bool Grid::resume(Thread& thread) {
  running_thread = &thread;
  scheduler_.switch_to(*thread.fiber);
  running_thread = nullptr;
  return !thread.polling;
}

/// Lands one of the block's copies in flight; false if there is none.
inline bool Grid::land_copy(Block& block) {
  if (block.in_flight.empty()) return false;
  const auto i = block.in_flight.begin() + random(static_cast<unsigned>(block.in_flight.size()));
  const auto land = std::move(*i);
  block.in_flight.erase(i);
  try {
    land();
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
  }
  return true;
}

/// Gives every warp of the block a turn, each until all its threads wait. True if anything happened.
inline bool Grid::run_pass(Block& block) {
  bool progress = false;
  std::vector<std::size_t> order(block.warps.size());
  for (std::size_t w = 0; w < order.size(); ++w) order[w] = w;
  if (shuffles()) std::shuffle(order.begin(), order.end(), dice_);
  for (const std::size_t w : order) {
    const int first = static_cast<int>(w) * warp_size;
    const int count = std::min(warp_size, threads_ - first);
    for (bool again = true; again && !failure_;) {
      again = false;
      const int rotation = shuffles() ? static_cast<int>(random(static_cast<unsigned>(count))) : 0;
      for (int l = 0; l < count && !failure_; ++l) {
        Thread& thread = block.threads[static_cast<std::size_t>(first + (l + rotation) % count)];
        if (thread.runnable() && resume(thread)) again = true;
      }
      progress |= again;
      if (options_.copies == CopyTiming::random && roll(4)) progress |= land_copy(block);
      if (shuffles() && roll(64)) break;  // another warp overtakes
    }
  }
  return progress;
}

/// Takes blocks away whose threads have all ended.
inline void Grid::finish_blocks() {
  for (auto it = resident_.begin(); it != resident_.end();) {
    if (it->alive != 0) {
      ++it;
      continue;
    }
    acquire(&ended_);
    if (!it->in_flight.empty() && !failure_)
      failure_ = std::make_exception_ptr(SimulationError(text(
          "block ", name_of(*it), " ends with ", it->in_flight.size(), " asynchronous copies in flight")));
    free_stacks_.push_back(it->first_stack);
    it = resident_.erase(it);
  }
}

/// Lets every thread that has started unwind its stack.
inline void Grid::cancel() {
  for (Block& block : resident_)
    for (Thread& thread : block.threads)
      if (!thread.finished && std::string_view(thread.activity) != "start") resume(thread);
  acquire(&ended_);
  resident_.clear();
}

inline std::string Grid::describe_deadlock() const {
  std::string out = "deadlock:";
  for (const Block& block : resident_) {
    // threads in a row that wait at one place make one entry
    for (std::size_t i = 0; i < block.threads.size();) {
      const Thread& first = block.threads[i];
      std::size_t end = i;
      while (end < block.threads.size() && block.threads[end].finished == first.finished &&
             (first.finished ||
              (block.threads[end].activity == first.activity && block.threads[end].caller == first.caller)))
        ++end;
      out += text(" block ", name_of(block), " threads ", i, " to ", end - 1,
                  first.finished ? std::string(" have ended;")
                                 : text(" wait in ", first.activity, " at ", place(first.caller), ";"));
      i = end;
    }
    for (const std::unique_ptr<Unit>& part : block.units) out += part->unfinished();
  }
  out.back() = '.';
  return out;
}

inline void Grid::run() {
  check(!running_thread, "simulator: a kernel cannot launch another kernel");
  Bookkeeping hidden;
  int idle_passes = 0;
  for (admit(); !resident_.empty(); admit()) {
    bool progress = false;
    for (Block& block : resident_) progress |= run_pass(block);
    const std::size_t before = resident_.size();
    finish_blocks();
    if (failure_) break;
    progress |= resident_.size() < before;
    if (progress) {
      idle_passes = 0;
      continue;
    }
    bool landed = false;
    for (Block& block : resident_) landed |= land_copy(block);
    if (landed) continue;
    bool polling = false;
    for (const Block& block : resident_)
      for (const Thread& thread : block.threads) polling |= thread.polling;
    if (!polling || ++idle_passes > patience) {
      failure_ = std::make_exception_ptr(SimulationError(describe_deadlock()));
      break;
    }
  }
  if (failure_) {
    cancel();
    std::rethrow_exception(failure_);
  }
}

}  // namespace simulator
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_SIMULATOR_MACHINE_HPP
