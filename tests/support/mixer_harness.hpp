#ifndef RECURFORMER_TESTS_SUPPORT_MIXER_HARNESS_HPP
#define RECURFORMER_TESTS_SUPPORT_MIXER_HARNESS_HPP

// What the tests of every mixer share: MixerKernel against MixerReference, over a variable-length batch,
// several groups that are neither contiguous nor in order within a wider layer, all at once, in chunks and
// token by token; isolation of sequences; independence of the number of threads; gradients.
//
//   MixerHarness<Mamba<>, Fp32, std::integer_sequence<int, 16>> harness(Mamba<>{}, {.lengths = {9, 0, 70}});
//   harness.check_forward();        // every way of cutting the sequences, with and without a cache
//   harness.check_threads();        // same bits for 1 and 3 threads
//   harness.check_nan_isolation();
//   harness.check_backward();       // central finite differences of the reference; use a tiny case
//
// Low precision is tested by the rule of the 2x: our error against the exact result is at most twice that of
// the reference computing in double, called for the same chunks, but storing what it remembers in the types
// of the precision (reference::store_as).

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/reference/mixer_reference.hpp"
#include "support/mixer_memory.hpp"

namespace rf::test {

struct MixerCase {
  HeadShape shape{.d_model = 8, .d_head = 16, .queries_per_group = 2};
  int layer_groups = 5;
  std::vector<int> groups = {3, 0};  ///< of the layer, one per group of the run
  std::vector<std::int64_t> lengths = {19, 0, 1, 40};
  std::int64_t ring_extra = 0;  ///< ring slots beyond the window
  double scale = 1.0;           ///< of the projected activations
  double tolerance = 1e-5;      ///< forward, normwise relative error
  double gradient_tolerance = 2e-5;
  std::uint64_t seed = 1;
};

template <class Mixer, class Precision, class Widths>
class MixerHarness {
 public:
  using Kernel = cpu::MixerKernel<Mixer>;
  using Reference = reference::MixerReference<Mixer>;

  MixerHarness(Mixer mixer, MixerCase what)
      : mixer_(mixer),
        case_(std::move(what)),
        width_(projection_width(mixer, case_.shape)),
        rope_(case_.shape.d_head, case_.shape.rope_base, case_.shape.rope_scaling) {
    Random random(case_.seed);
    rope_.reserve(*std::max_element(case_.lengths.begin(), case_.lengths.end()) + 1);
    projected.resize(static_cast<std::size_t>(total_rows() * groups() * width_));
    for (float& x : projected) x = static_cast<float>(case_.scale * random.normal());
    if (case_.shape.qk_norm)
      for (std::vector<float>* gain : {&query_norm_, &key_norm_})
        for (int d = 0; d < case_.shape.d_head; ++d)
          gain->push_back(static_cast<float>(1 + 0.3 * random.normal()));
    for (const ParameterSpec& parameter : mixer_.parameters(case_.shape)) {
      if (parameter.role != Role::local) continue;
      auto& values = local.emplace_back();
      for (std::int64_t unit = 0; unit < groups() * parameter.units_per_group(case_.shape); ++unit) {
        std::vector<float> slice(static_cast<std::size_t>(parameter.slice.size()));
        if (parameter.initialise) parameter.initialise(slice, case_.shape, random);
        for (float& x : slice) values.push_back(x + static_cast<float>(0.1 * random.normal()));
      }
    }
  }

  // Inputs, free to be changed before a check.
  std::vector<float> projected;           ///< (all rows of all sequences, groups · width)
  std::vector<std::vector<float>> local;  ///< local parameters, each (groups, units per group, slice)

  /// Cuts every sequence at `borders` (ascending; the part behind the last one is a chunk too), runs the
  /// kernel on one chunk of every sequence after the other, and returns (all rows, heads · d_head) with NaN
  /// in the columns of other groups.
  std::vector<float> run_chunks(const std::vector<std::int64_t>& borders) {
    MixerCache<Precision> cache(mixer_, case_.shape, groups(), case_.lengths.size(), longest() + 1,
                                case_.ring_extra);
    std::vector<float> result(static_cast<std::size_t>(total_rows() * out_width()), nan_poison);
    std::int64_t begin = 0;
    for (std::size_t c = 0; c <= borders.size(); ++c) {
      const std::int64_t end = c < borders.size() ? borders[c] : longest();
      run_step(begin, end, cache.view(), result);
      begin = end;
    }
    return result;
  }

  /// One call over whole sequences without a cache, as training does.
  std::vector<float> run_without_cache() {
    std::vector<float> result(static_cast<std::size_t>(total_rows() * out_width()), nan_poison);
    run_step(0, longest(), {}, result);
    return result;
  }

  /// All ways of running forward against the reference.
  void check_forward() {
    check_against_reference(run_without_cache(), nullptr, "without a cache");
    check_cached({}, "all at once");
    const std::int64_t n = longest();
    check_cached({n / 3, n / 3, n / 2 + 1}, "in chunks");
    std::vector<std::int64_t> every(static_cast<std::size_t>(n));
    std::iota(every.begin(), every.end(), 1);
    check_cached(every, "token by token");
  }

  void check_chunks(const std::vector<std::int64_t>& borders) { check_cached(borders, "in chunks"); }

  /// Same bits for one thread and for several.
  void check_threads() {
    const auto run_all = [&](int threads) {
      set_threads(threads);
      std::vector<float> bits = run_without_cache();
      for (const auto& part :
           {run_chunks({}), run_chunks({longest() / 2, longest() - 1}), gradients().flat()})
        bits.insert(bits.end(), part.begin(), part.end());
      return bits;
    };
    const auto one = run_all(1);
    const auto three = run_all(3);
    set_threads(2);
    CHECK(same_bits(one, three));
  }

  /// NaN in the longest sequence leaves the bits of all others as they were.
  void check_nan_isolation() {
    const auto clean_chunks = run_chunks({longest() / 2});
    const auto clean = run_without_cache();
    const auto keep = projected;
    const auto [first, rows] = longest_rows();
    for (std::int64_t i = (first + rows / 4) * groups() * width_; i < (first + rows) * groups() * width_; ++i)
      projected[static_cast<std::size_t>(i)] = nan_poison;
    const auto dirty_chunks = run_chunks({longest() / 2});
    const auto dirty = run_without_cache();
    projected = keep;
    bool spread = false, isolated = true;
    for (std::int64_t row = 0; row < total_rows(); ++row)
      for (std::int64_t i = row * out_width(); i < (row + 1) * out_width(); ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (row >= first && row < first + rows) {
          spread |= !std::isnan(clean[at]) && std::isnan(dirty[at]) && std::isnan(dirty_chunks[at]);
        } else {
          isolated &= same_bits(clean[at], dirty[at]) && same_bits(clean_chunks[at], dirty_chunks[at]);
        }
      }
    CHECK(spread);
    CHECK(isolated);
  }

  /// MixerKernel::backward of loss = Σ out · weight, against central differences of the reference.
  void check_backward() {
    const Gradients got = gradients();
    const std::vector<double> weight = loss_weights();
    double error = 0, norm = 0;
    std::vector<double> values(projected.begin(), projected.end());
    const std::vector<std::vector<double>> locals = double_locals();
    for (int g = 0; g < groups(); ++g)
      for (std::size_t s = 0; s < case_.lengths.size(); ++s)
        for (std::int64_t row = first_row(s); row < first_row(s) + case_.lengths[s]; ++row)
          for (std::int64_t c = 0; c < width_; ++c) {
            const auto at = static_cast<std::size_t>((row * groups() + g) * width_ + c);
            const double exact = difference(values[at], [&] { return loss(g, s, values, locals, weight); });
            error += std::pow(static_cast<double>(got.projected[at]) - exact, 2);
            norm += exact * exact;
          }
    INFO("d_projected: normwise relative error ", std::sqrt(error / norm));
    CHECK(std::sqrt(error) <= case_.gradient_tolerance * std::sqrt(norm));
    for (std::size_t p = 0; p < local.size(); ++p)
      check_local_gradient(p, got.local[p], values, locals, weight);
  }

 private:
  struct Gradients {
    std::vector<float> projected;           // (rows, groups · width)
    std::vector<std::vector<float>> local;  // as the local parameters
    std::vector<float> flat() const {
      std::vector<float> all = projected;
      for (const auto& values : local) all.insert(all.end(), values.begin(), values.end());
      return all;
    }
  };

  int groups() const { return static_cast<int>(case_.groups.size()); }
  std::int64_t out_width() const { return std::int64_t{case_.layer_groups} * case_.shape.group_width(); }
  std::int64_t longest() const { return *std::max_element(case_.lengths.begin(), case_.lengths.end()); }
  std::int64_t total_rows() const {
    return std::accumulate(case_.lengths.begin(), case_.lengths.end(), std::int64_t{0});
  }
  std::int64_t first_row(std::size_t sequence) const {
    return std::accumulate(case_.lengths.begin(),
                           case_.lengths.begin() + static_cast<std::ptrdiff_t>(sequence), std::int64_t{0});
  }
  std::pair<std::int64_t, std::int64_t> longest_rows() const {
    const auto at = std::max_element(case_.lengths.begin(), case_.lengths.end()) - case_.lengths.begin();
    return {first_row(static_cast<std::size_t>(at)), longest()};
  }
  std::vector<const float*> local_pointers() const {
    std::vector<const float*> pointers;
    for (const auto& values : local) pointers.push_back(values.data());
    return pointers;
  }
  std::vector<std::vector<double>> double_locals() const {
    std::vector<std::vector<double>> out;
    for (const auto& values : local) out.emplace_back(values.begin(), values.end());
    return out;
  }
  bool owned(std::int64_t column) const {
    const auto group = static_cast<int>(column / case_.shape.group_width());
    return std::find(case_.groups.begin(), case_.groups.end(), group) != case_.groups.end();
  }

  /// The new tokens [begin, end) of every sequence, packed.
  std::vector<SequenceRows> batch(std::int64_t begin, std::int64_t end) const {
    std::vector<SequenceRows> sequences;
    std::int64_t row = 0;
    for (const std::int64_t length : case_.lengths) {
      const std::int64_t from = std::min(begin, length), rows = std::min(end, length) - from;
      sequences.push_back({.first_row = row, .rows = rows, .position = from});
      row += rows;
    }
    return sequences;
  }

  static constexpr std::int64_t padding = 3;  // columns behind a row of projected that nobody may touch

  /// Copies rows of `projected` into a padded matrix.
  GuardedFloats pack(const std::vector<SequenceRows>& sequences) const {
    const std::int64_t stride = groups() * width_ + padding;
    GuardedFloats packed((sequences.back().first_row + sequences.back().rows) * stride);
    for (std::size_t s = 0; s < sequences.size(); ++s)
      for (std::int64_t t = 0; t < sequences[s].rows; ++t)
        std::copy_n(projected.begin() + (first_row(s) + sequences[s].position + t) * groups() * width_,
                    groups() * width_, packed.data() + (sequences[s].first_row + t) * stride);
    return packed;
  }

  void run_step(std::int64_t begin, std::int64_t end, const cpu::CacheView& cache,
                std::vector<float>& result) {
    const auto sequences = batch(begin, end);
    GuardedFloats packed = pack(sequences);
    GuardedFloats out((sequences.back().first_row + sequences.back().rows) * out_width());
    const auto pointers = local_pointers();
    Kernel::template forward<Precision, Widths>(
        mixer_, {.shape = case_.shape,
                 .groups = case_.groups,
                 .sequences = sequences,
                 .projected = {.data = packed.data(), .stride = groups() * width_ + padding},
                 .local = pointers,
                 .query_norm = query_norm_.data(),
                 .key_norm = key_norm_.data(),
                 .rope = &rope_,
                 .cache = cache,
                 .out = {.data = out.data(), .stride = out_width()}});
    CHECK(packed.intact());
    CHECK(out.intact());
    for (std::size_t s = 0; s < sequences.size(); ++s)
      std::copy_n(out.data() + sequences[s].first_row * out_width(), sequences[s].rows * out_width(),
                  result.begin() + (first_row(s) + sequences[s].position) * out_width());
  }

  /// One group of one sequence by the reference: (rows, group_width). With `borders`, a call per chunk that
  /// stores what it remembers in the precision's types; null: exactly.
  std::vector<double> reference_group(int group, std::size_t sequence, const std::vector<double>& values,
                                      const std::vector<std::vector<double>>& locals,
                                      const std::vector<std::int64_t>* borders) const {
    const std::int64_t rows = case_.lengths[sequence];
    std::vector<double> input, out(static_cast<std::size_t>(rows * case_.shape.group_width()));
    for (std::int64_t row = first_row(sequence); row < first_row(sequence) + rows; ++row) {
      const auto from = values.begin() + (row * groups() + group) * width_;
      input.insert(input.end(), from, from + width_);
    }
    std::vector<std::span<const double>> slices;
    for (const auto& parameter : locals) {
      const std::size_t size = parameter.size() / static_cast<std::size_t>(groups());
      slices.push_back(std::span(parameter).subspan(static_cast<std::size_t>(group) * size, size));
    }
    const std::vector<double> query_norm(query_norm_.begin(), query_norm_.end()),
        key_norm(key_norm_.begin(), key_norm_.end());
    typename Reference::State state;
    std::vector<std::int64_t> ends;
    if (borders) {
      reference::store_as<Precision>(state);
      ends = *borders;
    }
    ends.push_back(rows);
    std::int64_t begin = 0;
    for (const std::int64_t border : ends) {
      const std::int64_t end = std::min(border, rows);
      Reference::forward(mixer_, case_.shape,
                         {.rows = end - begin,
                          .position = begin,
                          .projected = input.data() + begin * width_,
                          .local = slices,
                          .query_norm = case_.shape.qk_norm ? query_norm.data() : nullptr,
                          .key_norm = case_.shape.qk_norm ? key_norm.data() : nullptr,
                          .out = out.data() + begin * case_.shape.group_width()},
                         state);
      begin = end;
    }
    return out;
  }

  void check_cached(const std::vector<std::int64_t>& borders, const std::string& how) {
    check_against_reference(run_chunks(borders), &borders, how);
  }

  void check_against_reference(const std::vector<float>& got, const std::vector<std::int64_t>* borders,
                               const std::string& how) const {
    const std::vector<double> values(projected.begin(), projected.end());
    const auto locals = double_locals();
    double error = 0, plain_error = 0, norm = 0, worst = 0, plain_worst = 0, largest = 0;
    std::int64_t count = 0;
    const std::int64_t group_width = case_.shape.group_width();
    for (int g = 0; g < groups(); ++g)
      for (std::size_t s = 0; s < case_.lengths.size(); ++s) {
        const auto exact = reference_group(g, s, values, locals, nullptr);
        const auto plain = reference_group(g, s, values, locals, borders);
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(exact.size()); ++i, ++count) {
          const std::int64_t row = first_row(s) + i / group_width;
          const std::int64_t column =
              case_.groups[static_cast<std::size_t>(g)] * group_width + i % group_width;
          const double want = exact[static_cast<std::size_t>(i)];
          // !(x <= y) catches NaN
          const double d =
              std::abs(static_cast<double>(got[static_cast<std::size_t>(row * out_width() + column)]) - want);
          const double p = std::abs(plain[static_cast<std::size_t>(i)] - want);
          error += d * d, plain_error += p * p, norm += want * want;
          if (!(d <= worst)) worst = d;
          plain_worst = std::max(plain_worst, p), largest = std::max(largest, std::abs(want));
        }
      }
    INFO(how, ": normwise relative error ", std::sqrt(error / norm), ", of the plain implementation ",
         std::sqrt(plain_error / norm), "; largest ", worst, " of ", largest);
    CHECK(std::sqrt(error) <= 2 * std::sqrt(plain_error) + case_.tolerance * std::sqrt(norm));
    CHECK(worst <= 2 * plain_worst + case_.tolerance * largest);
    for (std::int64_t row = 0; row < total_rows(); ++row)
      for (std::int64_t column = 0; column < out_width(); ++column)
        if (!owned(column) && !std::isnan(got[static_cast<std::size_t>(row * out_width() + column)])) {
          FAIL_CHECK(how, ": wrote column ", column, ", which belongs to another run");
          return;
        }
  }

  std::vector<double> loss_weights() const {
    Random random(case_.seed + 1000);
    std::vector<double> weight(static_cast<std::size_t>(total_rows() * out_width()));
    for (double& x : weight) x = static_cast<double>(static_cast<float>(random.normal()));
    return weight;
  }

  /// Forward that saves, then backward; checks what was written and what was not.
  Gradients gradients() {
    const auto sequences = batch(0, longest());
    const std::int64_t stride = groups() * width_ + padding;
    GuardedFloats packed = pack(sequences);
    GuardedFloats out(total_rows() * out_width()), d_out(total_rows() * out_width());
    GuardedFloats saved(Kernel::saved_size(mixer_, case_.shape, groups(), sequences));
    const auto pointers = local_pointers();
    Kernel::template forward<Precision, Widths>(mixer_,
                                                {.shape = case_.shape,
                                                 .groups = case_.groups,
                                                 .sequences = sequences,
                                                 .projected = {.data = packed.data(), .stride = stride},
                                                 .local = pointers,
                                                 .query_norm = query_norm_.data(),
                                                 .key_norm = key_norm_.data(),
                                                 .rope = &rope_,
                                                 .cache = {},
                                                 .out = {.data = out.data(), .stride = out_width()},
                                                 .saved = saved.data()});
    const auto weight = loss_weights();
    for (std::int64_t i = 0; i < d_out.size(); ++i)
      if (owned(i % out_width())) d_out.data()[i] = static_cast<float>(weight[static_cast<std::size_t>(i)]);
    GuardedFloats d_projected(total_rows() * stride);
    Gradients result;
    std::vector<GuardedFloats> d_local;
    std::vector<float*> d_pointers;
    for (const auto& values : local) {
      d_local.emplace_back(static_cast<std::int64_t>(values.size()));
      std::fill_n(d_local.back().data(), values.size(), 0.25f);  // backward adds
    }
    for (auto& values : d_local) d_pointers.push_back(values.data());
    std::vector<float> d_norms(static_cast<std::size_t>(2 * case_.shape.d_head));
    Kernel::template backward<Precision, Widths>(
        mixer_, {.shape = case_.shape,
                 .groups = case_.groups,
                 .sequences = sequences,
                 .projected = {.data = packed.data(), .stride = stride},
                 .local = pointers,
                 .query_norm = query_norm_.data(),
                 .key_norm = key_norm_.data(),
                 .rope = &rope_,
                 .saved = saved.data(),
                 .out = {.data = out.data(), .stride = out_width()},
                 .d_out = {.data = d_out.data(), .stride = out_width()},
                 .d_projected = {.data = d_projected.data(), .stride = stride},
                 .d_local = d_pointers,
                 .d_query_norm = d_norms.data(),
                 .d_key_norm = d_norms.data() + case_.shape.d_head});
    CHECK(packed.intact());
    CHECK(out.intact());
    CHECK(saved.intact());
    CHECK(d_projected.intact());
    bool padding_kept = true;
    for (std::int64_t row = 0; row < total_rows(); ++row) {
      const float* from = d_projected.data() + row * stride;
      result.projected.insert(result.projected.end(), from, from + groups() * width_);
      for (std::int64_t c = stride - padding; c < stride; ++c) padding_kept &= std::isnan(from[c]);
    }
    CHECK(padding_kept);
    for (auto& values : d_local) {
      CHECK(values.intact());
      auto& kept = result.local.emplace_back(values.data(), values.data() + values.size());
      for (float& x : kept) x -= 0.25f;
    }
    return result;
  }

  double loss(int group, std::size_t sequence, const std::vector<double>& values,
              const std::vector<std::vector<double>>& locals, const std::vector<double>& weight) const {
    const auto out = reference_group(group, sequence, values, locals, nullptr);
    const std::int64_t group_width = case_.shape.group_width();
    double sum = 0;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(out.size()); ++i) {
      const std::int64_t row = first_row(sequence) + i / group_width;
      const std::int64_t column =
          case_.groups[static_cast<std::size_t>(group)] * group_width + i % group_width;
      sum += out[static_cast<std::size_t>(i)] * weight[static_cast<std::size_t>(row * out_width() + column)];
    }
    return sum;
  }

  template <class F>
  static double difference(double& x, F f) {
    const double keep = x, step = 1e-5 * std::max(1.0, std::abs(x));
    x = keep + step;
    const double above = f();
    x = keep - step;
    const double below = f();
    x = keep;
    return (above - below) / (2 * step);
  }

  void check_local_gradient(std::size_t parameter, const std::vector<float>& got,
                            const std::vector<double>& values, std::vector<std::vector<double>> locals,
                            const std::vector<double>& weight) const {
    double error = 0, norm = 0;
    const std::size_t size = got.size() / static_cast<std::size_t>(groups());
    for (std::size_t i = 0; i < got.size(); ++i) {
      const int g = static_cast<int>(i / size);
      const double exact = difference(locals[parameter][i], [&] {
        double sum = 0;
        for (std::size_t s = 0; s < case_.lengths.size(); ++s) sum += loss(g, s, values, locals, weight);
        return sum;
      });
      error += std::pow(static_cast<double>(got[i]) - exact, 2);
      norm += exact * exact;
    }
    INFO("local parameter ", parameter, ": normwise relative error ", std::sqrt(error / norm));
    CHECK(std::sqrt(error) <=
          case_.gradient_tolerance * std::sqrt(norm) + 1e-7 * std::sqrt(static_cast<double>(got.size())));
  }

  Mixer mixer_;
  MixerCase case_;
  std::int64_t width_;  // projected columns of one group
  cpu::RopeTable rope_;
  std::vector<float> query_norm_, key_norm_;  // empty without qk_norm
};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_MIXER_HARNESS_HPP
