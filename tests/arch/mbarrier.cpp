#include "recurformer/arch/mbarrier.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "support/error_message.hpp"
#include "support/test_device.hpp"

namespace {

using namespace rf;
using arch::SharedAddress;
using test::TestDevice;

/// One warp fills the slots of a ring with numbers, three others add them up; laps are many more than slots.
struct RingKernel {
  struct Parameters {
    int* sums;  ///< (96)
    int rounds;
  };
  static constexpr int threads = 128, blocks_per_multiprocessor = 1, least_compute_capability = 90;
  static constexpr int slots = 2, shared_bytes = slots * 128 + 2 * slots * arch::mbarrier_bytes;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    int* const ring = arch::shared_memory<int>();
    const SharedAddress full = arch::shared_address(ring) + slots * 128;
    const SharedAddress empty = full + slots * arch::mbarrier_bytes;
    if (arch::thread_index() == 0) {
      for (SharedAddress s = 0; s < slots; ++s) {
        arch::init_mbarrier(full + s * arch::mbarrier_bytes, 32);
        arch::init_mbarrier(empty + s * arch::mbarrier_bytes, 96);
      }
      arch::fence_mbarrier_init();
    }
    arch::sync_threads();
    int sum = 0;
    for (int i = 0; i < p.rounds; ++i) {
      const int slot = i % slots;
      const unsigned lap = static_cast<unsigned>(i / slots);
      const SharedAddress at = static_cast<SharedAddress>(slot * arch::mbarrier_bytes);
      if (arch::warp_index() == 3) {
        arch::wait_mbarrier(empty + at, (lap + 1) % 2);
        ring[slot * 32 + arch::lane_index()] = i * 100 + arch::lane_index();
        arch::arrive_mbarrier(full + at);
      } else {
        // both ways of waiting
        if (arch::warp_index() == 0)
          while (!arch::test_mbarrier(full + at, lap % 2)) {
          }
        else
          arch::wait_mbarrier(full + at, lap % 2);
        sum += ring[slot * 32 + (arch::lane_index() + 1) % 32];
        arch::arrive_mbarrier(empty + at);
      }
    }
    if (arch::warp_index() < 3) p.sums[arch::thread_index()] = sum;
    // the memory may be used otherwise afterwards
    arch::sync_threads();
    if (arch::thread_index() == 0) {
      for (SharedAddress s = 0; s < 2 * slots; ++s)
        arch::invalidate_mbarrier(full + s * arch::mbarrier_bytes);
      arch::init_mbarrier(full, 1);
    }
  }
};

template <class Device>
void check_ring(Device& device, int rounds) {
  cuda::DeviceArray<int, Device> sums(device, 96);
  device.template launch<RingKernel>({.shared_bytes = RingKernel::shared_bytes},
                                     {.sums = sums.data(), .rounds = rounds});
  const std::vector<int> got = sums.to_host();
  for (int t = 0; t < 96; ++t) {
    CAPTURE(t);
    CHECK(got[static_cast<std::size_t>(t)] == rounds * (rounds - 1) / 2 * 100 + rounds * ((t + 1) % 32));
  }
}

TEST_CASE("a ring of mbarriers hands every value over once") {
  if (test::lacks_hopper()) return;
  for (const unsigned seed : {0u, 1u, 2u, 3u})
    for (const int rounds : {1, 2, 3, 17}) {
      CAPTURE(seed);
      CAPTURE(rounds);
      TestDevice device({.seed = seed});
      check_ring(device, rounds);
    }
}

#if !defined(__CUDACC__)  // only the simulator says what is wrong

using arch::SimulationError;

enum class Mistake {
  none,
  used_before_init,
  initialised_twice,
  invalidated_in_use,
  too_many_arrivals,
  too_many_bytes,
  negative_bytes,
  no_arrivals,
  wrong_parity,
  no_parity,
  bytes_that_never_come,
  misaligned,
  outside,
  written_over,
  lagging_waiter,
};

template <Mistake mistake>
struct WrongKernel {
  struct Parameters {};
  static constexpr int threads = 32, blocks_per_multiprocessor = 1, shared_bytes = 64;

  RECURFORMER_DEVICE static void run(const Parameters&) {
    const bool first = arch::thread_index() == 0;
    if (first && mistake != Mistake::used_before_init) {
      arch::init_mbarrier(mistake == Mistake::misaligned ? 4
                          : mistake == Mistake::outside  ? 64
                                                         : 0,
                          mistake == Mistake::no_arrivals ? 0 : 2);
      if (mistake == Mistake::initialised_twice) arch::init_mbarrier(0, 2);
      arch::fence_mbarrier_init();
    }
    arch::sync_threads();
    if (first) {
      if (mistake == Mistake::written_over) arch::shared_memory<int>()[1] = 7;
      arch::arrive_mbarrier(0);
      if (mistake == Mistake::invalidated_in_use) arch::invalidate_mbarrier(0);
      if (mistake == Mistake::too_many_bytes) arch::expect_bytes(0, 1 << 20);
      if (mistake == Mistake::negative_bytes) arch::expect_bytes(0, -16);
      if (mistake == Mistake::bytes_that_never_come || mistake == Mistake::too_many_arrivals)
        arch::arrive_mbarrier_expecting(0, 4096);
      else
        arch::arrive_mbarrier(0);
      if (mistake == Mistake::too_many_arrivals) arch::arrive_mbarrier(0);
      arch::wait_mbarrier(0, mistake == Mistake::wrong_parity ? 1 : mistake == Mistake::no_parity ? 2 : 0);
    } else if (mistake == Mistake::lagging_waiter) {
      if (arch::thread_index() == 1) {
        for (unsigned phase = 0; phase < 3; ++phase) {
          arch::wait_mbarrier(0, phase % 2);
          arch::arrive_mbarrier(0);
          arch::arrive_mbarrier(0);
        }
      } else {
        arch::wait_mbarrier(0, 1);
      }
    }
  }
};

template <Mistake mistake>
std::string message(unsigned seed = 0) {
  return test::message_of<SimulationError>([&] {
    using Kernel = WrongKernel<mistake>;
    TestDevice device({.seed = seed});
    device.launch<Kernel>({.shared_bytes = Kernel::shared_bytes}, {});
  });
}

TEST_CASE("misuse of an mbarrier is an error that says so") {
  using test::contains;
  CHECK(message<Mistake::none>() == "no error");
  CHECK(contains(message<Mistake::used_before_init>(), "no mbarrier at 0"));
  CHECK(contains(message<Mistake::initialised_twice>(), "invalidate it first"));
  CHECK(contains(message<Mistake::invalidated_in_use>(), "is in use"));
  CHECK(contains(message<Mistake::too_many_arrivals>(), "one arrival too many"));
  CHECK(contains(message<Mistake::too_many_bytes>(), "1048576 bytes"));
  CHECK(contains(message<Mistake::negative_bytes>(), "-16 bytes"));
  CHECK(contains(message<Mistake::no_arrivals>(), "0 arrivals"));
  CHECK(contains(message<Mistake::no_parity>(), "parity 2"));
  CHECK(contains(message<Mistake::misaligned>(), "not a multiple of 8"));
  CHECK(contains(message<Mistake::outside>(), "outside the block's"));
  CHECK(contains(message<Mistake::written_over>(), "written over"));
}

TEST_CASE("a wait for what never happens is a deadlock that says what is missing") {
  using test::contains;
  const std::string parity = message<Mistake::wrong_parity>();
  CHECK(contains(parity, "deadlock"));
  CHECK(contains(parity, "wait_mbarrier at mbarrier.cpp"));
  CHECK(contains(parity, "in phase 1, has 0 of 2 arrivals"));
  CHECK(contains(message<Mistake::bytes_that_never_come>(), "has 2 of 2 arrivals and expects 4096 bytes"));
}

TEST_CASE("a waiter that nobody waits for may miss its phase") {
  int caught = 0;
  for (unsigned seed = 0; seed < 8; ++seed)
    caught += test::contains(message<Mistake::lagging_waiter>(seed), "must also be waited for");
  CHECK(caught > 0);
}

#endif

}  // namespace
