#ifndef TESTS_ARCH_CONFORMANCE_HPP
#define TESTS_ARCH_CONFORMANCE_HPP

// The conformance suite of rf::arch: one case per function, the same source on the simulator and on a GPU. A
// case is a kernel from words to words,
//
//   name, threads, blocks        the launch (cooperative if there are several blocks)
//   in_words, out_words          sizes of the two arrays; outputs start as zeros
//   shared_bytes
//   ulps, relative               both 0: bits must agree; otherwise outputs are floats that may differ by so
//                                many units in the last place, or by that part of the largest output
//   input(i)                     the i-th input word
//   parameters(in, out)          the kernel's, of the two arrays on the device
//   run(parameters)              the kernel
//   expect(in, out)              what the machine's manual says, computed without rf::arch
//
// The simulator is held to expect() wherever there is a CPU; a GPU to the simulator (conformance_device.cu).
// What only Hopper has is in conformance_hopper.hpp.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/block.hpp"
#include "recurformer/cuda/device_array.hpp"

namespace conformance {
inline namespace RECURFORMER_ARCH {  // one program has both halves

using namespace rf::arch;
using Word = std::uint32_t;
using Words = std::vector<Word>;

struct Arrays {
  const Word* in;
  Word* out;
};

/// What most cases share.
struct Defaults {
  using Parameters = Arrays;
  static constexpr int threads = 64, blocks = 1, blocks_per_multiprocessor = 1;
  static constexpr int in_words = 64, out_words = 64, shared_bytes = 0;
  static constexpr double ulps = 0, relative = 0;
  static Arrays parameters(const Word* in, Word* out) { return {in, out}; }
  /// Well-mixed bits (the finaliser of MurmurHash3).
  static Word input(int i) {
    auto x = static_cast<Word>(i) * 0x9e3779b9u + 1;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
  }
};

RECURFORMER_HOST_DEVICE inline float as_float(Word bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
RECURFORMER_HOST_DEVICE inline Word as_word(float value) {
  Word bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline std::size_t at(int i) { return static_cast<std::size_t>(i); }

// --- thread.hpp ---

struct Indices : Defaults {
  static constexpr const char* name = "indices";
  static constexpr int blocks = 3, out_words = 3 * 64;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int i = block_index().x * block_size() + thread_index();
    p.out[i] = static_cast<Word>(lane_index() | warp_index() << 8 | grid_size().x << 16);
  }
  static void expect(const Words&, Words& out) {
    for (int i = 0; i < out_words; ++i) out[at(i)] = static_cast<Word>(i % 32 | (i % 64 / 32) << 8 | 3 << 16);
  }
};

struct Shared : Defaults {
  static constexpr const char* name = "shared_memory, shared_address, sync_threads";
  static constexpr int shared_bytes = 64 * 4;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const int t = thread_index();
    words[t] = p.in[t];
    sync_threads();
    const Word offset = shared_address(words + 63 - t) - shared_address(words);
    p.out[t] = words[63 - t] ^ offset;
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) out[at(t)] = in[at(63 - t)] ^ static_cast<Word>(4 * (63 - t));
  }
};

// --- barrier.hpp ---

struct NamedBarrier : Defaults {
  static constexpr const char* name = "sync_named, arrive_named";
  static constexpr int shared_bytes = 32 * 4;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const int t = thread_index();
    if (warp_index() == 0) {
      words[t] = p.in[t];
      arrive_named(3, 64);
      p.out[t] = 1;
    } else {
      sync_named(3, 64);
      p.out[t] = words[63 - t];
    }
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) out[at(t)] = t < 32 ? 1 : in[at(63 - t)];
  }
};

struct PartOfBlockBarrier : Defaults {
  static constexpr const char* name = "sync_named<Id, Threads>";
  static constexpr int threads = 96, shared_bytes = 64 * 4;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const int t = thread_index();
    if (warp_index() == 2) return;
    words[t] = p.in[t];
    sync_named<2, 64>();
    p.out[t] = words[63 - t];
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) out[at(t)] = in[at(63 - t)];
  }
};

struct SyncWarp : Defaults {
  static constexpr const char* name = "sync_warp";
  static constexpr int shared_bytes = 64 * 4;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const int t = thread_index();
    words[t] = p.in[t];
    sync_warp();
    p.out[t] = words[t ^ 5];
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) out[at(t)] = in[at(t ^ 5)];
  }
};

// --- warp.hpp ---

struct Shuffles : Defaults {
  static constexpr const char* name = "shuffle, shuffle_xor, shuffle_up, shuffle_down";
  static constexpr int out_words = 4 * 64;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int t = thread_index();
    const Word x = p.in[t];
    p.out[t] = shuffle(x, static_cast<int>(x & 255u));
    p.out[64 + t] = shuffle_xor(x, 19);
    p.out[128 + t] = shuffle_up(x, 3);
    p.out[192 + t] = shuffle_down(x, 7);
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) {
      const int lane = t % 32, warp = t - lane;
      out[at(t)] = in[at(warp + static_cast<int>(in[at(t)] % 32))];
      out[at(64 + t)] = in[at(warp + (lane ^ 19))];
      out[at(128 + t)] = in[at(lane < 3 ? t : t - 3)];
      out[at(192 + t)] = in[at(lane > 24 ? t : t + 7)];
    }
  }
};

struct PartialShuffle : Defaults {
  static constexpr const char* name = "shuffle_xor within half a warp";
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int t = thread_index();
    Word x = p.in[t];
    if (lane_index() < 16) x = shuffle_xor(x, 5, 0xffffu);
    p.out[t] = shuffle_xor(x, 16);
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) {
      const int from = t ^ 16;
      out[at(t)] = in[at(from % 32 < 16 ? from ^ 5 : from)];
    }
  }
};

struct Votes : Defaults {
  static constexpr const char* name = "ballot, any, all";
  static constexpr int out_words = 3 * 64;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int t = thread_index();
    const Word x = p.in[t];
    p.out[t] = rf::arch::ballot((x & 1u) != 0);
    // warp 0: false everywhere and true everywhere; warp 1: true in one lane, false in one lane
    p.out[64 + t] = rf::arch::any(t == 40) ? 1u : 0u;
    p.out[128 + t] = rf::arch::all(t != 50) ? 1u : 0u;
  }
  static void expect(const Words& in, Words& out) {
    for (int t = 0; t < 64; ++t) {
      for (int l = 0; l < 32; ++l) out[at(t)] |= (in[at(t / 32 * 32 + l)] & 1u) << l;
      out[at(64 + t)] = t >= 32 ? 1 : 0;
      out[at(128 + t)] = t >= 32 ? 0 : 1;
    }
  }
};

// --- block.hpp ---

/// Sums of 64 bits and smallest words, each twice in the same scratch.
template <int Threads>
struct BlockCollectives : Defaults {
  static constexpr const char* name = "block_sums, block_reduce";
  using Wide = unsigned long long;
  struct Scratch {
    BlockScratch<Wide, Threads> sums;
    BlockScratch<Word, Threads> smallest;
  };
  static constexpr int threads = Threads, in_words = Threads, out_words = 10 * Threads,
                       shared_bytes = static_cast<int>(sizeof(Scratch));
  static constexpr Wide factor = 0x100000001;
  RECURFORMER_HOST_DEVICE static Word smaller(Word a, Word b) { return a < b ? a : b; }
  RECURFORMER_HOST_DEVICE static void store(Word* out, const Wide (&sums)[4], Word smallest, Word next) {
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = static_cast<Word>(sums[i]);
      out[2 * i + 1] = static_cast<Word>(sums[i] >> 32);
    }
    out[8] = smallest;
    out[9] = next;
  }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Scratch& scratch = *shared_memory<Scratch>();
    const Word x = p.in[thread_index()];
    const auto first = block_sums(factor * x, scratch.sums), second = block_sums(first.before, scratch.sums);
    const Word smallest = block_reduce(x, smaller, scratch.smallest),
               next = block_reduce(x == smallest ? ~0u : x, smaller, scratch.smallest);
    store(p.out + 10 * thread_index(), {first.before, first.total, second.before, second.total}, smallest,
          next);
  }
  static void expect(const Words& in, Words& out) {
    Words sorted = in;
    std::sort(sorted.begin(), sorted.end());
    std::vector<Wide> first(1, 0), second(1, 0);
    for (const Word x : in) {
      second.push_back(second.back() + first.back());
      first.push_back(first.back() + factor * x);
    }
    for (std::size_t t = 0; t < in.size(); ++t)
      store(&out[10 * t], {first[t], first.back(), second[t], second.back()}, sorted[0], sorted[1]);
  }
};

// --- memory.hpp ---

struct LoadReadOnly : Defaults {
  static constexpr const char* name = "load_read_only";
  static constexpr int in_words = 256, out_words = 256;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int t = thread_index();
    const Words4 x = load_read_only(reinterpret_cast<const Words4*>(p.in) + 63 - t);
    for (int w = 0; w < 4; ++w) p.out[4 * t + w] = x.word[w];
  }
  static void expect(const Words& in, Words& out) {
    for (int i = 0; i < 256; ++i) out[at(i)] = in[at(4 * (63 - i / 4) + i % 4)];
  }
};

struct Atomics : Defaults {
  static constexpr const char* name = "atomic_add, atomic_max";
  static constexpr int blocks = 4, out_words = 6;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const Word x = p.in[thread_index()];
    atomic_add(p.out, x);
    atomic_max(p.out + 1, x);
    atomic_add(reinterpret_cast<int*>(p.out + 2), static_cast<int>(x));
    // exact in float whatever the order: small integers
    atomic_add(reinterpret_cast<float*>(p.out + 3), static_cast<float>(x & 255u));
    atomic_add(reinterpret_cast<unsigned long long*>(p.out + 4), static_cast<unsigned long long>(x) << 20);
  }
  static void expect(const Words& in, Words& out) {
    float sum = 0;
    std::uint64_t wide = 0;
    for (int block = 0; block < blocks; ++block)
      for (const Word x : in) {
        out[0] += x;
        out[1] = x > out[1] ? x : out[1];
        out[2] += x;
        sum += static_cast<float>(x & 255u);
        wide += std::uint64_t{x} << 20;
      }
    out[3] = as_word(sum);
    out[4] = static_cast<Word>(wide);
    out[5] = static_cast<Word>(wide >> 32);
  }
};

struct AcquireRelease : Defaults {
  static constexpr const char* name = "store_release, load_acquire, atomic_add_release";
  static constexpr int blocks = 3, out_words = 2 + 2 * 64 + 64;
  /// Blocks 0 and 1 write, then say so; block 2 waits for both, by a counter and by a flag.
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* data = p.out + 2;
    const int t = thread_index(), block = block_index().x;
    if (block < 2) {
      data[64 * block + t] = p.in[t] + static_cast<Word>(block);
      sync_threads();
      if (t == 0) atomic_add_release(p.out, 1u);
      if (t == 0 && block == 1) {
        while (load_acquire(p.out) != 2u) {
        }
        store_release(p.out + 1, 7u);
      }
    } else {
      while (load_acquire(p.out + 1) != 7u) {
      }
      data[128 + t] = data[t] ^ data[64 + 63 - t];
    }
  }
  static void expect(const Words& in, Words& out) {
    out[0] = 2;
    out[1] = 7;
    for (int t = 0; t < 64; ++t) {
      out[at(2 + t)] = in[at(t)];
      out[at(66 + t)] = in[at(t)] + 1;
      out[at(130 + t)] = in[at(t)] ^ (in[at(63 - t)] + 1);
    }
  }
};

struct GridBarrier : Defaults {
  static constexpr const char* name = "sync_grid, atomic_add_acquire_release";
  static constexpr int blocks = 4, out_words = 1 + 4 * 64;
  /// Passes values round the blocks, a few times.
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* data = p.out + 1;
    const int t = thread_index(), block = block_index().x;
    data[64 * block + t] = p.in[t] * static_cast<Word>(block + 1);
    for (int round = 0; round < 3; ++round) {
      sync_grid(p.out);
      const Word next = data[64 * ((block + 1) % 4) + t];
      sync_grid(p.out);
      data[64 * block + t] = next + 1;
    }
  }
  static void expect(const Words& in, Words& out) {
    out[0] = 0;  // an even number of uses
    for (int block = 0; block < 4; ++block)
      for (int t = 0; t < 64; ++t)
        out[at(1 + 64 * block + t)] = in[at(t)] * static_cast<Word>((block + 3) % 4 + 1) + 3;
  }
};

// --- math.hpp ---

/// Floats in [2^-20, 2^20) of both signs, then special values.
inline Word float_input(int i) {
  constexpr float special[] = {0.0f, 1.0f, 2.0f, 0.5f, 1e-38f, 1e-42f, 3e38f, 128.0f};
  if (i < 8) return as_word(special[i]);
  if (i < 16) return as_word(-special[i - 8]);
  const Word bits = Defaults::input(i);
  return (bits & 0x807fffffu) | (107 + bits / 8388608 % 40) << 23;
}

/// Numbers, infinities, and NaN on one side; nowhere zeros of both signs, of which either is the larger.
struct Maximum : Defaults {
  static constexpr const char* name = "max, minus_infinity";
  static constexpr int in_words = 128, out_words = 65;
  static Word input(int i) {
    constexpr Word nan = 0x7fc00000u, infinity = 0x7f800000u, minus = 0x80000000u;
    const Word special[] = {
        nan, as_word(2.5f),    as_word(-2.5f), nan,           infinity,      nan,
        nan, infinity | minus, infinity,       as_word(1.0f), as_word(1.0f), infinity | minus};
    return i < 12 ? special[i] : float_input(i + 4);
  }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int t = thread_index();
    p.out[t] = as_word(rf::arch::max(as_float(p.in[2 * t]), as_float(p.in[2 * t + 1])));
    if (t == 0) p.out[64] = as_word(minus_infinity());
  }
  static void expect(const Words& in, Words& out) {
    for (std::size_t t = 0; t < 64; ++t) {
      const float a = as_float(in[2 * t]), b = as_float(in[2 * t + 1]);
      out[t] = std::isnan(a) ? in[2 * t + 1] : std::isnan(b) ? in[2 * t] : a < b ? in[2 * t + 1] : in[2 * t];
    }
    out[64] = 0xff800000u;
  }
};

struct Exponentials : Defaults {
  static constexpr const char* name = "exp2";
  static constexpr int in_words = 1024, out_words = 1024;
  static constexpr double ulps = 4;  // 2^-22 relative: 2 units of 2^-23 on each side
  static Word input(int i) {
    const float x = as_float(float_input(i));
    return as_word(i < 16 || (x > -200 && x < 200) ? x : x * 0x1p-14f);
  }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    for (int i = thread_index(); i < 1024; i += threads)
      p.out[i] = as_word(rf::arch::exp2(as_float(p.in[i])));
  }
  static void expect(const Words& in, Words& out) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double y = std::exp2(static_cast<double>(as_float(in[i])));
      out[i] = as_word(y < std::numeric_limits<float>::min() ? 0.0f : static_cast<float>(y));
    }
  }
};

struct Logarithms : Defaults {
  static constexpr const char* name = "log2";
  static constexpr int in_words = 1024, out_words = 1024;
  static constexpr double ulps = 4;
  /// Away from 1, where the error is bounded absolutely, not in ulps.
  static Word input(int i) {
    const float x = std::fabs(as_float(float_input(i + 16)));
    return as_word(x > 0.5f && x < 2.0f ? x * 8 : x);
  }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    for (int i = thread_index(); i < 1024; i += threads)
      p.out[i] = as_word(rf::arch::log2(as_float(p.in[i])));
  }
  static void expect(const Words& in, Words& out) {
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = as_word(static_cast<float>(std::log2(static_cast<double>(as_float(in[i])))));
  }
};

struct Reciprocals : Defaults {
  static constexpr const char* name = "reciprocal, reciprocal_sqrt";
  static constexpr int in_words = 512, out_words = 1024;
  static constexpr double ulps = 4;
  static Word input(int i) { return float_input(i + 16); }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    for (int i = thread_index(); i < 512; i += threads) {
      const float x = as_float(p.in[i]);
      p.out[i] = as_word(reciprocal(x));
      p.out[512 + i] = as_word(reciprocal_sqrt(x < 0 ? -x : x));
    }
  }
  static void expect(const Words& in, Words& out) {
    for (std::size_t i = 0; i < 512; ++i) {
      const double x = as_float(in[i]);
      out[i] = as_word(static_cast<float>(1 / x));
      out[512 + i] = as_word(static_cast<float>(1 / std::sqrt(std::fabs(x))));
    }
  }
};

/// Any bits, so that NaN, infinities, ties and overflow occur.
template <class T>
struct Packing : Defaults {
  static constexpr const char* name = rf::dtype_of<T> == rf::DType::BF16 ? "pack<bf16>" : "pack<fp16>";
  static constexpr int in_words = 4096, out_words = 3 * 2048;
  static Word input(int i) {
    if (i < 256) return static_cast<Word>(i) << 24;  // zeros, powers of two, NaN
    if (i < 1024) return float_input(i);
    if (i < 2048) return (Defaults::input(i) & 0xffffe000u) | (i % 2 ? 0x8000u : 0x1000u);  // ties
    return Defaults::input(i);
  }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    for (int i = thread_index(); i < 2048; i += threads) {
      const Word pair = pack<T>(as_float(p.in[2 * i]), as_float(p.in[2 * i + 1]));
      p.out[3 * i] = pair;
      p.out[3 * i + 1] = as_word(unpack_low<T>(pair));
      p.out[3 * i + 2] = as_word(unpack_high<T>(pair));
    }
  }
  static void expect(const Words& in, Words& out) {
    const auto rounded = [](Word bits) {
      const float x = as_float(bits);
      return x != x ? Word{0x7fff} : Word{T(x).bits};
    };
    for (std::size_t i = 0; i < 2048; ++i) {
      const Word low = rounded(in[2 * i]), high = rounded(in[2 * i + 1]);
      out[3 * i] = low | high << 16;
      out[3 * i + 1] = as_word(static_cast<float>(T::from_bits(static_cast<std::uint16_t>(low))));
      out[3 * i + 2] = as_word(static_cast<float>(T::from_bits(static_cast<std::uint16_t>(high))));
    }
  }
};

// --- matrix.hpp ---

/// Loads Count matrices that lie one behind the other, in reversed order of rows.
template <int Count, bool Transposed>
struct LoadMatrices : Defaults {
  static constexpr const char* name = Transposed ? "load_matrices_transposed" : "load_matrices";
  static constexpr int threads = 32, in_words = 128, out_words = 32 * Count, shared_bytes = 512;
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    const int l = thread_index();
    for (int w = 0; w < 4; ++w) words[4 * l + w] = p.in[4 * l + w];
    sync_threads();
    Word r[Count];
    const SharedAddress row = shared_address(words) + static_cast<SharedAddress>(16 * (31 - l));
    if constexpr (Transposed)
      load_matrices_transposed(r, row);
    else
      load_matrices(r, row);
    for (int m = 0; m < Count; ++m) p.out[32 * m + l] = r[m];
  }
  static void expect(const Words& in, Words& out) {
    const auto element = [&](int matrix, int row, int column) {
      const Word pair = in[at(4 * (31 - 8 * matrix - row) + column / 2)];
      return column % 2 ? pair >> 16 : pair & 0xffffu;
    };
    for (int m = 0; m < Count; ++m)
      for (int l = 0; l < 32; ++l) {
        const int row = l / 4, column = 2 * (l % 4);
        out[at(32 * m + l)] = Transposed ? element(m, column, row) | element(m, column + 1, row) << 16
                                         : element(m, row, column) | element(m, row, column + 1) << 16;
      }
  }
};

/// d = a b + c. Integers: exact in any order of summation. Otherwise normal numbers.
template <class T, bool Integers>
struct MatrixProduct : Defaults {
  static constexpr const char* name =
      rf::dtype_of<T> == rf::DType::BF16 ? (Integers ? "multiply_add<bf16>, integers" : "multiply_add<bf16>")
                                         : (Integers ? "multiply_add<fp16>, integers" : "multiply_add<fp16>");
  // a as 128 words by lane and register, b as 64, c as 128 floats
  static constexpr int threads = 32, in_words = 320, out_words = 128;
  static constexpr double relative = Integers ? 0 : 1e-5;
  static Word input(int i) {
    const auto half = [](Word bits) {
      const float x =
          Integers ? static_cast<float>(bits % 17) - 8 : static_cast<float>(bits % 4001) / 2000 - 1;
      return Word{T(x).bits};
    };
    const Word bits = Defaults::input(i);
    if (i < 192) return half(bits & 0xffffu) | half(bits >> 16) << 16;
    return as_word(Integers ? static_cast<float>(bits % 100) : static_cast<float>(bits % 1000) / 500 - 1);
  }
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    const int l = thread_index();
    Word a[4];
    float d[4];
    for (int r = 0; r < 4; ++r) a[r] = p.in[4 * l + r];
    for (int e = 0; e < 4; ++e) d[e] = as_float(p.in[192 + 4 * l + e]);
    multiply_add_16x8x16<T>(d, a, p.in[128 + 2 * l], p.in[128 + 2 * l + 1]);
    for (int e = 0; e < 4; ++e) p.out[4 * l + e] = as_word(d[e]);
  }
  static void expect(const Words& in, Words& out) {
    const auto half = [&](int word, int which) {
      return static_cast<double>(
          static_cast<float>(T::from_bits(static_cast<std::uint16_t>(in[at(word)] >> (16 * which)))));
    };
    // who holds what, from the element's side (PTX ISA, fragments of mma.m16n8k16)
    const auto a = [&](int row, int k) {
      const int lane = row % 8 * 4 + k % 8 / 2, reg = row / 8 + 2 * (k / 8);
      return half(4 * lane + reg, k % 2);
    };
    const auto b = [&](int k, int column) {
      const int lane = column * 4 + k % 8 / 2, reg = k / 8;
      return half(128 + 2 * lane + reg, k % 2);
    };
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 8; ++column) {
        const int word = 4 * (row % 8 * 4 + column / 2) + 2 * (row / 8) + column % 2;
        double sum = as_float(in[at(192 + word)]);
        for (int k = 0; k < 16; ++k) sum += a(row, k) * b(k, column);
        out[at(word)] = as_word(static_cast<float>(sum));
      }
  }
};

// --- copy_async.hpp ---

template <int Bytes>
struct CopyAsync : Defaults {
  static constexpr const char* name = "copy_async, commit_copies, wait_for_copies";
  static constexpr int in_words = 256, out_words = 256, shared_bytes = 1024;
  /// Two groups; every third piece is cut short, some to nothing.
  RECURFORMER_DEVICE static void run(const Arrays& p) {
    Word* words = shared_memory<Word>();
    constexpr int pieces = 1024 / Bytes;
    for (int half = 0; half < 2; ++half) {
      for (int i = thread_index(); i < pieces / 2; i += threads) {
        const int piece = half * pieces / 2 + i;
        copy_async<Bytes>(shared_address(words) + static_cast<SharedAddress>(Bytes * piece),
                          reinterpret_cast<const char*>(p.in) + Bytes * (pieces - 1 - piece), valid(piece));
      }
      commit_copies();
    }
    wait_for_copies<1>();
    sync_threads();
    for (int i = thread_index(); i < 128; i += threads) p.out[i] = words[i];
    wait_for_copies<0>();
    sync_threads();
    for (int i = 128 + thread_index(); i < 256; i += threads) p.out[i] = words[i];
  }
  RECURFORMER_HOST_DEVICE static constexpr int valid(int piece) {
    return piece % 3 == 2 ? piece % Bytes : Bytes;
  }
  static void expect(const Words& in, Words& out) {
    constexpr int pieces = 1024 / Bytes;
    for (int piece = 0; piece < pieces; ++piece)
      std::memcpy(reinterpret_cast<char*>(out.data()) + Bytes * piece,
                  reinterpret_cast<const char*>(in.data()) + Bytes * (pieces - 1 - piece), at(valid(piece)));
  }
};

template <class... Case>
struct CaseList {
  static constexpr int size = sizeof...(Case);
};

using Cases =
    CaseList<Indices, Shared, NamedBarrier, PartOfBlockBarrier, SyncWarp, Shuffles, PartialShuffle, Votes,
             BlockCollectives<32>, BlockCollectives<512>, LoadReadOnly, Atomics, AcquireRelease, GridBarrier,
             Maximum, Exponentials, Logarithms, Reciprocals, Packing<rf::bf16>, Packing<rf::fp16>,
             LoadMatrices<1, false>, LoadMatrices<2, false>, LoadMatrices<4, false>, LoadMatrices<1, true>,
             LoadMatrices<2, true>, LoadMatrices<4, true>, MatrixProduct<rf::bf16, true>,
             MatrixProduct<rf::fp16, true>, MatrixProduct<rf::bf16, false>, MatrixProduct<rf::fp16, false>,
             CopyAsync<4>, CopyAsync<8>, CopyAsync<16>>;

/// Calls f.operator()<Case>(index) for every case.
template <class... Case, class F>
void for_each_case(CaseList<Case...>, F&& f) {
  int index = 0;
  (f.template operator()<Case>(index++), ...);
}

template <class Case>
Words inputs() {
  Words in(Case::in_words);
  for (int i = 0; i < Case::in_words; ++i) in[at(i)] = Case::input(i);
  return in;
}

/// How far b is from a, in units of what the case allows; <= 1 is a pass.
template <class Case>
double distance(const Words& a, const Words& b) {
  double largest = 0, worst = 0;
  for (const Word word : a) largest = std::fmax(largest, std::fabs(as_float(word)));
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const double x = as_float(a[i]), y = as_float(b[i]);
    const double allowed = Case::relative * largest +
                           Case::ulps * std::ldexp(1.0, std::ilogb(x == 0 || x != x ? 1e-38 : x) - 23);
    if (!(allowed > 0) || !std::isfinite(x) || !std::isfinite(y))
      return std::numeric_limits<double>::infinity();
    worst = std::fmax(worst, std::fabs(x - y) / allowed);
  }
  return worst;
}

/// What a device makes of a case's inputs.
template <class Case, class Device>
Words outputs(Device& device) {
  const Words in = inputs<Case>(), zeros(Case::out_words);
  const rf::cuda::DeviceArray<Word, Device> from(device, in), to(device, zeros);
  device.template launch<Case>(
      {.blocks = {Case::blocks}, .shared_bytes = Case::shared_bytes, .cooperative = Case::blocks > 1},
      Case::parameters(from.data(), to.data()));
  return to.to_host();
}

}  // namespace RECURFORMER_ARCH
}  // namespace conformance

#endif  // TESTS_ARCH_CONFORMANCE_HPP
