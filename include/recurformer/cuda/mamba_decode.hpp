#ifndef RECURFORMER_CUDA_MAMBA_DECODE_HPP
#define RECURFORMER_CUDA_MAMBA_DECODE_HPP

// A decode step of Mamba heads (arXiv 2312.00752; equations in reference/mamba.hpp): one to eight new tokens,
// or none, of each sequence of a batch, one block per head and sequence. It is a chain of five short phases,
// so latency is what counts: all bytes are asked for at once at the start, then nothing waits for memory.
//
//   floor: the states twice, 8·(d_state + d_conv - 1)·d_head bytes per head and sequence, and the prepared
//          parameters, about 4·(columns + d_conv + dt_rank + d_state + 3)·d_head bytes per head: with d_head
//          64, d_state 16 and 8 sequences 9.7 KB + 2.0 KB per head and sequence, 3.5 ns of an H100's DRAM,
//          and d_state·d_head exponentials per token, 0.26 ns of its special-function units
//
// More tokens than eight are correct, but what mamba_prefill.hpp is for.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba_chunk.hpp"
#include "recurformer/cuda/mamba_launch.hpp"

namespace rf::cuda::mamba {
inline namespace RECURFORMER_ARCH {

/// All new tokens of sequence `sequence`, head `head`. `memory`: Shared<Tile>::bytes of shared memory.
template <class Tile>
RECURFORMER_DEVICE void decode_item(const Arguments<typename Tile::Value>& arguments, int sequence, int head,
                                    void* memory) {
  const SequenceRows rows = arguments.sequences[sequence];
  if (rows.rows == 0) return;
  const Chunk chunk{.sequence = rows,
                    .state = arguments.states ? arguments.states[sequence] : SequenceState{},
                    .head = head,
                    .first = 0,
                    .end = static_cast<int>(rows.rows)};
  float* const state = scan_state<typename Tile::Head>(chunk);
  run_outputs(Shared<Tile>(memory), arguments, chunk, state, state);
}

template <class Tile>
struct DecodeKernel {
  using Parameters = Arguments<typename Tile::Value>;
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_multiprocessor = Tile::blocks_per_multiprocessor;

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    const arch::Dim3 block = arch::block_index();
    decode_item<Tile>(parameters, block.y, block.x, arch::shared_memory<unsigned char>());
  }
};

}  // namespace RECURFORMER_ARCH

/// Outputs of all new tokens, and the states after them. Throws ArgumentError for rows that are not aligned.
template <class Head, class T, class Device>
void decode(Device& device, const Arguments<T>& arguments) {
  check_arguments<Head>(arguments);
  if (arguments.sequence_count == 0 || arguments.heads() == 0) return;
  using Tile = DecodeTile<Head, T>;
  device.template launch<DecodeKernel<Tile>>(
      {.blocks = {.x = arguments.heads(), .y = arguments.sequence_count},
       .shared_bytes = Shared<Tile>::bytes},
      arguments);
}

}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_DECODE_HPP
