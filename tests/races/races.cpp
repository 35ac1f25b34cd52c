// Kernels with a planted race each, for ThreadSanitizer to find: it sees CUDA threads, not the one thread of
// the operating system that runs them.
#include <cstdio>
#include <string_view>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/simulated.hpp"

namespace {

using namespace rf::arch;

struct Arrays {
  float* data;
  unsigned* flag;
};

/// One lane writes, the others of its warp read at once.
struct NoWarpBarrier {
  [[gnu::noinline]] static void planted_no_warp_barrier(const Arrays& p) {
    float* shared = shared_memory<float>();
    if (lane_index() == 0) shared[warp_index()] = 1;
    p.data[thread_index()] = shared[warp_index()];
  }
  static void body(const Arrays& p) { planted_no_warp_barrier(p); }
};

/// Warps read what other warps wrote without a barrier of the block.
struct NoBlockBarrier {
  [[gnu::noinline]] static void planted_no_block_barrier(const Arrays& p) {
    float* shared = shared_memory<float>();
    shared[thread_index()] = 1;
    sync_warp();
    p.data[thread_index()] = shared[63 - thread_index()];
  }
  static void body(const Arrays& p) { planted_no_block_barrier(p); }
};

/// A thread reads what another one copies before it has waited and met the block.
struct CopyNotAwaited {
  [[gnu::noinline]] static void planted_copy_not_awaited(const Arrays& p) {
    const int t = thread_index();
    copy_async<4>(static_cast<SharedAddress>(4 * t), p.data + t);
    commit_copies();
    sync_threads();
    wait_for_copies<0>();
    p.data[t] = shared_memory<float>()[63 - t];
  }
  static void body(const Arrays& p) { planted_copy_not_awaited(p); }
};

/// A shuffle passes a value, but orders no memory.
struct ShuffleIsNoBarrier {
  [[gnu::noinline]] static void planted_shuffle_is_no_barrier(const Arrays& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    shared[t] = 1;
    const float x = shuffle_xor(1.0f, 1);
    p.data[t] = x + shared[t ^ 1];
  }
  static void body(const Arrays& p) { planted_shuffle_is_no_barrier(p); }
};

/// Two blocks write the same place.
struct BetweenBlocks {
  [[gnu::noinline]] static void planted_between_blocks(const Arrays& p) {
    p.data[thread_index()] = static_cast<float>(block_index().x);
  }
  static void body(const Arrays& p) { planted_between_blocks(p); }
};

/// A relaxed counter says that data is there; it orders nothing.
struct RelaxedFlag {
  [[gnu::noinline]] static void planted_relaxed_flag(const Arrays& p) {
    if (block_index().x == 0) {
      p.data[thread_index()] = 1;
      sync_threads();
      if (thread_index() == 0) atomic_add(p.flag, 1u);
    } else {
      while (load_acquire(p.flag) == 0) {
      }
      p.data[thread_index()] += 1;
    }
  }
  static void body(const Arrays& p) { planted_relaxed_flag(p); }
};

/// What all of the above should have been.
struct None {
  static void body(const Arrays& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    if (block_index().x == 0) {
      copy_async<4>(static_cast<SharedAddress>(4 * t), p.data + t);
      commit_copies();
      wait_for_copies<0>();
      sync_threads();
      p.data[t] = shared[63 - t];
      sync_threads();
      shared[t ^ 32] = 2;
      sync_warp();
      p.data[t] += shared[(t ^ 32) ^ 1];
      sync_threads();
      if (t == 0) atomic_add_release(p.flag, 1u);
    } else {
      while (load_acquire(p.flag) == 0) {
      }
      p.data[t] += 1;
    }
  }
};

template <class Race>
struct Kernel {
  using Parameters = Arrays;
  static constexpr int threads = 64, blocks_per_multiprocessor = 1;
  static void run(const Arrays& p) { Race::body(p); }
};

template <class Race>
void run() {
  rf::Simulated device({.seed = 1, .copies = CopyTiming::late});
  const std::vector<float> ones(64, 1.0f);
  const std::vector<unsigned> zero(1, 0u);
  rf::cuda::DeviceArray<float, rf::Simulated> data(device, ones);
  rf::cuda::DeviceArray<unsigned, rf::Simulated> flag(device, zero);
  device.launch<Kernel<Race>>({.blocks = {2}, .shared_bytes = 256}, {data.data(), flag.data()});
}

}  // namespace

int main(int count, char** arguments) {
  const std::string_view race = count == 2 ? arguments[1] : "";
  if (race == "no_warp_barrier") return run<NoWarpBarrier>(), 0;
  if (race == "no_block_barrier") return run<NoBlockBarrier>(), 0;
  if (race == "copy_not_awaited") return run<CopyNotAwaited>(), 0;
  if (race == "shuffle_is_no_barrier") return run<ShuffleIsNoBarrier>(), 0;
  if (race == "between_blocks") return run<BetweenBlocks>(), 0;
  if (race == "relaxed_flag") return run<RelaxedFlag>(), 0;
  if (race == "none") return run<None>(), 0;
  std::fputs("usage: races <name of a race>\n", stderr);
  return 2;
}
