#ifndef RECURFORMER_CUDA_MAMBA2_PREFILL_HPP
#define RECURFORMER_CUDA_MAMBA2_PREFILL_HPP

// Mamba2 heads (spec/mamba2.hpp; state space duality, arXiv 2405.21060) over many tokens of a variable-length
// batch, on tensor cores: rotary positions, step sizes, recurrence, skip, norm and gate in one pass over the
// projected activations. Inputs and outputs bf16 or fp16, states fp32; runs that store floats go through
// mamba2_decode.hpp, on CUDA cores. ssd_chunk.hpp has the arithmetic of a chunk.
//
// A block walks consecutive chunks of one sequence and group with the state in its registers, so that the
// state touches memory only at the ends. If sequences · groups fill the GPU, that is the whole prefill:
// one launch. Otherwise sequences are cut into segments of several chunks and there are three:
//
//   (1) ends    every segment but a sequence's last, from a zero state: end state and decay (reads k, v, dt)
//   (2) carry   the states before the segments, one after the other
//   (3) outputs every segment from its state; the last one of a sequence leaves the final state
//
// Everything is combined in an order that only depends on the plan.
//
// Floors per token of a group with P = d_head, G query heads and Q = 64, on an H100, for G = 1, P = 64 (128):
//   bytes  2 P (3 G + 2) + 2: 642 (1282) → 192 (383) ps at 3.35 TB/s
//   FLOP   G (2 Q P + 2 P²) + 4 P²: 33k (115k) → 33 (116) ps at 989 TFLOP/s, of which mma.sync reaches about
//   two
//          thirds; the last term counts the two parts of the state's operand
//   exps and reciprocals  G (Q / 2 + 2 P) + 4 → 42 (84) ps, P = 128 taking the decays once per half of the
//   columns
// Segments add 2 P · 2 bytes and 4 P² FLOP per token and 16 P² bytes per segment.

#include <cstddef>
#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/cuda/mamba2_arguments.hpp"
#include "recurformer/cuda/ssd_chunk.hpp"

namespace rf::cuda {

/// How sequences are cut. Chosen by mamba2_plan(); the same plan gives the same bits.
struct Mamba2Plan {
  int segments = 1;                ///< of the longest sequence
  std::int64_t segment_rows = 64;  ///< a multiple of the chunk
  int stages = 1;                  ///< 2: what comes next is loaded while a head of a chunk is computed

  RECURFORMER_HOST_DEVICE constexpr int segments_of(const SequenceRows& sequence) const {
    return static_cast<int>((sequence.rows + segment_rows - 1) / segment_rows);
  }
};

/// States of segments, (sequences, segments, groups, d_head + 1, d_head), and what decays over each. The last
/// segment of a sequence only has the state before it; sequences of one segment have none.
struct SsdSegments {
  Mamba2Plan plan = {};
  float* states = nullptr;
  float* decays = nullptr;  ///< (sequences, segments, groups)
};

/// What the passes get.
template <class T>
struct SsdParameters {
  Mamba2Arguments<T> call;
  SsdSegments segments;
};

/// One block's work.
struct SsdItem {
  int segment = 0;
  int group = 0;
  int sequence = 0;
};

/// Walks the chunks of one segment. Outputs: false is pass (1) of the top of this file, true the only one or
/// pass (3).
template <class T, int P, class Traits, bool Outputs>
struct SsdWalk {
  using Parameters = SsdParameters<T>;
  using Shape = SsdShape<P>;
  using Chunk = SsdChunk<T, P, Traits, Outputs>;
  static constexpr int threads = Shape::threads;
  static constexpr int blocks_per_multiprocessor = P == 128 ? 1 : 2;  // three would spill

  static_assert(Chunk::fixed_bytes + Chunk::stage_bytes <= arch::shared_bytes_everywhere);

  static constexpr int shared_bytes(int stages) { return Chunk::fixed_bytes + stages * Chunk::stage_bytes; }

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const arch::Dim3 block = arch::block_index();
    walk(p, {.segment = block.x, .group = block.y, .sequence = block.z});
  }

  /// The work of one block; shared memory may hold anything before and after.
  RECURFORMER_DEVICE static void walk(const Parameters& p, const SsdItem& item) {
    const Mamba2Plan& plan = p.segments.plan;
    const SequenceRows sequence = p.call.sequences[item.sequence];
    const std::int64_t first = item.segment * plan.segment_rows;
    const bool last = sequence.rows - first <= plan.segment_rows;
    if (first >= sequence.rows || (!Outputs && last)) return;
    const Rows rows{.group = item.group,
                    .first = sequence.first_row + first,
                    .position = sequence.position + first,
                    .count = static_cast<int>(last ? sequence.rows - first : plan.segment_rows)};
    const std::int64_t segment =
        (std::int64_t{item.sequence} * plan.segments + item.segment) * p.call.groups + item.group;
    float* const kept = p.call.state(item.sequence, item.group, P);
    const bool cut = plan.segments_of(sequence) > 1;
    float* const own = cut ? p.segments.states + segment * Mamba2Arguments<T>::state_size(P) : nullptr;
    SsdState<P> state;
    state.load(!Outputs ? nullptr : cut ? own : kept);
    const detail::SsdSum decay = walk_chunks(p.call, rows, plan.stages, state);
    if constexpr (!Outputs) {
      state.store(own);
      if (arch::thread_index() == 0) p.segments.decays[segment] = arch::exp2(decay.high + decay.low);
    } else if (last && kept != nullptr) {
      state.store(kept);
    }
  }

 private:
  /// The rows of a segment.
  struct Rows {
    int group;
    std::int64_t first, position;
    int count;
  };
  /// What is loaded and computed between barriers: one head of one chunk, the first along with k and v.
  struct Step {
    int row = 0;  ///< in the segment
    int head = 0;
    int key_stage = 0, head_stage = 0;
  };

  RECURFORMER_DEVICE static Step following(const Step& at, int heads, int stages) {
    const bool same_chunk = at.head + 1 < heads;
    return {.row = same_chunk ? at.row : at.row + Shape::rows,
            .head = same_chunk ? at.head + 1 : 0,
            .key_stage = same_chunk ? at.key_stage : stages - 1 - at.key_stage,
            .head_stage = stages - 1 - at.head_stage};
  }
  RECURFORMER_DEVICE static int valid_rows(const Rows& rows, const Step& at) {
    return rows.count - at.row < Shape::rows ? rows.count - at.row : Shape::rows;
  }

  /// Leaves the state behind the segment; returns log2 of what decays over it.
  RECURFORMER_DEVICE static detail::SsdSum walk_chunks(const Mamba2Arguments<T>& call, const Rows& rows,
                                                       int stages, SsdState<P>& state) {
    const int heads = Outputs ? call.queries : 1;
    detail::SsdSum decay;
    Chunk chunk;
    float state_scale = 1.0f;
    Step at;
    load(call, rows, at, chunk);
    while (at.row < rows.count) {
      const Step next = following(at, heads, stages);
      const int valid = valid_rows(rows, at);
      if (at.head == 0) state_scale = start_chunk(call, rows, at, chunk, state);
      arch::wait_for_copies<0>();
      sync_item<threads>();
      if (stages > 1 && next.row < rows.count) load(call, rows, next, chunk);
      chunk.choose(at.key_stage, at.head_stage);
      compute(call, rows, at, valid, state_scale, chunk);
      if (at.head + 1 == heads) {
        chunk.update_state(state, valid);
        decay = decay + detail::SsdSum{chunk.small->decays.sum_high, chunk.small->decays.sum_low};
      }
      sync_item<threads>();
      if (stages == 1 && next.row < rows.count) load(call, rows, next, chunk);
      at = next;
    }
    return decay;
  }

  /// Starts loading what a step needs.
  RECURFORMER_DEVICE static void load(const Mamba2Arguments<T>& call, const Rows& rows, const Step& at,
                                      Chunk& chunk) {
    const bool aligned = rows_are_aligned(call.projected) && call.group_stride % 8 == 0;
    const int valid = valid_rows(rows, at);
    const std::int64_t stride = call.projected.stride;
    const T* const columns = call.columns(rows.first + at.row, rows.group);
    const T* const keys = columns + call.queries * P;
    chunk.choose(at.key_stage, at.head_stage);
    if (at.head == 0) {
      chunk.k.template load_rows<Shape::rows, threads>(keys, stride, valid, aligned);
      chunk.v.template load_rows<Shape::rows, threads>(keys + P, stride, valid, aligned);
    }
    if constexpr (Outputs) {
      chunk.q.template load_rows<Shape::rows, threads>(columns + at.head * P, stride, valid, aligned);
      chunk.z.template load_rows<Shape::rows, threads>(keys + (2 + at.head) * P, stride, valid, aligned);
    }
    arch::commit_copies();
  }

  /// What all heads of a chunk share. Returns share_state's scale.
  RECURFORMER_DEVICE static float start_chunk(const Mamba2Arguments<T>& call, const Rows& rows,
                                              const Step& at, Chunk& chunk, SsdState<P>& state) {
    const T* const steps = call.columns(rows.first + at.row, rows.group) + (2 * call.queries + 2) * P;
    if (arch::warp_index() == 0)
      chunk.small->decays.template fill<Chunk::scaled>(steps, call.projected.stride, valid_rows(rows, at),
                                                       call.locals.dt_bias[rows.group],
                                                       detail::ssd_log2_rate(call.locals.a_log[rows.group]));
    if constexpr (Outputs)
      return chunk.share_state(state);
    else
      return 1.0f;
  }

  /// Rotary positions and, with outputs, the head's.
  RECURFORMER_DEVICE static void compute(const Mamba2Arguments<T>& call, const Rows& rows, const Step& at,
                                         int valid, float state_scale, const Chunk& chunk) {
    if constexpr (Traits::rope) {
      const std::int64_t position = rows.position + at.row;
      if (at.head == 0) chunk.k.template rotate_rows<threads>(call.rope, position, valid);
      if constexpr (Outputs) chunk.q.template rotate_rows<threads>(call.rope, position, valid);
      sync_item<threads>();
    }
    if constexpr (Outputs) {
      chunk.output(parameters_of(call.locals, rows.group * call.queries + at.head), state_scale);
      sync_item<threads>();
      T* const out = call.outputs(rows.first + at.row, rows.group, P) + at.head * P;
      chunk.z.template store_rows<threads>(out, call.out.stride, valid, rows_are_aligned(call.out));
    }
  }

  RECURFORMER_DEVICE static SsdHead parameters_of(const Mamba2Locals& locals, int head) {
    return {.c0 = locals.c0[head],
            .c1 = locals.c1[head],
            .skip = locals.skip + head * P,
            .norm_gain = Traits::norm ? locals.norm_gain + head * P : nullptr};
  }
};

/// Pass (2): turns the end states of segments into the states before them. A thread has one element of the
/// state of one group and goes through the segments of one sequence.
template <class T, int P>
struct SsdCarry {
  using Parameters = SsdParameters<T>;
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 4;
  static constexpr int size = static_cast<int>(Mamba2Arguments<T>::state_size(P));
  static constexpr int blocks = (size + threads - 1) / threads;  ///< of one group of one sequence

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const arch::Dim3 block = arch::block_index();
    const int element = block.x * threads + arch::thread_index();
    if (element < size) carry(p, block.y, block.z, element);
  }

  RECURFORMER_DEVICE static void carry(const Parameters& p, int group, int sequence, int element) {
    const Mamba2Plan& plan = p.segments.plan;
    const int count = plan.segments_of(p.call.sequences[sequence]);
    if (count == 1) return;
    const float* const initial = p.call.state(sequence, group, P);
    float state = initial != nullptr ? initial[element] : 0.0f;
    const std::int64_t own = std::int64_t{sequence} * plan.segments * p.call.groups + group;
    constexpr int batch = 8;  // segments whose loads are under way together
    for (int first = 0; first < count; first += batch) {
      float end[batch], decay[batch];
      RECURFORMER_UNROLL
      for (int i = 0; i < batch; ++i) {  // the last segment has no end
        const std::int64_t segment = own + std::int64_t{first + i} * p.call.groups;
        const bool ends = first + i + 1 < count;
        end[i] = ends ? p.segments.states[segment * size + element] : 0.0f;
        decay[i] = ends ? p.segments.decays[segment] : 0.0f;
      }
      RECURFORMER_UNROLL
      for (int i = 0; i < batch; ++i) {
        if (first + i >= count) break;
        p.segments.states[(own + std::int64_t{first + i} * p.call.groups) * size + element] = state;
        state = decay[i] * state + end[i];
      }
    }
  }
};

/// Cuts sequences of at most `longest` rows such that all multiprocessors have work, or not at all, and
/// loads ahead if `most_shared_bytes`, what a block can have, suffice. Sequences of up to `uncut` rows are
/// not cut: in the time that takes there is other work to do.
template <int P>
constexpr Mamba2Plan mamba2_plan(int multiprocessors, int most_shared_bytes, int sequences, int groups,
                                 std::int64_t longest, std::int64_t uncut = 0) {
  using Chunk = SsdChunk<bf16, P, SsdTraits<false, false, Gate::silu>, true>;
  constexpr std::int64_t chunk = SsdShape<P>::rows;
  const std::int64_t chunks = longest > chunk ? (longest + chunk - 1) / chunk : 1;
  const std::int64_t walks = std::int64_t{sequences} * groups;
  const int stages = Chunk::fixed_bytes + 2 * Chunk::stage_bytes <= most_shared_bytes ? 2 : 1;
  if (walks == 0 || walks >= multiprocessors || longest <= uncut)
    return {.segments = 1, .segment_rows = chunks * chunk, .stages = stages};
  const std::int64_t wanted = 2 * multiprocessors / walks;  // two blocks each, to hide one behind the other
  const std::int64_t segment = (chunks + wanted - 1) / wanted;
  return {.segments = static_cast<int>((chunks + segment - 1) / segment),
          .segment_rows = segment * chunk,
          .stages = stages};
}

/// Bytes of workspace that a plan needs, 0 for one segment.
template <int P>
constexpr std::size_t mamba2_workspace_bytes(const Mamba2Plan& plan, int sequences, int groups) {
  if (plan.segments <= 1) return 0;
  return static_cast<std::size_t>(plan.segments) * static_cast<std::size_t>(sequences) *
         static_cast<std::size_t>(groups) * static_cast<std::size_t>((P + 1) * P + 1) * sizeof(float);
}

/// The forward pass of a run of Mixer (a Mamba2<…>) with heads of width P; groups and sequences are at most
/// 65535. `workspace`: 8-byte aligned, mamba2_workspace_bytes. A sequence without rows keeps its state.
template <class Mixer, int P, class T, class Device>
void mamba2_prefill(Device& device, const Mamba2Arguments<T>& call, const Mamba2Plan& plan, void* workspace) {
  static_assert(sizeof(T) == 2, "recurformer: tensor cores want bf16 or fp16; use mamba2_decode for floats");
  if (call.sequence_count == 0 || call.groups == 0 || call.longest == 0) return;
  check(plan.segment_rows >= 1 && plan.segment_rows % SsdShape<P>::rows == 0,
        "mamba2_prefill: segment_rows is ", plan.segment_rows, "; it must be a multiple of ",
        SsdShape<P>::rows);
  check(plan.segments * plan.segment_rows >= call.longest, "mamba2_prefill: ", plan.segments, " segments of ",
        plan.segment_rows, " rows do not cover the longest sequence's ", call.longest);
  check(plan.segments == 1 || workspace != nullptr,
        "mamba2_prefill: a plan of several segments needs mamba2_workspace_bytes of workspace");
  check(plan.stages == 1 || plan.stages == 2, "mamba2_prefill: stages is ", plan.stages,
        "; allowed are 1 and 2");
  using Traits = SsdTraitsOf<Mixer>;
  using Carry = SsdCarry<T, P>;
  auto* const states = static_cast<float*>(workspace);
  const std::int64_t units = std::int64_t{plan.segments} * call.sequence_count * call.groups;
  const SsdSegments segments{
      .plan = plan, .states = states, .decays = states != nullptr ? states + units * Carry::size : nullptr};
  if (plan.segments > 1) {
    using Ends = SsdWalk<T, P, Traits, false>;
    device.template launch<Ends>({.blocks = {plan.segments - 1, call.groups, call.sequence_count},
                                  .shared_bytes = Ends::shared_bytes(plan.stages)},
                                 {call, segments});
    device.template launch<Carry>({.blocks = {Carry::blocks, call.groups, call.sequence_count}},
                                  {call, segments});
  }
  using Walk = SsdWalk<T, P, Traits, true>;
  device.template launch<Walk>({.blocks = {plan.segments, call.groups, call.sequence_count},
                                .shared_bytes = Walk::shared_bytes(plan.stages)},
                               {call, segments});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA2_PREFILL_HPP
