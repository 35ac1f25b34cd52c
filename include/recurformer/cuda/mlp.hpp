#ifndef RECURFORMER_CUDA_MLP_HPP
#define RECURFORMER_CUDA_MLP_HPP

// The MLP of a block in one launch, x (rows, d_model) in place, with the sums of squares of the new x:
//
//   h = silu(W_gate rms_norm(x)) ∘ (W_up rms_norm(x)),   x += W_down h        h (rows, d_ff) in a workspace
//
// Blocks stay resident and take tickets, one tile each. Tickets run through bands of row tiles (linear.hpp):
// gate and up of band 0, gate and up of band 1, down of band 0, gate and up of band 2, down of band 1, …, so
// that down rarely waits, and what it waits for has a lower ticket: some block has it and waits for nothing
// that comes later. However few blocks run at once, the launch ends. A tile of down waits until every tile of
// gate and up of its rows has been counted; then those rows of x have been read, too, and may change.
//
// Counters are zero before the first launch; the last block to leave zeroes them for the next.

#include <cstddef>
#include <cstdint>

#include "recurformer/arch/barrier.hpp"
#include "recurformer/arch/memory.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/cuda/linear.hpp"
#include "recurformer/cuda/pack_rows.hpp"

namespace rf::cuda {

/// Device memory that launches share: their progress.
struct MlpCounters {
  unsigned* data = nullptr;  ///< mlp_counters(rows) of them, zero before the first launch
};

/// Counters needed for up to `rows` rows: the next ticket, the blocks that have left, and one per row tile.
constexpr std::size_t mlp_counters(int rows) {
  return 2 + static_cast<std::size_t>((rows + 7) / 8);  // few-rows tiles have 8 rows, all others more
}

/// The arguments of mlp(). All pointers are the device's.
template <class T>
struct MlpArguments {
  RowsView<T> x = {};  ///< (rows, d_model), 16-byte aligned, stride a multiple of 8
  int rows = 0;
  int d_model = 0;             ///< a multiple of 8
  int d_ff = 0;                ///< a multiple of 8
  const T* gate_up = nullptr;  ///< packed by gate_up_rows(d_ff), the norm's gain folded in
  const T* down = nullptr;     ///< (d_model, d_ff)
  RmsNorm norm = {};           ///< with the sums of squares of x
  RowSums new_sums = {};       ///< of the x that is written; may be those of `norm`
  T* workspace = nullptr;      ///< (rows, d_ff): h
  MlpCounters counters = {};
};

/// One tile of the MLP.
struct MlpStep {
  bool down = false;
  TilePosition tile;
};

/// The order of tickets.
struct MlpOrder {
  int row_tiles = 0;
  int gate_up_tiles = 0;  ///< across
  int down_tiles = 0;     ///< across

  RECURFORMER_HOST_DEVICE constexpr int count() const { return row_tiles * (gate_up_tiles + down_tiles); }

  RECURFORMER_HOST_DEVICE constexpr MlpStep at(int ticket) const {
    for (int first = 0;; first += band_rows) {
      const int here = rows_from(first), before = rows_from(first - band_rows);
      if (ticket < here * gate_up_tiles) return {.tile = tile_in_band(ticket, first, here)};
      ticket -= here * gate_up_tiles;
      if (ticket < before * down_tiles)
        return {.down = true, .tile = tile_in_band(ticket, first - band_rows, before)};
      ticket -= before * down_tiles;
    }
  }

 private:
  /// Row tiles of the band that begins at `first`.
  RECURFORMER_HOST_DEVICE constexpr int rows_from(int first) const {
    const int left = first < 0 ? 0 : row_tiles - first;
    return left < 0 ? 0 : left < band_rows ? left : band_rows;
  }
};

inline namespace RECURFORMER_ARCH {

template <class Tile>
struct MlpKernel {
  using T = typename Tile::Element;
  struct Parameters {
    GemmOperands<DenseRows<T>> gate_up, down;
    RmsNorm norm;
    SwiGlu<T> swiglu;
    Residual<T> residual;
    MlpOrder order;
    unsigned* counters = nullptr;
  };
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_multiprocessor = Tile::blocks_per_multiprocessor;
  static constexpr int shared_bytes = Tile::shared_bytes + 16;  // a ticket behind the tile's

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int tickets = p.order.count();
    for (int ticket = next_ticket(p); ticket < tickets; ticket = next_ticket(p)) {
      const MlpStep step = p.order.at(ticket);
      unsigned* finished = p.counters + 2 + step.tile.row;
      if (step.down) {
        const WaitFor wait{finished, static_cast<unsigned>(p.order.gate_up_tiles)};
        Tile::run(p.down, NoNorm{}, step.tile.row, step.tile.column, wait, p.residual);
      } else {
        Tile::run(p.gate_up, p.norm, step.tile.row, step.tile.column, NoWait{}, p.swiglu);
        count_as_done(finished);
      }
    }
    leave(p);
  }

 private:
  RECURFORMER_DEVICE static int next_ticket(const Parameters& p) {
    int* shared = reinterpret_cast<int*>(arch::shared_memory<unsigned char>() + Tile::shared_bytes);
    arch::sync_threads();  // the previous tile has left shared memory, and its ticket has been read
    if (arch::thread_index() == 0) *shared = static_cast<int>(arch::atomic_add(p.counters, 1u));
    arch::sync_threads();
    return *shared;
  }

  /// The last block zeroes the counters: nobody else uses them any more.
  RECURFORMER_DEVICE static void leave(const Parameters& p) {
    if (arch::thread_index() != 0) return;
    const auto blocks = static_cast<unsigned>(arch::grid_size().x);
    if (arch::atomic_add_acquire_release(p.counters + 1, 1u) + 1 != blocks) return;
    for (int i = 0; i < 2 + p.order.row_tiles; ++i) p.counters[i] = 0;
  }
};

}  // namespace RECURFORMER_ARCH

/// Computes with tiles of one kind; mlp() chooses.
template <class Tile, class Device>
void mlp_tiles(Device& device, const MlpArguments<typename Tile::Element>& a) {
  using T = typename Tile::Element;
  using Kernel = MlpKernel<Tile>;
  if (a.rows == 0 || a.d_ff == 0) return;
  const int columns = gate_up_columns(a.d_ff);
  const MlpOrder order{.row_tiles = row_tiles<Tile>(a.rows),
                       .gate_up_tiles = column_tiles<Tile>(columns),
                       .down_tiles = column_tiles<Tile>(a.d_model)};
  check_operands(GemmOperands<DenseRows<T>>{
      .rows = {{a.x.data, a.x.stride}, a.rows}, .weights = a.gate_up, .columns = a.d_ff, .inner = a.d_model});
  check(a.new_sums.parts == part_count<Tile>(a.d_model), "an MLP of ", a.rows, " rows of ", a.d_model,
        " leaves ", part_count<Tile>(a.d_model), " parts per row, but there is room for ", a.new_sums.parts,
        "; see row_parts");
  const int resident = device.multiprocessors() * Tile::blocks_per_multiprocessor;
  device.template launch<Kernel>({.blocks = {.x = order.count() < resident ? order.count() : resident},
                                  .shared_bytes = Kernel::shared_bytes},
                                 {.gate_up = {.rows = {{a.x.data, a.x.stride}, a.rows},
                                              .weights = a.gate_up,
                                              .columns = columns,
                                              .inner = a.d_model},
                                  .down = {.rows = {{a.workspace, a.d_ff}, a.rows},
                                           .weights = a.down,
                                           .columns = a.d_model,
                                           .inner = a.d_ff},
                                  .norm = a.norm,
                                  .swiglu = {.out = {a.workspace, a.d_ff}, .columns = a.d_ff},
                                  .residual = {.x = a.x, .columns = a.d_model, .sums = a.new_sums},
                                  .order = order,
                                  .counters = a.counters.data});
}

/// The MLP of a block; see the top of this file. 0 rows are nothing to do, and LeastRows is with_tile's.
template <class T, int LeastRows = 0, class Device>
void mlp(Device& device, const MlpArguments<T>& arguments) {
  with_tile<T, LeastRows>(arguments.rows, arguments.d_model, device.multiprocessors(),
                          [&]<class Tile>(Tile) { mlp_tiles<Tile>(device, arguments); });
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MLP_HPP
