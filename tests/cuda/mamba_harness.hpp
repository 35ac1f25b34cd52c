#ifndef RECURFORMER_TESTS_CUDA_MAMBA_HARNESS_HPP
#define RECURFORMER_TESTS_CUDA_MAMBA_HARNESS_HPP

// What the tests of Mamba's CUDA kernels share: a run of some groups of a wider layer over a batch of
// sequences, its reference in double, and the same on a device. Everything a kernel must not touch holds a
// canary: other groups' columns and the padding of the output, the gaps between states. What it must not read
// holds NaNs: the padding of the input, and outputs before they are written.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/mamba_decode.hpp"
#include "recurformer/cuda/mamba_prefill.hpp"
#include "recurformer/reference/mamba.hpp"
#include "support/test_device.hpp"

namespace rf::test {

struct MambaCase {
  std::vector<std::int64_t> lengths = {19, 0, 1, 40};
  std::vector<int> groups = {3, 0};  ///< of the layer, one per group of the run
  int layer_groups = 4;
  int heads_per_group = 2;
  double scale = 1.0;          ///< of the projected activations
  bool started = true;         ///< states before the first token are random numbers, not zeros
  double slowest = 1.0 / 200;  ///< decay rate; the fastest is 3
  std::uint64_t seed = 1;
};

/// Outputs (tokens, heads · d_head) of the run, and the states of all sequences after them.
struct MambaResult {
  std::vector<double> out, conv, scan;
};

inline bool same_bits(const MambaResult& a, const MambaResult& b) {
  const auto same = [](const std::vector<double>& x, const std::vector<double>& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), 8 * x.size()) == 0);
  };
  return same(a.out, b.out) && same(a.conv, b.conv) && same(a.scan, b.scan);
}

struct ErrorNorms {
  double rms = 0, most = 0;  ///< both absolute
  double reference_rms = 0, reference_most = 0;
};
inline ErrorNorms error_of(std::span<const double> got, std::span<const double> reference) {
  ErrorNorms norms;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    double error = std::abs(got[i] - reference[i]);
    if (!(error <= std::numeric_limits<double>::max())) error = std::numeric_limits<double>::infinity();
    norms.rms += error * error;
    norms.most = std::max(norms.most, error);
    norms.reference_rms += reference[i] * reference[i];
    norms.reference_most = std::max(norms.reference_most, std::abs(reference[i]));
  }
  const double count = std::max<double>(1, static_cast<double>(reference.size()));
  norms.rms = std::sqrt(norms.rms / count);
  norms.reference_rms = std::sqrt(norms.reference_rms / count);
  return norms;
}

/// Normwise relative error of a result in float.
inline void check_float(std::span<const double> got, std::span<const double> reference) {
  REQUIRE(got.size() == reference.size());
  const ErrorNorms norms = error_of(got, reference);
  CHECK(norms.rms <= 1e-5 * norms.reference_rms);
  CHECK(norms.most <= 1e-5 * norms.reference_most);
}

/// A result stored in T: twice the error of rounding the reference, and two units in the last place.
template <class T>
void check_stored(std::span<const double> got, std::span<const double> reference) {
  if constexpr (sizeof(T) == 4) return check_float(got, reference);
  REQUIRE(got.size() == reference.size());
  std::vector<double> rounded;
  for (const double value : reference) rounded.push_back(static_cast<double>(float(convert<T>(value))));
  const ErrorNorms plain = error_of(rounded, reference), ours = error_of(got, reference);
  const double ulp = (dtype_of<T> == DType::BF16 ? 0x1p-7 : 0x1p-10) * plain.reference_most;
  CHECK(ours.rms <= 2 * plain.rms + 1e-5 * plain.reference_rms);
  CHECK(ours.most <= 2 * plain.most + 2 * ulp);
}

template <class Mixer, class T, int d_head>
class MambaHarness {
 public:
  using Head = cuda::mamba::DimensionsOf<Mixer, d_head>;
  static constexpr std::size_t d = d_head;
  static constexpr std::size_t conv_size = Head::past * d, scan_size = Head::states * d;

  explicit MambaHarness(const MambaCase& what) : case_(what), random_(what.seed) {
    for (const std::int64_t rows : what.lengths) {
      sequences.push_back({.first_row = tokens_, .rows = rows, .position = 0});
      tokens_ += rows;
    }
    fill_parameters();
    projected.assign(static_cast<std::size_t>(tokens_) * stride(), T(nan));
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens_); ++t)
      for (std::size_t c = 0; c < 2 * heads() * d; ++c)
        projected[t * stride() + c] = T(static_cast<float>(what.scale * random_.normal()));
    conv.assign(what.lengths.size() * heads() * conv_size, 0.0f);
    scan.assign(what.lengths.size() * heads() * scan_size, 0.0f);
    if (what.started) {
      for (float& value : conv) value = normal(what.scale);
      for (float& value : scan) value = normal(what.scale);
    }
  }

  std::vector<SequenceRows> sequences;
  std::vector<std::vector<float>> local;  ///< in declared order, each (heads, slice)
  std::vector<T> projected;               ///< (tokens, stride())
  std::vector<float> conv, scan;          ///< before the first token: (sequences, heads, slice)

  std::size_t heads() const { return case_.groups.size() * static_cast<std::size_t>(case_.heads_per_group); }
  std::size_t stride() const { return 2 * heads() * d + 16; }

  MambaResult reference() const {
    using Reference = reference::MixerReference<Mixer>;
    MambaResult result{.out = std::vector<double>(static_cast<std::size_t>(tokens_) * heads() * d),
                       .conv = {conv.begin(), conv.end()},
                       .scan = {scan.begin(), scan.end()}};
    const auto queries = static_cast<std::size_t>(case_.heads_per_group);
    const HeadShape shape{.d_model = 1, .d_head = d_head, .queries_per_group = case_.heads_per_group};
    for (std::size_t s = 0; s < sequences.size(); ++s)
      for (std::size_t g = 0; g < case_.groups.size(); ++g) {
        const auto rows = static_cast<std::size_t>(sequences[s].rows);
        const auto first = static_cast<std::size_t>(sequences[s].first_row);
        std::vector<double> input, out(rows * queries * d);
        for (std::size_t t = first; t < first + rows; ++t)
          for (std::size_t c = 0; c < 2 * queries * d; ++c)
            input.push_back(static_cast<double>(float(projected[t * stride() + g * 2 * queries * d + c])));
        std::vector<std::vector<double>> slices;
        for (const auto& parameter : local) {
          const std::size_t size = parameter.size() / case_.groups.size();
          const auto from = parameter.begin() + static_cast<std::ptrdiff_t>(g * size);
          slices.emplace_back(from, from + static_cast<std::ptrdiff_t>(size));
        }
        const std::vector<std::span<const double>> spans(slices.begin(), slices.end());
        double* const conv_at = result.conv.data() + (s * heads() + g * queries) * conv_size;
        double* const scan_at = result.scan.data() + (s * heads() + g * queries) * scan_size;
        typename Reference::State state{.conv = {conv_at, conv_at + queries * conv_size},
                                        .scan = {scan_at, scan_at + queries * scan_size}};
        Reference::forward(Mixer{}, shape,
                           {.rows = sequences[s].rows,
                            .position = 0,
                            .projected = input.data(),
                            .local = spans,
                            .out = out.data()},
                           state);
        std::copy(state.conv.begin(), state.conv.end(), conv_at);
        std::copy(state.scan.begin(), state.scan.end(), scan_at);
        for (std::size_t t = 0; t < rows; ++t)
          std::copy_n(
              out.begin() + static_cast<std::ptrdiff_t>(t * queries * d), queries * d,
              result.out.begin() + static_cast<std::ptrdiff_t>((first + t) * heads() * d + g * queries * d));
      }
    return result;
  }

  /// All tokens at once, in chunks of `chunk_rows` tokens; 0: not cut.
  template <class Device>
  MambaResult prefill(Device& device, int chunk_rows = 0) const {
    return run(device, {}, chunk_rows);
  }

  /// The sequences in pieces: calls take their tokens up to the next of `borders`, then the rest. Pieces of
  /// up to 8 tokens are decode steps, longer ones are prefilled.
  template <class Device>
  MambaResult run(Device& device, const std::vector<std::int64_t>& borders, int chunk_rows = 0,
                  bool keep = true) const {
    using namespace cuda::mamba;
    Memory<Device> memory(device, *this);
    std::int64_t from = 0;
    for (std::size_t i = 0; i <= borders.size(); ++i) {
      const std::int64_t to = i < borders.size() ? borders[i] : std::numeric_limits<std::int64_t>::max();
      std::vector<SequenceRows> part;
      std::int64_t longest = 1;
      for (const SequenceRows& s : sequences) {
        const std::int64_t begin = std::min(from, s.rows), end = std::min(to, s.rows);
        part.push_back({.first_row = s.first_row + begin, .rows = end - begin, .position = begin});
        longest = std::max(longest, end - begin);
      }
      const cuda::DeviceArray<SequenceRows, Device> rows(device, part);
      const auto arguments = memory.arguments(rows.data(), keep);
      if (i < borders.size() && to - from <= 8) {
        decode<Head>(device, arguments);
      } else {
        const Plan plan = plan_with_chunks(part, chunk_rows ? chunk_rows : static_cast<int>(longest));
        const cuda::DeviceArray<unsigned char, Device> workspace(
            device, workspace_bytes<Head>(plan, static_cast<int>(heads())));
        cuda::mamba::prefill<Head>(device, plan, arguments, workspace.data());
      }
      from = to;
    }
    return memory.result();
  }

  /// All tokens by launch(arguments).
  template <class Device, class Launch>
  MambaResult run_with(Device& device, Launch launch) const {
    Memory<Device> memory(device, *this);
    const cuda::DeviceArray<SequenceRows, Device> rows(device, sequences);
    launch(memory.arguments(rows.data(), true));
    return memory.result();
  }
  /// All tokens by one launch of decode.
  template <class Device>
  MambaResult decode_at_once(Device& device) const {
    return run_with(device, [&](const auto& arguments) { cuda::mamba::decode<Head>(device, arguments); });
  }

  void check(const MambaResult& got, const MambaResult& expected) const {
    check_stored<T>(got.out, expected.out);
    check_float(got.scan, expected.scan);
    CHECK(got.conv == expected.conv);
  }

 private:
  static constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  static constexpr float canary = 1234.5f;
  static constexpr std::size_t gap = 4;  // floats between the states of two sequences

  float normal(double deviation) { return static_cast<float>(deviation * random_.normal()); }

  void fill_parameters() {
    const HeadShape shape{.d_model = 1, .d_head = d_head, .queries_per_group = case_.heads_per_group};
    for (const ParameterSpec& spec : Mixer{}.parameters(shape)) {
      if (spec.role != Role::local) continue;
      local.emplace_back(heads() * static_cast<std::size_t>(spec.slice.size()));
      for (float& value : local.back()) {
        if (spec.name == "A_log")
          value = static_cast<float>(random_.uniform(std::log(case_.slowest), std::log(3.0)));
        else if (spec.name == "dt_proj.bias")
          value = static_cast<float>(inverse_softplus(std::exp(random_.uniform(std::log(0.01), 0.5))));
        else if (spec.name == "x_proj.weight" || spec.name == "dt_proj.weight")
          value = normal(1 / std::sqrt(static_cast<double>(spec.slice.columns)));
        else
          value = normal(0.5);
      }
    }
  }

  /// What is on the device.
  template <class Device>
  struct Memory {
    const MambaHarness& harness;
    std::size_t out_stride;
    cuda::DeviceArray<T, Device> projected, out;
    std::vector<cuda::DeviceArray<float, Device>> local;
    cuda::DeviceArray<float, Device> prepared, conv, scan;
    cuda::DeviceArray<cuda::mamba::SequenceState, Device> states;
    cuda::DeviceArray<int, Device> group_index;

    Memory(Device& device, const MambaHarness& h)
        : harness(h),
          out_stride(static_cast<std::size_t>(h.case_.layer_groups * h.case_.heads_per_group) * d + 8),
          projected(device, h.projected),
          out(device, std::vector<T>(static_cast<std::size_t>(h.tokens_) * out_stride, T(canary))),
          prepared(device, cuda::mamba::prepared_bytes<Head>(static_cast<int>(h.heads())) / sizeof(float)),
          conv(device, spread(h.conv, h.heads() * conv_size)),
          scan(device, spread(h.scan, h.heads() * scan_size)),
          states(device, state_pointers()),
          group_index(device, h.case_.groups) {
      std::vector<const float*> declared;
      for (const auto& parameter : h.local) {
        local.emplace_back(device, parameter);
        declared.push_back(local.back().data());
      }
      cuda::mamba::prepare<Head>(device, cuda::mamba::local_parameters<Head>(declared),
                                 static_cast<int>(h.heads()), prepared.data());
    }

    cuda::mamba::Arguments<T> arguments(const SequenceRows* rows, bool keep) const {
      return {.sequences = rows,
              .sequence_count = static_cast<int>(harness.sequences.size()),
              .groups = static_cast<int>(harness.case_.groups.size()),
              .heads_per_group = harness.case_.heads_per_group,
              .projected = {projected.data(), static_cast<std::int64_t>(harness.stride())},
              .out = {out.data(), static_cast<std::int64_t>(out_stride)},
              .group_index = group_index.data(),
              .prepared = prepared.data(),
              .states = keep ? states.data() : nullptr};
    }

    MambaResult result() const {
      return {.out = gather_out(),
              .conv = collect(conv.to_host(), harness.heads() * conv_size),
              .scan = collect(scan.to_host(), harness.heads() * scan_size)};
    }

   private:
    std::vector<cuda::mamba::SequenceState> state_pointers() const {
      std::vector<cuda::mamba::SequenceState> pointers;
      for (std::size_t s = 0; s < harness.sequences.size(); ++s)
        pointers.push_back({.conv = conv.data() + gap + s * (harness.heads() * conv_size + gap),
                            .scan = scan.data() + gap + s * (harness.heads() * scan_size + gap)});
      return pointers;
    }

    /// Pieces of `size` floats with canaries before, between and after them.
    static std::vector<float> spread(const std::vector<float>& values, std::size_t size) {
      std::vector<float> all(gap, canary);
      for (std::size_t i = 0; i < values.size(); i += size) {
        all.insert(all.end(), values.begin() + static_cast<std::ptrdiff_t>(i),
                   values.begin() + static_cast<std::ptrdiff_t>(i + size));
        all.insert(all.end(), gap, canary);
      }
      return all;
    }
    static std::vector<double> collect(const std::vector<float>& all, std::size_t size) {
      std::vector<double> values;
      std::size_t damaged = 0;
      for (std::size_t i = 0; i < all.size(); ++i)
        if (i % (size + gap) < gap)
          damaged += all[i] != canary;
        else
          values.push_back(static_cast<double>(all[i]));
      CHECK(damaged == 0);
      return values;
    }

    /// The run's columns of the output, in the run's order.
    std::vector<double> gather_out() const {
      const std::vector<T> all = out.to_host();
      const std::size_t width = static_cast<std::size_t>(harness.case_.heads_per_group) * d;
      std::vector<double> values;
      std::vector<char> ours(out_stride, 0);
      for (const int group : harness.case_.groups)
        std::fill_n(ours.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(group) * width),
                    width, 1);
      std::size_t damaged = 0;
      for (std::size_t t = 0; t * out_stride < all.size(); ++t) {
        const T* const row = all.data() + t * out_stride;
        for (const int group : harness.case_.groups)
          for (std::size_t c = 0; c < width; ++c)
            values.push_back(static_cast<double>(float(row[static_cast<std::size_t>(group) * width + c])));
        for (std::size_t c = 0; c < out_stride; ++c)
          damaged += !ours[c] && !(float(row[c]) == float(T(canary)));
      }
      CHECK(damaged == 0);
      return values;
    }
  };

  MambaCase case_;
  Random random_;
  std::int64_t tokens_ = 0;
};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_CUDA_MAMBA_HARNESS_HPP
