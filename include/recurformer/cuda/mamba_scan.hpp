#ifndef RECURFORMER_CUDA_MAMBA_SCAN_HPP
#define RECURFORMER_CUDA_MAMBA_SCAN_HPP

// The selective scan of Mamba (arXiv 2312.00752, algorithm 2) over the tokens of a tile, one after the other:
//
//   s[n] ← 2^(Δ_t decay[n]) s[n] + Δ_t u_t B_t[n],      y_t = Σ_n s[n] C_t[n] + D u_t
//
// A thread keeps the states of its lane of its channel, and their decays, in registers; B and C come from
// shared memory as broadcasts. Everything is float.

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba_tile.hpp"

namespace rf::cuda::mamba {
inline namespace RECURFORMER_ARCH {

template <class Tile>
class Scan {
  using Head = typename Tile::Head;
  static constexpr int d = Head::d_head;
  static constexpr int count = Head::padded_states / Tile::lanes;  // states of one thread
  static constexpr int step = Tile::step;
  static_assert(step == 1 || step == Tile::lanes);

 public:
  /// `decay` (padded_states, d_head) is global memory, as is the state (states, d_head); null: zeros.
  RECURFORMER_DEVICE Scan(const float* decay, const float* state) {
    RECURFORMER_UNROLL
    for (int j = 0; j < count; ++j) {
      decay_[j] = decay[(first() + j) * d + channel()];
      state_[j] = state && is_real(j) ? state[(first() + j) * d + channel()] : 0.0f;
    }
  }

  RECURFORMER_DEVICE void save(float* state) const {
    RECURFORMER_UNROLL
    for (int j = 0; j < count; ++j)
      if (is_real(j)) state[(first() + j) * d + channel()] = state_[j];
  }

  /// Writes (d_head) sums of Δ over all tokens seen.
  RECURFORMER_DEVICE void save_delta_sum(float* sum) const {
    if (lane() == 0) sum[channel()] = delta_sum_;
  }

  /// Takes `padded` tokens, a multiple of Tile::step. With Outputs, y replaces u in shared memory.
  template <bool Outputs>
  RECURFORMER_DEVICE void run(const Shared<Tile>& shared, int padded) {
    // One lane of a channel adds D u, the others nothing.
    const float skip = lane() == 0 ? shared.parameters(ParameterLayout<Head>::skip)[channel()] : 0.0f;
    RECURFORMER_ROLLED
    for (int t = 0; t < padded; t += step) {
      float y[step];
      RECURFORMER_UNROLL
      for (int i = 0; i < step; ++i) {
        const float u = shared.u(t + i)[channel()], delta = shared.delta(t + i)[channel()];
        advance(shared.coefficients(t + i) + Head::first_b, delta, delta * u);
        if constexpr (Outputs) y[i] = output(shared.coefficients(t + i), skip * u);
      }
      if constexpr (Outputs) {
        sum_over_lanes<Tile::lanes>(y, lane());
        if constexpr (Tile::lanes > 1) arch::sync_warp();  // all lanes of the channel have read u
        if (step == Tile::lanes || lane() == 0) shared.u(t + (step == 1 ? 0 : lane()))[channel()] = y[0];
      }
    }
  }

 private:
  RECURFORMER_DEVICE static int lane() { return arch::thread_index() % Tile::lanes; }
  RECURFORMER_DEVICE static int channel() { return arch::thread_index() / Tile::lanes; }
  RECURFORMER_DEVICE static int first() { return lane() * count; }
  /// False for the states that pad.
  RECURFORMER_DEVICE static bool is_real(int j) {
    return Head::padded_states == Head::states || first() + j < Head::states;
  }

  RECURFORMER_DEVICE void advance(const float* b_row, float delta, float input) {
    float b[count];
    load_floats(b, b_row + first());
    delta_sum_ += delta;
    RECURFORMER_UNROLL
    for (int j = 0; j < count; ++j) state_[j] = arch::exp2(delta * decay_[j]) * state_[j] + input * b[j];
  }

  /// start + Σ state · C, in two sums so that a token's latency is that of half of them.
  RECURFORMER_DEVICE float output(const float* c_row, float start) const {
    float c[count];
    load_floats(c, c_row + first());
    float sum[2] = {start, 0.0f};
    RECURFORMER_UNROLL
    for (int j = 0; j < count; ++j) sum[j % 2] += state_[j] * c[j];
    return sum[0] + sum[1];
  }

  float decay_[count];
  float state_[count];
  float delta_sum_ = 0.0f;
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_SCAN_HPP
