#ifndef RECURFORMER_TESTS_CUDA_MAMBA2_HARNESS_HPP
#define RECURFORMER_TESTS_CUDA_MAMBA2_HARNESS_HPP

// Mamba2's CUDA kernels against the recurrence in double, on any device: a variable-length batch, groups that
// are neither contiguous nor in order within a wider layer, states in permuted slots, canaries around what is
// written and NaNs around what is read.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/mamba2_arguments.hpp"
#include "recurformer/math/rope_table.hpp"
#include "recurformer/reference/mamba2.hpp"

namespace rf::test {

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Mamba2Case {
  int queries = 2;
  std::vector<int> group_index = {3, 0};  ///< of a layer of four groups
  std::vector<std::int64_t> lengths = {19, 0, 1, 70};
  std::vector<std::int64_t> positions = {};  ///< of the first token; 0 where missing
  bool aligned = true;                       ///< whether groups start at multiples of 16 bytes
  bool keeps_states = true;
  double scale = 1.0;      ///< of the projected activations
  double step_bias = 0.0;  ///< added to dt
  std::uint64_t seed = 1;
};

/// The rounding of a storage type, in double.
template <class T>
double rounded(double x) {
  return static_cast<double>(convert<float>(convert<T>(x)));
}
/// Distance of neighbouring numbers of the type near x.
template <class T>
double ulp(double x) {
  const int digits = std::is_same_v<T, bf16> ? 8 : std::is_same_v<T, fp16> ? 11 : 24;
  const int least = std::is_same_v<T, fp16> ? -24 : -149;
  return std::ldexp(1.0, std::max(x > 0 ? std::ilogb(x) - digits + 1 : least, least));
}

struct Errors {
  double rms = 0, largest = 0, reference_rms = 0, reference_largest = 0;
};
/// NaN counts as huge.
template <class Got>
Errors errors_of(const Got& got, const std::vector<double>& want) {
  REQUIRE(got.size() == want.size());
  Errors e;
  for (std::size_t i = 0; i < want.size(); ++i) {
    double d = std::abs(static_cast<double>(got[i]) - want[i]);
    if (!(d <= 1e300)) d = 1e300;
    e.rms += d * d, e.reference_rms += want[i] * want[i];
    e.largest = std::max(e.largest, d),
    e.reference_largest = std::max(e.reference_largest, std::abs(want[i]));
  }
  const auto count = static_cast<double>(std::max<std::size_t>(want.size(), 1));
  e.rms = std::sqrt(e.rms / count), e.reference_rms = std::sqrt(e.reference_rms / count);
  return e;
}

/// What a forward pass leaves, per sequence and group of the run.
struct Mamba2Result {
  std::vector<std::vector<double>> y, state;
};

template <class Mixer, class T, int P>
class Mamba2Harness {
 public:
  static constexpr std::int64_t state_size = std::int64_t{P + 1} * P;
  static constexpr int layer_groups = 4;
  static constexpr float canary = 7.0f;

  explicit Mamba2Harness(const Mamba2Case& what) : case_(what) {
    Random random(what.seed);
    const int groups = this->groups();
    width_ = std::int64_t{2 * what.queries + 2} * P + 1;
    group_stride_ = what.aligned ? (width_ + 7) / 8 * 8 : width_;
    stride_ = groups * group_stride_ + (what.aligned ? 8 : 3);
    std::int64_t first = 1;  // a row of canaries before and behind
    for (std::size_t s = 0; s < what.lengths.size(); ++s) {
      const std::int64_t position = s < what.positions.size() ? what.positions[s] : 0;
      sequences_.push_back({.first_row = first, .rows = what.lengths[s], .position = position});
      first += what.lengths[s];
      positions_ = std::max(positions_, position + what.lengths[s]);
    }
    rows_ = first + 1;
    projected_.assign(at(rows_ * stride_), convert<T>(std::nanf("")));
    for (std::int64_t row = 1; row + 1 < rows_; ++row)
      for (int g = 0; g < groups; ++g)
        for (std::int64_t c = 0; c < width_; ++c)
          projected(row, g)[c] =
              convert<T>(c + 1 < width_ ? what.scale * random.normal() : random.normal() + what.step_bias);
    const auto fill = [&](std::vector<float>& values, std::int64_t count, auto&& f) {
      values.resize(at(count));
      for (float& x : values) x = static_cast<float>(f());
    };
    const std::int64_t heads = groups * what.queries;
    fill(local_[0], groups, [&] { return random.uniform(-3.0, -1.0); });
    fill(local_[1], groups, [&] { return random.uniform(-1.0, 2.0); });
    fill(local_[2], heads, [&] { return random.normal(); });
    fill(local_[3], heads, [&] { return random.normal() / std::sqrt(P); });
    for (const std::size_t i : {4u, 5u}) fill(local_[i], heads * P, [&] { return random.normal(); });
    slots_.resize(what.lengths.size());
    std::iota(slots_.begin(), slots_.end(), 1);  // slot 0 is nobody's
    std::reverse(slots_.begin(), slots_.end());
    slot_stride_ = groups * state_size + 4;
    states_.assign((what.lengths.size() + 2) * at(slot_stride_), canary);
    for (std::size_t s = 0; s < what.lengths.size(); ++s)
      for (std::int64_t i = 0; i < groups * state_size; ++i)
        states_[at(slots_[s] * slot_stride_ + i)] = static_cast<float>(random.normal());
  }

  int groups() const { return static_cast<int>(case_.group_index.size()); }
  T* projected(std::int64_t row, int group) {
    return projected_.data() + row * stride_ + group * group_stride_;
  }
  /// f(sequence, t, dt) sets a step's pre-activation.
  template <class F>
  void set_steps(F f) {
    for (std::size_t s = 0; s < sequences_.size(); ++s)
      for (std::int64_t t = 0; t < sequences_[s].rows; ++t)
        for (int g = 0; g < groups(); ++g)
          projected(sequences_[s].first_row + t, g)[width_ - 1] = convert<T>(f(s, t));
  }
  std::vector<float>& local(std::size_t index) { return local_[index]; }
  std::vector<float>& states() { return states_; }
  const std::vector<SequenceRows>& sequences() const { return sequences_; }

  /// The recurrence in double on the rounded inputs. Plain: rotated q and k and the output are rounded to T.
  Mamba2Result reference(bool plain) const {
    Mamba2Result out;
    for (std::size_t s = 0; s < sequences_.size(); ++s)
      for (int g = 0; g < groups(); ++g) reference_group(s, g, plain, out);
    return out;
  }

  /// Calls launch(device, arguments) once, or once per piece of the sequences cut at the rows `cuts`; states
  /// go from one call to the next.
  template <class Device, class Launch>
  Mamba2Result run(Device& device, Launch launch, const std::vector<std::int64_t>& cuts = {}) const {
    using cuda::DeviceArray;
    DeviceArray<T, Device> projected(device, std::span<const T>(projected_));
    const std::int64_t out_stride = std::int64_t{layer_groups} * case_.queries * P + (case_.aligned ? 8 : 1);
    DeviceArray<T, Device> out(device, std::vector<T>(at(rows_ * out_stride), convert<T>(canary)));
    DeviceArray<int, Device> index(device, std::span<const int>(case_.group_index));
    DeviceArray<int, Device> slots(device, std::span<const int>(slots_));
    DeviceArray<float, Device> states(device, std::span<const float>(states_));
    std::vector<DeviceArray<float, Device>> local;
    for (const auto& values : local_) local.emplace_back(device, std::span<const float>(values));
    const std::vector<float> turns = rope();
    DeviceArray<float, Device> rope(device, std::span<const float>(turns));
    std::vector<std::int64_t> borders = cuts;
    borders.push_back(positions_);
    std::int64_t begin = 0;
    for (const std::int64_t end : borders) {
      std::vector<SequenceRows> part = sequences_;
      std::int64_t longest = 0;
      for (SequenceRows& s : part) {
        const std::int64_t first = std::min(begin, s.rows), last = std::min(end, s.rows);
        s = {.first_row = s.first_row + first, .rows = last - first, .position = s.position + first};
        longest = std::max(longest, s.rows);
      }
      begin = end;
      DeviceArray<SequenceRows, Device> sequences(device, std::span<const SequenceRows>(part));
      launch(device, cuda::Mamba2Arguments<T>{
                         .projected = {projected.data(), stride_},
                         .group_stride = group_stride_,
                         .out = {out.data(), out_stride},
                         .group_index = index.data(),
                         .sequences = sequences.data(),
                         .sequence_count = static_cast<int>(part.size()),
                         .longest = longest,
                         .groups = groups(),
                         .queries = case_.queries,
                         .locals = {.dt_bias = local[0].data(),
                                    .a_log = local[1].data(),
                                    .c0 = local[2].data(),
                                    .c1 = local[3].data(),
                                    .skip = local[4].data(),
                                    .norm_gain = local[5].data()},
                         .rope = {.cosines = rope.data(), .sines = rope.data() + P / 2, .stride = P},
                         .states = {.base = case_.keeps_states ? states.data() : nullptr,
                                    .slots = slots.data(),
                                    .slot_stride = slot_stride_}});
      device.synchronize();
    }
    return collect(out.to_host(), out_stride, states.to_host());
  }

  /// The criterion of low precision for outputs, 1e-5 for floats and, where k is not rounded anew, for
  /// states.
  void check(const Mamba2Result& got) const {
    const Mamba2Result exact = reference(false), plain = reference(true);
    REQUIRE(got.y.size() == exact.y.size());
    for (std::size_t i = 0; i < got.y.size(); ++i) {
      CAPTURE(i);
      const Errors ours = errors_of(got.y[i], exact.y[i]), theirs = errors_of(plain.y[i], exact.y[i]);
      CAPTURE(ours.reference_largest);
      if constexpr (std::is_same_v<T, float>) {
        CHECK(ours.rms <= 1e-5 * ours.reference_rms);
      } else {
        const double slack = 2 * ulp<T>(ours.reference_largest);
        CHECK(ours.rms <= 2 * theirs.rms + slack);
        CHECK(ours.largest <= 2 * theirs.largest + slack);
        CHECK(ours.rms <= 2 * theirs.rms + 0.1 * slack);  // stricter than the criterion, and met
      }
      if (!case_.keeps_states) continue;
      const Errors state = errors_of(got.state[i], exact.state[i]);
      const Errors plain_state = errors_of(plain.state[i], exact.state[i]);
      CHECK(state.rms <= 1e-5 * state.reference_rms + 2 * plain_state.rms);
    }
  }

 private:
  using Plain = Mamba2<SsdPolicy{.norm = Mixer::policy.norm, .gate = Mixer::policy.gate}>;

  std::vector<float> rope() const {
    std::vector<float> turns;
    RopeTable table(P, 10000.0);
    table.reserve(positions_ + 1);
    for (std::int64_t p = 0; p < positions_; ++p) {
      turns.insert(turns.end(), table.cosines(p), table.cosines(p) + P / 2);
      turns.insert(turns.end(), table.sines(p), table.sines(p) + P / 2);
    }
    if (turns.empty()) turns.resize(1);
    return turns;
  }

  void reference_group(std::size_t s, int g, bool plain, Mamba2Result& out) const {
    const SequenceRows& rows = sequences_[s];
    std::vector<double> inputs;
    for (std::int64_t t = 0; t < rows.rows; ++t) {
      const T* row = projected_.data() + (rows.first_row + t) * stride_ + g * group_stride_;
      std::vector<double> values(at(width_));
      for (std::int64_t c = 0; c < width_; ++c) values[at(c)] = static_cast<double>(convert<float>(row[c]));
      if (plain && Mixer::policy.rope)
        for (int h = 0; h <= case_.queries; ++h) {
          reference::rotate(values.data() + h * P, {.d_head = P}, rows.position + t);
          for (int i = 0; i < P; ++i) values[at(h * P + i)] = rounded<T>(values[at(h * P + i)]);
        }
      inputs.insert(inputs.end(), values.begin(), values.end());
    }
    const int q = case_.queries;
    const std::int64_t sizes[6] = {1, 1, q, q, q * P, q * P};
    std::vector<std::vector<double>> local;
    for (std::size_t i = 0; i < 6; ++i)
      local.emplace_back(local_[i].begin() + g * sizes[i], local_[i].begin() + (g + 1) * sizes[i]);
    const std::vector<std::span<const double>> locals(local.begin(), local.end());
    std::vector<double> y(at(rows.rows * q * P)), state;
    if (case_.keeps_states) {
      const float* from = states_.data() + slots_[s] * slot_stride_ + g * state_size;
      state.assign(from, from + state_size);
    }
    const HeadShape shape{.d_model = 8, .d_head = P, .queries_per_group = q};
    const reference::GroupArguments arguments{.rows = rows.rows,
                                              .position = rows.position,
                                              .projected = inputs.data(),
                                              .local = locals,
                                              .out = y.data()};
    if (plain) {
      typename reference::MixerReference<Plain>::State past{state};
      reference::MixerReference<Plain>::forward({}, shape, arguments, past);
      for (double& x : y) x = rounded<T>(x);
      out.state.push_back(past.state);
    } else {
      typename reference::MixerReference<Mixer>::State past{state};
      reference::MixerReference<Mixer>::forward({}, shape, arguments, past);
      out.state.push_back(past.state);
    }
    out.y.push_back(y);
  }

  /// Takes the batch apart and looks at the canaries.
  Mamba2Result collect(const std::vector<T>& out, std::int64_t stride,
                       const std::vector<float>& states) const {
    Mamba2Result result;
    std::vector<bool> written(out.size(), false), kept(states.size(), false);
    const std::int64_t head_width = std::int64_t{case_.queries} * P;
    for (std::size_t s = 0; s < sequences_.size(); ++s)
      for (int g = 0; g < groups(); ++g) {
        std::vector<double> y;
        for (std::int64_t t = 0; t < sequences_[s].rows; ++t)
          for (std::int64_t c = 0; c < head_width; ++c) {
            const std::int64_t i =
                (sequences_[s].first_row + t) * stride + case_.group_index[at(g)] * head_width + c;
            y.push_back(static_cast<double>(convert<float>(out[at(i)])));
            written[at(i)] = true;
          }
        result.y.push_back(y);
        const std::int64_t first = slots_[s] * slot_stride_ + g * state_size;
        result.state.emplace_back(states.begin() + first, states.begin() + first + state_size);
        if (case_.keeps_states && sequences_[s].rows > 0) std::fill_n(kept.begin() + first, state_size, true);
      }
    bool clean = true;
    for (std::size_t i = 0; i < out.size(); ++i)
      clean = clean && (written[i] || convert<float>(out[i]) == canary);
    for (std::size_t i = 0; i < states.size(); ++i) clean = clean && (kept[i] || states[i] == states_[i]);
    CHECK_MESSAGE(clean, "something was written that belongs to nobody");
    return result;
  }

  Mamba2Case case_;
  std::int64_t width_ = 0, group_stride_ = 0, stride_ = 0, rows_ = 0, positions_ = 0, slot_stride_ = 0;
  std::vector<SequenceRows> sequences_;
  std::vector<T> projected_;
  std::vector<float> local_[6];
  std::vector<int> slots_;
  std::vector<float> states_;
};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_CUDA_MAMBA2_HARNESS_HPP
