// What the simulator must catch: kernels with planted mistakes, and the message each ends with.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/simulated.hpp"

namespace {

using namespace rf::arch;

struct Output {
  float* out;
};

/// A kernel of two warps with a body given as a stateless functor.
template <class Body>
struct TwoWarps {
  using Parameters = Output;
  static constexpr int threads = 64, blocks_per_multiprocessor = 1;
  static void run(const Output& p) { Body{}(p); }
};

/// What launching it ends with: "" or the message of the SimulationError.
template <class Body>
std::string outcome(Body, int shared_bytes = 256, const SimulatorOptions& options = {}, int blocks = 1) {
  rf::Simulated device(options);
  rf::cuda::DeviceArray<float, rf::Simulated> out(device, 64);
  try {
    device.launch<TwoWarps<Body>>({.blocks = {blocks}, .shared_bytes = shared_bytes}, {out.data()});
  } catch (const SimulationError& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// Polls a flag that nobody sets.
struct Wait {
  struct Parameters {
    unsigned* flag;
  };
  static constexpr int threads = 32, blocks_per_multiprocessor = 1;
  static void run(const Parameters& p) {
    while (load_acquire(p.flag) == 0) {
    }
  }
};

/// The last block sets a flag that all others wait for.
struct WaitForLast {
  struct Parameters {
    unsigned* flag;
  };
  static constexpr int threads = 32, blocks_per_multiprocessor = 1;
  static void run(const Parameters& p) {
    if (block_index().x == grid_size().x - 1) {
      if (thread_index() == 0) store_release(p.flag, 1u);
    } else {
      while (load_acquire(p.flag) == 0) {
      }
    }
  }
};

/// Notes in which order threads come.
struct Order {
  struct Parameters {
    int* ticket;
    int* order;
  };
  static constexpr int threads = 64, blocks_per_multiprocessor = 1;
  static void run(const Parameters& p) { p.order[thread_index()] = atomic_add(p.ticket, 1); }
};

}  // namespace

TEST_CASE("simulator: correct kernels run") {
  CHECK(outcome([](const Output& p) { p.out[thread_index()] = 1; }) == "");
  // half a warp on its own is fine
  CHECK(outcome([](const Output& p) {
          float x = static_cast<float>(lane_index());
          if (lane_index() < 16) x = shuffle_xor(x, 1, 0xffffu);
          x = shuffle_xor(x, 16);
          p.out[thread_index()] = x;
        }) == "");
  // warps may meet at a barrier from different places
  CHECK(outcome([](const Output&) {
          if (warp_index() == 0)
            sync_threads();
          else
            sync_threads();
        }) == "");
}

TEST_CASE("simulator: a barrier that not all threads reach") {
  const std::string message = outcome([](const Output&) {
    if (thread_index() < 40) sync_threads();
  });
  CAPTURE(message);
  CHECK(contains(message, "deadlock"));
  CHECK(contains(message, "threads 0 to 39 wait in sync_threads at simulator.cpp:"));
  CHECK(contains(message, "threads 40 to 63 have ended"));
}

TEST_CASE("simulator: a warp's lanes at different barriers") {
  const std::string message = outcome([](const Output&) {
    if (lane_index() < 16)
      sync_threads();
    else
      sync_threads();
  });
  CAPTURE(message);
  CHECK(contains(message, "divergent barrier"));
}

TEST_CASE("simulator: named barriers") {
  CHECK(outcome([](const Output&) {
          if (warp_index() == 0)
            arrive_named(1, 64);
          else
            sync_named(1, 64);
        }) == "");
  CHECK(contains(outcome([](const Output&) { sync_named(1, warp_index() == 0 ? 64 : 32); }), "expects"));
  CHECK(contains(outcome([](const Output&) { sync_named(16, 64); }), "0 to 15"));
  CHECK(contains(outcome([](const Output&) { sync_named(1, 40); }), "whole warps"));
  CHECK(contains(outcome([](const Output&) {
                   if (warp_index() == 0) {
                     arrive_named(1, 64);
                     arrive_named(1, 64);
                   }
                 }),
                 "arrives twice"));
}

TEST_CASE("simulator: lanes of one mask at different instructions") {
  const std::string message = outcome([](const Output& p) {
    float x = static_cast<float>(lane_index());
    if (lane_index() < 16)
      x = shuffle_xor(x, 1);
    else
      x = shuffle_up(x, 1);
    p.out[thread_index()] = x;
  });
  CAPTURE(message);
  CHECK(contains(message, "diverged warp"));
  CHECK(contains(message, "shuffle_up"));
  CHECK(contains(message, "shuffle_xor"));
}

TEST_CASE("simulator: masks") {
  CHECK(contains(outcome([](const Output& p) {
                   p.out[thread_index()] = shuffle_xor(1.0f, 16, lane_index() < 16 ? 0xffffu : 0xffff0000u);
                 }),
                 "outside the mask"));
  CHECK(contains(outcome([](const Output& p) { p.out[thread_index()] = shuffle(1.0f, 0, 1u); }),
                 "not in its own mask"));
}

TEST_CASE("simulator: shared addresses") {
  const auto misaligned = [](const Output&) {
    std::uint32_t r[4];
    load_matrices(r, static_cast<SharedAddress>(8 * lane_index()));
  };
  CHECK(contains(outcome(misaligned, 1024), "not a multiple of 16"));
  const auto outside = [](const Output&) {
    std::uint32_t r[4];
    load_matrices(r, static_cast<SharedAddress>(16 * lane_index()));
  };
  CHECK(outcome(outside, 512) == "");
  CHECK(contains(outcome(outside, 496), "outside the block's 496"));
  CHECK(contains(outcome([](const Output& p) { shared_address(p.out); }), "not into shared memory"));
}

TEST_CASE("simulator: shared memory starts as NaNs, of exactly the size asked for") {
  rf::Simulated device;
  rf::cuda::DeviceArray<float, rf::Simulated> out(device, 64);
  const auto body = [](const Output& p) { p.out[thread_index()] = shared_memory<float>()[thread_index()]; };
  device.launch<TwoWarps<decltype(body)>>({.shared_bytes = 256}, {out.data()});
  for (const float x : out.to_host()) CHECK(x != x);
}

TEST_CASE("simulator: copies that nobody waits for") {
  const auto body = [](const Output& p) {
    if (thread_index() == 0) {
      copy_async<16>(0, p.out);
      commit_copies();
    }
  };
  CHECK(contains(outcome(body, 256, {.copies = CopyTiming::late}), "copies in flight"));
}

TEST_CASE("simulator: a copy is not there before the wait") {
  rf::Simulated device({.copies = CopyTiming::late});
  const std::vector<float> ones(64, 1.0f);
  rf::cuda::DeviceArray<float, rf::Simulated> out(device, ones);
  const auto body = [](const Output& p) {
    const auto at = static_cast<SharedAddress>(4 * thread_index());
    copy_async<4>(at, p.out + thread_index());
    commit_copies();
    const float before = shared_memory<float>()[thread_index()];
    wait_for_copies<0>();
    p.out[thread_index()] = before != before ? shared_memory<float>()[thread_index()] + 1 : -1.0f;
  };
  device.launch<TwoWarps<decltype(body)>>({.shared_bytes = 256}, {out.data()});
  for (const float x : out.to_host()) CHECK(x == 2.0f);
}

TEST_CASE("simulator: polling for what never comes is a deadlock") {
  rf::Simulated device;
  const std::vector<unsigned> zero(1, 0u);
  rf::cuda::DeviceArray<unsigned, rf::Simulated> flag(device, zero);
  CHECK_THROWS_WITH_AS(device.launch<Wait>({}, {flag.data()}), doctest::Contains("wait in load_acquire"),
                       SimulationError);
}

TEST_CASE("simulator: only so many blocks are resident, unless the launch is cooperative") {
  const std::vector<unsigned> zero(1, 0u);
  rf::Simulated device({.resident_blocks = 2});
  rf::cuda::DeviceArray<unsigned, rf::Simulated> flag(device, zero);
  CHECK_NOTHROW(device.launch<WaitForLast>({.blocks = {2}}, {flag.data()}));
  flag = rf::cuda::DeviceArray<unsigned, rf::Simulated>(device, zero);
  CHECK_THROWS_AS(device.launch<WaitForLast>({.blocks = {5}}, {flag.data()}), SimulationError);
  flag = rf::cuda::DeviceArray<unsigned, rf::Simulated>(device, zero);
  CHECK_NOTHROW(device.launch<WaitForLast>({.blocks = {5}, .cooperative = true}, {flag.data()}));
}

TEST_CASE("simulator: impossible launches") {
  rf::Simulated device;
  using K = WaitForLast;
  CHECK_THROWS_AS(device.launch<K>({.blocks = {0}}, {}), rf::ArgumentError);
  CHECK_THROWS_AS(device.launch<K>({.shared_bytes = 228 * 1024}, {}), rf::ArgumentError);
  CHECK_THROWS_WITH_AS(thread_index(), doctest::Contains("outside a kernel"), SimulationError);
}

TEST_CASE("simulator: an exception in one thread unwinds all of them") {
  static std::atomic<int> alive = 0;
  struct Counted {
    Counted() { ++alive; }
    ~Counted() { --alive; }
  };
  CHECK(outcome([](const Output&) {
          const Counted counted;
          if (thread_index() == 40) throw SimulationError("planted");
          sync_threads();
        }) == "planted");
  CHECK(alive == 0);
}

TEST_CASE("simulator: a seed is a schedule") {
  // who comes first differs between seeds, and is the same for one
  const auto order = [](unsigned seed) {
    rf::Simulated device({.seed = seed});
    const std::vector<int> zero(1, 0);
    rf::cuda::DeviceArray<int, rf::Simulated> ticket(device, zero), out(device, 64);
    device.launch<Order>({}, {ticket.data(), out.data()});
    return out.to_host();
  };
  CHECK(order(0)[0] == 0);
  CHECK(order(0)[63] == 63);
  CHECK(order(7) == order(7));
  CHECK(order(7) != order(0));
  CHECK(order(7) != order(8));
}
