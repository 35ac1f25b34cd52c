#ifndef RECURFORMER_CUDA_SM90_ATTENTION_PREFILL_HPP
#define RECURFORMER_CUDA_SM90_ATTENTION_PREFILL_HPP

// Attention of many queries on Hopper (sm_90a; FlashAttention-3, arXiv 2407.08608): what
// cuda/attention_prefill.hpp computes, by TMA and wgmma,
//
//   o = softmax(q kᵀ / √d_head + mask) v
//
//   queries  (rows, groups · heads · d_head)   bf16 or fp16, d_head 64 or 128
//   keys, values                               pages, the same type (cuda/key_values.hpp)
//   out      (rows, heads of the layer · d_head)
//
// Floors on an H100, for B sequences of Lq queries of H heads on Lk keys, half of each under a causal mask:
// 4·B·H·Lq·Lk·d_head operations at 989e12 per second in the tensor cores, B·H·Lq·Lk exponentials at 3.87e12
// per second beside them: as much at d_head 64, half at 128. The schedule has them overlap twice.
//
// An item is a tile of 128 packed queries of one group of one sequence; a block per multiprocessor computes
// several. A producer warpgroup, the last, gives its registers away and one thread of it brings tiles of keys
// and values (sm90/attention_pipeline.hpp), those of the next item while the last one is being stored; two
// consumer warpgroups own 64 queries each. Within a warpgroup the products of one tile run while the softmax
// of the next does,
//
//   issue S = Q Kᵢᵀ │ issue O += P Vᵢ₋₁ │ wait for S │ mask, softmax │ wait for O │ rescale O │ P = S
//
// and the two take turns at issuing, so that one's products run while the other is at its softmax. P stays in
// registers: the accumulator layout of S is the operand layout of P. The recency probe, where there is one,
// adds up weights right behind the softmax, while they are still floats and O's product runs.
//
// Rows of values that no query of the tile sees, behind the last key or outside the window, may hold anything
// and come with the tile; the weights there are 0, but 0 · NaN is not, so the consumers zero them in shared
// memory. Scores of such keys are replaced, whatever they are. This takes place in masked tiles only.
//
// Keys and values must have been written by an earlier launch. The kernel has been simulated, compiled and
// held to a budget of registers and instructions; it has not run on a GPU yet.

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/proxy.hpp"
#include "recurformer/arch/register_pool.hpp"
#include "recurformer/arch/wgmma.hpp"
#include "recurformer/cuda/attention_items.hpp"
#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/sm90/attention_pipeline.hpp"
#include "recurformer/tile/cuda_tile.hpp"

namespace rf::cuda {

/// Tile sizes at width D. Rings of keys and values together take 128 KB.
template <int D>
struct PrefillTuningSm90 {
  static constexpr int slabs = 1;                                              ///< of 16 queries, per warp
  static constexpr int queries = sm90::consumer_groups * sm90::group_queries;  ///< per block
  static constexpr int keys = 128;                                             ///< per tile
  static constexpr int stages = 256 / D;                                       ///< of each ring
};

/// Whether Hopper has a kernel of its own for this attention.
template <class Attention, int D>
inline constexpr bool has_attention_prefill_sm90 =
    (D == 64 || D == 128) &&
    std::is_same_v<typename Attention::KeyValues, PagedKeyValues<typename Attention::Element>>;

namespace sm90 {
inline namespace RECURFORMER_ARCH {

/// The lane's elements as wgmma numbers its accumulators.
template <int Columns>
RECURFORMER_DEVICE auto accumulators(tile::Fragment<1, Columns>& fragment) -> float (&)[Columns / 2] {
  return reinterpret_cast<float(&)[Columns / 2]>(fragment.value);
}

/// A consumer warpgroup's part of an item.
template <class Parameters, int D, class Tuning>
class PrefillConsumer : public AttentionTile<Parameters, D, Tuning> {
 public:
  using Base = AttentionTile<Parameters, D, Tuning>;
  using Memory = PrefillMemory<D, Tuning>;
  using typename Base::Output;
  using typename Base::Rows;
  using typename Base::Scores;
  using typename Base::T;

  /// `group`: 0 or 1; `first_tile`: the number of tiles before.
  RECURFORMER_DEVICE PrefillConsumer(const Parameters& parameters, const AttentionItem& item,
                                     const Memory& memory, int group, int first_tile)
      : Base(parameters, item, group * group_queries + arch::warp_index() % 4 * 16),
        memory_(memory),
        group_(group),
        first_tile_(first_tile) {}

  /// Returns the number of tiles after it.
  RECURFORMER_DEVICE int run() {
    load_queries();
    const int count = arch::shuffle(key_tiles_.count(), 0);  // from one lane: see warpgroup()
    Rows maximum = Base::rows(Base::minus_infinity), sum = Base::rows(0.0f);
    Scores scores = Base::scores();
    Output output;  // begun by the first product with values
    // The first products begin both anew, but read them in the compiler's eyes: beside other works these
    // would keep registers for them (cuda/work_item.hpp). The probe's kernel has no others, and none to
    // spare.
    if constexpr (!Base::probing) {
      scores.fill(0.0f);
      output.fill(0.0f);
    }
    Weights weights;  // of the tile before the scores'

    issue_scores(scores, 0);
    arch::wait_for_multiplies<0>(accumulators(scores));
    memory_.keys.release(first_tile_);
    apply_softmax(scores, 0, maximum, sum);
    pack(weights, scores);
    clear_hidden_values(0);

    if (group_ == 1 && count > 1) pass_turn();
    RECURFORMER_ROLLED
    for (int i = 1; i < count; ++i) {
      await_turn();
      issue_scores(scores, i);
      issue_output(output, weights, i - 1);
      if (group_ == 0 || i + 1 < count) pass_turn();
      arch::wait_for_multiplies<1>(accumulators(scores));
      memory_.keys.release(first_tile_ + i);
      const Rows correction = apply_softmax(scores, i, maximum, sum);
      // This branch stands here because ptxas moves no wait across one: without it the wait for O comes
      // before the softmax in the machine code, and nothing overlaps.
      clear_hidden_values(i);
      arch::wait_for_multiplies<0>(accumulators(output), weights);
      memory_.values.release(first_tile_ + i - 1);
      output.each([&](float& x, int row, int half, int) { x *= correction.value[row][half]; });
      pack(weights, scores);
    }
    issue_output(output, weights, count - 1);
    arch::wait_for_multiplies<0>(accumulators(output), weights);
    memory_.values.release(first_tile_ + count - 1);
    finish(output, maximum, sum);
    return first_tile_ + count;
  }

 private:
  using Base::first_row_;
  using Base::item_;
  using Base::key_tiles_;
  using Base::parameters_;
  /// The left factor of the product with a tile of values: 16 keys per step.
  using Weights = std::uint32_t[Tuning::keys / 16][1][4];
  static constexpr int chunks = D / 8;  // of 16 bytes, of a query

  // --- Who waits for whom: barriers 1, 2 within a group, 3, 4 for its turn, 5 of both ---

  RECURFORMER_DEVICE void sync_group() const { arch::sync_named(1 + group_, group_threads); }
  RECURFORMER_DEVICE void await_turn() const {
    arch::sync_named(3 + group_, consumer_groups * group_threads);
  }
  RECURFORMER_DEVICE void pass_turn() const {
    arch::arrive_named(4 - group_, consumer_groups * group_threads);
  }
  RECURFORMER_DEVICE static void sync_groups() { arch::sync_named(5, consumer_groups * group_threads); }

  // --- Queries in, output out ---

  /// The group's queries, zeros behind the last.
  RECURFORMER_DEVICE void load_queries() const {
    const QueryTile queries = this->query_tile();
    sync_group();  // all its warps have stored the output before
    RECURFORMER_UNROLL
    for (int i = 0; i < group_queries * chunks / group_threads; ++i) {
      const int index = arch::thread_index() % group_threads + i * group_threads;
      const int row = index / chunks, chunk = index % chunks, r = group_ * group_queries + row;
      arch::Words4 words = {};
      if (r < queries.count) {
        const T* token = parameters_.queries.row(this->sequence().first_row + queries.token(r));
        const T* query = token + (item_.group * queries.heads + queries.head(r)) * D;
        words = arch::load_read_only(reinterpret_cast<const arch::Words4*>(query) + chunk);
      }
      *query_words(row, chunk) = words;
    }
    arch::fence_async_shared();
    sync_group();
  }

  RECURFORMER_DEVICE void finish(const Output& output, const Rows& maximum, const Rows& partial_sum) const {
    const Rows sum = row_total(partial_sum);
    const Rows inverse = zip(sum, sum, [](float l, float) { return inverse_sum(l); });
    const QueryTile queries = this->query_tile();
    store_output(output, inverse, queries);
    this->store_sums(queries, maximum, sum, inverse);
  }

  /// diag(scale) output, rounded, through the place of the group's queries, in 16-byte stores.
  RECURFORMER_DEVICE void store_output(Output output, const Rows& scale, const QueryTile& queries) const {
    const int lane = arch::lane_index(), first = first_row_ - group_ * group_queries;
    output.each([&](float& x, int slab, int half, int) { x *= scale.value[slab][half]; });
    sync_group();  // all its warps have read the queries
    RECURFORMER_UNROLL
    for (int k = 0; k < D / 16; ++k) {
      std::uint32_t packed[1][4];
      pack_operand<T>(output, k, packed);
      arch::store_matrices(memory_.at(Memory::query_chunk(group_, first + lane % 16, 2 * k + lane / 16)),
                           packed[0]);
    }
    arch::sync_warp();
    for (int index = lane; index < 16 * chunks; index += arch::warp_size) {
      const int row = index / chunks, chunk = index % chunks, r = first_row_ + row;
      if (r >= queries.count) break;
      reinterpret_cast<arch::Words4*>(this->out_row(queries, r))[chunk] = *query_words(first + row, chunk);
    }
  }
  RECURFORMER_DEVICE arch::Words4* query_words(int row, int chunk) const {
    return reinterpret_cast<arch::Words4*>(memory_.begin + Memory::query_chunk(group_, row, chunk));
  }

  // --- Products ---

  /// Starts S = Q Kᵀ with the keys of tile i.
  RECURFORMER_DEVICE void issue_scores(Scores& scores, int i) const {
    memory_.keys.wait_full(first_tile_ + i);
    const auto left = arch::matrix_descriptor({.start = memory_.queries(group_), .stride_bytes = 1024});
    const auto right =
        arch::matrix_descriptor({.start = memory_.keys.tile(first_tile_ + i), .stride_bytes = 1024});
    arch::fence_multiplies(accumulators(scores));
    RECURFORMER_UNROLL
    for (int k = 0; k < D / 16; ++k)
      arch::multiply_add_64xNx16<T>(
          accumulators(scores), arch::advanced(left, k / 4 * Memory::query_panel_bytes + k % 4 * 32),
          arch::advanced(right, k / 4 * Memory::key_panel_bytes + k % 4 * 32), k > 0);
    arch::commit_multiplies();
  }
  /// Starts O += P V with the values of tile i, O = P V with the first.
  RECURFORMER_DEVICE void issue_output(Output& output, Weights& weights, int i) const {
    memory_.values.wait_full(first_tile_ + i);
    const auto right = arch::matrix_descriptor({.start = memory_.values.tile(first_tile_ + i),
                                                .leading_bytes = Memory::key_panel_bytes,
                                                .stride_bytes = 1024});
    arch::fence_multiplies(accumulators(output), weights);
    RECURFORMER_UNROLL
    for (int k = 0; k < Tuning::keys / 16; ++k)
      arch::multiply_add_64xNx16<T, arch::Major::mn>(accumulators(output), weights[k][0],
                                                     arch::advanced(right, k * 16 * panel_row_bytes),
                                                     i > 0 || k > 0);
    arch::commit_multiplies();
  }
  RECURFORMER_DEVICE static void pack(Weights& weights, const Scores& scores) {
    RECURFORMER_UNROLL
    for (int k = 0; k < Tuning::keys / 16; ++k) tile::pack_operand<T>(scores, k, weights[k]);
  }

  // --- Masks and softmax ---

  /// Zeros the rows of the values of tile i that no query sees.
  RECURFORMER_DEVICE void clear_hidden_values(int i) const {
    const KeyTile tile = key_tiles_[i];
    const int first = tile.first - tile.begin, end = tile.end - tile.begin;
    if (first <= 0 && end >= Tuning::keys) return;
    memory_.values.wait_full(first_tile_ + i);
    unsigned char* const values = memory_.begin + (memory_.values.tile(first_tile_ + i) - memory_.address);
    const int thread = group_ * group_threads + arch::thread_index() % group_threads;
    // whole rows, so that the swizzle within them does not matter
    for (int index = thread; index < Memory::tile_bytes / 16; index += consumer_groups * group_threads) {
      const int row = index / 8 % Tuning::keys;
      if (row < first || row >= end) reinterpret_cast<arch::Words4*>(values)[index] = {};
    }
    arch::fence_async_shared();
    sync_groups();
  }

  /// Scores of tile i become weights relative to the new maximum, which the probe gets to see; returns what
  /// older ones are worth now.
  RECURFORMER_DEVICE Rows apply_softmax(Scores& scores, int i, Rows& maximum, Rows& sum) {
    const auto mask = this->mask(i);
    mask.hide(scores);
    const Rows previous = maximum;
    maximum = row_max(previous, scores, Tuning::keys);
    // -inf - -inf would be NaN: a row that has seen nothing yet is measured from 0
    const Rows offset = zip(maximum, maximum, [](float m, float) { return Base::finite_or_zero(m); });
    const Rows correction = zip(previous, offset, [](float m, float o) { return arch::exp2(m - o); });
    sum = zip(sum, correction, [](float l, float c) { return l * c; });
    exponentiate(scores, offset, sum, Tuning::keys);
    this->observe(scores, mask, correction);
    return correction;
  }

  const Memory& memory_;
  int group_, first_tile_;
};

}  // namespace RECURFORMER_ARCH
}  // namespace sm90

/// Blocks share the items out among themselves.
template <class Attention, int D, class Tuning = PrefillTuningSm90<D>>
struct AttentionPrefillSm90 {
  static_assert(has_attention_prefill_sm90<Attention, D>,
                "recurformer: attention on Hopper reads pages and has d_head 64 or 128; rings and other "
                "widths are cuda/attention_prefill.hpp's");
  static_assert(Tuning::queries == sm90::consumer_groups * sm90::group_queries && Tuning::keys % 16 == 0);
  static_assert(Tuning::stages >= 2);  // values are waited for while those of the tile before are in use

  struct Parameters {
    sm90::MappedAttention<Attention> mapped;
    const AttentionItem* items = nullptr;
    int item_count = 0;
  };
  static constexpr int threads = sm90::block_threads;
  static constexpr int blocks_per_multiprocessor = 1;
  static constexpr int least_compute_capability = 90;
  using Memory = sm90::PrefillMemory<D, Tuning>;

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    const Memory memory(arch::shared_memory<unsigned char>());
    const auto& mapped = parameters.mapped;
    if (arch::thread_index() == 0) memory.initialise(mapped);
    arch::sync_threads();
    const int group = sm90::warpgroup();
    int tiles = 0;
    if (group == sm90::consumer_groups) {
      arch::decrease_registers<sm90::producer_registers>();
      if (arch::thread_index() != sm90::producer_thread) return;
      sm90::for_each_item(parameters.items, parameters.item_count, [&](const AttentionItem& item) {
        tiles = sm90::produce_tiles<D, Tuning>(mapped, item, memory, tiles);
      });
    } else {
      arch::increase_registers<sm90::consumer_registers>();
      sm90::for_each_item(parameters.items, parameters.item_count, [&](const AttentionItem& item) {
        tiles =
            sm90::PrefillConsumer<Attention, D, Tuning>(mapped.attention, item, memory, group, tiles).run();
      });
    }
  }
};

/// Computes out, and log_sum_exp and the probe's arrays where asked for, of every item: those of
/// plan_prefill<Tuning>(), on the device, which must have compute capability 9.0.
template <int D, class Tuning = PrefillTuningSm90<D>, class Device, class Attention>
void attention_prefill_sm90(Device& device, const sm90::MappedAttention<Attention>& mapped,
                            std::span<const AttentionItem> items) {
  using Kernel = AttentionPrefillSm90<Attention, D, Tuning>;
  if (items.empty()) return;
  const int count = static_cast<int>(items.size());
  device.template launch<Kernel>(
      {.blocks = {.x = std::min(count, device.multiprocessors())}, .shared_bytes = Kernel::Memory::bytes},
      {.mapped = mapped, .items = items.data(), .item_count = count});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_SM90_ATTENTION_PREFILL_HPP
