#ifndef RECURFORMER_CPU_DECODE_PRODUCTS_HPP
#define RECURFORMER_CPU_DECODE_PRODUCTS_HPP

// The two products of attention_decode.hpp: scores of a few queries with up to step_keys keys, and sums of
// values with the weights that these became. In floats for caches of floats, in integers for caches of
// integers; both leave outputs in the order in which they come cheapest, and know the way back.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "recurformer/core/dtype.hpp"
#include "recurformer/cpu/attention_tile.hpp"
#include "recurformer/cpu/gemm_pack.hpp"
#include "recurformer/cpu/int8.hpp"
#include "recurformer/cpu/prefetch.hpp"
#include "recurformer/tile/byte_quads.hpp"
#include "recurformer/tile/transpose.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Queries of a group (tokens · heads) up to which it decodes.
inline constexpr int most_decode_queries = 16;

namespace detail {

/// Keys between two looks at the maximum.
inline constexpr int step_keys = 64;

/// Scores of every query, later the weights that they became.
using StepScores = float[most_decode_queries][step_keys];

/// Calls f(number of queries as a constant, first of them) for all queries in blocks of these sizes, the
/// larger ones first.
template <int... Sizes, class F>
void in_query_blocks(int count, F f) {
  int q = 0;
  const auto blocks = [&](auto size) {
    for (; q + size() <= count; q += size()) f(size, q);
  };
  (blocks(std::integral_constant<int, Sizes>{}), ...);
}

/// The same in as few blocks of up to 8 as possible, of sizes as even as possible, none below `Least`.
template <int Least, class F>
void in_even_blocks(int count, F f) {
  for (int q = 0, blocks = (count + 7) / 8; blocks > 0; --blocks) {
    const int size = (count - q + blocks - 1) / blocks;
    [&]<int... More>(std::integer_sequence<int, More...>) {
      (void)((size == Least + More && (f(std::integral_constant<int, Least + More>{}, q), true)) || ...);
    }
    (std::make_integer_sequence<int, 9 - Least>{});
    q += size;
  }
}

/// Asks for a row that is needed in the next phase: values while keys are read, the next keys while values
/// are, so that memory works through both.
template <int D, class T>
RECURFORMER_INLINE void ask_for_row(const T* row) {
#pragma GCC unroll 16
  for (int line = 0; line * line_bytes < D * static_cast<int>(sizeof(T)); ++line)
    prefetch(row, line * line_bytes / static_cast<int>(sizeof(T)));
}

/// The head's elements lie in vector lanes, or with many queries the keys.
template <int D, class T>
class FloatProducts {
 public:
  static constexpr int output_size = D;

  /// `query`: D floats.
  void set_query(int q, const float* query, float scale) {
    for (int d = 0; d < D; d += simd::width) simd::store(queries_[q] + d, simd::load(query + d) * scale);
  }

  /// scores[q][key]. The rows of values are those of add_values().
  void score(int queries, const KeptRows<T>& keys, const KeptRows<T>& values, int count,
             StepScores& scores) const {
    if (queries < least_transposed)
      in_query_blocks<4, 2, 1>(
          queries, [&](auto block, int q) { score_rows<block()>(q, keys, values, count, scores); });
    else
      in_even_blocks<4>(queries,  // 4 behind 5
                        [&](auto block, int q) { score_columns<block()>(q, keys, values, count, scores); });
  }

  /// output[q] += weights[q][key] · values. `next_keys` are those of the next call, or of nobody's.
  void add_values(int queries, const KeptRows<T>& values, const KeptRows<T>& next_keys, int count,
                  const StepScores& weights, float (*output)[output_size]) const {
    in_query_blocks<4, 3, 2, 1>(queries, [&](auto block, int q) {
      add_values_of<block()>(q, values, next_keys, count, weights, output);
    });
  }

  /// out[d] = factor · element d of an output.
  static void store(const float* output, float factor, float* out) {
    if constexpr (keeps_pairs) {
      for (int d = 0; d < D; d += 2 * simd::width) {
        simd::Vec first = simd::load(output + d) * factor,
                  second = simd::load(output + d + simd::width) * factor;
        simd::interleave(first, second);
        simd::store(out + d, first);
        simd::store(out + d + simd::width, second);
      }
    } else {
      for (int d = 0; d < D; d += simd::width) simd::store(out + d, simd::load(output + d) * factor);
    }
  }

 private:
  static constexpr int least_transposed = 5;  // queries whose scores are worth transposing the keys
  static constexpr int vectors = D / simd::width;

  /// Of every 2 · width bf16 outputs are the even ones, then the odd ones: two instructions widen them, four
  /// would in the order of memory.
  static constexpr bool keeps_pairs = std::is_same_v<T, bf16> && D % (2 * simd::width) == 0;

  /// Sums of `Queries` queries from transposed keys, in whose lanes they need not be added up.
  template <int Queries>
  void score_columns(int q, const KeptRows<T>& keys, const KeptRows<T>& values, int count,
                     StepScores& scores) const {
    for (int k = 0; k < count; k += simd::width) {
      const int lanes = std::min(simd::width, count - k);
      simd::Vec sums[Queries] = {};
      for_each_transposed(keys.row(k), keys.stride, lanes, D, [&](std::int64_t d, simd::Vec column) {
        // Row after row between the products: all at once would keep the loads of keys waiting.
        if (q == 0 && d % vectors == 0) ask_for_row<D>(values.row(k + static_cast<int>(d) / vectors));
#pragma GCC unroll 8
        for (int i = 0; i < Queries; ++i) sums[i] += column * queries_[q + i][d];
      });
#pragma GCC unroll 8
      for (int i = 0; i < Queries; ++i) simd::store(scores[q + i] + k, sums[i]);
    }
  }

  /// Width / Queries keys at a time, so that their sums over lanes are one transposing reduction of `width`
  /// vectors. Key after key from front to back, which is the order that the hardware's prefetcher sees as a
  /// stream.
  template <int Queries>
  void score_rows(int q, const KeptRows<T>& keys, const KeptRows<T>& values, int count,
                  StepScores& scores) const {
    using namespace simd;
    constexpr int rows = width / Queries;
    for (int k = 0; k < count; k += rows) {
      Vec sums[width];
#pragma GCC unroll 16
      for (int j = 0; j < rows; ++j) {
        const int at = std::min(k + j, count - 1);
        if (q == 0) ask_for_row<D>(values.row(at));
        Vec dot[Queries] = {};
#pragma GCC unroll 16
        for (int d = 0; d < D; d += width) {
          const Vec key = load(keys.row(at) + d);
#pragma GCC unroll 4
          for (int i = 0; i < Queries; ++i) dot[i] += key * load(queries_[q + i] + d);
        }
#pragma GCC unroll 4
        for (int i = 0; i < Queries; ++i) sums[i * rows + j] = dot[i];
      }
      alignas(64) float dots[width];
      simd::store(dots, reduce_each(sums));
      for (int i = 0; i < Queries; ++i) std::copy_n(dots + i * rows, rows, scores[q + i] + k);
    }
  }

  /// A panel of the head's elements at a time.
  template <int Queries>
  static void add_values_of(int q, const KeptRows<T>& values, const KeptRows<T>& next_keys, int count,
                            const StepScores& weights, float (*output)[output_size]) {
    using namespace simd;
    constexpr int panel = panel_vectors(tile::vector_registers / 2 / Queries);
    for (int d = 0; d < D; d += panel * width) {
      Vec sums[Queries][panel];
#pragma GCC unroll 4
      for (int i = 0; i < Queries; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < panel; ++v) sums[i][v] = load(output[q + i] + d + v * width);
      for (int k = 0; k < count; ++k) {
        const T* row = values.row(k) + d;
        if (q == 0 && d == 0) ask_for_row<D>(next_keys.row(k));
        Vec value[panel];
        load_kept(row, value);
#pragma GCC unroll 4
        for (int i = 0; i < Queries; ++i)
#pragma GCC unroll 16
          for (int v = 0; v < panel; ++v) sums[i][v] += value[v] * weights[q + i][k];
      }
#pragma GCC unroll 4
      for (int i = 0; i < Queries; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < panel; ++v) simd::store(output[q + i] + d + v * width, sums[i][v]);
    }
  }

  /// The next elements of a row of values, as floats.
  template <int Vectors>
  RECURFORMER_INLINE static void load_kept(const T* row, simd::Vec (&values)[Vectors]) {
    if constexpr (keeps_pairs) {
      static_assert(Vectors % 2 == 0);
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; v += 2) {
        simd::Vec pairs;
        std::memcpy(&pairs, row + v * simd::width, sizeof pairs);
        values[v] = simd::first_of_pairs(pairs);
        values[v + 1] = simd::second_of_pairs(pairs);
      }
    } else {
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) values[v] = simd::load(row + v * simd::width);
    }
  }

  /// The largest divisor of the head's vectors that is at most `most`.
  static constexpr int panel_vectors(int most) {
    int panel = std::min(most, vectors);
    while (vectors % panel != 0) --panel;
    return panel;
  }

  alignas(64) float queries_[most_decode_queries][D];  // scaled
};

/// Keys and values stay integers: queries, and weights with the scales of their values, become integers of 16
/// bits, with a factor of their own for every query and for every query and step. That adds an error of one
/// part in 65,000 of the largest one to that of the cache, which is one in 250.
template <int D>
class IntegerProducts {
  using Rows = KeptRows<std::int8_t>;
  static constexpr int block = 4 * simd::width;  // bytes of a vector
  static constexpr int blocks = (D + block - 1) / block;
  static constexpr int block_bytes = std::min(D, block);  // of a row in a block
  static_assert(D % block_bytes == 0 && D % simd::width == 0);
  static_assert(D <= 512, "sums of products of a head's 8-bit keys with 16-bit queries stay below 2^31");

 public:
  static constexpr int output_size = blocks * block;

  /// `query`: D floats.
  void set_query(int q, const float* query, float scale) {
    query_factor_[q] = to_factors(query, D, queries_[q]) * scale;
  }

  /// scores[q][key]. The rows of values are those of add_values().
  void score(int queries, const Rows& keys, const Rows& values, int count, StepScores& scores) const {
    in_even_blocks<1>(queries,
                      [&](auto size, int q) { score_columns<size()>(q, keys, values, count, scores); });
  }

  /// output[q] += weights[q][key] · values. `next_keys` are those of the next call, or of nobody's.
  void add_values(int queries, const Rows& values, const Rows& next_keys, int count,
                  const StepScores& weights, float (*output)[output_size]) {
    for (int q = 0; q < queries; ++q) set_weights(q, weights[q], values.scales, count);
    in_query_blocks<4, 3, 2, 1>(
        queries, [&](auto size, int q) { add_values_of<size()>(q, values, next_keys, count, output); });
  }

  /// out[d] = factor · element d of an output.
  static void store(const float* output, float factor, float* out) {
    for (int b = 0; b < blocks; ++b)
      for (int v = 0; v < 4; ++v)
        for (int i = 0; i < block_bytes / 16; ++i)
          for (int j = 0; j < 4; ++j)
            out[b * block + simd::first_column_of_quads(v, i) + j] =
                output[b * block + v * simd::width + 4 * i + j] * factor;
  }

 private:
  /// Writes factors of quads for numbers and returns what one of their units stands for: NaN if a number is
  /// NaN or infinite.
  RECURFORMER_INLINE static float to_factors(const float* numbers, int count, std::int32_t* factors) {
    const float largest = largest_magnitude(numbers, count);
    const float inverse = largest > 1e-34f ? simd::largest_short / largest : 0.0f;  // which is finite
    for (int i = 0; i < count; i += simd::width) {
      const simd::IntVec pairs = simd::factors_of_quads(simd::load(numbers + i) * inverse);
      std::memcpy(factors + i, &pairs, sizeof pairs);
    }
    return largest / simd::largest_short;
  }

  /// A block of a row; zeros behind a shorter row.
  RECURFORMER_INLINE static simd::ByteQuads load_block(const std::int8_t* row) {
    simd::ByteQuads bytes = {};
    std::memcpy(&bytes, row, block_bytes);
    return bytes;
  }

  /// Quads of the same place of `width` keys in lanes, which need not be added up.
  template <int Queries>
  void score_columns(int q, const Rows& keys, const Rows& values, int count, StepScores& scores) const {
    using namespace simd;
    constexpr int odd = Queries < 4 ? 1 : 0;  // a sum of its own where few would wait for each other
    for_lanes(count, [&](std::int64_t k, auto lanes) {
      IntVec sums[Queries][odd + 1] = {};
      for (int b = 0; b < blocks; ++b) {
        Vec quads[width];
#pragma GCC unroll 16
        for (int j = 0; j < width; ++j) {
          const std::int64_t at = k + std::min<int>(j, lanes - 1);
          if (q == 0 && b == 0) ask_for_row<D>(values.row(at));
          quads[j] = simd::detail::bits_as<Vec>(load_block(keys.row(at) + b * block));
        }
        transpose(quads);
#pragma GCC unroll 16
        for (int j = 0; j < block_bytes / 4; ++j) {
          const QuadPairs key = pairs_of(simd::detail::bits_as<IntVec>(quads[j]));
#pragma GCC unroll 8
          for (int i = 0; i < Queries; ++i) {
            const std::int32_t* query = queries_[q + i] + b * block + 4 * j;
            sums[i][0] = add_pair_products(sums[i][0], key.even, IntVec{} + query[0]);
            sums[i][odd] = add_pair_products(sums[i][odd], key.odd, IntVec{} + query[1]);
          }
        }
      }
      const Vec scale = load_n(keys.scales + k, lanes);
#pragma GCC unroll 8
      for (int i = 0; i < Queries; ++i) {
        if constexpr (odd == 1) sums[i][0] += sums[i][1];
        simd::store(scores[q + i] + k,
                    __builtin_convertvector(sums[i][0], Vec) * query_factor_[q + i] * scale);
      }
    });
  }

  /// Weights of the values' integers, as integers.
  void set_weights(int q, const float* weights, const float* scales, int count) {
    using namespace simd;
    alignas(64) float scaled[step_keys];
    for_lanes(count, [&](std::int64_t k, auto n) {
      simd::store(scaled + k, load_n(weights + k, n) * load_n(scales + k, n));  // 0 behind the last key
    });
    const int padded = (count + width - 1) / width * width;
    weight_factor_[q] = to_factors(scaled, padded, weights_[q]);
  }

  /// Quads of the same place of four values in lanes.
  template <int Queries>
  void add_values_of(int q, const Rows& values, const Rows& next_keys, int count,
                     float (*output)[output_size]) const {
    using namespace simd;
    for (int b = 0; b < blocks; ++b) {
      IntVec sums[Queries][4] = {};
      for (int k = 0; k < count; k += 4) {
        ByteQuads rows[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const int at = std::min(k + j, count - 1);  // again, with weight 0
          if (q == 0 && b == 0) ask_for_row<D>(next_keys.row(at));
          rows[j] = load_block(values.row(at) + b * block);
        }
        IntVec quads[4];
        quads_of_columns(rows, quads);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          const QuadPairs value = pairs_of(quads[v]);
#pragma GCC unroll 4
          for (int i = 0; i < Queries; ++i) {
            sums[i][v] = add_pair_products(sums[i][v], value.even, IntVec{} + weights_[q + i][k]);
            sums[i][v] = add_pair_products(sums[i][v], value.odd, IntVec{} + weights_[q + i][k + 1]);
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < Queries; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          float* out = output[q + i] + b * block + v * width;
          simd::store(out, load(out) + __builtin_convertvector(sums[i][v], Vec) * weight_factor_[q + i]);
        }
    }
  }

  alignas(64) std::int32_t queries_[most_decode_queries][D];          // factors of quads
  alignas(64) std::int32_t weights_[most_decode_queries][step_keys];  // the same
  float query_factor_[most_decode_queries];
  float weight_factor_[most_decode_queries];
};

}  // namespace detail

/// The products for a cache of Ts.
template <int D, class T>
using DecodeProducts =
    std::conditional_t<has_scales<T>, detail::IntegerProducts<D>, detail::FloatProducts<D, T>>;

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_DECODE_PRODUCTS_HPP
