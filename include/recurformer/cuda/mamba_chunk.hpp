#ifndef RECURFORMER_CUDA_MAMBA_CHUNK_HPP
#define RECURFORMER_CUDA_MAMBA_CHUNK_HPP

// One block's work on one head: a chunk of the tokens of one sequence, tile by tile. The copies of the next
// tile's x run during the scan of this one, those of z during everything before the gate:
//
//   x arrived │ start z, convolve │ start next x, project │ step_size │ scan, z arrived │ gate
//
// with a barrier at every line. With Outputs = false only what the scan leaves behind is computed: no C, z,
// y.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba_block.hpp"
#include "recurformer/cuda/mamba_scan.hpp"

namespace rf::cuda::mamba {

/// Tokens [first, end) of one sequence, and one head.
struct Chunk {
  SequenceRows sequence = {};
  SequenceState state = {};  ///< of the sequence, all heads; null pointers: none is kept
  int head = 0;
  int first = 0;
  int end = 0;
};

inline namespace RECURFORMER_ARCH {

/// Where one head's activations of one sequence are in global memory.
template <class Tile>
struct HeadRows {
  using Value = typename Tile::Value;
  const Value* x;
  const Value* z;
  Value* out;

  RECURFORMER_DEVICE HeadRows(const Arguments<Value>& arguments, const Chunk& chunk) {
    constexpr int d = Tile::Head::d_head;
    const int heads = arguments.heads_per_group;
    const int group = chunk.head / heads, head = chunk.head % heads;
    x = arguments.projected.row(chunk.sequence.first_row) + (std::int64_t{2} * group * heads + head) * d;
    z = x + std::int64_t{heads} * d;
    out = arguments.out.row(chunk.sequence.first_row) +
          (std::int64_t{arguments.group_index[group]} * heads + head) * d;
  }
};

/// The head's part of a sequence's states; null without.
template <class Head>
RECURFORMER_DEVICE float* conv_state(const Chunk& chunk) {
  return chunk.state.conv ? chunk.state.conv + std::int64_t{chunk.head} * Head::past * Head::d_head : nullptr;
}
template <class Head>
RECURFORMER_DEVICE float* scan_state(const Chunk& chunk) {
  return chunk.state.scan ? chunk.state.scan + std::int64_t{chunk.head} * Head::states * Head::d_head
                          : nullptr;
}

/// The head's prepared decays (padded_states, d_head).
template <class Head, class T>
RECURFORMER_DEVICE const float* decays(const Arguments<T>& arguments, const Chunk& chunk) {
  using Layout = ParameterLayout<Head>;
  return arguments.prepared + std::int64_t{chunk.head} * Layout::size + Layout::decay;
}

/// Fills halo(0) with the inputs before the chunk: the sequence's own, before its start the cached ones.
template <class Tile>
RECURFORMER_DEVICE void load_halo(const Shared<Tile>& shared, const typename Tile::Value* x,
                                  std::int64_t stride, const Chunk& chunk) {
  using Head = typename Tile::Head;
  const float* const cached = conv_state<Head>(chunk);
  RECURFORMER_ROLLED
  for (int i = arch::thread_index(); i < Head::past * Head::d_head; i += Tile::threads) {
    const int j = i / Head::d_head, channel = i % Head::d_head, t = chunk.first - Head::past + j;
    float value = 0.0f;
    if (t >= 0)
      value = static_cast<float>(x[t * stride + channel]);
    else if (cached)
      value = cached[(t + Head::past) * Head::d_head + channel];
    shared.halo(0)[i] = value;
  }
}

/// Runs a chunk that is not empty. The scan starts as the caller made it and is left after the last token.
/// Returns which halo holds the last inputs; the block must meet at a barrier before it is read, and before
/// shared memory is used anew.
template <class Tile, bool Outputs>
RECURFORMER_DEVICE int run_chunk(const Shared<Tile>& shared, const Arguments<typename Tile::Value>& arguments,
                                 const Chunk& chunk, Scan<Tile>& scan) {
  using Head = typename Tile::Head;
  using Layout = ParameterLayout<Head>;
  const std::int64_t stride = arguments.projected.stride;
  const HeadRows<Tile> global(arguments, chunk);
  const auto rows_at = [&](int t) { return chunk.end - t < Tile::tokens ? chunk.end - t : Tile::tokens; };

  copy_floats<Tile::threads>(shared.parameters(0),
                             arguments.prepared + std::int64_t{chunk.head} * Layout::size, Layout::decay);
  copy_rows<Tile>(shared.x(), global.x + chunk.first * stride, stride, rows_at(chunk.first));
  arch::commit_copies();
  load_halo(shared, global.x, stride, chunk);

  int halo = 0;
  for (int t = chunk.first; t < chunk.end; t += Tile::tokens, halo = 1 - halo) {
    const int rows = rows_at(t);
    const int padded = (rows + Tile::step - 1) / Tile::step * Tile::step;
    arch::wait_for_copies<0>();
    sync_item<Tile::threads>();
    if constexpr (Outputs) copy_rows<Tile>(shared.z(), global.z + t * stride, stride, rows);
    arch::commit_copies();
    convolve(shared, halo, rows);
    sync_item<Tile::threads>();
    const int next = t + Tile::tokens;
    if (next < chunk.end) copy_rows<Tile>(shared.x(), global.x + next * stride, stride, rows_at(next));
    arch::commit_copies();
    project<Tile, Outputs ? 0 : Head::first_b>(shared, padded);
    sync_item<Tile::threads>();
    step_size(shared, rows, padded);
    sync_item<Tile::threads>();
    scan.template run<Outputs>(shared, padded);
    if constexpr (Outputs) {
      arch::wait_for_copies<1>();
      sync_item<Tile::threads>();
      gate(shared, global.out + t * arguments.out.stride, arguments.out.stride, rows);
    }
  }
  arch::wait_for_copies<0>();  // of the groups without copies behind the last tile
  return halo;
}

/// Writes the inputs that the next tokens' convolution needs.
template <class Tile>
RECURFORMER_DEVICE void save_halo(const Shared<Tile>& shared, int which, float* to) {
  sync_item<Tile::threads>();
  RECURFORMER_ROLLED
  for (int i = arch::thread_index(); i < Tile::Head::past * Tile::Head::d_head; i += Tile::threads)
    to[i] = shared.halo(which)[i];
}

/// Runs a chunk with its outputs from state `from` (states, d_head; null: 0) and, unless `to` is null, leaves
/// the state after it there. The last chunk of a sequence also leaves the sequence's last inputs.
template <class Tile>
RECURFORMER_DEVICE void run_outputs(const Shared<Tile>& shared,
                                    const Arguments<typename Tile::Value>& arguments, const Chunk& chunk,
                                    const float* from, float* to) {
  using Head = typename Tile::Head;
  Scan<Tile> scan(decays<Head>(arguments, chunk), from);
  const int halo = run_chunk<Tile, true>(shared, arguments, chunk, scan);
  if (to) scan.save(to);
  float* const conv = conv_state<Head>(chunk);
  if (conv && chunk.end == chunk.sequence.rows) save_halo(shared, halo, conv);
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_CHUNK_HPP
