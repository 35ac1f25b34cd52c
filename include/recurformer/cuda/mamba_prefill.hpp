#ifndef RECURFORMER_CUDA_MAMBA_PREFILL_HPP
#define RECURFORMER_CUDA_MAMBA_PREFILL_HPP

// Forward of Mamba heads (arXiv 2312.00752; equations in reference/mamba.hpp) over many tokens: projected
// activations x, z in, head outputs out, everything between them in one kernel.
//
//   projected (tokens, groups · 2 · heads_per_group · d_head)  float, bf16 or fp16
//   out       (tokens, heads of the layer · d_head)            the same type
//   states, parameters and all arithmetic                      float
//
// One block owns one head of one sequence (mamba_chunk.hpp). Where heads and sequences do not fill the GPU,
// time is cut into chunks, and there are three launches:
//
//   first    chunk 0 of every sequence: its outputs. Chunks between the first and the last: from state 0,
//            the state e they end with and σ = Σ Δ
//   carry    s ← e + 2^(decay · σ) s along the chunks, so that every chunk's end state is the true one
//   replay   chunks but the first: their outputs, from the state before them
//
// The decay of a whole chunk is one exponential, no product that could underflow on the way. Sums are in an
// order that the plan fixes: the same plan gives the same bits, on any GPU of an architecture.
//
// Floors per token and channel, with d_state 16, d_head 64 and bf16, on an H100:
//
//   special functions   d_state + 4 exponentials and reciprocals     5.2 ps   at 3.87e12 per second
//   float arithmetic    4·d_state + columns + d_conv + dt_rank + 20  4.1 ps   at 30.9e12 per second
//   memory              x, z and out                                 1.8 ps   at 3.35e12 bytes per second
//
// All instructions that the compiler makes of it, about 210, take 6.9 ps to issue. With chunks everything but
// z, C, y and the gate is done twice for all but the first and last chunk.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba_chunk.hpp"
#include "recurformer/cuda/mamba_launch.hpp"

namespace rf::cuda::mamba {

/// How time is cut.
struct Plan {
  int chunk_rows = 0;    ///< of every chunk but a sequence's last
  int chunks = 0;        ///< of all sequences
  bool several = false;  ///< some sequence has more than one
};

/// The Plan with chunks of the given length, >= 1, and >= d_conv - 1 where that cuts a sequence. `sequences`
/// is the batch, on the host.
inline Plan plan_with_chunks(std::span<const SequenceRows> sequences, int chunk_rows) {
  Plan plan{.chunk_rows = chunk_rows};
  for (const SequenceRows& sequence : sequences) {
    const auto chunks = static_cast<int>((sequence.rows + chunk_rows - 1) / chunk_rows);
    plan.chunks += chunks;
    plan.several |= chunks > 1;
  }
  return plan;
}

/// The fastest Plan by a model of the time, which depends on the arguments only. `slots` is how many blocks
/// run at once, `heads` those of the run; `beside` is for how many of its tokens each of these blocks has
/// other work to do in the same launch.
inline Plan plan_chunks(std::span<const SequenceRows> sequences, int heads, int slots, double beside = 0) {
  // Times in the unit of a token in one block. A chunk costs its tokens once for the carried state and once
  // for the outputs; carry and the launches are worth about these many tokens.
  constexpr double two_passes = 1.7, per_chunk = 0.3, two_launches = 24;
  constexpr std::int64_t shortest = 64;
  std::int64_t longest = 1, total = 0;
  for (const SequenceRows& sequence : sequences) {
    longest = std::max(longest, sequence.rows);
    total += sequence.rows;
  }
  const double work = static_cast<double>(total) * heads / slots;
  std::int64_t best = longest;
  double least = std::max(static_cast<double>(longest), work + beside);
  for (std::int64_t rows = shortest; rows < longest; rows *= 2) {
    const double chunks = static_cast<double>((longest + rows - 1) / rows);
    const double time = std::max(two_passes * static_cast<double>(rows), two_passes * work + beside) +
                        per_chunk * chunks + two_launches;
    if (time < least) least = time, best = rows;
  }
  return plan_with_chunks(sequences, static_cast<int>(best));
}

/// Device memory that prefill() needs besides its arguments.
template <class Head>
constexpr std::size_t workspace_bytes(const Plan& plan, int heads) {
  const auto slots =
      static_cast<std::size_t>(plan.several ? plan.chunks : 0) * static_cast<std::size_t>(heads);
  return slots * (Head::states + 1) * Head::d_head * sizeof(float);
}

/// What the three kernels get.
template <class T>
struct PrefillParameters {
  Arguments<T> arguments = {};
  int chunk_rows = 1;
  float* chunk_states = nullptr;      ///< (chunks, heads, states, d_head): after each chunk
  float* chunk_delta_sums = nullptr;  ///< (chunks, heads, d_head)
};

inline namespace RECURFORMER_ARCH {

/// Chunks of a sequence.
RECURFORMER_DEVICE int chunks_of(const SequenceRows& sequence, int chunk_rows) {
  return (static_cast<int>(sequence.rows) + chunk_rows - 1) / chunk_rows;
}

/// A chunk among those of its sequence.
struct ChunkPlace {
  int sequence;
  int chunk;
  int chunks;
};

/// Finds chunk `index` of the batch; each warp by itself, 32 sequences at a time.
RECURFORMER_DEVICE ChunkPlace find_chunk(const SequenceRows* sequences, int count, int chunk_rows,
                                         int index) {
  const int lane = arch::lane_index();
  int rest = index;
  for (int base = 0; base < count; base += arch::warp_size) {
    const int mine = base + lane < count ? chunks_of(sequences[base + lane], chunk_rows) : 0;
    int up_to = mine;  // chunks of the sequences from base to this lane's
    RECURFORMER_UNROLL
    for (int distance = 1; distance < arch::warp_size; distance *= 2) {
      const int below = arch::shuffle_up(up_to, distance);
      if (lane >= distance) up_to += below;
    }
    const int total = arch::shuffle(up_to, arch::warp_size - 1);
    if (rest >= total) {
      rest -= total;
      continue;
    }
    int owner = 0;  // the lanes whose sequences end before the chunk
    RECURFORMER_UNROLL
    for (int half = arch::warp_size / 2; half >= 1; half /= 2)
      if (arch::shuffle(up_to, owner + half - 1) <= rest) owner += half;
    return {.sequence = base + owner,
            .chunk = rest - arch::shuffle(up_to - mine, owner),
            .chunks = arch::shuffle(mine, owner)};
  }
  return {.sequence = 0, .chunk = 0, .chunks = 0};
}

/// Chunks of the sequences before `sequence`; each warp by itself.
RECURFORMER_DEVICE int chunks_before(const SequenceRows* sequences, int sequence, int chunk_rows) {
  int sum = 0;
  for (int s = arch::lane_index(); s < sequence; s += arch::warp_size)
    sum += chunks_of(sequences[s], chunk_rows);
  RECURFORMER_UNROLL
  for (int bits = 1; bits < arch::warp_size; bits *= 2) sum += arch::shuffle_xor(sum, bits);
  return sum;
}

template <class T>
RECURFORMER_DEVICE Chunk chunk_at(const PrefillParameters<T>& parameters, const ChunkPlace& place, int head) {
  const Arguments<T>& arguments = parameters.arguments;
  const SequenceRows rows = arguments.sequences[place.sequence];
  const int first = place.chunk * parameters.chunk_rows;
  const bool last = place.chunk == place.chunks - 1;
  return {.sequence = rows,
          .state = arguments.states ? arguments.states[place.sequence] : SequenceState{},
          .head = head,
          .first = first,
          .end = last ? static_cast<int>(rows.rows) : first + parameters.chunk_rows};
}

/// Where the state after chunk `index` of the batch is kept, `slot` being index · heads + head.
template <class Head, class T>
RECURFORMER_DEVICE float* chunk_state(const PrefillParameters<T>& parameters, std::int64_t slot) {
  return parameters.chunk_states + slot * (Head::states * Head::d_head);
}

/// Work items are numbered chunk · heads + head. `memory`: Shared<Tile>::bytes of shared memory.
template <class Tile>
RECURFORMER_DEVICE void first_item(const PrefillParameters<typename Tile::Value>& parameters, int item,
                                   void* memory) {
  using Head = typename Tile::Head;
  const auto& arguments = parameters.arguments;
  const int heads = arguments.heads();
  const ChunkPlace place =
      find_chunk(arguments.sequences, arguments.sequence_count, parameters.chunk_rows, item / heads);
  const Shared<Tile> shared(memory);
  const Chunk chunk = chunk_at(parameters, place, item % heads);
  if (place.chunk == 0) {
    float* const state = scan_state<Head>(chunk);
    run_outputs(shared, arguments, chunk, state,
                place.chunks == 1 ? state : chunk_state<Head>(parameters, item));
  } else if (place.chunk < place.chunks - 1) {
    Scan<Tile> scan(decays<Head>(arguments, chunk), nullptr);
    run_chunk<Tile, false>(shared, arguments, chunk, scan);
    scan.save(chunk_state<Head>(parameters, item));
    scan.save_delta_sum(parameters.chunk_delta_sums + std::int64_t{item} * Head::d_head);
  }
}

template <class Tile>
RECURFORMER_DEVICE void replay_item(const PrefillParameters<typename Tile::Value>& parameters, int item,
                                    void* memory) {
  using Head = typename Tile::Head;
  const auto& arguments = parameters.arguments;
  const int heads = arguments.heads();
  const ChunkPlace place =
      find_chunk(arguments.sequences, arguments.sequence_count, parameters.chunk_rows, item / heads);
  if (place.chunk == 0) return;
  const Chunk chunk = chunk_at(parameters, place, item % heads);
  run_outputs(Shared<Tile>(memory), arguments, chunk,
              chunk_state<Head>(parameters, std::int64_t{item} - heads),
              place.chunk == place.chunks - 1 ? scan_state<Head>(chunk) : nullptr);
}

/// Carries one head's state along the chunks of one sequence; `thread` of `threads` takes every threads-th
/// element. Chunks are read some at a time, so that their loads don't wait for each other.
template <class Head, class T>
RECURFORMER_DEVICE void carry_item(const PrefillParameters<T>& parameters, int sequence, int head, int thread,
                                   int threads) {
  constexpr int batch = 8, elements = Head::states * Head::d_head;
  const Arguments<T>& arguments = parameters.arguments;
  const int heads = arguments.heads();
  const int chunks = chunks_of(arguments.sequences[sequence], parameters.chunk_rows);
  if (chunks < 3) return;  // the state after chunk 0 is true, and nobody asks for the one after the last
  const std::int64_t first =
      std::int64_t{chunks_before(arguments.sequences, sequence, parameters.chunk_rows)} * heads + head;
  const float* const decay = decays<Head>(arguments, {.head = head});
  for (int i = thread; i < elements; i += threads) {
    float state = chunk_state<Head>(parameters, first)[i];
    for (int begin = 1; begin < chunks - 1; begin += batch) {
      float end_state[batch], delta_sum[batch];
      RECURFORMER_UNROLL
      for (int j = 0; j < batch; ++j) {
        const int chunk = begin + j < chunks - 1 ? begin + j : chunks - 2;
        const std::int64_t slot = first + std::int64_t{chunk} * heads;
        end_state[j] = chunk_state<Head>(parameters, slot)[i];
        delta_sum[j] = parameters.chunk_delta_sums[slot * Head::d_head + i % Head::d_head];
      }
      RECURFORMER_UNROLL
      for (int j = 0; j < batch; ++j) {
        if (begin + j >= chunks - 1) break;
        state = arch::exp2(delta_sum[j] * decay[i]) * state + end_state[j];
        chunk_state<Head>(parameters, first + std::int64_t{begin + j} * heads)[i] = state;
      }
    }
  }
}

template <class Tile>
struct FirstKernel {
  using Parameters = PrefillParameters<typename Tile::Value>;
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_multiprocessor = Tile::blocks_per_multiprocessor;

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    first_item<Tile>(parameters, arch::block_index().x, arch::shared_memory<unsigned char>());
  }
};

template <class Tile>
struct ReplayKernel {
  using Parameters = PrefillParameters<typename Tile::Value>;
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_multiprocessor = Tile::blocks_per_multiprocessor;

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    replay_item<Tile>(parameters, arch::block_index().x, arch::shared_memory<unsigned char>());
  }
};

template <class Head, class T>
struct CarryKernel {
  using Parameters = PrefillParameters<T>;
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 4;
  static constexpr int blocks_per_head = (Head::states * Head::d_head + threads - 1) / threads;

  RECURFORMER_DEVICE static void run(const Parameters& parameters) {
    const arch::Dim3 block = arch::block_index();
    carry_item<Head>(parameters, block.y, block.x / blocks_per_head,
                     block.x % blocks_per_head * threads + arch::thread_index(), blocks_per_head * threads);
  }
};

}  // namespace RECURFORMER_ARCH

/// The Plan for a device with so many multiprocessors.
template <class Head, class T>
Plan plan_prefill(std::span<const SequenceRows> sequences, int heads, int multiprocessors) {
  using Tile = PrefillTile<Head, T>;
  constexpr int shared_bytes = 227 * 1024;  // an H100's; fewer make the plan only a little worse
  constexpr int slots =
      std::min(Tile::blocks_per_multiprocessor, shared_bytes / (Shared<Tile>::bytes + 1024));
  return plan_chunks(sequences, heads, multiprocessors * slots);
}

/// Throws ArgumentError for a plan that the kernels cannot follow.
template <class Head>
void check_chunks(const Plan& plan, int heads) {
  check(!plan.several || plan.chunk_rows >= Head::past, "Mamba: chunks of ", plan.chunk_rows,
        " tokens; a convolution of ", Head::taps, " taps needs ", Head::past, " at least");
  check(std::int64_t{plan.chunks} * heads < std::int64_t{1} << 31, "Mamba: ", plan.chunks, " chunks of ",
        heads, " heads are too many for one launch; split the batch");
}

/// Outputs of all new tokens, and the states after them. The plan is that of the same sequences; `workspace`
/// is device memory of workspace_bytes(). Throws ArgumentError for rows that are not aligned.
template <class Head, class T, class Device>
void prefill(Device& device, const Plan& plan, const Arguments<T>& arguments, void* workspace) {
  using Tile = PrefillTile<Head, T>;
  check_arguments<Head>(arguments);
  const int heads = arguments.heads();
  check_chunks<Head>(plan, heads);
  if (plan.chunks == 0 || heads == 0) return;
  auto* const states = static_cast<float*>(workspace);
  const std::int64_t slots = std::int64_t{plan.chunks} * heads;
  const PrefillParameters<T> parameters{
      .arguments = arguments,
      .chunk_rows = plan.chunk_rows,
      .chunk_states = states,
      .chunk_delta_sums = plan.several ? states + slots * (Head::states * Head::d_head) : nullptr};
  const arch::LaunchShape items{.blocks = {.x = static_cast<int>(slots)},
                                .shared_bytes = Shared<Tile>::bytes};
  device.template launch<FirstKernel<Tile>>(items, parameters);
  if (!plan.several) return;
  using Carry = CarryKernel<Head, T>;
  device.template launch<Carry>(
      {.blocks = {.x = heads * Carry::blocks_per_head, .y = arguments.sequence_count}}, parameters);
  device.template launch<ReplayKernel<Tile>>(items, parameters);
}

}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_PREFILL_HPP
