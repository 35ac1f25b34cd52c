#ifndef TESTS_ARCH_CONFORMANCE_HOPPER_HPP
#define TESTS_ARCH_CONFORMANCE_HOPPER_HPP

// The cases of conformance.hpp that take Hopper (sm_90a): stmatrix, mbarriers, the fences between proxies,
// TMA, wgmma and setmaxnreg.

#include "arch/conformance.hpp"
#include "recurformer/arch/mbarrier.hpp"
#include "recurformer/arch/proxy.hpp"
#include "recurformer/arch/register_pool.hpp"
#include "recurformer/arch/tma.hpp"
#include "recurformer/arch/wgmma.hpp"
#include "recurformer/cuda/tensor_map.hpp"

namespace conformance {
inline namespace RECURFORMER_ARCH {

struct HopperDefaults : Defaults {
  static constexpr int least_compute_capability = 90;
};

// --- matrix.hpp ---

/// Stores Count matrices one behind the other, in reversed order of rows.
template <int Count>
struct StoreMatrices : HopperDefaults {
  static constexpr const char* name = "store_matrices";
  static constexpr int threads = 32, in_words = 32 * Count, out_words = 128, shared_bytes = 512;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const int l = thread_index();
    for (int w = l; w < 128; w += 32) words[w] = static_cast<Word>(w);
    sync_threads();
    Word r[Count];
    for (int m = 0; m < Count; ++m) r[m] = p.in[32 * m + l];
    store_matrices(shared_address(words) + static_cast<SharedAddress>(16 * (31 - l)), r);
    sync_threads();
    for (int w = l; w < 128; w += 32) p.out[w] = words[w];
  }
  static void expect(const Words& in, Words& out) {
    for (int w = 0; w < 128; ++w) out[at(w)] = static_cast<Word>(w);
    for (int m = 0; m < Count; ++m)
      for (int l = 0; l < 32; ++l) out[at(4 * (31 - 8 * m - l / 4) + l % 4)] = in[at(32 * m + l)];
  }
};

// --- mbarrier.hpp ---

/// Two warps hand words to and fro; each side's barrier goes through two phases, of either parity.
struct Mbarrier : HopperDefaults {
  static constexpr const char* name =
      "init_mbarrier, arrive_mbarrier, wait_mbarrier, test_mbarrier, invalidate_mbarrier";
  static constexpr int out_words = 66, shared_bytes = 64 * 4 + 2 * mbarrier_bytes;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const int t = thread_index(), l = lane_index();
    const SharedAddress there = shared_address(words) + 64 * 4, back = there + mbarrier_bytes;
    if (t == 0) {
      init_mbarrier(there, 32);
      init_mbarrier(back, 32);
      fence_mbarrier_init();
    }
    sync_threads();
    Word x = p.in[t];
    for (unsigned phase = 0; phase < 2; ++phase)
      if (warp_index() == 0) {
        words[l] = x;
        arrive_mbarrier(there);
        wait_mbarrier(back, phase);
        x = words[32 + (l + 1) % 32];
      } else {
        while (!test_mbarrier(there, phase)) {
        }
        words[32 + l] = words[31 - l] + x;
        arrive_mbarrier(back);
      }
    p.out[t] = x;
    sync_threads();
    if (t != 0) return;
    p.out[64] = test_mbarrier(there, 1) ? 1u : 0u;  // the last phase has ended
    p.out[65] = test_mbarrier(there, 0) ? 1u : 0u;  // the next has not
    invalidate_mbarrier(there);
    init_mbarrier(there, 1);
  }
  static void expect(const Words& in, Words& out) {
    Words x(in.begin(), in.begin() + 32);
    for (int phase = 0; phase < 2; ++phase) {
      const Words sent = x;
      for (int l = 0; l < 32; ++l) {
        const int from = (l + 1) % 32;
        x[at(l)] = sent[at(31 - from)] + in[at(32 + from)];
      }
    }
    for (int t = 0; t < 64; ++t) out[at(t)] = t < 32 ? x[at(t)] : in[at(t)];
    out[64] = 1;
    out[65] = 0;
  }
};

// --- tma.hpp, proxy.hpp ---

/// Bytes of one phase expected twice, with an arrival and without; copies of what threads have just written,
/// to global memory and to shared memory; shared memory written over as soon as the stores have read it.
struct BulkCopies : HopperDefaults {
  static constexpr const char* name =
      "expect_bytes, arrive_mbarrier_expecting, load_bulk, store_bulk, commit_stores, wait_for_store_reads, "
      "wait_for_stores, fence_async_global, fence_async_shared";
  static constexpr int out_words = 3 * 64, shared_bytes = 2 * 256 + mbarrier_bytes;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const SharedAddress base = shared_address(words), barrier = base + 2 * 256;
    const int t = thread_index();
    p.out[t] = p.in[t] ^ 0x5555u;
    fence_async_global();
    if (t == 0) {
      init_mbarrier(barrier, 1);
      fence_mbarrier_init();
    }
    sync_threads();
    if (t == 0) {
      expect_bytes(barrier, 64);
      load_bulk(base, p.out, 64, barrier);
      arrive_mbarrier_expecting(barrier, 192);
      load_bulk(base + 64, p.out + 16, 192, barrier);
    }
    wait_mbarrier(barrier, 0);
    words[64 + t] = words[63 - t] + 1;
    fence_async_shared();
    sync_threads();
    if (t != 0) return;
    store_bulk(p.out + 64, base + 256, 256);
    commit_stores();
    store_bulk(p.out + 128, base, 256);
    commit_stores();
    wait_for_store_reads<1>();
    words[64] = 0;
    wait_for_store_reads<0>();
    words[0] = 0;
    wait_for_stores<0>();
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) {
      out[at(t)] = out[at(128 + t)] = in[at(t)] ^ 0x5555u;
      out[at(64 + t)] = (in[at(63 - t)] ^ 0x5555u) + 1;
    }
  }
};

/// Loads a box that lies partly outside its tensor, hands out shared memory, and stores the box at another
/// corner. Matrices (40 x 20) or stacks (40 x 5 x 4) of 16-bit elements, rows 48 elements apart.
template <int Rank, Swizzle Mode>
struct TensorBoxes : HopperDefaults {
  static constexpr const char* name =
      Rank == 2 ? "load_tensor, store_tensor, 2 dimensions" : "load_tensor, store_tensor, 3 dimensions";
  static constexpr int row_stride = 48, width = 40, planes = Rank == 2 ? 1 : 4, rows = 20 / planes;
  static constexpr int box_width = Mode == Swizzle::none ? 24 : static_cast<int>(Mode) / 2;
  static constexpr int box_planes = Rank == 2 ? 1 : 2, box_rows = 8 / box_planes;
  static constexpr int from_at[3] = {30, -2, 3}, to_at[3] = {-3, rows - 3, -1};
  static constexpr int tile_bytes = 8 * box_width * 2, tensor_words = 20 * row_stride / 2;
  static constexpr int in_words = tensor_words, out_words = 256 + tensor_words;  // the tile, then a tensor
  static constexpr int shared_bytes = tile_bytes + mbarrier_bytes;

  struct Parameters {
    TensorMap from, to;
    Word* tile;
  };
  static Parameters parameters(const Word* in, Word* out) { return {map_of(in), map_of(out + 256), out}; }
  static TensorMap map_of(const Word* tensor) {
    const auto* base = reinterpret_cast<const rf::bf16*>(tensor);
    if constexpr (Rank == 2)
      return rf::cuda::make_tensor_map(base, {width, rows}, {row_stride}, {box_width, box_rows}, Mode);
    else
      return rf::cuda::make_tensor_map(base, {width, rows, planes}, {row_stride, rows * row_stride},
                                       {box_width, box_rows, box_planes}, Mode);
  }
  RECURFORMER_DEVICE static void run(const Parameters& p) {
    Word* words = shared_memory<Word>();
    const SharedAddress base = shared_address(words), barrier = base + tile_bytes;
    const bool first = thread_index() == 0;
    if (first) {
      prefetch_tensor_map(p.from);
      init_mbarrier(barrier, 1);
      fence_mbarrier_init();
    }
    sync_threads();
    if (first) {
      arrive_mbarrier_expecting(barrier, tile_bytes);
      if constexpr (Rank == 2)
        load_tensor(base, p.from, {30, -2}, barrier);
      else
        load_tensor(base, p.from, {30, -2, 3}, barrier);
    }
    wait_mbarrier(barrier, 0);
    for (int i = thread_index(); i < tile_bytes / 4; i += threads) p.tile[i] = words[i];
    if (!first) return;
    if constexpr (Rank == 2)
      store_tensor(p.to, {-3, 17}, base);
    else
      store_tensor(p.to, {-3, 2, -1}, base);
    commit_stores();
    wait_for_stores<0>();
  }
  static void expect(const Words& in, Words& out) {
    const auto* from = reinterpret_cast<const std::uint16_t*>(in.data());
    auto* tile = reinterpret_cast<std::uint16_t*>(out.data());
    auto* to = tile + 512;
    const auto inside = [](int x, int y, int z) {
      return x >= 0 && x < width && y >= 0 && y < rows && z >= 0 && z < planes;
    };
    for (int i = 0; i < 8 * box_width; ++i) {
      const int x = i % box_width, line = i / box_width, y = line % box_rows, z = line / box_rows;
      const auto element = [](int ex, int ey, int ez) { return ex + row_stride * (ey + rows * ez); };
      const int from_z = Rank == 2 ? 0 : z + from_at[2], to_z = Rank == 2 ? 0 : z + to_at[2];
      const bool exists = inside(x + from_at[0], y + from_at[1], from_z);
      const std::uint16_t value =
          exists ? from[element(x + from_at[0], y + from_at[1], from_z)] : std::uint16_t{0};
      // a row's 16-byte chunks change places with the line: all eight of 128 bytes, and so on
      const int move = Mode == Swizzle::bytes128  ? line
                       : Mode == Swizzle::bytes64 ? line / 2
                       : Mode == Swizzle::bytes32 ? line / 4
                                                  : 0;
      tile[line * box_width + ((x / 8) ^ move) * 8 + x % 8] = value;
      if (inside(x + to_at[0], y + to_at[1], to_z)) to[element(x + to_at[0], y + to_at[1], to_z)] = value;
    }
  }
};

// --- wgmma.hpp ---

/// d = a b + c, all 64 x 64, with the operands of a 128-byte swizzle. Integers: exact in any order of
/// summation. Otherwise normal numbers, whose sums the machine may round as it likes.
template <class T, Major MajorB, bool RegistersA, bool Integers>
struct WarpgroupProduct : HopperDefaults {
  static constexpr const char* name =
      "fence_multiplies, multiply_add_64xNx16, commit_multiplies, wait_for_multiplies";
  static constexpr int threads = 128, operand_words = 64 * 64 / 2;
  static constexpr int in_words = 2 * operand_words, out_words = 64 * 64, shared_bytes = 4 * in_words;
  static constexpr double relative = Integers ? 0 : 2e-5;
  static Word input(int i) {
    const auto half = [](Word bits) {
      const float x =
          Integers ? static_cast<float>(bits % 17) - 8 : static_cast<float>(bits % 4001) / 2000 - 1;
      return Word{T(x).bits};
    };
    const Word bits = Defaults::input(i);
    return half(bits & 0xffffu) | half(bits >> 16) << 16;
  }
  RECURFORMER_HOST_DEVICE static float initial(int row, int column) {
    return static_cast<float>((3 * row + column) % 11);
  }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    for (int i = thread_index(); i < in_words; i += threads) {
      const int row = i / 32, word = i % 32;  // of 128 bytes, in a then in b
      words[32 * row + (((word / 4) ^ (row % 8)) * 4 + word % 4)] = p.in[i];
    }
    fence_async_shared();
    sync_threads();
    const SharedAddress base = shared_address(words);
    const std::uint64_t a = matrix_descriptor({.start = base, .stride_bytes = 1024});
    const std::uint64_t b = matrix_descriptor({.start = base + 8192, .stride_bytes = 1024});
    const int row = warp_index() * 16 + lane_index() / 4, column = lane_index() % 4 * 2;
    float d[32];
    Word left[4][4];  // k steps, registers
    for (int i = 0; i < 32; ++i) d[i] = initial(row + 8 * (i / 2 % 2), 8 * (i / 4) + column + i % 2);
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 4; ++i)
        left[k][i] = p.in[32 * (row + 8 * (i % 2)) + 8 * k + 4 * (i / 2) + column / 2];
    fence_multiplies(d, left);
    RECURFORMER_UNROLL
    for (int k = 0; k < 4; ++k) {
      const std::uint64_t right = advanced(b, MajorB == Major::k ? 32 * k : 2048 * k);
      if constexpr (RegistersA)
        multiply_add_64xNx16<T, MajorB>(d, left[k], right, true);
      else
        multiply_add_64xNx16<T, Major::k, MajorB>(d, advanced(a, 32 * k), right, true);
    }
    commit_multiplies();
    wait_for_multiplies<0>(d, left);
    for (int i = 0; i < 32; ++i)
      p.out[64 * (row + 8 * (i / 2 % 2)) + 8 * (i / 4) + column + i % 2] = as_word(d[i]);
  }
  static void expect(const Words& in, Words& out) {
    const auto half = [&](int i) {
      return static_cast<double>(
          static_cast<float>(T::from_bits(static_cast<std::uint16_t>(in[at(i / 2)] >> (16 * (i % 2))))));
    };
    for (int row = 0; row < 64; ++row)
      for (int column = 0; column < 64; ++column) {
        double sum = static_cast<double>(initial(row, column));
        for (int k = 0; k < 64; ++k)
          sum +=
              half(64 * row + k) * half(64 * 64 + (MajorB == Major::k ? 64 * column + k : 64 * k + column));
        out[at(64 * row + column)] = as_word(static_cast<float>(sum));
      }
  }
};

// --- register_pool.hpp ---

/// One warpgroup gives its registers to the other, whose threads then go on as before.
struct RegisterPool : HopperDefaults {
  static constexpr const char* name = "decrease_registers, increase_registers";
  static constexpr int threads = 256, in_words = 256, out_words = 256;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int t = thread_index();
    Word x = p.in[t];
    if (warp_index() < 4) {
      decrease_registers<40>();
      x += 1;
    } else {
      increase_registers<256>();
      x += 2;
    }
    p.out[t] = x;
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 256; ++t) out[at(t)] = in[at(t)] + (t < 128 ? 1 : 2);
  }
};

using HopperCases = CaseList<
    StoreMatrices<1>, StoreMatrices<2>, StoreMatrices<4>, Mbarrier, BulkCopies, TensorBoxes<2, Swizzle::none>,
    TensorBoxes<2, Swizzle::bytes32>, TensorBoxes<2, Swizzle::bytes64>, TensorBoxes<2, Swizzle::bytes128>,
    TensorBoxes<3, Swizzle::none>, TensorBoxes<3, Swizzle::bytes128>,
    WarpgroupProduct<rf::bf16, Major::k, false, true>, WarpgroupProduct<rf::fp16, Major::mn, false, true>,
    WarpgroupProduct<rf::bf16, Major::mn, true, true>, WarpgroupProduct<rf::fp16, Major::k, true, true>,
    WarpgroupProduct<rf::bf16, Major::k, false, false>, WarpgroupProduct<rf::fp16, Major::mn, true, false>,
    RegisterPool>;

}  // namespace RECURFORMER_ARCH
}  // namespace conformance

#endif  // TESTS_ARCH_CONFORMANCE_HOPPER_HPP
