#ifndef RECURFORMER_CUDA_SAMPLING_HPP
#define RECURFORMER_CUDA_SAMPLING_HPP

// From rows of logits to tokens on the device, as model/sampler.hpp does it on the host: temperature, top-k,
// top-p (arXiv 1904.09751), and a draw with a uniform number that the host supplies. One block per row:
//
//   most       the largest logit; anything that is no probability is reported
//   top-k      the k-th largest logit, by radix selection: how many there are in each of 2048 bins, then in
//              those of the bin it is in, …, three times
//   top-p      the same with weights instead of numbers
//   draw       every thread adds up the weights of neighbours; a scan finds whose sum the draw falls into
//
// "Larger" is: larger logit, then lower index. Weights 2^((logit - most) log2 e / T) are counted in units of
// 2^-40, as integers: their sums are the same in any order, and so is the token.
//
// What a block adds up and compares, CUB's collectives do (arch/block.hpp). CUB's algorithms for whole
// devices do more than is wanted, or less: a sort moves all logits and their indices through memory, several
// times, to put in order what is thrown away; DeviceTopK (since CUB 3.2, later than CUDA 13.0's) selects by
// radix as we do, but is a call per row, keeps any of equal logits and knows no top-p. Of its collectives,
// BlockRadixSort and BlockHistogram want all logits in registers, and the latter has no weights: the bins are
// our own.
//
// Floor: the logits once from memory and a few times from the L2 cache; latencies dominate.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/block.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/rows_view.hpp"

namespace rf::cuda {

/// The arguments of sample(). All pointers are the device's.
struct SamplingArguments {
  RowsView<const float> logits = {};  ///< (rows, vocabulary)
  int rows = 0;
  int vocabulary = 0;
  float temperature = 1;             ///< above 0
  int top_k = 0;                     ///< 0: off
  double top_p = 1;                  ///< above 0, up to 1: off
  const double* uniforms = nullptr;  ///< (rows), in [0, 1)
  std::int32_t* tokens = nullptr;    ///< (rows); not_a_distribution where the logits are none
};

/// Instead of a token: some logit is NaN or +inf, or all are -inf.
inline constexpr std::int32_t not_a_distribution = -1;

inline namespace RECURFORMER_ARCH {

struct SamplingKernel {
  using Parameters = SamplingArguments;
  using Weight = unsigned long long;
  static constexpr int threads = 512;
  static constexpr int blocks_per_multiprocessor = 2;
  static constexpr int bins = 2048;

  struct Shared {
    Weight bin[bins];
    arch::BlockScratch<Weight, threads> sums;
    arch::BlockScratch<float, threads> most;
    std::uint32_t key;
    Weight rest;
    std::int32_t token;
  };
  static constexpr int shared_bytes = static_cast<int>(sizeof(Shared));

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    Shared& shared = *arch::shared_memory<Shared>();
    const int row = arch::block_index().x;
    const Row logits{p.logits.row(row), p.vocabulary, log2_e / p.temperature, find_most(p, row, shared)};
    if (logits.most == infinity() || logits.most == -infinity()) {
      if (arch::thread_index() == 0) p.tokens[row] = not_a_distribution;
      return;
    }
    Cut cut;  // everything
    if (p.top_k > 0 && p.top_k < p.vocabulary)
      cut = select(logits, cut, static_cast<Weight>(p.top_k), shared, [](float) { return Weight{1}; });
    if (p.top_p < 1) {
      const Weight total = arch::block_sums(kept_weight(logits, cut, shared), shared.sums).total;
      const auto wanted = static_cast<Weight>(p.top_p * static_cast<double>(total));
      cut = select(logits, cut, wanted > 0 ? wanted : 1, shared, [&](float x) { return logits.weight(x); });
    }
    draw(logits, cut, p.uniforms[row], shared);
    if (arch::thread_index() == 0) p.tokens[row] = shared.token;
  }

 private:
  static constexpr float log2_e = 1.44269504088896341f;
  RECURFORMER_DEVICE static float infinity() { return -arch::minus_infinity(); }

  /// One row of logits.
  struct Row {
    const float* data;
    int count;
    float unit;  ///< from logits to powers of two
    float most;

    RECURFORMER_DEVICE Weight weight(float x) const {
      return static_cast<Weight>(arch::exp2((x - most) * unit) * 0x1p40f);
    }
    /// Unsigned numbers in the order of floats; -0 and 0 are one.
    RECURFORMER_DEVICE static std::uint32_t key(float x) {
      const auto bits = rf::detail::bit_cast<std::uint32_t>(x + 0.0f);
      return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    }
    /// The logit that has a key.
    RECURFORMER_DEVICE static float value(std::uint32_t key) {
      return rf::detail::bit_cast<float>((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
    }
    /// The thread's share of neighbours: [first, end).
    RECURFORMER_DEVICE int first() const { return share() * arch::thread_index(); }
    RECURFORMER_DEVICE int end() const { return first() + share() < count ? first() + share() : count; }

   private:
    RECURFORMER_DEVICE int share() const { return (count + threads - 1) / threads; }
  };

  /// What is left: logits above a key, and the first `equals` of those that have it.
  struct Cut {
    std::uint32_t key = 0;
    Weight equals = ~Weight{0};
  };

  /// The largest logit; +inf if one is NaN or +inf.
  RECURFORMER_DEVICE static float find_most(const Parameters& p, int row, Shared& shared) {
    const float* const logits = p.logits.row(row);
    float most = arch::minus_infinity();
    for (int i = arch::thread_index(); i < p.vocabulary; i += threads)
      most = logits[i] < infinity() ? arch::max(most, logits[i]) : infinity();
    return arch::block_reduce(most, arch::max, shared.most);
  }

  /// The cut, within another, above which amount() adds up to `wanted`, or to as little more as can be. All
  /// of `within` is as much.
  template <class Amount>
  RECURFORMER_DEVICE static Cut select(const Row& logits, const Cut& within, Weight wanted, Shared& shared,
                                       Amount amount) {
    constexpr int per_thread = bins / threads;
    if (arch::thread_index() == 0) shared.key = 0, shared.rest = wanted;
    for (int shift = 21; shift >= -1; shift -= 11) {  // 11 bits, 11 bits, 10 bits
      const int low = shift < 0 ? 0 : shift, width = shift < 0 ? 10 : 11;
      for (int b = arch::thread_index(); b < bins; b += threads) shared.bin[b] = 0;
      arch::sync_threads();
      const std::uint32_t found = shared.key;
      const Weight rest = shared.rest;
      for (int i = arch::thread_index(); i < logits.count; i += threads) {
        const std::uint32_t key = Row::key(logits.data[i]);
        if (key < within.key || (low + width < 32 && (key ^ found) >> (low + width) != 0)) continue;
        arch::atomic_add(&shared.bin[key >> low & ((1u << width) - 1)], amount(logits.data[i]));
      }
      arch::sync_threads();
      // thread 0 has the highest bins
      const int highest = bins - 1 - arch::thread_index() * per_thread;
      Weight own = 0;
      RECURFORMER_UNROLL
      for (int b = 0; b < per_thread; ++b) own += shared.bin[highest - b];
      Weight above = arch::block_sums(own, shared.sums).before;
      RECURFORMER_UNROLL
      for (int b = 0; b < per_thread; ++b) {
        const Weight here = shared.bin[highest - b];
        if (above < rest && above + here >= rest) {  // in one thread
          shared.key = found | static_cast<std::uint32_t>(highest - b) << low;
          shared.rest = rest - above;
        }
        above += here;
      }
      arch::sync_threads();
    }
    const std::uint32_t key = shared.key;
    const Weight one = amount(Row::value(key)), equals = one == 0 ? 1 : (shared.rest + one - 1) / one;
    arch::sync_threads();
    return {.key = key, .equals = key == within.key && within.equals < equals ? within.equals : equals};
  }

  /// The number of the thread's logits that have the key of the cut.
  RECURFORMER_DEVICE static Weight count_equals(const Row& logits, const Cut& cut) {
    Weight count = 0;
    for (int i = logits.first(); i < logits.end(); ++i) count += Row::key(logits.data[i]) == cut.key;
    return count;
  }

  /// Calls f(index, weight) for the thread's logits that are left, in order; f returns whether to go on.
  template <class F>
  RECURFORMER_DEVICE static void each_kept(const Row& logits, const Cut& cut, Weight equals_before, F f) {
    Weight rank = equals_before;
    for (int i = logits.first(); i < logits.end(); ++i) {
      const std::uint32_t key = Row::key(logits.data[i]);
      if (key < cut.key || (key == cut.key && rank++ >= cut.equals)) continue;
      if (!f(i, logits.weight(logits.data[i]))) return;
    }
  }

  /// The weight of the thread's logits that are left.
  RECURFORMER_DEVICE static Weight kept_weight(const Row& logits, const Cut& cut, Shared& shared) {
    Weight sum = 0;
    each_kept(logits, cut, arch::block_sums(count_equals(logits, cut), shared.sums).before,
              [&](int, Weight weight) {
                sum += weight;
                return true;
              });
    return sum;
  }

  /// Leaves the token that a uniform number picks from what is left.
  RECURFORMER_DEVICE static void draw(const Row& logits, const Cut& cut, double uniform, Shared& shared) {
    const Weight equals_before = arch::block_sums(count_equals(logits, cut), shared.sums).before;
    Weight own = 0;
    each_kept(logits, cut, equals_before, [&](int, Weight weight) {
      own += weight;
      return true;
    });
    const auto sums = arch::block_sums(own, shared.sums);
    auto target = static_cast<Weight>(uniform * static_cast<double>(sums.total));
    if (target >= sums.total) target = sums.total - 1;
    if (sums.before <= target && target < sums.before + own) {  // in one thread
      Weight sum = sums.before;
      each_kept(logits, cut, equals_before, [&](int index, Weight weight) {
        sum += weight;
        shared.token = index;
        return sum <= target;
      });
    }
    arch::sync_threads();
  }
};

}  // namespace RECURFORMER_ARCH

/// Chooses a token for every row; see the top of this file.
template <class Device>
void sample(Device& device, const SamplingArguments& arguments) {
  check(arguments.temperature > 0 && arguments.vocabulary > 0 && arguments.top_k >= 0 &&
            arguments.top_p > 0 && arguments.top_p <= 1,
        "sampling on a device got temperature ", arguments.temperature, ", top_k ", arguments.top_k,
        ", top_p ", arguments.top_p, " and a vocabulary of ", arguments.vocabulary,
        "; the first and last must be above 0, top_k not below, top_p above 0 and up to 1");
  if (arguments.rows == 0) return;
  device.template launch<SamplingKernel>(
      {.blocks = {.x = arguments.rows}, .shared_bytes = SamplingKernel::shared_bytes}, arguments);
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_SAMPLING_HPP
