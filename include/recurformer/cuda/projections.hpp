#ifndef RECURFORMER_CUDA_PROJECTIONS_HPP
#define RECURFORMER_CUDA_PROJECTIONS_HPP

// The input projections of all runs of a layer in one launch: norm, product, bias, rotary positions (arXiv
// 2104.09864) and the append to the caches,
//
//   launch_linear(device, operands, RmsNorm{…}, Project<T>{…})
//
// The columns of the product come in units of sixteen, the two runs of eight that a thread holds
// (gemm_epilogue.hpp), and a table says of each unit what it is and where it goes: x and z of recurrent heads
// and whatever a convolution still has to pass into the run's matrix, queries turned into theirs, keys turned
// and values into the pages of a cache, or into matrices where a ring follows. A head's pairs (i, i + d_head
// / 2) share a unit: eight of its first half and the same eight of its second. ProjectionLayout writes the
// table, and says which rows of the runs' weights the fused matrix is made of (pack_rows.hpp). Nothing is
// padded but the end of a span to 16 columns, and the whole to 64.
//
// Pages are (groups, cache_page_rows, d_head), as in the cache of the CPU.

#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/arch/thread.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/gemm_epilogue.hpp"
#include "recurformer/cuda/packed_elements.hpp"
#include "recurformer/cuda/rotary_table.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/cache_field.hpp"

namespace rf::cuda {

/// Where units are written: rows of a matrix, or pages of a cache.
template <class T>
struct ProjectionTarget {
  T* data = nullptr;        ///< 16-byte aligned
  std::int64_t stride = 0;  ///< elements from a row, or from a page, to the next
  int page_row = 0;         ///< pages: elements from a position to the next, d_head; 0: this is a matrix
};

/// What two runs of eight columns are.
struct ProjectionUnit {
  int target = -1;         ///< index of a ProjectionTarget, or -1 for columns that are nothing
  int column[2] = {0, 0};  ///< where each run of eight starts in the row of the target
  int count[2] = {0, 0};   ///< how many of its eight are written
  int first_pair = -1;     ///< rotated: the first of its eight pairs; otherwise -1
};

/// Which token a row is.
struct RowPlace {
  int sequence = 0;  ///< index in the batch
  int position = 0;
};

/// The table of a layer's fused projection, made on the host.
class ProjectionLayout {
 public:
  /// Adds `count` rows of the weights, from row `source` on, that become the columns from `column` on of a
  /// target. `rotated`: they are one head, count = d_head.
  void add_span(int target, int source, int column, int count, bool rotated = false) {
    check(!rotated || count % 16 == 0, "a rotated head has ", count, " columns; it needs a multiple of 16");
    for (int first = 0; first < count;) {
      // pairs lie half a head apart; other columns as in a plain product, where lanes write 64 bytes in a row
      const int size = rotated || count - first < partner_block ? count - first : partner_block;
      const int units = (size + 15) / 16;
      for (int u = 0; u < units; ++u)
        add_unit(target, source + first, column + first, size, u, units, rotated);
      first += size;
    }
  }
  /// Adds an attention run whose weights, from row `source` on, are per group q (queries · d_head) | k | v. q
  /// goes to columns (group · queries + query) · d_head of its target, k and v to the group's place in pages,
  /// or to columns group · d_head of matrices.
  struct AttentionTargets {
    int q, k, v;
    bool paged;
  };
  void add_attention(const AttentionTargets& to, int source, int groups, int queries, int d_head) {
    const int group_columns = d_head * (to.paged ? static_cast<int>(cache_page_rows) : 1);
    for (int group = 0; group < groups; ++group) {
      const int first = source + group * (queries + 2) * d_head;
      for (int query = 0; query < queries; ++query)
        add_span(to.q, first + query * d_head, (group * queries + query) * d_head, d_head, true);
      add_span(to.k, first + queries * d_head, group * group_columns, d_head, true);
      add_span(to.v, first + (queries + 1) * d_head, group * group_columns, d_head);
    }
  }

  /// One per 16 columns of the product.
  std::vector<ProjectionUnit> units() const {
    std::vector<ProjectionUnit> out = units_;
    out.resize((units_.size() + 3) / 4 * 4);
    return out;
  }
  /// Columns of the product, a multiple of 64.
  int columns() const { return static_cast<int>((units_.size() + 3) / 4) * partner_block; }
  /// For every column of the product its row of the weights, or -1: the `source` of pack_rows.
  std::vector<int> source_rows() const {
    std::vector<int> out(static_cast<std::size_t>(columns()), -1);
    for (std::size_t u = 0; u < units_.size(); ++u)
      for (int half = 0; half < 2; ++half)
        for (int i = 0; i < units_[u].count[half]; ++i)
          out[u / 4 * partner_block + u % 4 * 8 + static_cast<std::size_t>(half * partner_distance + i)] =
              sources_[u].row[half] + i;
    return out;
  }
  /// Where the column of every row of the weights goes.
  struct Destination {
    int target;
    int column;
    bool rotated;
  };
  std::vector<Destination> destinations() const {
    std::vector<Destination> out;
    for (std::size_t u = 0; u < units_.size(); ++u)
      for (int half = 0; half < 2; ++half)
        for (int i = 0; i < units_[u].count[half]; ++i) {
          const auto row = static_cast<std::size_t>(sources_[u].row[half] + i);
          if (row >= out.size()) out.resize(row + 1);
          out[row] = {units_[u].target, units_[u].column[half] + i, units_[u].first_pair >= 0};
        }
    return out;
  }
  /// The biases of the product's columns, given those of the weights' rows.
  std::vector<float> arranged_bias(std::span<const float> bias) const {
    std::vector<float> out;
    for (const int row : source_rows()) out.push_back(row < 0 ? 0.0f : bias[static_cast<std::size_t>(row)]);
    return out;
  }

 private:
  struct Source {
    int row[2];
  };

  /// Unit `u` of a span of `size` columns, whose second halves begin 8 · units columns in.
  void add_unit(int target, int source, int column, int size, int u, int units, bool rotated) {
    ProjectionUnit unit{.target = target, .first_pair = rotated ? 8 * u : -1};
    Source rows{};
    for (int half = 0; half < 2; ++half) {
      const int first = 8 * (u + half * units), left = size - first;
      unit.column[half] = column + first;
      unit.count[half] = left < 0 ? 0 : left < 8 ? left : 8;
      rows.row[half] = source + first;
    }
    units_.push_back(unit);
    sources_.push_back(rows);
  }

  std::vector<ProjectionUnit> units_;
  std::vector<Source> sources_;
};

inline namespace RECURFORMER_ARCH {

/// The epilogue that does what the units say.
template <class T>
struct Project {
  using Part = NoPart;
  const ProjectionUnit* units = nullptr;         ///< one per 16 columns
  const ProjectionTarget<T>* targets = nullptr;  ///< what units name
  const float* bias = nullptr;                   ///< (columns), or null
  const RowPlace* places = nullptr;              ///< (rows); for rotated columns and pages
  RotaryTable rope = {};                         ///< of every position in the batch
  const int* pages = nullptr;                    ///< (sequences, pages_per_sequence): indices of pages
  int pages_per_sequence = 0;

  RECURFORMER_DEVICE NoPart store(int row, int column, const float (&values)[16]) const {
    const ProjectionUnit unit = units[column / partner_block * 4 + column % partner_block / 8];
    if (unit.target < 0) return {};
    float sums[16];
    RECURFORMER_UNROLL
    for (int i = 0; i < 16; ++i)
      sums[i] = values[i] + (bias ? bias[column + i / 8 * partner_distance + i % 8] : 0.0f);
    if (unit.first_pair >= 0) rotate(sums, places[row].position, unit.first_pair);
    T* to = target_row(targets[unit.target], row);
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      T* at = to + unit.column[half];
      if (unit.count[half] == 8 && reinterpret_cast<std::uintptr_t>(at) % 16 == 0)
        store_eight(at, sums + 8 * half);
      else
        store_some(at, sums + 8 * half, unit.count[half]);
    }
    return {};
  }

 private:
  /// Turns the pairs (sums[i], sums[i + 8]) to `position`.
  RECURFORMER_DEVICE void rotate(float (&sums)[16], int position, int first_pair) const {
    const float* cosines = rope.cosines + position * rope.stride + first_pair;
    const float* sines = rope.sines + position * rope.stride + first_pair;
    RECURFORMER_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float low = sums[i], high = sums[8 + i], c = cosines[i], s = sines[i];
      sums[i] = low * c - high * s;
      sums[8 + i] = high * c + low * s;
    }
  }

  RECURFORMER_DEVICE T* target_row(const ProjectionTarget<T>& target, int row) const {
    if (target.page_row == 0) return target.data + row * target.stride;
    constexpr int page_rows = static_cast<int>(cache_page_rows);
    const RowPlace place = places[row];
    const std::int64_t page =
        pages[std::int64_t{place.sequence} * pages_per_sequence + place.position / page_rows];
    return target.data + page * target.stride + place.position % page_rows * target.page_row;
  }

  /// Columns that are too few or begin anywhere: groups of odd width.
  RECURFORMER_DEVICE static void store_some(T* at, const float* sums, int count) {
    RECURFORMER_UNROLL
    for (int i = 0; i < 8; ++i)
      if (i < count) at[i] = T(sums[i]);
  }
};

/// One block per sequence.
struct PlaceRowsKernel {
  struct Parameters {
    const SequenceRows* sequences = nullptr;
    RowPlace* places = nullptr;
  };
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 8;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int sequence = arch::block_index().x;
    const SequenceRows rows = p.sequences[sequence];
    for (int r = arch::thread_index(); r < rows.rows; r += threads)
      p.places[rows.first_row + r] = {.sequence = sequence, .position = static_cast<int>(rows.position) + r};
  }
};

}  // namespace RECURFORMER_ARCH

/// Writes the place of every row of a batch, once per call for all layers.
template <class Device>
void place_rows(Device& device, const SequenceRows* sequences, int sequence_count, RowPlace* places) {
  if (sequence_count > 0)
    device.template launch<PlaceRowsKernel>({.blocks = {.x = sequence_count}}, {sequences, places});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_PROJECTIONS_HPP
