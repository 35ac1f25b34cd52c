#include "recurformer/arch/wgmma.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "support/error_message.hpp"
#include "support/test_device.hpp"

namespace {

using namespace rf;
using arch::CopyTiming;
using arch::Major;
using arch::SharedMatrix;
using arch::Swizzle;
using test::contains;
using test::TestDevice;

// --- Facts written down from elsewhere ---

TEST_CASE("descriptors have the bits of the PTX manual") {
  // "Matrix Descriptor Format": start address >> 4 in bits 0-13, leading bytes >> 4 in 16-29, stride bytes >>
  // 4 in 32-45, swizzle in 62-63 (0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes)
  CHECK(arch::matrix_descriptor({.start = 0x400, .leading_bytes = 16, .stride_bytes = 1024}) ==
        0x4000004000010040u);
  CHECK(arch::matrix_descriptor({.start = 0x2a200, .stride_bytes = 512, .swizzle = Swizzle::bytes64}) ==
        0x8000002000002a20u);
  CHECK(arch::matrix_descriptor(
            {.start = 0x100, .leading_bytes = 8192, .stride_bytes = 256, .swizzle = Swizzle::bytes32}) ==
        0xc000001002000010u);
  CHECK(arch::matrix_descriptor(
            {.start = 0x10, .leading_bytes = 128, .stride_bytes = 4096, .swizzle = Swizzle::none}) ==
        0x0000010000080001u);
  // 18 bits of address count
  CHECK(arch::matrix_descriptor({.start = 0x1040400, .stride_bytes = 1024}) == 0x4000004000000040u);
  // a k step of 16 elements
  CHECK(arch::advanced(0x4000004000010040u, 32) == 0x4000004000010042u);
}

/// The swizzles as CuTe's Swizzle<3, 4, 3>, <2, 4, 3> and <1, 4, 3> move the 16-byte chunks of a pattern:
/// which chunk of row r lies at place c. (Also the tables of "Swizzle Modes" in the CUDA programming guide.)
constexpr int chunks128[8][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                                 {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3}, {5, 4, 7, 6, 1, 0, 3, 2},
                                 {6, 7, 4, 5, 2, 3, 0, 1}, {7, 6, 5, 4, 3, 2, 1, 0}};
constexpr int chunks64[8][4] = {{0, 1, 2, 3}, {0, 1, 2, 3}, {1, 0, 3, 2}, {1, 0, 3, 2},
                                {2, 3, 0, 1}, {2, 3, 0, 1}, {3, 2, 1, 0}, {3, 2, 1, 0}};
constexpr int chunks32[8][2] = {{0, 1}, {0, 1}, {0, 1}, {0, 1}, {1, 0}, {1, 0}, {1, 0}, {1, 0}};

/// Where chunk `chunk` of row `row` lies in its row, by these tables.
int place_of(Swizzle swizzle, int row, int chunk) {
  const int chunks = arch::row_bytes(swizzle) / 16;
  for (int c = 0; c < chunks; ++c) {
    const int there = swizzle == Swizzle::bytes128  ? chunks128[row % 8][c]
                      : swizzle == Swizzle::bytes64 ? chunks64[row % 8][c]
                      : swizzle == Swizzle::bytes32 ? chunks32[row % 8][c]
                                                    : 0;
    if (there == chunk) return c;
  }
  return -1;
}

TEST_CASE("swizzles move chunks as the tables say") {
  for (const Swizzle swizzle : {Swizzle::none, Swizzle::bytes32, Swizzle::bytes64, Swizzle::bytes128}) {
    const int bytes = arch::row_bytes(swizzle);
    for (int row = 0; row < 24; ++row)
      for (int byte = 0; byte < bytes; byte += 2)
        CHECK(arch::swizzled(swizzle, static_cast<arch::SharedAddress>(4096 + row * bytes + byte)) ==
              static_cast<arch::SharedAddress>(4096 + row * bytes + place_of(swizzle, row, byte / 16) * 16 +
                                               byte % 16));
  }
}

// --- One warpgroup, operands stored by the threads ---

/// How a test stores an operand of `rows` rows of m or n and Depth of k.
struct Layout {
  Swizzle swizzle;
  Major major;
  int rows;
  int depth;

  int pattern_elements() const { return arch::row_bytes(swizzle) / 2; }
  /// Of what wgmma calls leading and stride, the tight layout's. (CuTe, "make_gmma_desc")
  SharedMatrix matrix(arch::SharedAddress start) const {
    const int row = arch::row_bytes(swizzle);
    if (swizzle == Swizzle::none)
      return {.start = start,
              .leading_bytes = major == Major::k ? rows * 16 : 128,
              .stride_bytes = major == Major::k ? 128 : depth * 16,
              .swizzle = swizzle};
    return {.start = start,
            .leading_bytes = major == Major::k ? 0 : depth * row,
            .stride_bytes = 8 * row,
            .swizzle = swizzle};
  }
  /// Bytes from one step of 16 in k to the next; k-major with a swizzle within a row.
  int step_bytes() const {
    if (major == Major::mn) return swizzle == Swizzle::none ? 256 : 16 * arch::row_bytes(swizzle);
    return swizzle == Swizzle::none ? 2 * rows * 16 : 32;
  }
  int bytes() const { return rows * depth * 2; }
  /// Where element (r, k) lies.
  int offset(int r, int k) const {
    const int outer = major == Major::k ? r : k, inner = major == Major::k ? k : r;
    const int outer_extent = major == Major::k ? rows : depth;
    const int width = pattern_elements();
    if (swizzle == Swizzle::none)  // bricks of 8 x 16 bytes; k-major: columns of bricks, mn-major the same
      return inner / 8 * outer_extent * 16 + outer * 16 + inner % 8 * 2;
    // panels as wide as the pattern
    return inner / width * outer_extent * 2 * width + outer * 2 * width +
           place_of(swizzle, outer, inner % width / 8) * 16 + inner % 8 * 2;
  }
};

template <class T, int N, Major MajorA, Major MajorB, bool RegistersA>
struct MultiplyKernel {
  struct Parameters {
    const unsigned char* a;  ///< as it shall lie in shared memory
    const unsigned char* b;
    const T* a_rows;  ///< (64, 16 steps)
    float* d;         ///< (64, N)
    std::uint64_t a_descriptor, b_descriptor;
    int a_bytes, b_bytes, a_step, b_step, steps;
    float initial;
    bool accumulate;
  };
  static constexpr int threads = 128, blocks_per_multiprocessor = 1, least_compute_capability = 90;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    unsigned char* const shared = arch::shared_memory<unsigned char>();
    for (int i = arch::thread_index(); i < p.a_bytes; i += threads) shared[i] = p.a[i];
    for (int i = arch::thread_index(); i < p.b_bytes; i += threads) shared[p.a_bytes + i] = p.b[i];
    arch::fence_async_shared();
    arch::sync_threads();
    const std::uint64_t base = arch::shared_address(shared) >> 4;
    float d[N / 2];
    for (int i = 0; i < N / 2; ++i) d[i] = p.initial;
    const int row = arch::warp_index() * 16 + arch::lane_index() / 4, column = arch::lane_index() % 4 * 2;
    for (int step = 0; step < p.steps; ++step) {
      const std::uint64_t b = arch::advanced(p.b_descriptor + base, p.b_step * step);
      const bool accumulate = p.accumulate || step > 0;
      if constexpr (RegistersA) {
        std::uint32_t a[4];
        for (int i = 0; i < 4; ++i) {
          const T* const pair =
              p.a_rows + (row + 8 * (i % 2)) * 16 * p.steps + 16 * step + column + 8 * (i / 2);
          a[i] = arch::pack<T>(static_cast<float>(pair[0]), static_cast<float>(pair[1]));
        }
        arch::fence_multiplies(d, a);
        arch::multiply_add_64xNx16<T, MajorB>(d, a, b, accumulate);
        arch::commit_multiplies();
        arch::wait_for_multiplies<0>(d, a);
      } else {
        if (step == 0) arch::fence_multiplies(d);
        arch::multiply_add_64xNx16<T, MajorA, MajorB>(
            d, arch::advanced(p.a_descriptor + base, p.a_step * step), b, accumulate);
      }
    }
    if constexpr (!RegistersA) {
      arch::commit_multiplies();
      arch::wait_for_multiplies<0>(d);
    }
    for (int i = 0; i < N / 2; ++i) p.d[(row + 8 * (i / 2 % 2)) * N + 8 * (i / 4) + column + i % 2] = d[i];
  }
};

/// Small integers, so that sums are exact in any order.
template <class T, int N, Major MajorA, Major MajorB, bool RegistersA, class Device>
void check_multiply(Device& device, Swizzle swizzle_a, Swizzle swizzle_b, bool accumulate) {
  constexpr int steps = 2, depth = 16 * steps;
  // k-major rows are as long as the pattern: more than the multiply uses, or several panels
  const auto depth_of = [&](Swizzle s, Major major) {
    return major == Major::k && s == Swizzle::bytes128 ? 64 : depth;
  };
  const Layout layout_a{swizzle_a, MajorA, 64, depth_of(swizzle_a, MajorA)};
  const Layout layout_b{swizzle_b, MajorB, N, depth_of(swizzle_b, MajorB)};
  // with 32-byte rows, a k step is a whole panel
  const auto step_of = [](const Layout& l) {
    return l.major == Major::k && l.swizzle == Swizzle::bytes32 ? l.rows * 32 : l.step_bytes();
  };
  std::mt19937 dice(7);
  const auto number = [&] { return static_cast<float>(static_cast<int>(dice() % 9) - 4); };
  std::vector<T> a(64 * depth), b(static_cast<std::size_t>(N * depth));
  for (T& x : a) x = T(number());
  for (T& x : b) x = T(number());
  const auto stored = [&](const Layout& layout, const std::vector<T>& values) {
    std::vector<unsigned char> out(static_cast<std::size_t>(layout.bytes()), 0xff);
    for (int r = 0; r < layout.rows; ++r)
      for (int k = 0; k < depth; ++k)
        std::memcpy(&out[static_cast<std::size_t>(layout.offset(r, k))],
                    &values[static_cast<std::size_t>(r * depth + k)], 2);
    return out;
  };
  using Kernel = MultiplyKernel<T, N, MajorA, MajorB, RegistersA>;
  using Bytes = cuda::DeviceArray<unsigned char, Device>;
  const Bytes stored_a(device, stored(layout_a, a)), stored_b(device, stored(layout_b, b));
  const cuda::DeviceArray<T, Device> rows(device, a);
  const cuda::DeviceArray<float, Device> d(device, 64 * N);
  const float initial = accumulate ? 3.0f : std::nanf("");
  device.template launch<Kernel>({.shared_bytes = layout_a.bytes() + layout_b.bytes()},
                                 {.a = stored_a.data(),
                                  .b = stored_b.data(),
                                  .a_rows = rows.data(),
                                  .d = d.data(),
                                  .a_descriptor = arch::matrix_descriptor(layout_a.matrix(0)),
                                  .b_descriptor = arch::matrix_descriptor(
                                      layout_b.matrix(static_cast<arch::SharedAddress>(layout_a.bytes()))),
                                  .a_bytes = layout_a.bytes(),
                                  .b_bytes = layout_b.bytes(),
                                  .a_step = step_of(layout_a),
                                  .b_step = step_of(layout_b),
                                  .steps = steps,
                                  .initial = initial,
                                  .accumulate = accumulate});
  const std::vector<float> got = d.to_host();
  int wrong = 0;
  for (int m = 0; m < 64; ++m)
    for (int n = 0; n < N; ++n) {
      float sum = accumulate ? 3.0f : 0.0f;
      for (int k = 0; k < depth; ++k)
        sum += static_cast<float>(a[static_cast<std::size_t>(m * depth + k)]) *
               static_cast<float>(b[static_cast<std::size_t>(n * depth + k)]);
      wrong += !(got[static_cast<std::size_t>(m * N + n)] == sum);
    }
  CHECK(wrong == 0);
}

constexpr Swizzle all_swizzles[] = {Swizzle::none, Swizzle::bytes32, Swizzle::bytes64, Swizzle::bytes128};

template <class T, Major MajorA, Major MajorB>
void check_layouts() {
  for (const Swizzle a : all_swizzles)
    for (const Swizzle b : all_swizzles) {
      CAPTURE(arch::row_bytes(a));
      CAPTURE(arch::row_bytes(b));
      TestDevice device({.seed = 1});
      check_multiply<T, 64, MajorA, MajorB, false>(device, a, b, true);
    }
}

TEST_CASE("operands of all layouts multiply exactly") {
  if (test::lacks_hopper()) return;
  check_layouts<bf16, Major::k, Major::k>();
  check_layouts<fp16, Major::k, Major::mn>();
  check_layouts<fp16, Major::mn, Major::k>();
  check_layouts<bf16, Major::mn, Major::mn>();
}

template <class T, int N>
void check_columns() {
  CAPTURE(N);
  for (const CopyTiming copies : {CopyTiming::early, CopyTiming::late})
    for (const bool accumulate : {false, true}) {
      TestDevice device({.seed = 2, .copies = copies});
      check_multiply<T, N, Major::k, Major::k, false>(device, Swizzle::bytes128, Swizzle::bytes128,
                                                      accumulate);
      check_multiply<T, N, Major::k, Major::k, true>(device, Swizzle::none, Swizzle::bytes64, accumulate);
      check_multiply<T, N, Major::k, Major::mn, true>(device, Swizzle::none, Swizzle::bytes32, accumulate);
    }
}

TEST_CASE("N from 16 to 256, A in shared memory and in registers, zeroed and accumulating") {
  if (test::lacks_hopper()) return;
  check_columns<bf16, 16>();
  check_columns<fp16, 32>();
  check_columns<bf16, 64>();
  check_columns<fp16, 96>();
  check_columns<bf16, 128>();
  check_columns<bf16, 176>();
  check_columns<fp16, 192>();
  check_columns<bf16, 256>();
}

// Which thread holds what, from CuTe's CLayout_64xN: thread (t0, t1, t2) of (4, 8, 4) and value (v0, v1, v2)
// of (2, 2, N / 8) at strides (128, 1, 16), (64, 8, 512) in a column-major 64 x N: a literal sample of it.
struct Held {
  int thread, value, row, column;
};
constexpr Held golden[] = {
    {0, 0, 0, 0},    {0, 1, 0, 1},   {0, 2, 8, 0},    {0, 3, 8, 1},     {0, 4, 0, 8},    {1, 0, 0, 2},
    {3, 1, 0, 7},    {4, 0, 1, 0},   {31, 3, 15, 7},  {32, 0, 16, 0},   {37, 6, 25, 10}, {64, 0, 32, 0},
    {95, 7, 47, 15}, {96, 2, 56, 0}, {127, 0, 55, 6}, {127, 5, 55, 15}, {127, 7, 63, 15}};

struct FragmentKernel {
  struct Parameters {
    float* d;  ///< (128 threads, 8 values) of 64 x 16
  };
  static constexpr int threads = 128, blocks_per_multiprocessor = 1, least_compute_capability = 90;
  static constexpr int shared_bytes = 64 * 32 + 16 * 32;

  /// D (m, n) = m + 64 n, from A (m, 0) = m, A (m, 1) = 1, B (0, n) = 1, B (1, n) = 64 n.
  RECURFORMER_DEVICE static void run(const Parameters& p) {
    bf16* const shared = arch::shared_memory<bf16>();
    const int t = arch::thread_index();
    for (int i = t; i < shared_bytes / 2; i += threads) shared[i] = bf16(0.0f);
    arch::sync_threads();
    // bricks of 8 rows x 8 of k, without a swizzle: A's two columns of bricks, then B's
    if (t < 64) {
      shared[t * 8] = bf16(static_cast<float>(t));
      shared[t * 8 + 1] = bf16(1.0f);
    }
    if (t < 16) {
      shared[64 * 16 + t * 8] = bf16(1.0f);
      shared[64 * 16 + t * 8 + 1] = bf16(static_cast<float>(64 * t));
    }
    arch::fence_async_shared();
    arch::sync_threads();
    const arch::SharedAddress at = arch::shared_address(shared);
    float d[8];
    arch::fence_multiplies(d);
    arch::multiply_add_64xNx16<bf16>(
        d,
        arch::matrix_descriptor(
            {.start = at, .leading_bytes = 64 * 16, .stride_bytes = 128, .swizzle = Swizzle::none}),
        arch::matrix_descriptor(
            {.start = at + 64 * 32, .leading_bytes = 16 * 16, .stride_bytes = 128, .swizzle = Swizzle::none}),
        false);
    arch::commit_multiplies();
    arch::wait_for_multiplies<0>(d);
    for (int i = 0; i < 8; ++i) p.d[t * 8 + i] = d[i];
  }
};

template <class Device>
void check_fragments(Device& device) {
  const cuda::DeviceArray<float, Device> d(device, 128 * 8);
  device.template launch<FragmentKernel>({.shared_bytes = FragmentKernel::shared_bytes}, {.d = d.data()});
  const std::vector<float> got = d.to_host();
  for (const Held& held : golden) {
    CAPTURE(held.thread);
    CAPTURE(held.value);
    CHECK(got[static_cast<std::size_t>(held.thread * 8 + held.value)] ==
          static_cast<float>(held.row + 64 * held.column));
  }
}

TEST_CASE("threads hold the elements that CuTe's layout says") {
  if (test::lacks_hopper()) return;
  TestDevice device;
  check_fragments(device);
}

#if !defined(__CUDACC__)  // only the simulator says what is wrong

using arch::SimulationError;

// --- Misuse ---

enum class Misuse {
  none,
  touched_after_fence,
  a_touched_after_fence,
  a_written_in_flight,
  a_not_named,
  no_fence_after_wait,
  written_in_flight,
  other_columns,
  not_committed,
  not_waited,
  warps_differ,
  one_warp_less,
  lanes_differ,
  part_of_a_group,
  across_groups,
  unaligned_pattern,
  across_rows,
  base_offset,
  outside,
  not_fenced_operand,
};

/// Multiplies zeros.
template <Misuse misuse>
struct MisuseKernel {
  struct Parameters {};
  static constexpr int threads = misuse == Misuse::part_of_a_group ? 160
                                 : misuse == Misuse::across_groups ? 256
                                                                   : 128;
  static constexpr int blocks_per_multiprocessor = 1, shared_bytes = 16384;

  RECURFORMER_DEVICE static void run(const Parameters&) {
    const int warp = arch::warp_index();
    bf16* const shared = arch::shared_memory<bf16>();
    for (int i = arch::thread_index(); i < shared_bytes / 2; i += threads) shared[i] = bf16(0.0f);
    if (misuse != Misuse::not_fenced_operand) arch::fence_async_shared();
    arch::sync_threads();
    if (misuse == Misuse::part_of_a_group && warp != 4) return;
    if (misuse == Misuse::across_groups && (warp < 2 || warp > 5)) return;
    multiply(warp);
  }

  RECURFORMER_DEVICE static void multiply(int warp) {
    const arch::SharedAddress start = misuse == Misuse::unaligned_pattern ? 128
                                      : misuse == Misuse::across_rows     ? 112
                                      : misuse == Misuse::outside         ? 15360
                                                                          : 0;
    std::uint64_t a = arch::matrix_descriptor({.start = start, .stride_bytes = 1024});
    if (misuse == Misuse::base_offset) a |= std::uint64_t{1} << 49;
    if (misuse == Misuse::lanes_differ && arch::lane_index() == 5) a += 2;
    const std::uint64_t b = arch::matrix_descriptor({.start = 8192, .stride_bytes = 1024});
    float d[16] = {};
    std::uint32_t left[4] = {};
    arch::fence_multiplies(d, left);
    if (misuse == Misuse::touched_after_fence) d[3] = 1;
    if (misuse == Misuse::a_touched_after_fence) left[1] = 1;
    arch::multiply_add_64xNx16<bf16>(d, a, misuse == Misuse::warps_differ && warp == 2 ? b + 2 : b, true);
    if (misuse == Misuse::a_touched_after_fence || misuse == Misuse::a_written_in_flight ||
        misuse == Misuse::a_not_named)
      arch::multiply_add_64xNx16<bf16>(d, left, b, true);
    if (misuse == Misuse::written_in_flight) d[0] = 1;
    if (misuse == Misuse::a_written_in_flight) left[2] = 1;
    if (misuse == Misuse::other_columns)
      arch::multiply_add_64xNx16<bf16>(reinterpret_cast<float(&)[8]>(d), a, b, true);
    if (misuse == Misuse::not_committed) return;
    arch::commit_multiplies();
    if (misuse == Misuse::not_waited || (misuse == Misuse::one_warp_less && warp == 3)) return;
    if (misuse == Misuse::a_not_named)
      arch::wait_for_multiplies<0>(d);
    else
      arch::wait_for_multiplies<0>(d, left);
    if (misuse == Misuse::no_fence_after_wait) {
      arch::multiply_add_64xNx16<bf16>(d, a, b, true);
      arch::commit_multiplies();
      arch::wait_for_multiplies<0>(d);
    }
  }
};

template <Misuse misuse>
std::string message() {
  return test::message_of<SimulationError>([] {
    TestDevice device({.copies = CopyTiming::late});
    device.launch<MisuseKernel<misuse>>({.shared_bytes = MisuseKernel<misuse>::shared_bytes}, {});
  });
}

TEST_CASE("misuse of wgmma is an error that says so") {
  CHECK(message<Misuse::none>() == "no error");
  CHECK(contains(message<Misuse::touched_after_fence>(), "touched since the last fence"));
  CHECK(contains(message<Misuse::a_touched_after_fence>(), "touched since the last fence"));
  CHECK(contains(message<Misuse::no_fence_after_wait>(), "touched since the last fence"));
  CHECK(contains(message<Misuse::written_in_flight>(), "written before the wait"));
  CHECK(contains(message<Misuse::a_written_in_flight>(), "registers of A"));
  CHECK(contains(message<Misuse::a_written_in_flight>(), "written before the wait"));
  CHECK(contains(message<Misuse::a_not_named>(), "name the registers of their A"));
  CHECK(contains(message<Misuse::other_columns>(), "N is 16 on registers in flight with N 32"));
  CHECK(contains(message<Misuse::not_committed>(), "ends with multiplies in flight"));
  CHECK(contains(message<Misuse::not_waited>(), "ends with multiplies in flight"));
  CHECK(contains(message<Misuse::warps_differ>(), "with other operands"));
  CHECK(contains(message<Misuse::one_warp_less>(), "ends with multiplies in flight"));
  CHECK(contains(message<Misuse::lanes_differ>(), "pass different operands"));
  CHECK(contains(message<Misuse::part_of_a_group>(), "not in a whole warpgroup"));
  CHECK(contains(message<Misuse::across_groups>(), "not executed by all four warps"));
  CHECK(contains(message<Misuse::unaligned_pattern>(), "first row of its pattern"));
  CHECK(contains(message<Misuse::across_rows>(), "32 bytes must be left in that row"));
  CHECK(contains(message<Misuse::base_offset>(), "first row of its pattern"));
  CHECK(contains(message<Misuse::outside>(), "outside the block's"));
  CHECK(contains(message<Misuse::not_fenced_operand>(), "fence_async_shared"));
}

#endif

}  // namespace
