#ifndef RECURFORMER_TESTS_ARCH_HOPPER_GEMM_HPP
#define RECURFORMER_TESTS_ARCH_HOPPER_GEMM_HPP

// C (m, n) = A (m, k) B, the way kernels of sm_90a are built: a producer warpgroup fills a ring of tiles by
// TMA, two consumer warpgroups multiply 64 rows each, one step overlapping the next, and store through shared
// memory by TMA. B is given as (n, k) if k-major and as (k, n) if mn-major. A and B in T, sums in float, C in
// T. It exists for tests: a Mistake is planted at the place that it names.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/mbarrier.hpp"
#include "recurformer/arch/register_pool.hpp"
#include "recurformer/arch/tma.hpp"
#include "recurformer/arch/wgmma.hpp"
#include "recurformer/cuda/tensor_map.hpp"

namespace rf::test {

enum class Mistake : int {
  none,
  half_the_bytes,        // the producer expects too few
  twice_the_bytes,       // … too many
  no_empty_wait,         // the producer overwrites tiles that are being read
  wrong_parity,          // the consumers wait for the wrong phase
  no_full_wait,          // the consumers don't wait at all
  early_release,         // a tile is released before the wait for the multiplies that read it
  one_warp_releases,     // … by one warp for all four
  arrives_twice,         // each consumer warp releases a tile twice
  no_register_fence,     // accumulators are multiplied without a fence
  no_multiply_wait,      // accumulators are read while the multiplies go on
  unnamed_accumulators,  // the wait doesn't name them
  no_proxy_fence,        // the result is stored without a fence
  no_store_wait,         // the thread ends while its store may read shared memory
};

template <class T, int N, arch::Major MajorB, Mistake mistake = Mistake::none>
struct HopperGemm {
  struct Parameters {
    arch::TensorMap a;  ///< boxes (64 rows, 64 k)
    arch::TensorMap b;  ///< boxes (64 n, 64 k) or (64 k, 64 n)
    arch::TensorMap c;  ///< boxes (64 rows, 64 columns)
    int steps;          ///< k / 64, rounded up
  };
  static constexpr int threads = 384;
  static constexpr int blocks_per_multiprocessor = 1;
  static constexpr int least_compute_capability = 90;

  static constexpr int stages = 3, groups = 2, panel = 64 * 64 * 2;  // bytes of a 64 x 64 box
  static constexpr int a_bytes = groups * panel, b_bytes = N / 64 * panel, stage_bytes = a_bytes + b_bytes;
  static constexpr int c_bytes = groups * N / 64 * panel;
  static constexpr int barriers_at = stages * stage_bytes + c_bytes;
  static constexpr int shared_bytes = barriers_at + 2 * stages * arch::mbarrier_bytes;

  struct Ring {
    arch::SharedAddress tiles;

    RECURFORMER_DEVICE arch::SharedAddress a(int slot) const { return tiles + unsigned(slot * stage_bytes); }
    RECURFORMER_DEVICE arch::SharedAddress b(int slot) const { return a(slot) + unsigned(a_bytes); }
    RECURFORMER_DEVICE arch::SharedAddress c(int group) const {
      return tiles + unsigned(stages * stage_bytes + group * (c_bytes / groups));
    }
    RECURFORMER_DEVICE arch::SharedAddress full(int slot) const {
      return tiles + unsigned(barriers_at + slot * arch::mbarrier_bytes);
    }
    RECURFORMER_DEVICE arch::SharedAddress empty(int slot) const { return full(stages + slot); }
  };

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const Ring ring{arch::shared_address(arch::shared_memory<unsigned char>())};
    if (arch::thread_index() == 0) {
      for (int slot = 0; slot < stages; ++slot) {
        arch::init_mbarrier(ring.full(slot), 1);
        arch::init_mbarrier(ring.empty(slot), mistake == Mistake::one_warp_releases ? 2 : 8);
      }
      arch::fence_mbarrier_init();
    }
    arch::sync_threads();
    if (arch::warp_index() < 4) {
      arch::decrease_registers<24>();
      if (arch::thread_index() == 0) produce(p, ring);
    } else {
      arch::increase_registers<240>();
      consume(p, ring, arch::warp_index() / 4 - 1);
    }
  }

  RECURFORMER_DEVICE static void produce(const Parameters& p, Ring ring) {
    constexpr int bytes = mistake == Mistake::half_the_bytes    ? stage_bytes / 2
                          : mistake == Mistake::twice_the_bytes ? 2 * stage_bytes
                                                                : stage_bytes;
    const int row = arch::block_index().y * 64 * groups, column = arch::block_index().x * N;
    for (int step = 0; step < p.steps; ++step) {
      const int slot = step % stages, lap = step / stages;
      if (mistake != Mistake::no_empty_wait)
        arch::wait_mbarrier(ring.empty(slot), static_cast<unsigned>(lap + 1) % 2);
      arch::arrive_mbarrier_expecting(ring.full(slot), bytes);
      for (int i = 0; i < groups; ++i)
        arch::load_tensor(ring.a(slot) + unsigned(i * panel), p.a, {step * 64, row + i * 64},
                          ring.full(slot));
      for (int i = 0; i < N / 64; ++i) {
        const int n = column + i * 64, k = step * 64;
        const bool k_major = MajorB == arch::Major::k;
        arch::load_tensor(ring.b(slot) + unsigned(i * panel), p.b, {k_major ? k : n, k_major ? n : k},
                          ring.full(slot));
      }
    }
  }

  RECURFORMER_DEVICE static void consume(const Parameters& p, Ring ring, int group) {
    float d[N / 2];  // begun by the first multiply; zeros written here might be moved between the multiplies
    for (int step = 0; step < p.steps; ++step) {
      const int slot = step % stages, lap = step / stages;
      const int wrong = mistake == Mistake::wrong_parity ? 1 : 0;
      if (mistake != Mistake::no_full_wait)
        arch::wait_mbarrier(ring.full(slot), static_cast<unsigned>(lap + wrong) % 2);
      multiply(d, ring.a(slot) + unsigned(group * panel), ring.b(slot), step > 0);
      if (mistake == Mistake::early_release) release(ring, slot);
      arch::wait_for_multiplies<1>();  // for those of the step before
      if (mistake != Mistake::early_release && step > 0) release(ring, (step - 1) % stages);
    }
    if (mistake == Mistake::unnamed_accumulators)
      arch::wait_for_multiplies<0>();
    else if (mistake != Mistake::no_multiply_wait)
      arch::wait_for_multiplies<0>(d);
    store(d, p, ring.c(group), group);
    if (mistake == Mistake::no_multiply_wait) arch::wait_for_multiplies<0>(d);
  }

  /// d = a tile of 64 x 64 times one of 64 x N (+ d).
  RECURFORMER_DEVICE static void multiply(float (&d)[N / 2], arch::SharedAddress a, arch::SharedAddress b,
                                          bool accumulate) {
    const auto left = arch::matrix_descriptor({.start = a, .stride_bytes = 1024});
    const auto right = arch::matrix_descriptor({.start = b, .leading_bytes = panel, .stride_bytes = 1024});
    if (mistake != Mistake::no_register_fence) arch::fence_multiplies(d);
    RECURFORMER_UNROLL
    for (int k = 0; k < 4; ++k)
      arch::multiply_add_64xNx16<T, arch::Major::k, MajorB>(
          d, arch::advanced(left, 32 * k),
          arch::advanced(right, MajorB == arch::Major::k ? 32 * k : 2048 * k), accumulate || k > 0);
    arch::commit_multiplies();
  }

  RECURFORMER_DEVICE static void release(Ring ring, int slot) {
    if (mistake == Mistake::one_warp_releases && arch::warp_index() % 4 != 0) return;
    arch::sync_warp();
    if (arch::lane_index() != 0) return;
    arch::arrive_mbarrier(ring.empty(slot));
    if (mistake == Mistake::arrives_twice) arch::arrive_mbarrier(ring.empty(slot));
  }

  /// The group's 64 rows: registers, shared memory, global memory.
  RECURFORMER_DEVICE static void store(const float (&d)[N / 2], const Parameters& p, arch::SharedAddress tile,
                                       int group) {
    const int lane = arch::lane_index();
    const int row = arch::warp_index() % 4 * 16 + lane % 16, column = lane / 16 * 8;
    RECURFORMER_UNROLL
    for (int j = 0; j < N / 16; ++j) {
      const std::uint32_t packed[4] = {
          arch::pack<T>(d[8 * j], d[8 * j + 1]), arch::pack<T>(d[8 * j + 2], d[8 * j + 3]),
          arch::pack<T>(d[8 * j + 4], d[8 * j + 5]), arch::pack<T>(d[8 * j + 6], d[8 * j + 7])};
      const int c = 16 * j + column;
      const auto at = tile + static_cast<arch::SharedAddress>(c / 64 * panel + row * 128 + c % 64 * 2);
      arch::store_matrices(arch::swizzled(arch::Swizzle::bytes128, at), packed);
    }
    if (mistake != Mistake::no_proxy_fence) arch::fence_async_shared();
    arch::sync_named(1 + group, 128);
    if (arch::thread_index() % 128 != 0) return;
    for (int i = 0; i < N / 64; ++i)
      arch::store_tensor(p.c,
                         {arch::block_index().x * N + i * 64, (arch::block_index().y * groups + group) * 64},
                         tile + unsigned(i * panel));
    arch::commit_stores();
    if (mistake != Mistake::no_store_wait) arch::wait_for_store_reads<0>();
  }
};

/// Row strides are in elements, multiples of 8.
template <class Kernel, class T, arch::Major MajorB, int N, class Device>
void launch_hopper_gemm(Device& device, const T* a, const T* b, T* c, int m, int n, int k, int a_stride,
                        int b_stride, int c_stride) {
  using cuda::make_tensor_map;
  constexpr auto swizzle = arch::Swizzle::bytes128;
  const bool k_major = MajorB == arch::Major::k;
  device.template launch<Kernel>(
      {.blocks = {.x = (n + N - 1) / N, .y = (m + 127) / 128}, .shared_bytes = Kernel::shared_bytes},
      {.a = make_tensor_map(a, {k, m}, {a_stride}, {64, 64}, swizzle),
       .b = make_tensor_map(b, {k_major ? k : n, k_major ? n : k}, {b_stride}, {64, 64}, swizzle),
       .c = make_tensor_map(c, {n, m}, {c_stride}, {64, 64}, swizzle),
       .steps = (k + 63) / 64});
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_ARCH_HOPPER_GEMM_HPP
