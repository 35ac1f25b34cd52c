#include "recurformer/core/parallel.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../support/error_message.hpp"

namespace {

using rf::ThreadPool;
using rf::test::message_of;

/// How often each iteration of a loop ran.
std::vector<int> visits(ThreadPool& pool, std::int64_t count) {
  std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count > 0 ? count : 0));
  pool.for_each(count, [&](std::int64_t i) { ++seen.at(static_cast<std::size_t>(i)); });
  return {seen.begin(), seen.end()};
}

std::vector<int> ones(std::int64_t count) { return std::vector<int>(static_cast<std::size_t>(count), 1); }

}  // namespace

TEST_CASE("parallel: every iteration runs exactly once, for any count and number of threads") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const std::int64_t count : {0, 1, 2, 3, 7, 8, 9, 1000}) {
      CAPTURE(threads);
      CAPTURE(count);
      CHECK(visits(pool, count) == ones(count));
    }
    CHECK(visits(pool, -3).empty());
  }
}

TEST_CASE("parallel: many short loops, one right after the other") {
  ThreadPool pool(3);
  std::int64_t total = 0;
  for (int loop = 0; loop < 2000; ++loop) {
    std::atomic<std::int64_t> sum{0};
    pool.for_each(5, [&](std::int64_t i) { sum += i; });
    total += sum;
  }
  CHECK(total == 2000 * 10);
}

TEST_CASE("parallel: iterations do run on several threads, also after the workers have gone to sleep") {
  ThreadPool pool(2);
  for (int attempt = 0; attempt < 2; ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));  // far beyond the workers' spinning
    // Each of the two waits for the other, which only two threads can satisfy.
    std::atomic<int> arrived{0};
    std::atomic<bool> late{false};
    pool.for_each(2, [&](std::int64_t) {
      ++arrived;
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (arrived < 2 && !late) {
        if (std::chrono::steady_clock::now() > end) late = true;
        std::this_thread::yield();
      }
    });
    CHECK(!late);
  }
}

TEST_CASE("parallel: a loop inside a loop runs on the thread that started it") {
  ThreadPool pool(4);
  std::atomic<int> inner{0}, elsewhere{0};
  pool.for_each(8, [&](std::int64_t) {
    const auto outer_thread = std::this_thread::get_id();
    pool.for_each(5, [&](std::int64_t) {
      ++inner;
      elsewhere += std::this_thread::get_id() != outer_thread;
    });
  });
  CHECK(inner == 40);
  CHECK(elsewhere == 0);
}

TEST_CASE("parallel: an exception reaches the caller after all other iterations have run") {
  for (const int threads : {2, 5}) {
    ThreadPool pool(threads);
    std::atomic<int> completed{0};
    const auto message = message_of<std::runtime_error>([&] {
      pool.for_each(100, [&](std::int64_t i) {
        if (i == 37) throw std::runtime_error("iteration 37");
        ++completed;
      });
    });
    CHECK(message == "iteration 37");
    CHECK(completed == 99);
    CHECK(visits(pool, 50) == ones(50));  // the pool is still of use, and the exception forgotten
  }
}

TEST_CASE("parallel: an exception of a serial loop reaches the caller, too") {
  ThreadPool pool(1);
  CHECK_THROWS_AS(pool.for_each(3, [](std::int64_t) { throw std::runtime_error("x"); }), std::runtime_error);
  CHECK(visits(pool, 4) == ones(4));
}

TEST_CASE("parallel: several threads may start loops on one pool at once") {
  ThreadPool pool(2);
  std::vector<std::int64_t> sums(4);
  std::vector<std::thread> callers;
  for (std::size_t caller = 0; caller < sums.size(); ++caller)
    callers.emplace_back([&, caller] {
      for (int loop = 0; loop < 200; ++loop) {
        std::atomic<std::int64_t> sum{0};
        pool.for_each(10, [&](std::int64_t i) { sum += i; });
        sums[caller] += sum;
      }
    });
  for (auto& caller : callers) caller.join();
  CHECK(sums == std::vector<std::int64_t>(4, 200 * 45));
}

TEST_CASE("parallel: the process-wide pool has as many threads as it is told") {
  const int before = rf::default_pool().threads();
  for (const int threads : {1, 3, before}) {
    rf::set_threads(threads);
    CHECK(rf::default_pool().threads() == threads);
    std::atomic<std::int64_t> sum{0};
    rf::parallel_for(101, [&](std::int64_t i) { sum += i; });
    CHECK(sum == 5050);
  }
}

TEST_CASE("parallel: no threads are an error that says so") {
  CHECK(message_of<rf::ArgumentError>([] { ThreadPool pool(0); }) ==
        "thread count is 0; it must be at least 1");
  const int before = rf::default_pool().threads();
  CHECK_THROWS_AS(rf::set_threads(-2), rf::ArgumentError);
  CHECK(rf::default_pool().threads() == before);
}

TEST_CASE("parallel: ranges follow each other from 0 to the end and get shorter") {
  for (const int threads : {1, 2, 3, 16})
    for (const std::int64_t count : {0, 1, 2, 3, 5, 16, 17, 102, 100'000}) {
      CAPTURE(threads);
      CAPTURE(count);
      std::int64_t end = 0, length = count;
      for (const rf::LoopRange range : rf::loop_ranges(count, threads)) {
        CHECK(range.first == end);
        CHECK(range.end > range.first);
        CHECK(range.end - range.first <= length);
        end = range.end, length = range.end - range.first;
      }
      CHECK(end == count);
      CHECK(rf::loop_ranges(count, threads).size() <= static_cast<std::size_t>(12 * threads));
    }
  // Three quarters at once, one part for each thread; the last ones short.
  const auto ranges = rf::loop_ranges(1000, 2);
  CHECK(ranges.at(1).end == 750);
  CHECK(ranges.back().end - ranges.back().first == 1);

  std::vector<std::atomic<int>> seen(1000);
  rf::parallel_ranges(1000, [&](std::int64_t first, std::int64_t end) {
    for (std::int64_t i = first; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  });
  CHECK(std::vector<int>(seen.begin(), seen.end()) == ones(1000));
}
