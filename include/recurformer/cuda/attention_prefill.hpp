#ifndef RECURFORMER_CUDA_ATTENTION_PREFILL_HPP
#define RECURFORMER_CUDA_ATTENTION_PREFILL_HPP

// Attention of many queries on CUDA, with mma.sync and cp.async (sm_80 and newer; FlashAttention-2, arXiv
// 2307.08691), by the tile program of kernel/attention.hpp:
//
//   o = softmax(q kᵀ / √d_head + mask) v
//
//   queries  (rows, groups · heads · d_head)   bf16 or fp16
//   keys, values                               pages or rings, the same type (cuda/key_values.hpp)
//   out      (rows, heads of the layer · d_head)
//
// A block computes a tile of packed queries of one group of one sequence; each of its warps owns slabs of 16
// rows. Shared memory holds the queries, one tile of keys and one of values. The copy of a tile's values runs
// behind the product of its scores, that of the next keys behind softmax and the product with the values:
//
//   wait for keys i │ copy values i │ S = Q Kᵀ │ wait for values i │ copy keys i + 1 │ softmax │ O += P V
//
// The output leaves through the queries' place in shared memory, in 16-byte stores.

#include <cstdint>
#include <span>
#include <type_traits>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/attention_items.hpp"
#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/work_item.hpp"
#include "recurformer/kernel/attention.hpp"
#include "recurformer/tile/cuda_tile.hpp"

namespace rf::cuda {

/// Tile sizes of prefill at width D: two slabs per warp, which halves the shared-memory reads of keys and
/// values per product, as long as the output leaves registers for it.
template <int D, int Keys = D <= 128 ? 64 : 32, int Warps = 4>
struct PrefillTuning {
  static constexpr int warps = Warps;
  static constexpr int slabs = D <= 128 ? 2 : 1;      ///< of 16 queries, per warp
  static constexpr int queries = 16 * slabs * warps;  ///< per block
  static constexpr int keys = Keys;                   ///< per tile
  static constexpr bool queries_in_registers = D <= 64;
  static constexpr int blocks_per_multiprocessor = 8 / Warps;
};

template <class Attention, int D>
using PrefillTuningOf = PrefillTuning<D, D <= (Attention::KeyValues::affine ? 128 : 64) ? 64 : 32>;

inline namespace RECURFORMER_ARCH {

/// Shared memory of one tile of queries: (queries), (keys), (values).
template <class T, int D, class Tuning>
struct PrefillTiles {
  using Queries = tile::SharedTile<T, Tuning::queries, D>;
  using Keys = tile::SharedTile<T, Tuning::keys, D>;
  static constexpr int bytes = Queries::bytes + 2 * Keys::bytes;
  static_assert(bytes < arch::shared_bytes_everywhere);

  RECURFORMER_DEVICE explicit PrefillTiles(arch::SharedAddress at)
      : queries{at},
        keys{at + static_cast<arch::SharedAddress>(Queries::bytes)},
        values{keys.at + static_cast<arch::SharedAddress>(Keys::bytes)} {}

  Queries queries;
  Keys keys, values;
};

/// The backend of kernel::flash_attention_forward for one item, run by all threads of a block.
template <class Parameters, int D, class Tuning>
class PrefillTile : public AttentionTile<Parameters, D, Tuning> {
 public:
  using Base = AttentionTile<Parameters, D, Tuning>;
  using Tiles = PrefillTiles<typename Base::T, D, Tuning>;
  using typename Base::Output;
  using typename Base::Rows;
  using typename Base::Scores;
  using typename Base::T;
  using Operand = std::conditional_t<Tuning::queries_in_registers, tile::RegisterOperand<T, Tuning::slabs, D>,
                                     tile::StoredOperand<T, Tuning::slabs, D>>;
  static constexpr int threads = arch::warp_size * Tuning::warps;
  static constexpr int warp_queries_bytes = Tiles::Queries::bytes / Tuning::warps;

  RECURFORMER_DEVICE PrefillTile(const Parameters& parameters, const AttentionItem& item,
                                 unsigned char* shared)
      : Base(parameters, item, arch::warp_index() * 16 * Tuning::slabs),
        shared_(shared),
        tiles_(arch::shared_address(shared)),
        queries_(shared + arch::warp_index() * warp_queries_bytes) {
    this->template copy_queries<threads>(tiles_.queries, arch::thread_index());
    copy_keys(0);
    arch::wait_for_copies<0>();
    sync_item<threads>();
    tile::RegisterOperand<T, Tuning::slabs, D> loaded;
    loaded.fill_from(tiles_.queries, first_row_);
    if constexpr (Tuning::queries_in_registers) {
      queries_ = loaded;
    } else {
      arch::sync_warp();  // the fragments take the place of the warp's rows
      queries_.fill_from(loaded);
    }
  }

  RECURFORMER_DEVICE const Operand& queries() const { return queries_; }

  /// A tile of keys whose place is refilled as soon as its product is done.
  struct Keys {
    static constexpr int rows = Tuning::keys;
    const PrefillTile& owner;
    int index;
  };
  RECURFORMER_DEVICE friend void multiply_abt(Scores& scores, const Operand& queries, const Keys& keys) {
    tile::multiply_abt(scores, queries, keys.owner.tiles_.keys);
    keys.owner.exchange(keys.index);
  }

  template <class F>
  RECURFORMER_DEVICE void stream(F f) {
    for (int i = 0; i < key_tiles_.count(); ++i) {
      arch::wait_for_copies<0>();
      sync_item<threads>();  // keys i are there, values i - 1 no longer needed
      this->template copy_values<threads>(tiles_.values, arch::thread_index(), i);
      arch::commit_copies();
      f(Keys{*this, i}, tiles_.values, this->mask(i));
    }
  }

  RECURFORMER_DEVICE void finish(const Output& output, const Rows& maximum, const Rows& partial_sum) {
    const Rows sum = row_total(partial_sum);
    const Rows inverse = zip(sum, sum, [](float l, float) { return inverse_sum(l); });
    const QueryTile queries = this->query_tile();
    store_output(output, inverse, queries);
    this->store_sums(queries, maximum, sum, inverse);
  }

 private:
  using Base::first_row_;
  using Base::key_tiles_;

  RECURFORMER_DEVICE void copy_keys(int i) const {
    Base::template copy_keys<threads>(tiles_.keys, arch::thread_index(), i);
    arch::commit_copies();
  }
  /// Keys i have been read: waits for their values and lets the next keys come.
  RECURFORMER_DEVICE void exchange(int i) const {
    arch::wait_for_copies<0>();
    sync_item<threads>();
    if (i + 1 < key_tiles_.count()) copy_keys(i + 1);
  }

  /// diag(scale) output, rounded, in 16-byte stores. The place of the queries in shared memory serves: a
  /// warp's rows of it are its own.
  RECURFORMER_DEVICE void store_output(const Output& output, const Rows& scale,
                                       const QueryTile& queries) const {
    using Layout = typename Tiles::Queries::Layout;
    Output scaled = output;
    scaled.each([&](float& x, int i, int half, int) { x *= scale.value[i][half]; });
    RECURFORMER_UNROLL
    for (int k = 0; k < D / 16; ++k) {
      std::uint32_t packed[Tuning::slabs][4];
      pack_operand<T>(scaled, k, packed);
      RECURFORMER_UNROLL
      for (int i = 0; i < Tuning::slabs; ++i) {
        RECURFORMER_UNROLL
        for (int quarter = 0; quarter < 4; ++quarter) {
          const int at = Layout::offset(this->row(i, quarter % 2), 2 * k + quarter / 2);
          *reinterpret_cast<std::uint32_t*>(shared_ + at + 2 * tile::fragment_column()) = packed[i][quarter];
        }
      }
    }
    arch::sync_warp();
    for (int index = arch::lane_index(); index < 16 * Tuning::slabs * Layout::chunks;
         index += arch::warp_size) {
      const int r = first_row_ + index / Layout::chunks, chunk = index % Layout::chunks;
      if (r >= queries.count) break;
      *reinterpret_cast<arch::Words4*>(this->out_row(queries, r) + 8 * chunk) =
          *reinterpret_cast<const arch::Words4*>(shared_ + Layout::offset(r, chunk));
    }
  }

  unsigned char* shared_;
  Tiles tiles_;
  Operand queries_;
};

/// Computes one item by the first threads of a block, as many as the tuning has, which has at least
/// PrefillTiles::bytes of shared memory at `shared`, 128-byte aligned. Whatever comes next, another item too,
/// may use that memory after sync_item(). The item is read throughout: in shared memory it costs the loop over keys no register.
template <int D, class Tuning, class Parameters>
RECURFORMER_DEVICE void attention_item(const Parameters& parameters, const AttentionItem& item,
                                       unsigned char* shared) {
  PrefillTile<Parameters, D, Tuning> tile(parameters, item, shared);
  kernel::flash_attention_forward(tile);
}

}  // namespace RECURFORMER_ARCH

/// One block per item.
template <class Attention, int D, class Tuning = PrefillTuningOf<Attention, D>>
struct AttentionPrefill {
  struct Parameters {
    Attention attention;
    const AttentionItem* items = nullptr;
  };
  static constexpr int threads = arch::warp_size * Tuning::warps;
  static constexpr int blocks_per_multiprocessor = Tuning::blocks_per_multiprocessor;
  static constexpr int tile_bytes = PrefillTiles<typename Attention::Element, D, Tuning>::bytes;
  static constexpr int shared_bytes = tile_bytes + static_cast<int>(sizeof(AttentionItem));

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    auto* shared = arch::shared_memory<unsigned char>();
    auto* item = reinterpret_cast<AttentionItem*>(shared + tile_bytes);
    if (arch::thread_index() == 0) *item = parameters.items[arch::block_index().x];
    arch::sync_threads();
    attention_item<D, Tuning>(parameters.attention, *item, shared);
  }
};

/// Computes out, and log_sum_exp and the probe's arrays where asked for, of every item: those of
/// plan_prefill<Tuning>(), on the device.
template <int D, class Tuning, class Device, class Attention>
void attention_prefill(Device& device, const Attention& attention, std::span<const AttentionItem> items) {
  using Kernel = AttentionPrefill<Attention, D, Tuning>;
  if (items.empty()) return;
  device.template launch<Kernel>(
      {.blocks = {.x = static_cast<int>(items.size())}, .shared_bytes = Kernel::shared_bytes},
      {.attention = attention, .items = items.data()});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_PREFILL_HPP
