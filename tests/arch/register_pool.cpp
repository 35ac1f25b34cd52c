#include "recurformer/arch/register_pool.hpp"

#include <doctest/doctest.h>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "support/error_message.hpp"
#include "support/test_device.hpp"

namespace {

using namespace rf;
using test::contains;
using test::TestDevice;

/// One warpgroup goes down to Producer registers, the others up to Consumer.
template <int Threads, int Producer, int Consumer, int BlocksPerMultiprocessor = 1, int ProducerGroup = 0>
struct PoolKernel {
  struct Parameters {
    int* done;  ///< (Threads)
  };
  static constexpr int threads = Threads, blocks_per_multiprocessor = BlocksPerMultiprocessor;
  static constexpr int least_compute_capability = 90;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    if (arch::warp_index() / 4 == ProducerGroup)
      arch::decrease_registers<Producer>();
    else
      arch::increase_registers<Consumer>();
    p.done[arch::thread_index()] = arch::warp_index();
  }
};

template <class Kernel, class Device>
void check_pool(Device& device) {
  const cuda::DeviceArray<int, Device> done(device, Kernel::threads);
  device.template launch<Kernel>({}, {.done = done.data()});
  const std::vector<int> got = done.to_host();
  for (int t = 0; t < Kernel::threads; ++t) CHECK(got[static_cast<std::size_t>(t)] == t / 32);
}

TEST_CASE("what the launch gave can be shared out anew, to the last register") {
  if (test::lacks_hopper()) return;
  for (const unsigned seed : {0u, 1u, 2u, 3u}) {
    TestDevice device({.seed = seed});
    check_pool<PoolKernel<384, 24, 240>>(device);  // 3 · 168
    check_pool<PoolKernel<384, 40, 232>>(device);
    check_pool<PoolKernel<512, 32, 160>>(device);     // 4 · 128
    check_pool<PoolKernel<256, 24, 104, 4>>(device);  // 2 · 64
    check_pool<PoolKernel<384, 24, 240, 1, 1>>(device);
    check_pool<PoolKernel<384, 24, 240, 1, 2>>(device);
  }
}

#if !defined(__CUDACC__)  // only the simulator says what is wrong

using arch::SimulationError;

template <class Kernel>
std::string message(unsigned seed) {
  return test::message_of<SimulationError>([&] {
    TestDevice device({.seed = seed});
    check_pool<Kernel>(device);
  });
}

TEST_CASE("a request beyond the pool is a deadlock that counts") {
  for (const unsigned seed : {0u, 1u}) {
    const std::string beyond = message<PoolKernel<384, 32, 240>>(seed);
    CHECK(contains(beyond, "deadlock"));
    CHECK(contains(beyond, "increase_registers at register_pool.cpp"));
    CHECK(contains(beyond, "wants 240 registers per thread, has 168"));
    CHECK(contains(message<PoolKernel<256, 24, 112, 4>>(seed), "wants 112"));
  }
}

enum class Mistake { upwards, downwards, one_warp, part_of_a_group, other_counts, other_places };

template <Mistake mistake>
struct WrongKernel {
  struct Parameters {};
  static constexpr int threads = mistake == Mistake::part_of_a_group ? 160 : 128;
  static constexpr int blocks_per_multiprocessor = 4;

  RECURFORMER_DEVICE static void run(const Parameters&) {
    const int warp = arch::warp_index();
    if (mistake == Mistake::upwards) arch::decrease_registers<200>();
    if (mistake == Mistake::downwards) arch::increase_registers<40>();
    if (mistake == Mistake::one_warp && warp == 1) arch::decrease_registers<40>();
    if (mistake == Mistake::part_of_a_group && warp == 4) arch::decrease_registers<40>();
    if (mistake == Mistake::other_counts)
      warp == 2 ? arch::decrease_registers<48>() : arch::decrease_registers<40>();
    if (mistake == Mistake::other_places) {
      if (warp == 0)
        arch::decrease_registers<40>();
      else
        arch::decrease_registers<40>();
    }
  }
};

template <Mistake mistake>
std::string wrong() {
  return test::message_of<SimulationError>([] {
    TestDevice device;
    device.launch<WrongKernel<mistake>>({}, {});
  });
}

TEST_CASE("misuse of the register pool is an error that says so") {
  CHECK(contains(wrong<Mistake::upwards>(), "from 128 to 200 registers is the other direction"));
  CHECK(contains(wrong<Mistake::downwards>(), "from 128 to 40 registers is the other direction"));
  CHECK(contains(wrong<Mistake::one_warp>(), "not executed by all four warps of warpgroup 0"));
  CHECK(contains(wrong<Mistake::part_of_a_group>(), "not in a whole warpgroup"));
  CHECK(contains(wrong<Mistake::other_counts>(), "diverged warpgroup"));
  CHECK(contains(wrong<Mistake::other_places>(), "diverged warpgroup"));
}

#endif

}  // namespace
