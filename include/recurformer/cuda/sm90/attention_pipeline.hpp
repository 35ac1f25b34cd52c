#ifndef RECURFORMER_CUDA_SM90_ATTENTION_PIPELINE_HPP
#define RECURFORMER_CUDA_SM90_ATTENTION_PIPELINE_HPP

// How keys and values reach the tensor cores of sm_90a: their pools as tensor maps, the shared memory of a
// block, and the producer, one thread that fills two rings of tiles, of keys and of values, by TMA:
//
//   queries   (groups of consumers, panels, 64 rows, 64 columns)   written by the consumers themselves
//   keys      (stages, panels, keys, 64 columns)
//   values    (stages, panels, keys, 64 columns)
//
// with d_head cut into panels of 64 columns, one row of the 128-byte swizzle. Tile i goes to slot i % stages
// in lap i / stages; a full and an empty mbarrier per slot pass it on and back (arch/mbarrier.hpp).

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/mbarrier.hpp"
#include "recurformer/arch/tma.hpp"
#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/key_values.hpp"
#include "recurformer/cuda/sm90/warpgroups.hpp"
#include "recurformer/cuda/tensor_map.hpp"

namespace rf::cuda::sm90 {

/// Columns of a panel: 128 bytes of 16-bit elements.
inline constexpr int panel_columns = 64;
inline constexpr int panel_row_bytes = 128;

/// The queries of a consumer warpgroup: the rows of a wgmma.
inline constexpr int group_queries = 64;

/// A pool of pages as a matrix (pages · groups · cache_page_rows, D), in boxes of one panel of a tile. The
/// page table alone knows how many pages there are, so the map ends where coordinates do.
template <int Keys, int D, class T>
arch::TensorMap pool_map(const T* pool) {
  return make_tensor_map(pool, {D, std::int64_t{1} << 31}, {D}, {panel_columns, Keys},
                         arch::Swizzle::bytes128);
}

/// Attention with the maps of its keys' and values' pools.
template <class Attention>
struct MappedAttention {
  arch::TensorMap keys = {}, values = {};  ///< pool_map
  Attention attention = {};
};
template <class Tuning, int D, class Attention>
MappedAttention<Attention> mapped(const Attention& attention) {
  return {.keys = pool_map<Tuning::keys, D>(attention.key_values.keys),
          .values = pool_map<Tuning::keys, D>(attention.key_values.values),
          .attention = attention};
}

inline namespace RECURFORMER_ARCH {

/// One ring of tiles: where they and their mbarriers lie.
template <int Stages, int TileBytes>
struct TileRing {
  static constexpr int tiles_bytes = Stages * TileBytes;
  static constexpr int barriers_bytes = 2 * Stages * arch::mbarrier_bytes;

  arch::SharedAddress tiles, barriers;

  RECURFORMER_DEVICE arch::SharedAddress tile(int i) const {
    return tiles + static_cast<arch::SharedAddress>(i % Stages * TileBytes);
  }
  RECURFORMER_DEVICE arch::SharedAddress full(int i) const {
    return barriers + static_cast<arch::SharedAddress>(i % Stages * arch::mbarrier_bytes);
  }
  RECURFORMER_DEVICE arch::SharedAddress empty(int i) const {
    return full(i) + static_cast<arch::SharedAddress>(Stages * arch::mbarrier_bytes);
  }

  RECURFORMER_DEVICE void initialise(int releases) const {
    for (int slot = 0; slot < Stages; ++slot) {
      arch::init_mbarrier(full(slot), 1);
      arch::init_mbarrier(empty(slot), releases);
    }
  }
  RECURFORMER_DEVICE void invalidate() const {
    for (int slot = 0; slot < Stages; ++slot) {
      arch::invalidate_mbarrier(full(slot));
      arch::invalidate_mbarrier(empty(slot));
    }
  }
  /// Waits until tile i has landed.
  RECURFORMER_DEVICE void wait_full(int i) const {
    arch::wait_mbarrier(full(i), static_cast<unsigned>(i / Stages % 2));
  }
  /// Waits until the tile before i in its slot has been released, at once for the first.
  RECURFORMER_DEVICE void wait_empty(int i) const {
    arch::wait_mbarrier(empty(i), static_cast<unsigned>((i / Stages + 1) % 2));
  }
  /// The warp, all of it, is done with tile i.
  RECURFORMER_DEVICE void release(int i) const {
    arch::sync_warp();
    if (arch::lane_index() == 0) arch::arrive_mbarrier(empty(i));
  }
};

/// The shared memory of a block, 1024-byte aligned.
template <int D, class Tuning>
struct PrefillMemory {
  static constexpr int panels = D / panel_columns;
  static constexpr int query_panel_bytes = group_queries * panel_row_bytes;
  static constexpr int key_panel_bytes = Tuning::keys * panel_row_bytes;
  static constexpr int queries_bytes = consumer_groups * panels * query_panel_bytes;
  static constexpr int tile_bytes = panels * key_panel_bytes;
  using Ring = TileRing<Tuning::stages, tile_bytes>;
  static constexpr int barriers_at = queries_bytes + 2 * Ring::tiles_bytes;
  static constexpr int bytes = barriers_at + 2 * Ring::barriers_bytes;
  static_assert(bytes < arch::shared_bytes_of_hopper);

  RECURFORMER_DEVICE explicit PrefillMemory(unsigned char* memory)
      : begin(memory),
        address(arch::shared_address(memory)),
        keys{.tiles = at(queries_bytes), .barriers = at(barriers_at)},
        values{.tiles = at(queries_bytes + Ring::tiles_bytes),
               .barriers = at(barriers_at + Ring::barriers_bytes)} {}

  /// By one thread, before the block meets at a barrier. Every consumer warp releases tiles.
  template <class Attention>
  RECURFORMER_DEVICE void initialise(const MappedAttention<Attention>& mapped) const {
    arch::prefetch_tensor_map(mapped.keys);
    arch::prefetch_tensor_map(mapped.values);
    constexpr int releases = consumer_groups * group_threads / arch::warp_size;
    keys.initialise(releases);
    values.initialise(releases);
    arch::fence_mbarrier_init();
  }

  /// Makes the place of the mbarriers ordinary memory. By one thread, when nobody needs them any more.
  RECURFORMER_DEVICE void invalidate() const {
    keys.invalidate();
    values.invalidate();
  }

  /// Where the queries, and later the output, of a group of consumers begin.
  RECURFORMER_DEVICE arch::SharedAddress queries(int group) const {
    return at(group * panels * query_panel_bytes);
  }
  /// The 16 bytes at eight columns from 8 · chunk on, of a row of a group's queries.
  RECURFORMER_DEVICE static constexpr int query_chunk(int group, int row, int chunk) {
    const int panel = group * panels + chunk / 8;
    const int plain = panel * query_panel_bytes + row * panel_row_bytes + chunk % 8 * 16;
    return static_cast<int>(arch::swizzled(arch::Swizzle::bytes128, static_cast<arch::SharedAddress>(plain)));
  }
  RECURFORMER_DEVICE arch::SharedAddress at(int offset) const {
    return address + static_cast<arch::SharedAddress>(offset);
  }

  unsigned char* begin;
  arch::SharedAddress address;
  Ring keys, values;
};

/// Calls f(item) for the block's part of `count` items, longest first: they are dealt out to the blocks back
/// and forth, so that no block gets the longer one every time.
template <class F>
RECURFORMER_DEVICE void for_each_item(const AttentionItem* items, int count, F f) {
  const int blocks = arch::grid_size().x, block = arch::block_index().x;
  RECURFORMER_ROLLED
  for (int round = 0; round * blocks < count; ++round) {
    const int i = round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
    if (i >= count) return;
    const AttentionItem item = items[i];
    f(item);
  }
}

/// The keys that the queries of an item see.
template <class Tuning, class Attention>
RECURFORMER_DEVICE KeyTiles<Tuning::keys> key_tiles(const Attention& attention, const AttentionItem& item) {
  const QueryTile queries(attention.sequences[item.sequence], attention.heads, item.first_query,
                          Tuning::queries);
  return {attention.mask, queries.first_position(), queries.last_position()};
}

/// Has the tiles that an item sees brought in, in the order in which they are needed: keys a tile ahead of
/// values. `first` is the number of tiles before; returns that after them.
template <int D, class Tuning, class Attention>
RECURFORMER_DEVICE int produce_tiles(const MappedAttention<Attention>& mapped, const AttentionItem& item,
                                     const PrefillMemory<D, Tuning>& memory, int first) {
  using Memory = PrefillMemory<D, Tuning>;
  constexpr int page_rows = static_cast<int>(cache_page_rows);
  const auto& source = mapped.attention.key_values;
  const int* pages = source.pages + std::int64_t{item.sequence} * source.pages_per_sequence;
  const auto tiles = key_tiles<Tuning>(mapped.attention, item);

  const auto load = [&](const arch::TensorMap& pool, const typename Memory::Ring& ring, int i) {
    const int begin = tiles[i].begin;
    const int row = (pages[begin / page_rows] * source.groups + item.group) * page_rows + begin % page_rows;
    ring.wait_empty(first + i);
    arch::arrive_mbarrier_expecting(ring.full(first + i), Memory::tile_bytes);
    RECURFORMER_UNROLL
    for (int panel = 0; panel < Memory::panels; ++panel)
      arch::load_tensor(
          ring.tile(first + i) + static_cast<arch::SharedAddress>(panel * Memory::key_panel_bytes), pool,
          {panel * panel_columns, row}, ring.full(first + i));
  };
  const int count = tiles.count();
  RECURFORMER_ROLLED
  for (int i = 0; i <= count; ++i) {
    if (i < count) load(mapped.keys, memory.keys, i);
    if (i > 0) load(mapped.values, memory.values, i - 1);
  }
  return first + count;
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::sm90

#endif  // RECURFORMER_CUDA_SM90_ATTENTION_PIPELINE_HPP
