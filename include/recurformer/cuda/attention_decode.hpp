#ifndef RECURFORMER_CUDA_ATTENTION_DECODE_HPP
#define RECURFORMER_CUDA_ATTENTION_DECODE_HPP

// Attention of a few queries over a long past on CUDA. The bytes of keys and values are the work, so every
// row is read once for all queries of the group, its query heads and the new tokens packed into 16 rows of a
// tensor-core product, and the keys are split over blocks and warps:
//
//   1. a block takes a split of the keys a tile of queries sees (cuda/attention_items.hpp). Its warps take
//      turns in the split's tiles of keys, each with a pipeline of cp.async copies of its own and no barrier
//      of the block, by the tile program of kernel/attention.hpp
//   2. the warps' results (o, m, l), relative to their own maxima, are merged in shared memory
//   3. where there are several splits, the block leaves its result in the workspace; the last of them to come
//      merges all, in the order of the keys whoever is last, so that the bits do not depend on the schedule
//
// Shapes and types are those of cuda/attention_prefill.hpp.

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/attention_items.hpp"
#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/packed_elements.hpp"
#include "recurformer/cuda/work_item.hpp"
#include "recurformer/kernel/attention.hpp"
#include "recurformer/tile/cuda_tile.hpp"

namespace rf::cuda {

/// Tile sizes of decode at width D, for tiles of 16 · Slabs queries. More slabs suit groups of more than 16
/// queries, whose keys and values would otherwise be read once per 16.
template <int D, int Slabs = 1,
          int Keys = D <= 32   ? 64
                     : D <= 64 ? 32
                               : 16>
struct DecodeTuning {
  static_assert(Slabs * D <= 256, "recurformer: the outputs of a warp must fit its registers");
  static constexpr int warps = D <= 128 ? 4 : 2;
  static constexpr int slabs = Slabs;
  static constexpr int queries = 16 * Slabs;  ///< per block
  static constexpr int keys = Keys;           ///< per tile of one warp
  static constexpr bool queries_in_registers = Slabs * D <= 128;
  static constexpr int stages = 2;  ///< tiles of keys and of values that a warp holds or awaits
  static constexpr int blocks_per_multiprocessor = D <= 128 && Slabs == 1 ? 3 : 2;
};

/// Where splits leave their results.
struct DecodeWorkspace {
  float* partials = nullptr;  ///< decode_partial_floats() of them, 16-byte aligned; need not be initialised
  unsigned* counters = nullptr;  ///< DecodePlan::counters of them, zero before the first use; left zero
};

inline namespace RECURFORMER_ARCH {

/// Results of several parts of the keys: per part and query a row of D outputs, the maximum and the sum.
template <int D>
struct DecodeParts {
  /// Floats of a row; the padding keeps stores of fragments free of bank conflicts.
  static constexpr int row = D + 8;
  struct alignas(16) Eight {
    float value[8];
  };
  struct Merged {
    Eight output;  ///< relative to `maximum`
    float maximum;
    float sum;
  };

  float* data;
  int queries;  ///< rows of a part

  RECURFORMER_DEVICE float* at(int part, int query) const {
    return data + (std::int64_t{part} * queries + query) * row;
  }

  /// Eight outputs of one query over the first `count` parts, added in their order.
  RECURFORMER_DEVICE Merged merge(int count, int query, int chunk) const {
    Merged result{.output = {}, .maximum = arch::minus_infinity(), .sum = 0.0f};
    for (int p = 0; p < count; ++p) result.maximum = arch::max(result.maximum, at(p, query)[D]);
    const float offset = result.maximum == arch::minus_infinity() ? 0.0f : result.maximum;
    for (int p = 0; p < count; ++p) {
      const float* part = at(p, query);
      const float factor = arch::exp2(part[D] - offset);
      const Eight output = *reinterpret_cast<const Eight*>(part + 8 * chunk);
      result.sum += part[D + 1] * factor;
      RECURFORMER_UNROLL
      for (int i = 0; i < 8; ++i) result.output.value[i] += output.value[i] * factor;
    }
    return result;
  }

  RECURFORMER_DEVICE void store(int part, int query, int chunk, const Merged& merged) const {
    float* to = at(part, query);
    *reinterpret_cast<Eight*>(to + 8 * chunk) = merged.output;
    if (chunk != 0) return;
    to[D] = merged.maximum;
    to[D + 1] = merged.sum;
  }
};

/// Shared memory of a block: the warps' stages, later their results; the queries; the item; a flag.
template <class T, int D, class Tuning>
struct DecodeMemory {
  using Keys = tile::SharedTile<T, Tuning::keys, D>;
  using Queries = tile::SharedTile<T, Tuning::queries, D>;
  static constexpr int warp_bytes = 2 * Tuning::stages * Keys::bytes;
  static constexpr int stage_bytes = Tuning::warps * warp_bytes;
  static constexpr int part_bytes =
      Tuning::warps * Tuning::queries * DecodeParts<D>::row * static_cast<int>(sizeof(float));
  static constexpr int queries_at = stage_bytes > part_bytes ? stage_bytes : part_bytes;
  static constexpr int item_at = queries_at + Queries::bytes;
  static constexpr int last_at = item_at + static_cast<int>(sizeof(DecodeItem));
  static constexpr int bytes = last_at + static_cast<int>(sizeof(int));
};

/// The backend of kernel::flash_attention_forward for one item, by the warps of a work item; each warp
/// computes all queries over its own keys.
template <class Parameters, int D, class Tuning>
class DecodeTile : public AttentionTile<Parameters, D, Tuning> {
 public:
  using Base = AttentionTile<Parameters, D, Tuning>;
  using typename Base::Output;
  using typename Base::Rows;
  using typename Base::Scores;
  using typename Base::T;
  using Memory = DecodeMemory<T, D, Tuning>;
  using Operand = std::conditional_t<Tuning::queries_in_registers, tile::RegisterOperand<T, Tuning::slabs, D>,
                                     tile::StoredOperand<T, Tuning::slabs, D>>;
  static constexpr int threads = arch::warp_size * Tuning::warps;
  static_assert(!Parameters::Probe::probing, "recurformer: the recency probe belongs to prefill");

  RECURFORMER_DEVICE DecodeTile(const Parameters& parameters, const DecodeItem& item,
                                const DecodeWorkspace& workspace, unsigned char* shared)
      : Base(parameters, item.queries, 0),
        split_(item),
        workspace_(workspace),
        shared_(shared),
        queries_(shared + Memory::queries_at) {
    const typename Memory::Queries tile{arch::shared_address(shared + Memory::queries_at)};
    this->template copy_queries<threads>(tile, arch::thread_index());
    arch::commit_copies();
    for (int step = 0; step < Tuning::stages; ++step) copy_tiles(step);
    arch::wait_for_copies<Tuning::stages>();
    sync_item<threads>();
    load_queries(tile);
  }

  RECURFORMER_DEVICE const Operand& queries() const { return queries_; }

  template <class F>
  RECURFORMER_DEVICE void stream(F f) {
    for (int step = 0; tile_of(step) < split_.end_tile; ++step) {
      arch::wait_for_copies<Tuning::stages - 1>();
      arch::sync_warp();
      f(place(step, 0), place(step, 1), this->mask(tile_of(step)));
      arch::sync_warp();
      copy_tiles(step + Tuning::stages);
    }
    arch::wait_for_copies<0>();
  }

  RECURFORMER_DEVICE void finish(const Output& output, const Rows& maximum, const Rows& partial_sum) {
    const DecodeParts<D> warps{.data = reinterpret_cast<float*>(shared_), .queries = Tuning::queries};
    sync_item<threads>();  // nobody reads the stages any more
    leave(warps, output, maximum, row_total(partial_sum));
    sync_item<threads>();
    if (split_.splits == 1) return store(warps, Tuning::warps);

    const DecodeParts<D> splits{
        .data = workspace_.partials + std::int64_t{split_.partial} * Tuning::queries * DecodeParts<D>::row,
        .queries = Tuning::queries};
    each_chunk([&](const QueryTile&, int r, int chunk) {
      splits.store(split_.split, r, chunk, warps.merge(Tuning::warps, r, chunk));
    });
    if (comes_last()) store(splits, split_.splits);
  }

 private:
  /// Queries as fragments: in the registers of every warp, or where they were, for all warps together.
  RECURFORMER_DEVICE void load_queries(const typename Memory::Queries& tile) {
    if constexpr (Tuning::queries_in_registers) {
      queries_.fill_from(tile, 0);
    } else {
      if (arch::warp_index() == 0) {
        tile::RegisterOperand<T, Tuning::slabs, D> loaded;
        loaded.fill_from(tile, 0);
        arch::sync_warp();
        queries_.fill_from(loaded);
      }
      sync_item<threads>();
    }
  }

  /// The tile of keys that the warp takes in its step.
  RECURFORMER_DEVICE int tile_of(int step) const {
    return split_.first_tile + step * Tuning::warps + arch::warp_index();
  }
  /// Where the keys (0) or values (1) of a step lie.
  RECURFORMER_DEVICE typename Memory::Keys place(int step, int which) const {
    const int slot = (arch::warp_index() * Tuning::stages + step % Tuning::stages) * 2 + which;
    return {arch::shared_address(shared_) + static_cast<arch::SharedAddress>(slot * Memory::Keys::bytes)};
  }
  /// Starts copying the tiles of a step, if there is one; a group of copies in any case.
  RECURFORMER_DEVICE void copy_tiles(int step) const {
    const int tile = tile_of(step);
    if (tile < split_.end_tile) {
      this->template copy_keys<arch::warp_size>(place(step, 0), arch::lane_index(), tile);
      this->template copy_values<arch::warp_size>(place(step, 1), arch::lane_index(), tile);
    }
    arch::commit_copies();
  }

  /// The warp's result as a part.
  RECURFORMER_DEVICE void leave(const DecodeParts<D>& parts, Output output, Rows maximum, Rows sum) const {
    output.each([&](float& x, int i, int half, int column) {
      parts.at(arch::warp_index(), this->row(i, half))[tile::fragment_column() + column] = x;
    });
    if (arch::lane_index() % 4 != 0) return;
    maximum.each([&](float& m, int i, int half) {
      float* state = parts.at(arch::warp_index(), this->row(i, half)) + D;
      state[0] = m;
      state[1] = sum.value[i][half];
    });
  }

  /// Calls f(queries, query, chunk of eight outputs), the chunks of all queries shared out among the threads.
  template <class F>
  RECURFORMER_DEVICE void each_chunk(F f) const {
    const QueryTile queries = this->query_tile();
    RECURFORMER_ROLLED
    for (int index = arch::thread_index(); index < queries.count * (D / 8); index += threads)
      f(queries, index / (D / 8), index % (D / 8));
  }

  /// Merges all parts into the outputs.
  RECURFORMER_DEVICE void store(const DecodeParts<D>& parts, int count) const {
    each_chunk([&](const QueryTile& queries, int r, int chunk) {
      typename DecodeParts<D>::Merged merged = parts.merge(count, r, chunk);
      const float inverse = inverse_sum(merged.sum);
      RECURFORMER_UNROLL
      for (int i = 0; i < 8; ++i) merged.output.value[i] *= inverse;
      store_eight(this->out_row(queries, r) + 8 * chunk, merged.output.value);
      if (chunk == 0 && this->parameters_.log_sum_exp)
        *this->log_sum_exp_at(queries, r) = natural_log_sum_exp(merged.maximum, merged.sum);
    });
  }

  /// True in the block that finds all other splits done; what they left is then visible to it.
  RECURFORMER_DEVICE bool comes_last() const {
    auto* last = reinterpret_cast<int*>(shared_ + Memory::last_at);
    sync_item<threads>();
    if (arch::thread_index() == 0) {
      unsigned* counter = workspace_.counters + split_.counter;
      const unsigned before = arch::atomic_add_acquire_release(counter, 1u);
      *last = before == static_cast<unsigned>(split_.splits - 1);
      if (*last) *counter = 0;  // for the next launch
    }
    sync_item<threads>();
    return *last != 0;
  }

  const DecodeItem& split_;
  const DecodeWorkspace& workspace_;
  unsigned char* shared_;
  Operand queries_;
};

/// Computes one item by the first 32 · Tuning::warps threads of a block, which has DecodeMemory::bytes of
/// shared memory at `shared`, 128-byte aligned. Whatever comes next, another item too, may use that memory
/// after sync_threads().
template <int D, class Tuning, class Attention>
RECURFORMER_DEVICE void attention_decode_item(const Attention& attention, const DecodeItem& item,
                                              const DecodeWorkspace& workspace, unsigned char* shared) {
  using Memory = DecodeMemory<typename Attention::Element, D, Tuning>;
  auto* own =
      reinterpret_cast<DecodeItem*>(shared + Memory::item_at);  // costs the loop over keys no registers
  if (arch::thread_index() == 0) *own = item;
  sync_item<arch::warp_size * Tuning::warps>();
  DecodeTile<Attention, D, Tuning> tile(attention, *own, workspace, shared);
  kernel::flash_attention_forward(tile);
}

}  // namespace RECURFORMER_ARCH

/// One block per item.
template <class Attention, int D, class Tuning = DecodeTuning<D>>
struct AttentionDecode {
  struct Parameters {
    Attention attention;
    const DecodeItem* items = nullptr;
    DecodeWorkspace workspace;
  };
  using Memory = DecodeMemory<typename Attention::Element, D, Tuning>;
  static constexpr int threads = arch::warp_size * Tuning::warps;
  static constexpr int blocks_per_multiprocessor = Tuning::blocks_per_multiprocessor;
  static constexpr int shared_bytes = Memory::bytes;
  static_assert(shared_bytes < arch::shared_bytes_everywhere);

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    attention_decode_item<D, Tuning>(parameters.attention, parameters.items[arch::block_index().x],
                                     parameters.workspace, arch::shared_memory<unsigned char>());
  }
};

/// Floats of DecodeWorkspace::partials for a plan.
template <int D, class Tuning = DecodeTuning<D>>
std::size_t decode_partial_floats(const DecodePlan& plan) {
  return static_cast<std::size_t>(plan.partials) * Tuning::queries * (D + 8);
}

/// Computes out, and log_sum_exp where asked for, of every item: those of plan_decode<Tuning>(), on the
/// device.
template <int D, class Tuning = DecodeTuning<D>, class Device, class Attention>
void attention_decode(Device& device, const Attention& attention, std::span<const DecodeItem> items,
                      const DecodeWorkspace& workspace) {
  using Kernel = AttentionDecode<Attention, D, Tuning>;
  if (items.empty()) return;
  device.template launch<Kernel>(
      {.blocks = {.x = static_cast<int>(items.size())}, .shared_bytes = Kernel::shared_bytes},
      {.attention = attention, .items = items.data(), .workspace = workspace});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_DECODE_HPP
