// Which lane holds which element of a matrix, by the layouts that CuTe (CUTLASS 3, atom/mma_traits_sm80.hpp,
// mma_traits_sm90_gmma.hpp, copy_traits_sm75.hpp) gives for these instructions: written down as they are
// printed there, so that a misreading of the PTX manual that simulator and kernels share would show.

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/wgmma.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "support/test_device.hpp"

namespace {

using namespace rf;
using test::TestDevice;
using Word = std::uint32_t;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

/// (threads, values):(strides), the fastest mode first; from there to an index in a column-major matrix, or
/// to a bit of shared memory.
struct Layout {
  std::array<int, 3> threads, values, thread_strides, value_strides;

  int operator()(int thread, int value) const {
    return along(thread, threads, thread_strides) + along(value, values, value_strides);
  }

 private:
  static int along(int i, const std::array<int, 3>& shape, const std::array<int, 3>& strides) {
    int index = 0;
    for (std::size_t mode = 0; mode < 3; i /= shape[mode++]) index += i % shape[mode] * strides[mode];
    return index;
  }
};

// SM80_16x8x16: A (m, k), B (n, k), C (m, n)
constexpr Layout warp_a{{4, 8, 1}, {2, 2, 2}, {32, 1, 0}, {16, 8, 128}};
constexpr Layout warp_b{{4, 8, 1}, {2, 2, 1}, {16, 1, 0}, {8, 64, 0}};
constexpr Layout warp_c{{4, 8, 1}, {2, 2, 1}, {32, 1, 0}, {16, 8, 0}};
// SM90 GMMA: ALayout_64x16, CLayout_64x16
constexpr Layout group_a{{4, 8, 4}, {2, 2, 2}, {128, 1, 16}, {64, 8, 512}};
constexpr Layout group_c{{4, 8, 4}, {2, 2, 2}, {128, 1, 16}, {64, 8, 512}};
// SM75_U32x4_LDSM_N, SM75_U16x8_LDSM_T: bits of four matrices of 8 rows of 128
constexpr Layout loaded{{32, 1, 1}, {32, 4, 1}, {32, 0, 0}, {1, 1024, 0}};
constexpr Layout loaded_transposed{{4, 8, 1}, {16, 2, 4}, {256, 16, 0}, {1, 128, 1024}};

template <class T>
std::vector<T> small_integers(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> out(count);
  for (T& x : out) x = T(static_cast<float>(static_cast<int>(random.below(17)) - 8));
  return out;
}

/// A lane's elements, two to a register, as its layout finds them in a matrix.
template <class T>
std::vector<Word> fragments(const Layout& layout, int threads, int values, const std::vector<T>& matrix) {
  std::vector<Word> out;
  for (int t = 0; t < threads; ++t)
    for (int v = 0; v < values; v += 2)
      out.push_back(matrix[at(layout(t, v))].bits | Word{matrix[at(layout(t, v + 1))].bits} << 16);
  return out;
}

/// a bᵀ, column-major (m, n), from a (m, 16) and b (n, 16).
template <class T>
std::vector<float> product(const std::vector<T>& a, const std::vector<T>& b) {
  const std::size_t m = a.size() / 16, n = b.size() / 16;
  std::vector<float> out(m * n, 0.0f);
  for (std::size_t k = 0; k < 16; ++k)
    for (std::size_t c = 0; c < n; ++c)
      for (std::size_t r = 0; r < m; ++r)
        out[r + m * c] += static_cast<float>(a[r + m * k]) * static_cast<float>(b[c + n * k]);
  return out;
}

void check_fragments(const std::vector<float>& got, const Layout& layout, int values,
                     const std::vector<float>& expected) {
  int wrong = 0;
  for (int i = 0; i < static_cast<int>(got.size()); ++i)
    wrong += got[at(i)] != expected[at(layout(i / values, i % values))];
  CHECK(wrong == 0);
}

template <class T>
struct WarpMultiply {
  struct Parameters {
    const Word* a;  ///< (lanes, 4)
    const Word* b;  ///< (lanes, 2)
    float* d;       ///< (lanes, 4)
  };
  static constexpr int threads = 32, blocks_per_multiprocessor = 1;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int l = arch::lane_index();
    Word a[4];
    float d[4] = {};
    for (int i = 0; i < 4; ++i) a[i] = p.a[4 * l + i];
    arch::multiply_add_16x8x16<T>(d, a, p.b[2 * l], p.b[2 * l + 1]);
    for (int i = 0; i < 4; ++i) p.d[4 * l + i] = d[i];
  }
};

template <class T>
void check_warp_multiply() {
  TestDevice device;
  const std::vector<T> a = small_integers<T>(16 * 16, 1), b = small_integers<T>(8 * 16, 2);
  const cuda::DeviceArray<Word, TestDevice> a_words(device, fragments(warp_a, 32, 8, a)),
      b_words(device, fragments(warp_b, 32, 4, b));
  const cuda::DeviceArray<float, TestDevice> d(device, 32 * 4);
  device.launch<WarpMultiply<T>>({}, {.a = a_words.data(), .b = b_words.data(), .d = d.data()});
  check_fragments(d.to_host(), warp_c, 4, product(a, b));
}

template <class T>
struct WarpgroupMultiply {
  struct Parameters {
    const Word* a;  ///< (threads, 4)
    const Word* b;  ///< bricks of 8 n x 8 k, k by k
    float* d;       ///< (threads, 8)
  };
  static constexpr int threads = 128, blocks_per_multiprocessor = 1, least_compute_capability = 90;
  static constexpr int shared_bytes = 16 * 16 * 2;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    Word* const shared = arch::shared_memory<Word>();
    const int t = arch::thread_index();
    shared[t] = p.b[t];
    arch::fence_async_shared();
    arch::sync_threads();
    Word a[4];
    float d[8];
    for (int i = 0; i < 4; ++i) a[i] = p.a[4 * t + i];
    arch::fence_multiplies(d, a);
    arch::multiply_add_64xNx16<T>(d, a,
                                  arch::matrix_descriptor({.start = arch::shared_address(shared),
                                                           .leading_bytes = 256,
                                                           .stride_bytes = 128,
                                                           .swizzle = arch::Swizzle::none}),
                                  false);
    arch::commit_multiplies();
    arch::wait_for_multiplies<0>(d, a);
    for (int i = 0; i < 8; ++i) p.d[8 * t + i] = d[i];
  }
};

template <class T>
void check_warpgroup_multiply() {
  TestDevice device;
  const std::vector<T> a = small_integers<T>(64 * 16, 3), b = small_integers<T>(16 * 16, 4);
  std::vector<T> bricks(16 * 16);
  for (std::size_t n = 0; n < 16; ++n)
    for (std::size_t k = 0; k < 16; ++k) bricks[k / 8 * 128 + n * 8 + k % 8] = b[n + 16 * k];
  std::vector<Word> b_words;
  for (std::size_t i = 0; i < bricks.size(); i += 2)
    b_words.push_back(bricks[i].bits | Word{bricks[i + 1].bits} << 16);
  using Kernel = WarpgroupMultiply<T>;
  const cuda::DeviceArray<Word, TestDevice> left(device, fragments(group_a, 128, 8, a)),
      right(device, b_words);
  const cuda::DeviceArray<float, TestDevice> d(device, 128 * 8);
  device.launch<Kernel>({.shared_bytes = Kernel::shared_bytes},
                        {.a = left.data(), .b = right.data(), .d = d.data()});
  check_fragments(d.to_host(), group_c, 8, product(a, b));
}

enum class Move { load, load_transposed, store };

/// Four matrices of 16-bit numbers, their rows one behind the other, between shared memory and registers.
template <Move move>
struct MatrixMove {
  struct Parameters {
    const Word* in;
    Word* out;
  };
  static constexpr int threads = 32, blocks_per_multiprocessor = 1, shared_bytes = 512;
  static constexpr int least_compute_capability = move == Move::store ? 90 : 80;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    Word* const shared = arch::shared_memory<Word>();
    const int l = arch::lane_index();
    const auto row = arch::shared_address(shared) + static_cast<arch::SharedAddress>(16 * l);
    Word registers[4];
    if constexpr (move == Move::store) {
      for (int i = 0; i < 4; ++i) registers[i] = p.in[4 * l + i];
      arch::store_matrices(row, registers);
      arch::sync_warp();
      for (int i = 0; i < 4; ++i) p.out[4 * l + i] = shared[4 * l + i];
    } else {
      for (int i = 0; i < 4; ++i) shared[4 * l + i] = p.in[4 * l + i];
      arch::sync_warp();
      if constexpr (move == Move::load)
        arch::load_matrices(registers, row);
      else
        arch::load_matrices_transposed(registers, row);
      for (int i = 0; i < 4; ++i) p.out[4 * l + i] = registers[i];
    }
  }
};

/// Every 16-bit element is its own number; `layout` leads from a lane's to its bits in shared memory.
template <Move move>
void check_move(const Layout& layout) {
  std::vector<Word> in_registers, in_shared;
  for (Word i = 0; i < 128; ++i) in_shared.push_back(2 * i | (2 * i + 1) << 16);
  const auto element = [&](int lane, int i) {
    return static_cast<Word>(layout(lane, 16 * i)) / 16;  // a value is a bit
  };
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 8; i += 2) in_registers.push_back(element(lane, i) | element(lane, i + 1) << 16);
  TestDevice device;
  const auto& in = move == Move::store ? in_registers : in_shared;
  const cuda::DeviceArray<Word, TestDevice> from(device, in), to(device, 128);
  device.launch<MatrixMove<move>>({.shared_bytes = MatrixMove<move>::shared_bytes},
                                  {.in = from.data(), .out = to.data()});
  CHECK(to.to_host() == (move == Move::store ? in_shared : in_registers));
}

}  // namespace

TEST_CASE("fragments: a warp's multiply has CuTe's layouts") {
  check_warp_multiply<bf16>();
  check_warp_multiply<fp16>();
}

TEST_CASE("fragments: matrices are loaded as CuTe's layouts say") {
  check_move<Move::load>(loaded);
  check_move<Move::load_transposed>(loaded_transposed);
}

TEST_CASE("fragments: matrices are stored as CuTe's layouts say") {
  if (test::lacks_hopper()) return;
  check_move<Move::store>(loaded);
}

TEST_CASE("fragments: a warpgroup's multiply has CuTe's layouts") {
  if (test::lacks_hopper()) return;
  check_warpgroup_multiply<bf16>();
  check_warpgroup_multiply<fp16>();
}
