#ifndef RECURFORMER_CORE_PARALLEL_HPP
#define RECURFORMER_CORE_PARALLEL_HPP

// A pool of threads that share the iterations of a loop. Iterations are handed out one by one, so which
// thread runs which varies; kernels therefore never let a result depend on it: every output is written by
// exactly one iteration, and sums over iterations go through per-iteration partials added in order.
//
// A loop ends when its iterations have, not when every worker has looked at it: on a machine with other work,
// a worker that is not running costs nothing but its help. That rests on one counter, `unclaimed_`: who takes
// a positive value from it owns an iteration, and the loop and all that describes it stay until that is done;
// who does not never looks at them.
//
// Programs with threads of their own (OpenMP's, another pool's): a loop that is started while another one
// runs, on whatever thread, runs on its calling thread alone, so that their models work side by side. Where
// all of them are busy anyway, set_threads(1) saves the attempt to share.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "recurformer/core/error.hpp"

namespace rf {

/// Runs loops on `threads` threads, the calling one included. One loop at a time; a loop started from inside
/// a loop runs on the calling thread alone. Who waits spins briefly (training starts a loop every few hundred
/// microseconds), then sleeps; nobody spins when there are more threads than cores.
class ThreadPool {
 public:
  /// threads >= 1.
  explicit ThreadPool(int threads) : threads_(threads) {
    check(threads >= 1, "thread count is ", threads, "; it must be at least 1");
    const auto cores = std::max(1u, std::thread::hardware_concurrency());
    spin_ = static_cast<unsigned>(threads) <= cores ? 20000 : 0;
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    stop_.store(true, std::memory_order_relaxed);
    announce();
    for (auto& worker : workers_) worker.join();
  }

  int threads() const { return threads_; }

  /// Calls body(i) for every i in [0, count). Rethrows the first exception of an iteration once all have
  /// ended.
  template <class Body>
  void for_each(std::int64_t count, Body&& body) {
    if (count <= 0) return;
    if (threads_ == 1 || count == 1 || inside_loop() || !busy_.try_lock()) {
      for (std::int64_t i = 0; i < count; ++i) body(i);
      return;
    }
    std::unique_lock busy(busy_, std::adopt_lock);
    run(
        count,
        [](void* context, std::int64_t i) { (*static_cast<std::remove_reference_t<Body>*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(std::addressof(body))));
  }

 private:
  using Function = void (*)(void*, std::int64_t);

  static bool& inside_loop() {
    thread_local bool inside = false;
    return inside;
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  void run(std::int64_t count, Function function, void* context) {
    function_ = function;
    context_ = context;
    count_ = count;
    failure_ = nullptr;
    unfinished_.store(count, std::memory_order_relaxed);
    unclaimed_.store(count, std::memory_order_release);
    announce();
    help();
    await(unfinished_, [](std::int64_t left) { return left == 0; });
    if (failure_) std::rethrow_exception(failure_);
  }

  /// Runs iterations for as long as there are any that nobody has claimed.
  void help() {
    std::int64_t finished = 0;
    inside_loop() = true;
    for (std::int64_t left; (left = unclaimed_.fetch_sub(1, std::memory_order_acquire)) > 0; ++finished) {
      try {
        function_(context_, count_ - left);
      } catch (...) {
        std::lock_guard lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
    inside_loop() = false;
    if (finished > 0 && unfinished_.fetch_sub(finished, std::memory_order_acq_rel) == finished)
      unfinished_.notify_one();
  }

  void work() {
    for (std::uint32_t seen = 0; !stop_.load(std::memory_order_relaxed);) {
      seen = await(epoch_, [seen](std::uint32_t now) { return now != seen; });
      help();
    }
  }

  void announce() {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }

  /// Returns the value that is as wanted, once it is.
  template <class T, class Wanted>
  T await(const std::atomic<T>& value, Wanted&& wanted) const {
    for (int i = 0;; ++i) {
      const T now = value.load(std::memory_order_acquire);
      if (wanted(now)) return now;
      if (i < spin_)
        pause();
      else
        value.wait(now, std::memory_order_acquire);
    }
  }

  int threads_ = 1;
  int spin_ = 0;
  std::vector<std::thread> workers_;
  std::mutex busy_;                      // held by the loop that is running
  std::atomic<std::uint32_t> epoch_{0};  // counts loops, to wake the workers
  std::atomic<bool> stop_{false};
  std::atomic<std::int64_t> unclaimed_{0};  // iterations nobody has begun; less than 0 once all are asked for
  std::atomic<std::int64_t> unfinished_{0};
  // The loop, read by whoever has claimed an iteration.
  Function function_ = nullptr;
  void* context_ = nullptr;
  std::int64_t count_ = 0;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

namespace detail {
inline std::unique_ptr<ThreadPool>& default_pool_slot() {
  static auto pool =
      std::make_unique<ThreadPool>(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  return pool;
}
}  // namespace detail

/// The process-wide pool that kernels use; one thread per core unless set_threads said otherwise.
inline ThreadPool& default_pool() { return *detail::default_pool_slot(); }

/// Replaces the process-wide pool. Not while another thread runs a kernel.
inline void set_threads(int threads) { detail::default_pool_slot() = std::make_unique<ThreadPool>(threads); }

/// Calls body(i) for every i in [0, count) on the process-wide pool.
template <class Body>
void parallel_for(std::int64_t count, Body&& body) {
  default_pool().for_each(count, std::forward<Body>(body));
}

/// Iterations [first, end) of a loop.
struct LoopRange {
  std::int64_t first = 0, end = 0;
};

/// The ranges that `threads` threads take turns at, in order: three quarters of what is left, in equal parts,
/// then three quarters of the rest, …
inline std::vector<LoopRange> loop_ranges(std::int64_t count, int threads) {
  std::vector<LoopRange> ranges;
  for (std::int64_t first = 0; first < count;) {
    const std::int64_t size = std::max<std::int64_t>(1, (count - first) * 3 / (4 * threads));
    for (int t = 0; t < threads && first < count; ++t, first += size)
      ranges.push_back({first, std::min(count, first + size)});
  }
  return ranges;
}

/// Calls body(first, end) for ranges that make up [0, count), on the process-wide pool. For loops that read
/// what lies in memory one after the other: cores that stay apart read it faster than cores that alternate at
/// neighbouring pieces (57 and 45 GB/s of two cores with pieces of 84 KB), and the short ranges at the end
/// keep nobody waiting.
template <class Body>
void parallel_ranges(std::int64_t count, Body&& body) {
  const std::vector<LoopRange> ranges = loop_ranges(count, default_pool().threads());
  parallel_for(static_cast<std::int64_t>(ranges.size()), [&](std::int64_t i) {
    const LoopRange range = ranges[static_cast<std::size_t>(i)];
    body(range.first, range.end);
  });
}

}  // namespace rf

#endif  // RECURFORMER_CORE_PARALLEL_HPP
