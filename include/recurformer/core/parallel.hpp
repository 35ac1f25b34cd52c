#ifndef RECURFORMER_CORE_PARALLEL_HPP
#define RECURFORMER_CORE_PARALLEL_HPP

// A pool of threads that share the iterations of a loop. Iterations are handed out by one atomic ticket, so
// which thread runs which iteration varies; kernels therefore never let a result depend on it: every output
// is written by exactly one iteration, and sums over iterations go through per-iteration partials added in
// order.

#include <algorithm>
#include <atomic>
#include <condition_variable>
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
/// a loop runs on the calling thread alone. Waiting workers spin briefly (training starts a loop every few
/// hundred microseconds), then sleep; they never spin when there are more threads than cores.
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
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      epoch_.fetch_add(1);
    }
    wake_.notify_all();
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
    {
      std::lock_guard lock(mutex_);
      function_ = function;
      context_ = context;
      count_ = count;
      failure_ = nullptr;
      next_.store(0, std::memory_order_relaxed);
      active_.store(threads_ - 1, std::memory_order_relaxed);
      epoch_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    drain();
    for (int i = 0; active_.load(std::memory_order_acquire) != 0; ++i)
      if (spin_ != 0 && i < spin_)
        pause();
      else
        std::this_thread::yield();
    if (failure_) std::rethrow_exception(failure_);
  }

  void drain() {
    inside_loop() = true;
    for (std::int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      try {
        function_(context_, i);
      } catch (...) {
        std::lock_guard lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
    inside_loop() = false;
  }

  void work() {
    for (std::uint64_t seen = 0;;) {
      for (int i = 0; i < spin_ && epoch_.load(std::memory_order_acquire) == seen; ++i) pause();
      if (epoch_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
        sleeping_.fetch_sub(1);
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_) return;
      drain();
      active_.fetch_sub(1, std::memory_order_release);
    }
  }

  int threads_ = 1;
  int spin_ = 0;
  std::vector<std::thread> workers_;
  std::mutex busy_;  // held by the loop that is running
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<std::int64_t> next_{0};
  std::atomic<int> active_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
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

}  // namespace rf

#endif  // RECURFORMER_CORE_PARALLEL_HPP
