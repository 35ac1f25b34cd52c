#include "recurformer/arch/tma.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/tensor_map.hpp"
#include "support/error_message.hpp"
#include "support/test_device.hpp"

namespace {

using namespace rf;
using arch::CopyTiming;
using arch::SharedAddress;
using arch::Swizzle;
using test::contains;
using test::TestDevice;

constexpr CopyTiming timings[] = {CopyTiming::early, CopyTiming::late, CopyTiming::random};

/// Loads a box, hands out what lies in shared memory, and stores the box elsewhere.
template <int Rank>
struct BoxKernel {
  struct Parameters {
    arch::TensorMap from, to;
    unsigned char* shared;  ///< (bytes)
    int bytes;
    int from_at[3], to_at[3];
  };
  static constexpr int threads = 64, blocks_per_multiprocessor = 1, least_compute_capability = 90;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    unsigned char* const tile = arch::shared_memory<unsigned char>();
    const SharedAddress at = arch::shared_address(tile), barrier = at + static_cast<SharedAddress>(p.bytes);
    if (arch::thread_index() == 0) {
      arch::prefetch_tensor_map(p.from);
      arch::init_mbarrier(barrier, 1);
      arch::fence_mbarrier_init();
    }
    arch::sync_threads();
    if (arch::thread_index() == 0) {
      arch::arrive_mbarrier_expecting(barrier, p.bytes);
      if constexpr (Rank == 2)
        arch::load_tensor(at, p.from, {p.from_at[0], p.from_at[1]}, barrier);
      else
        arch::load_tensor(at, p.from, {p.from_at[0], p.from_at[1], p.from_at[2]}, barrier);
    }
    arch::wait_mbarrier(barrier, 0);
    for (int i = arch::thread_index(); i < p.bytes; i += threads) p.shared[i] = tile[i];
    if (arch::thread_index() == 0) {
      if constexpr (Rank == 2)
        arch::store_tensor(p.to, {p.to_at[0], p.to_at[1]}, at);
      else
        arch::store_tensor(p.to, {p.to_at[0], p.to_at[1], p.to_at[2]}, at);
      arch::commit_stores();
      arch::wait_for_store_reads<0>();
    }
  }
};

/// A tensor of `extents` elements with gaps between its rows and planes, and a box of it. Dimensions
/// innermost first; the third has extent 1 if Rank is 2.
struct BoxCase {
  std::int64_t extents[3];
  int box[3];
  int from_at[3];
  int to_at[3];
  Swizzle swizzle;
};

template <class T, int Rank, class Device>
void check_box(Device& device, const BoxCase& c) {
  const std::int64_t row = (c.extents[0] + 7) / 8 * 8 + 16, plane = row * c.extents[1] + 24;
  const auto count = static_cast<std::size_t>(plane * c.extents[2]);
  std::vector<T> tensor(count, T(std::nanf("")));
  const auto number = [](std::int64_t x, std::int64_t y, std::int64_t z) {
    return T(static_cast<float>(1 + (x + 37 * y + 101 * z) % 251));
  };
  for (std::int64_t z = 0; z < c.extents[2]; ++z)
    for (std::int64_t y = 0; y < c.extents[1]; ++y)
      for (std::int64_t x = 0; x < c.extents[0]; ++x)
        tensor[static_cast<std::size_t>(x + row * y + plane * z)] = number(x, y, z);
  const int elements = c.box[0] * c.box[1] * c.box[2], bytes = elements * static_cast<int>(sizeof(T));
  const std::vector<T> untouched(count, T(-1.0f));
  const cuda::DeviceArray<T, Device> from(device, tensor), to(device, untouched);
  const cuda::DeviceArray<unsigned char, Device> shared(device, static_cast<std::size_t>(bytes));
  const auto map = [&](const T* base) {
    if constexpr (Rank == 2)
      return cuda::make_tensor_map(base, {c.extents[0], c.extents[1]}, {row}, {c.box[0], c.box[1]},
                                   c.swizzle);
    else
      return cuda::make_tensor_map(base, c.extents, {row, plane}, c.box, c.swizzle);
  };
  device.template launch<BoxKernel<Rank>>({.shared_bytes = bytes + arch::mbarrier_bytes},
                                          {.from = map(from.data()),
                                           .to = map(to.data()),
                                           .shared = shared.data(),
                                           .bytes = bytes,
                                           .from_at = {c.from_at[0], c.from_at[1], c.from_at[2]},
                                           .to_at = {c.to_at[0], c.to_at[1], c.to_at[2]}});

  const auto inside = [&c](std::int64_t x, std::int64_t y, std::int64_t z) {
    return x >= 0 && x < c.extents[0] && y >= 0 && y < c.extents[1] && z >= 0 && z < c.extents[2];
  };
  const std::vector<unsigned char> tile = shared.to_host();
  std::vector<T> expected = untouched;
  int wrong = 0;
  for (int i = 0; i < elements; ++i) {
    const int x = i % c.box[0], y = i / c.box[0] % c.box[1], z = i / c.box[0] / c.box[1];
    const std::int64_t gx = x + c.from_at[0], gy = y + c.from_at[1], gz = z + c.from_at[2];
    const T value = inside(gx, gy, gz) ? number(gx, gy, gz) : T(0.0f);
    // the literal form of the swizzle: tests/arch/wgmma.cpp compares it with tables
    const auto at = arch::swizzled(c.swizzle, static_cast<SharedAddress>(i) * sizeof(T));
    wrong += std::memcmp(&tile[at], &value, sizeof(T)) != 0;
    const std::int64_t tx = x + c.to_at[0], ty = y + c.to_at[1], tz = z + c.to_at[2];
    if (inside(tx, ty, tz)) expected[static_cast<std::size_t>(tx + row * ty + plane * tz)] = value;
  }
  CHECK(wrong == 0);
  CHECK(std::memcmp(to.to_host().data(), expected.data(), count * sizeof(T)) == 0);
}

TEST_CASE("boxes load with zeros outside the tensor, and store what is inside") {
  if (test::lacks_hopper()) return;
  const BoxCase matrices[] = {
      {{64, 16, 1}, {64, 16, 1}, {0, 0, 0}, {0, 0, 0}, Swizzle::bytes128},
      {{200, 50, 1}, {64, 24, 1}, {100, 30, 0}, {-3, -5, 0}, Swizzle::bytes128},
      {{200, 50, 1}, {32, 8, 1}, {-7, 48, 0}, {190, 45, 0}, Swizzle::bytes64},
      {{33, 9, 1}, {16, 16, 1}, {30, -3, 0}, {24, 2, 0}, Swizzle::bytes32},
      {{33, 9, 1}, {40, 3, 1}, {1, 2, 0}, {-39, 8, 0}, Swizzle::none},
      {{1, 1, 1}, {8, 256, 1}, {0, 0, 0}, {0, -255, 0}, Swizzle::none},
      {{8, 4, 1}, {64, 4, 1}, {100, 0, 0}, {0, 0, 0}, Swizzle::bytes128},
  };
  const BoxCase stacks[] = {
      {{64, 5, 4}, {64, 4, 2}, {0, 3, 1}, {0, 0, 0}, Swizzle::bytes128},
      {{40, 7, 3}, {32, 8, 4}, {10, -1, -1}, {20, 3, 2}, Swizzle::bytes64},
      {{8, 3, 3}, {8, 1, 5}, {0, 2, -1}, {3, 1, 1}, Swizzle::none},
  };
  for (const CopyTiming copies : timings)
    for (const unsigned seed : {0u, 1u}) {
      TestDevice device({.seed = seed, .copies = copies});
      for (const BoxCase& c : matrices) check_box<bf16, 2>(device, c);
      for (const BoxCase& c : stacks) check_box<fp16, 3>(device, c);
      check_box<float, 2>(device, {{50, 20, 1}, {32, 8, 1}, {40, 15, 0}, {3, 3, 0}, Swizzle::bytes128});
    }
}

/// Numbers through shared memory by bulk copies, two stores in flight: out = in + 1.
struct BulkKernel {
  struct Parameters {
    const int* in;
    int* out;
    int rounds;  ///< of 64 numbers
  };
  static constexpr int threads = 64, blocks_per_multiprocessor = 1, least_compute_capability = 90;
  static constexpr int shared_bytes = 3 * 256 + 8;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    int* const shared = arch::shared_memory<int>();
    const SharedAddress base = arch::shared_address(shared), barrier = base + 3 * 256;
    const int t = arch::thread_index();
    if (t == 0) {
      arch::init_mbarrier(barrier, 1);
      arch::fence_mbarrier_init();
    }
    arch::sync_threads();
    for (int i = 0; i < p.rounds; ++i) {
      const SharedAddress staged = base + 256 + static_cast<SharedAddress>(i % 2) * 256;
      if (t == 0) {
        arch::arrive_mbarrier_expecting(barrier, 256);
        arch::load_bulk(base, p.in + 64 * i, 256, barrier);
        arch::wait_for_store_reads<1>();  // of the round before last
      }
      arch::wait_mbarrier(barrier, static_cast<unsigned>(i) % 2);
      const int value = shared[t] + 1;
      arch::sync_threads();
      shared[64 + i % 2 * 64 + t] = value;
      arch::fence_async_shared();
      arch::sync_threads();
      if (t == 0) {
        arch::store_bulk(p.out + 64 * i, staged, 256);
        arch::commit_stores();
      }
    }
    if (t != 0) return;
    arch::wait_for_stores<0>();
    arch::fence_async_global();
    p.out[0] += 1000;  // the stores are visible to their thread
  }
};

template <class Device>
void check_bulk(Device& device, int rounds) {
  std::vector<int> in(static_cast<std::size_t>(64 * rounds));
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i) * 3;
  const cuda::DeviceArray<int, Device> from(device, in), to(device, in.size() + 4);
  device.template launch<BulkKernel>({.shared_bytes = BulkKernel::shared_bytes},
                                     {.in = from.data(), .out = to.data(), .rounds = rounds});
  const std::vector<int> got = to.to_host();
  for (std::size_t i = 0; i < in.size(); ++i) CHECK(got[i] == in[i] + 1 + (i == 0 ? 1000 : 0));
  for (std::size_t i = in.size(); i < got.size(); ++i) CHECK(got[i] == -1);
}

TEST_CASE("bulk copies through shared memory") {
  if (test::lacks_hopper()) return;
  for (const CopyTiming copies : timings)
    for (const unsigned seed : {0u, 1u, 2u, 3u})
      for (const int rounds : {1, 5}) {
        TestDevice device({.seed = seed, .copies = copies});
        check_bulk(device, rounds);
      }
}

TEST_CASE("a tensor map keeps the restrictions of the hardware") {
  alignas(16) static float memory[1024];
  const auto message = [](auto make) { return test::message_of<ArgumentError>(make); };
  using cuda::make_tensor_map;
  CHECK(contains(message([] {
                   make_tensor_map(memory + 1, {64, 4}, {64}, {32, 4}, Swizzle::none);
                 }),
                 "multiple of 16 bytes"));
  CHECK(contains(message([] {
                   make_tensor_map(memory, {64, 0}, {64}, {32, 4}, Swizzle::none);
                 }),
                 "extent 1 is 0"));
  CHECK(contains(message([] {
                   make_tensor_map(memory, {64, 4}, {65}, {32, 4}, Swizzle::none);
                 }),
                 "stride 1 is 260 bytes"));
  CHECK(contains(message([] {
                   make_tensor_map(memory, {64, 4}, {64}, {260, 4}, Swizzle::none);
                 }),
                 "box extent 0 is 260"));
  CHECK(contains(message([] {
                   make_tensor_map(memory, {64, 4}, {64}, {32, 0}, Swizzle::none);
                 }),
                 "box extent 1 is 0"));
  CHECK(contains(message([] {
                   make_tensor_map(memory, {64, 4}, {64}, {33, 4}, Swizzle::none);
                 }),
                 "must be a multiple of 16"));
  CHECK(contains(message([] {
                   make_tensor_map(memory, {64, 4}, {64}, {64, 4}, Swizzle::bytes128);
                 }),
                 "a row of the box is 256 bytes; with this swizzle it must be 128"));
  CHECK(contains(message([] {
                   make_tensor_map(memory, {64, 2, 2}, {64, 0}, {32, 1, 1}, Swizzle::none);
                 }),
                 "stride 2 is 0 bytes"));
}

#if !defined(__CUDACC__)  // only the simulator says what is wrong

using arch::SimulationError;

enum class Mistake {
  none,
  no_expectation,
  too_few_bytes,
  too_many_bytes,
  no_barrier,
  misaligned_tile,
  unaligned_pattern,
  wrong_rank,
  no_map,
  misaligned_bulk,
  odd_bulk,
  outside,
  no_wait,
  no_fence,
  written_before_load,
  overwritten_before_read,
  not_committed,
  not_waited,
};

template <Mistake mistake>
struct WrongKernel {
  struct Parameters {
    arch::TensorMap map;
    float* global;
  };
  static constexpr int threads = 32, blocks_per_multiprocessor = 1, shared_bytes = 4096 + 8;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    constexpr SharedAddress barrier = 4096;
    if (arch::thread_index() != 0) return;
    float* const tile = arch::shared_memory<float>();
    if (mistake != Mistake::no_barrier) arch::init_mbarrier(barrier, 1);
    arch::fence_mbarrier_init();
    if (mistake == Mistake::written_before_load) tile[5] = 1;
    if (mistake != Mistake::no_barrier && mistake != Mistake::no_expectation)
      arch::arrive_mbarrier_expecting(barrier, mistake == Mistake::too_few_bytes    ? 512
                                               : mistake == Mistake::too_many_bytes ? 2048
                                                                                    : 1024);
    if (mistake == Mistake::misaligned_bulk)
      arch::load_bulk(0, p.global + 1, 1024, barrier);
    else if (mistake == Mistake::odd_bulk)
      arch::load_bulk(0, p.global, 1020, barrier);
    else if (mistake == Mistake::wrong_rank)
      arch::load_tensor(0, p.map, {0, 0, 0}, barrier);
    else if (mistake == Mistake::no_map)
      arch::load_tensor(0, arch::TensorMap{}, {0, 0}, barrier);
    else
      arch::load_tensor(mistake == Mistake::misaligned_tile     ? 64
                        : mistake == Mistake::unaligned_pattern ? 128
                        : mistake == Mistake::outside           ? 4096
                                                                : 0,
                        p.map, {0, 0}, barrier);
    if (mistake == Mistake::no_wait) return;
    arch::wait_mbarrier(barrier, 0);
    tile[3] += 1;
    if (mistake != Mistake::no_fence) arch::fence_async_shared();
    arch::store_tensor(p.map, {0, 0}, 0);
    if (mistake == Mistake::overwritten_before_read) tile[3] += 1;
    if (mistake == Mistake::not_committed) return;
    arch::commit_stores();
    if (mistake != Mistake::not_waited) arch::wait_for_store_reads<0>();
  }
};

template <Mistake mistake>
std::string message(CopyTiming copies = CopyTiming::late) {
  return test::message_of<SimulationError>([&] {
    TestDevice device({.copies = copies});
    const std::vector<float> values(8 * 32, 2.0f);
    const cuda::DeviceArray<float, TestDevice> global(device, values);
    device.launch<WrongKernel<mistake>>(
        {.shared_bytes = WrongKernel<mistake>::shared_bytes},
        {.map = cuda::make_tensor_map(global.data(), {32, 8}, {32}, {32, 8}, Swizzle::bytes128),
         .global = global.data()});
    if (mistake == Mistake::none) CHECK(global.to_host()[3] == 3.0f);
  });
}

TEST_CASE("misuse of TMA is an error that says so") {
  for (const CopyTiming copies : timings) CHECK(message<Mistake::none>(copies) == "no error");
  for (const CopyTiming copies : timings) {
    CAPTURE(static_cast<int>(copies));
    CHECK(contains(message<Mistake::no_expectation>(copies), "expect the bytes of a copy"));
    CHECK(contains(message<Mistake::too_few_bytes>(copies), "lands 1024 bytes where"));
    CHECK(contains(message<Mistake::too_many_bytes>(copies), "expects 1024 bytes"));
    CHECK(contains(message<Mistake::no_fence>(copies), "fence_async_shared"));
  }
  CHECK(contains(message<Mistake::no_barrier>(), "no mbarrier at 4096"));
  CHECK(contains(message<Mistake::misaligned_tile>(), "not a multiple of 1024"));
  CHECK(contains(message<Mistake::unaligned_pattern>(), "not a multiple of 1024"));
  CHECK(contains(message<Mistake::wrong_rank>(), "3 coordinates for a tensor map of 2 dimensions"));
  CHECK(contains(message<Mistake::no_map>(), "never made"));
  CHECK(contains(message<Mistake::misaligned_bulk>(), "not a multiple of 16"));
  CHECK(contains(message<Mistake::odd_bulk>(), "1020 bytes"));
  CHECK(contains(message<Mistake::outside>(), "outside the block's"));
  CHECK(contains(message<Mistake::no_wait>(), "asynchronous copies in flight"));
  CHECK(contains(message<Mistake::written_before_load>(), "writes shared bytes"));
  CHECK(contains(message<Mistake::overwritten_before_read>(), "after the last fence"));
  CHECK(contains(message<Mistake::not_committed>(), "wait_for_store_reads<0> first"));
  CHECK(contains(message<Mistake::not_waited>(), "wait_for_store_reads<0> first"));
}

#endif

}  // namespace
