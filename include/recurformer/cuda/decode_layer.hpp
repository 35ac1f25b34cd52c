#ifndef RECURFORMER_CUDA_DECODE_LAYER_HPP
#define RECURFORMER_CUDA_DECODE_LAYER_HPP

// A decode step of a whole layer, up to eight rows, in one launch: its blocks take the tiles and items of
//
//   projection   h = rms_norm(x), the projections of all runs, bias, rotary positions, append to the caches
//   heads        the items of all runs (cuda/work_item.hpp)
//   output       x += W_O u
//   gate_up      silu(W_gate h') ∘ W_up h', h' = rms_norm(x)
//   down         x += W_down …
//
// in this order, one each. A step waits for the whole step before it, by a counter; but a block that has
// taken a tile of a linear step has asked for its first weights before it waits, so that memory is never
// idle. Whoever is waited for has started: no order of blocks can deadlock.
//
// Floor: the bytes of weights, live cache and states over the bandwidth of memory; for layers that stay in
// the L2 cache four waits of about 0.6 µs and four latencies of memory.
//
// With no tiles but only heads it is how larger decode batches compute these, between launches of
// cuda/linear.hpp and cuda/mlp.hpp.

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/few_rows_tile.hpp"
#include "recurformer/cuda/heads.hpp"
#include "recurformer/cuda/linear.hpp"
#include "recurformer/cuda/pack_rows.hpp"
#include "recurformer/cuda/projections.hpp"

namespace rf::cuda {

/// The most rows that decode_layer takes.
inline constexpr int most_decode_layer_rows = FewRowsTile<bf16, 1>::rows;

/// Counters that decode_layer needs before those of the works: tickets, and how many of each step but the
/// last are done.
inline constexpr int decode_layer_counters = Tickets::counters + 4;

/// The linear steps of a layer. A step without tiles is left out.
template <class T>
struct DecodeLayerSteps {
  GemmOperands<DenseRows<T>> projection = {}, output = {}, gate_up = {}, down = {};
  RmsNorm norm = {};          ///< of x; both norms' gains are in the weights
  Project<T> project = {};    ///< where projected columns go
  SwiGlu<T> swiglu = {};      ///< where gate_up's go
  Residual<T> residual = {};  ///< x and the sums of its squares

  /// For two launches with the heads, or some of them, between.
  DecodeLayerSteps before_heads() const {
    return {.projection = projection, .norm = norm, .project = project};
  }
  DecodeLayerSteps after_heads() const {
    DecodeLayerSteps out = *this;
    out.projection = {};
    return out;
  }
};

namespace detail {

/// Tickets before the end of every step.
struct DecodeLayerOrder {
  int projection = 0, heads = 0, output = 0, gate_up = 0, down = 0;
};

}  // namespace detail

inline namespace RECURFORMER_ARCH {

template <class T, int BlocksPerMultiprocessor, class... Works>
struct DecodeLayerKernel {
  using Tile = FewRowsTile<T, 1>;
  struct Parameters {
    DecodeLayerSteps<T> steps;
    ItemList list;
    WorkParameters<Works...> works;
    detail::DecodeLayerOrder end;
    Tickets tickets;
    int slot_at;  ///< where in shared memory the ItemSlot is
  };
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_multiprocessor = BlocksPerMultiprocessor;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    auto* const slot = reinterpret_cast<ItemSlot*>(arch::shared_memory<unsigned char>() + p.slot_at);
    unsigned* const done = p.tickets.data + Tickets::counters;
    const int ticket = p.tickets.take(&slot->ticket);
    if (ticket < p.end.projection) {
      Tile::run(p.steps.projection, p.steps.norm, 0, ticket, NoWait{}, p.steps.project);
      count_as_done(done);
    } else if (ticket < p.end.heads) {
      const WaitFor wait = all_of(done, p.end.projection);
      run_heads(p, slot, ticket - p.end.projection, wait);
      count_as_done(done + 1);
    } else if (ticket < p.end.output) {
      const WaitFor wait = all_of(done + 1, p.end.heads - p.end.projection);
      Tile::run(p.steps.output, NoNorm{}, 0, ticket - p.end.heads, wait, p.steps.residual);
      count_as_done(done + 2);
    } else if (ticket < p.end.gate_up) {
      const WaitFor wait = all_of(done + 2, p.end.output - p.end.heads);
      Tile::run(p.steps.gate_up, p.steps.norm, 0, ticket - p.end.output, wait, p.steps.swiglu);
      count_as_done(done + 3);
    } else {
      const WaitFor wait = all_of(done + 3, p.end.gate_up - p.end.output);
      Tile::run(p.steps.down, NoNorm{}, 0, ticket - p.end.gate_up, wait, p.steps.residual);
    }
    p.tickets.leave(&slot->ticket);
  }

 private:
  /// Waits for all `count` tiles or items of a step.
  RECURFORMER_DEVICE static WaitFor all_of(const unsigned* done, int count) {
    return {done, static_cast<unsigned>(count)};
  }

  RECURFORMER_DEVICE static void run_heads(const Parameters& p, ItemSlot* slot, int index,
                                           const WaitFor& wait) {
    if (arch::thread_index() == 0) slot->item = p.list.items[index];
    wait();
    run_item<threads>(p.works, slot->item, arch::shared_memory<unsigned char>());
  }
};

}  // namespace RECURFORMER_ARCH

/// Computes the steps, whose operands have at most most_decode_layer_rows rows, and the items of the list
/// between the first two. `counters`: decode_layer_counters and `work_counters` of the works behind them; all
/// zero, and left zero.
template <int BlocksPerMultiprocessor, class T, class... Works, class Device>
void decode_layer(Device& device, const DecodeLayerSteps<T>& steps, const ItemList& list,
                  const WorkParameters<Works...>& works, unsigned* counters, int work_counters) {
  using Kernel = DecodeLayerKernel<T, BlocksPerMultiprocessor, Works...>;
  using Tile = typename Kernel::Tile;
  const auto tiles = [](const GemmOperands<DenseRows<T>>& operands) {
    if (operands.columns == 0 || operands.rows.count == 0) return 0;
    check_operands(operands);
    check(operands.rows.count <= Tile::rows, "decode_layer takes ", Tile::rows, " rows at most, not ",
          operands.rows.count);
    return column_tiles<Tile>(operands.columns);
  };
  detail::DecodeLayerOrder end;
  end.projection = tiles(steps.projection);
  end.heads = end.projection + list.count;
  end.output = end.heads + tiles(steps.output);
  end.gate_up = end.output + tiles(steps.gate_up);
  end.down = end.gate_up + tiles(steps.down);
  if (end.down == 0) return;
  const int slot_at =
      ((list.shared_bytes > Tile::shared_bytes ? list.shared_bytes : Tile::shared_bytes) + 15) / 16 * 16;
  device.template launch<Kernel>(
      {.blocks = {.x = end.down}, .shared_bytes = slot_at + static_cast<int>(sizeof(ItemSlot))},
      {.steps = steps,
       .list = list,
       .works = works,
       .end = end,
       .tickets = {.data = counters, .used = decode_layer_counters + work_counters},
       .slot_at = slot_at});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_DECODE_LAYER_HPP
