#ifndef RECURFORMER_CUDA_LOGITS_HPP
#define RECURFORMER_CUDA_LOGITS_HPP

// The last step of a model, for the rows that are asked for (the last token of every sequence):
//
//   logits (count, vocabulary) = rms_norm(x[index]) Wᵀ,   token = the first of the largest
//
// Every tile leaves its largest logit, and a second, small kernel picks the row's: greedy decoding needs no
// logits in memory, and leaves out writing them.

#include <cstdint>

#include "recurformer/arch/block.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/cuda/linear.hpp"

namespace rf::cuda {
inline namespace RECURFORMER_ARCH {

/// Stores logits in float, unless there is nowhere to, and the largest of each part.
struct StoreLogits {
  using Part = MaxPart;
  RowsView<float> logits = {};  ///< (rows, columns), or null; 16-byte aligned, stride a multiple of 4
  int columns = 0;              ///< vocabulary, a multiple of 8
  MaxPart* largest = nullptr;   ///< (rows, parts)
  int largest_parts = 0;

  RECURFORMER_DEVICE MaxPart store(int row, int column, const float (&values)[16]) const {
    MaxPart part{.column = column};
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int first = column + half * partner_distance;
      if (first >= columns) continue;
      RECURFORMER_UNROLL
      for (int i = 0; i < 8; ++i) part = MaxPart::larger(part, {values[8 * half + i], first + i});
      if (logits.data == nullptr) continue;
      RECURFORMER_UNROLL
      for (int i = 0; i < 8; i += 4)
        *reinterpret_cast<Floats4*>(logits.row(row) + first +
                                    i) = {{values[8 * half + i], values[8 * half + i + 1],
                                           values[8 * half + i + 2], values[8 * half + i + 3]}};
    }
    return part;
  }
  RECURFORMER_DEVICE void store_part(int row, int part, MaxPart value) const {
    largest[std::int64_t{row} * largest_parts + part] = value;
  }
  int parts() const { return largest_parts; }

 private:
  struct alignas(16) Floats4 {
    float value[4];
  };
};

/// The token of the largest part of each row, one row per block.
struct GreedyTokenKernel {
  struct Parameters {
    const MaxPart* largest = nullptr;  ///< (rows, parts)
    int parts = 0;
    std::int32_t* tokens = nullptr;  ///< (rows)
  };
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 8;
  using Scratch = arch::BlockScratch<MaxPart, threads>;
  static constexpr int shared_bytes = static_cast<int>(sizeof(Scratch));

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int row = arch::block_index().x;
    MaxPart best;
    for (int part = arch::thread_index(); part < p.parts; part += threads)
      best = MaxPart::larger(best, p.largest[std::int64_t{row} * p.parts + part]);
    best = arch::block_reduce(best, MaxPart::larger, *arch::shared_memory<Scratch>());
    if (arch::thread_index() == 0) p.tokens[row] = best.column;
  }
};

}  // namespace RECURFORMER_ARCH

/// The arguments of logits(). All pointers are the device's.
template <class T>
struct LogitsArguments {
  GatheredRows<T> rows = {};       ///< of the residual stream
  const T* head = nullptr;         ///< (vocabulary, d_model), the final norm's gain folded in
  int vocabulary = 0;              ///< a multiple of 8
  int d_model = 0;                 ///< a multiple of 8
  RmsNorm norm = {};               ///< with the sums of squares of the residual stream
  RowsView<float> logits = {};     ///< (rows.count, vocabulary), or null
  MaxPart* largest = nullptr;      ///< workspace of rows.count · row_parts(rows.count, vocabulary)
  std::int32_t* tokens = nullptr;  ///< (rows.count): the greedy choice
};

/// See the top of this file.
template <class T, class Device>
void logits(Device& device, const LogitsArguments<T>& a) {
  if (a.rows.count == 0) return;
  const int parts = row_parts(a.rows.count, a.vocabulary);
  launch_linear(
      device,
      GemmOperands<GatheredRows<T>>{
          .rows = a.rows, .weights = a.head, .columns = a.vocabulary, .inner = a.d_model},
      a.norm,
      StoreLogits{.logits = a.logits, .columns = a.vocabulary, .largest = a.largest, .largest_parts = parts});
  device.template launch<GreedyTokenKernel>(
      {.blocks = {.x = a.rows.count}, .shared_bytes = GreedyTokenKernel::shared_bytes},
      {.largest = a.largest, .parts = parts, .tokens = a.tokens});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_LOGITS_HPP
