#ifndef RECURFORMER_TESTS_SUPPORT_ATTENTION_BATCH_HPP
#define RECURFORMER_TESTS_SUPPORT_ATTENTION_BATCH_HPP

// A batch for CUDA's attention kernels, with what they should compute: in double, and by a plain
// implementation that stores in 16 bits what the kernels do (weights and output). Memory that no query may
// see is NaN: rows behind the last key, keys outside every window, unused pages and slots. So are outputs
// before, and columns of the layer's other groups stay so.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/key_values.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/reference/attention.hpp"
#include "support/test_device.hpp"

namespace rf::test {

/// Shapes of a batch: the run's groups are those of `group_index`, of `layer_groups`.
struct AttentionShapes {
  std::vector<SequenceRows> sequences;
  int heads = 1;
  std::vector<int> group_index = {0};
  int layer_groups = 1;
  AttentionMask mask;
  int ring_extra = 0;   ///< slots of rings beyond the window
  double scale = 1.0;   ///< of queries and keys
  double offset = 0.0;  ///< added to every value
  int poisoned = -1;    ///< a sequence whose queries, keys and values are all NaN, not to be compared
};

/// (sequence 0 first) `rows` new tokens each behind `position` cached ones.
inline std::vector<SequenceRows> packed(std::initializer_list<std::pair<int, int>> rows_and_position) {
  std::vector<SequenceRows> result;
  std::int64_t first = 0;
  for (const auto& [rows, position] : rows_and_position) {
    result.push_back({.first_row = first, .rows = rows, .position = position});
    first += rows;
  }
  return result;
}

template <class T>
class AttentionBatch {
 public:
  AttentionBatch(const AttentionShapes& shapes, int d_head) : shapes_(shapes), d_(d_head) {
    for (const SequenceRows& s : shapes.sequences) rows_ = std::max(rows_, s.first_row + s.rows);
    Random random(7);
    queries_ = draw(random, rows_ * group_count() * shapes.heads * d_, shapes.scale, 0.0);
    for (const SequenceRows& s : shapes.sequences) {
      const std::int64_t count = (s.position + s.rows) * group_count() * d_;
      keys_.push_back(draw(random, count, shapes.scale, 0.0));
      values_.push_back(draw(random, count, 1.0, shapes.offset));
      hide(s, keys_.back());
      hide(s, values_.back());
    }
    compute();
    if (shapes.poisoned >= 0) poison(static_cast<std::size_t>(shapes.poisoned));
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t group_count() const { return static_cast<std::int64_t>(shapes_.group_index.size()); }
  std::int64_t out_columns() const { return std::int64_t{shapes_.layer_groups} * shapes_.heads * d_; }
  std::int64_t head_columns() const { return group_count() * shapes_.heads; }

  /// Element (row, group, head, 0) of the query matrix's rows.
  std::int64_t query_columns() const { return head_columns() * d_; }
  const std::vector<T>& queries() const { return queries_; }

  /// The pool of pages of keys (or values), pages in an order of their own, and the page table.
  std::vector<T> pages(bool of_keys) const {
    const std::int64_t page_elements = group_count() * cache_page_rows * d_;
    std::vector<T> pool(static_cast<std::size_t>(page_count() * page_elements), not_a_number());
    const std::vector<int> table = page_table();
    for (std::size_t s = 0; s < keys_.size(); ++s)
      for (std::int64_t p = 0; p < length(s); ++p)
        for (std::int64_t g = 0; g < group_count(); ++g) {
          const std::int64_t page = table[s * static_cast<std::size_t>(pages_per_sequence()) +
                                          static_cast<std::size_t>(p / cache_page_rows)];
          copy_row(pool, (page * group_count() + g) * cache_page_rows + p % cache_page_rows,
                   of_keys ? keys_[s] : values_[s], p * group_count() + g);
        }
    return pool;
  }
  int pages_per_sequence() const {
    std::int64_t most = 1;
    for (std::size_t s = 0; s < keys_.size(); ++s) most = std::max(most, pages_of(s));
    return static_cast<int>(most);
  }
  std::vector<int> page_table() const {
    std::vector<int> table(keys_.size() * static_cast<std::size_t>(pages_per_sequence()), -1);
    int next = static_cast<int>(page_count());  // from the last page down
    for (std::size_t s = 0; s < keys_.size(); ++s)
      for (std::int64_t p = 0; p < pages_of(s); ++p)
        table[s * static_cast<std::size_t>(pages_per_sequence()) + static_cast<std::size_t>(p)] = --next;
    return table;
  }

  int ring_capacity() const { return static_cast<int>(shapes_.mask.window) + shapes_.ring_extra; }
  /// The ring of one sequence, holding its past.
  std::vector<T> ring(std::size_t s, bool of_keys) const {
    const std::int64_t sink = shapes_.mask.sink, slots = sink + ring_capacity();
    std::vector<T> result(static_cast<std::size_t>(group_count() * slots * d_), not_a_number());
    for (std::int64_t p = 0; p < shapes_.sequences[s].position; ++p)
      for (std::int64_t g = 0; g < group_count(); ++g)
        copy_row(result, g * slots + (p < sink ? p : sink + (p - sink) % ring_capacity()),
                 of_keys ? keys_[s] : values_[s], p * group_count() + g);
    return result;
  }
  /// Keys (or values) of the new tokens, (rows, groups · d).
  std::vector<T> fresh(bool of_keys) const {
    std::vector<T> result(static_cast<std::size_t>(rows_ * group_count() * d_), not_a_number());
    for (std::size_t s = 0; s < keys_.size(); ++s)
      for (std::int64_t t = 0; t < shapes_.sequences[s].rows; ++t)
        for (std::int64_t g = 0; g < group_count(); ++g)
          copy_row(result, (shapes_.sequences[s].first_row + t) * group_count() + g,
                   of_keys ? keys_[s] : values_[s], (shapes_.sequences[s].position + t) * group_count() + g);
    return result;
  }

  /// `out`: rows_ + 1 rows of out_columns() + 8. Errors by the project's rule for low precision; everything
  /// that is not an output is still NaN.
  void check_output(const std::vector<T>& out) const {
    const std::int64_t stride = out_columns() + 8;
    double error = 0, plain = 0, worst = 0, worst_plain = 0, largest = 0;
    std::vector<bool> written(out.size());
    for_each_query([&](std::size_t n, std::int64_t row, std::int64_t g, int h) {
      for (int d = 0; d < d_; ++d) {
        const auto at = static_cast<std::size_t>(
            row * stride + (shapes_.group_index[static_cast<std::size_t>(g)] * shapes_.heads + h) * d_ + d);
        written[at] = true;
        if (is_poisoned(row)) continue;
        const std::size_t i = n * static_cast<std::size_t>(d_) + static_cast<std::size_t>(d);
        const double off = static_cast<double>(float(out[at])) - want_[i], plain_off = plain_[i] - want_[i];
        if (!std::isfinite(off)) worst = error = std::numeric_limits<double>::infinity();
        error += off * off;
        plain += plain_off * plain_off;
        worst = std::max(worst, std::abs(off));
        worst_plain = std::max(worst_plain, std::abs(plain_off));
        largest = std::max(largest, std::abs(want_[i]));
      }
    });
    const auto count = static_cast<double>(want_.size());
    const double ulp = std::exp2(std::floor(std::log2(largest)) - (dtype_of<T> == DType::BF16 ? 7 : 10));
    CHECK(std::sqrt(error / count) <= 2 * std::sqrt(plain / count) + ulp / 8);
    CHECK(worst <= 2 * worst_plain + 2 * ulp);
    std::size_t disturbed = 0;
    for (std::size_t i = 0; i < out.size(); ++i) disturbed += !written[i] && !std::isnan(float(out[i]));
    CHECK(disturbed == 0);
  }

  /// `values`: (rows_, head_columns()), with one more behind.
  void check_log_sum_exp(const std::vector<float>& values) const {
    double error = 0, largest = 1;
    for_each_query([&](std::size_t n, std::int64_t row, std::int64_t g, int h) {
      if (is_poisoned(row)) return;
      const float got = values[static_cast<std::size_t>((row * group_count() + g) * shapes_.heads + h)];
      const double off = std::abs(got - log_sum_exp_[n]);
      error = std::max(error, std::isfinite(off) ? off : std::numeric_limits<double>::infinity());
      largest = std::max(largest, std::abs(log_sum_exp_[n]));
    });
    CHECK(error <= 1e-5 * largest);
    CHECK(std::isnan(values.back()));
  }

  /// Attention of every query on the keys for which `counts(position, key)`; f(row, layer's head, mass).
  template <class Counts, class F>
  void masses(Counts counts, F f) const {
    for_each_query([&](std::size_t n, std::int64_t row, std::int64_t g, int h) {
      double mass = 0;
      for (std::size_t j = 0; j < weights_[n].size(); ++j)
        if (counts(positions_[n], static_cast<std::int64_t>(j))) mass += weights_[n][j];
      f(row, shapes_.group_index[static_cast<std::size_t>(g)] * shapes_.heads + h, mass, log_sum_exp_[n]);
    });
  }

 private:
  void poison(std::size_t s) {
    std::fill(keys_[s].begin(), keys_[s].end(), not_a_number());
    std::fill(values_[s].begin(), values_[s].end(), not_a_number());
    const SequenceRows& sequence = shapes_.sequences[s];
    const auto begin = queries_.begin() + sequence.first_row * query_columns();
    std::fill(begin, begin + sequence.rows * query_columns(), not_a_number());
  }
  bool is_poisoned(std::int64_t row) const {
    if (shapes_.poisoned < 0) return false;
    const SequenceRows& s = shapes_.sequences[static_cast<std::size_t>(shapes_.poisoned)];
    return row >= s.first_row && row < s.first_row + s.rows;
  }
  static T not_a_number() { return T(std::numeric_limits<float>::quiet_NaN()); }
  static std::vector<T> draw(Random& random, std::int64_t count, double scale, double offset) {
    std::vector<T> result;
    for (std::int64_t i = 0; i < count; ++i)
      result.push_back(T(static_cast<float>(scale * random.normal() + offset)));
    return result;
  }
  /// NaN in the rows that no new query sees.
  void hide(const SequenceRows& s, std::vector<T>& rows) const {
    for (std::int64_t p = 0; p < s.position + s.rows; ++p) {
      bool seen = false;
      for (const KeyRange& range : shapes_.mask.seen_by_any(s.position, s.position + s.rows - 1))
        seen |= range.begin <= p && p < range.end;
      if (seen && s.rows > 0) continue;
      const auto begin = rows.begin() + p * group_count() * d_;
      std::fill(begin, begin + group_count() * d_, not_a_number());
    }
  }

  std::int64_t length(std::size_t s) const {
    return shapes_.sequences[s].position + shapes_.sequences[s].rows;
  }
  std::int64_t pages_of(std::size_t s) const { return (length(s) + cache_page_rows - 1) / cache_page_rows; }
  std::int64_t page_count() const {
    std::int64_t pages = 1;  // one that nobody owns
    for (std::size_t s = 0; s < keys_.size(); ++s) pages += pages_of(s);
    return pages;
  }
  void copy_row(std::vector<T>& to, std::int64_t to_row, const std::vector<T>& from, std::int64_t row) const {
    std::copy_n(from.begin() + row * d_, d_, to.begin() + to_row * d_);
  }

  /// Calls f(number, row, group of the run, head) for all queries, in a fixed order.
  template <class F>
  void for_each_query(F f) const {
    std::size_t n = 0;
    for (const SequenceRows& s : shapes_.sequences)
      for (std::int64_t t = 0; t < s.rows; ++t)
        for (std::int64_t g = 0; g < group_count(); ++g)
          for (int h = 0; h < shapes_.heads; ++h) f(n++, s.first_row + t, g, h);
  }

  void compute() {
    for (std::size_t s = 0; s < keys_.size(); ++s)
      for (std::int64_t t = 0; t < shapes_.sequences[s].rows; ++t)
        for (std::int64_t g = 0; g < group_count(); ++g)
          for (int h = 0; h < shapes_.heads; ++h) compute_query(s, t, g, h);
  }
  void compute_query(std::size_t s, std::int64_t t, std::int64_t g, int h) {
    const SequenceRows& sequence = shapes_.sequences[s];
    const std::int64_t position = sequence.position + t;
    const auto as_doubles = [&](const std::vector<T>& from, std::int64_t row) {
      std::vector<double> result;
      for (int d = 0; d < d_; ++d)
        result.push_back(static_cast<double>(float(from[static_cast<std::size_t>(row * d_ + d)])));
      return result;
    };
    const auto query =
        as_doubles(queries_, ((sequence.first_row + t) * group_count() + g) * shapes_.heads + h);
    std::vector<double> keys;
    for (std::int64_t p = 0; p <= position; ++p) {
      const auto key = as_doubles(keys_[s], p * group_count() + g);
      keys.insert(keys.end(), key.begin(), key.end());
    }
    const reference::AttentionRow row =
        reference::attention_row(query.data(), keys.data(), position + 1, static_cast<int>(d_),
                                 {.sink = shapes_.mask.sink, .window = shapes_.mask.window}, position);
    std::vector<double> want(static_cast<std::size_t>(d_)), plain(want);
    for (std::int64_t p = 0; p <= position; ++p) {
      if (!shapes_.mask.visible(position, p)) continue;
      const double weight = row.weights[static_cast<std::size_t>(p)];
      const double rounded = static_cast<double>(float(T(static_cast<float>(weight))));
      const auto value = as_doubles(values_[s], p * group_count() + g);
      for (std::size_t d = 0; d < value.size(); ++d) {
        want[d] += weight * value[d];
        plain[d] += rounded * value[d];
      }
    }
    want_.insert(want_.end(), want.begin(), want.end());
    for (const double x : plain) plain_.push_back(static_cast<double>(float(T(static_cast<float>(x)))));
    log_sum_exp_.push_back(row.log_sum_exp);
    weights_.push_back(row.weights);
    positions_.push_back(position);
  }

  AttentionShapes shapes_;
  std::int64_t d_;
  std::int64_t rows_ = 0;
  std::vector<T> queries_;                     // (rows, groups, heads, d)
  std::vector<std::vector<T>> keys_, values_;  // per sequence (position, groups, d)
  // per query in the order of for_each_query
  std::vector<double> want_, plain_, log_sum_exp_;
  std::vector<std::vector<double>> weights_;
  std::vector<std::int64_t> positions_;
};

/// The batch on a device, and the parameters of a kernel on it.
template <class T, class Device, bool Ring>
class DeviceBatch {
 public:
  using Source = std::conditional_t<Ring, cuda::RingKeyValues<T>, cuda::PagedKeyValues<T>>;

  DeviceBatch(Device& device, const AttentionBatch<T>& batch, const AttentionShapes& shapes)
      : device_(device), batch_(batch), shapes_(shapes) {
    const auto rows = static_cast<std::size_t>(batch.rows());
    upload(queries_, batch.queries());
    upload(sequences_, shapes.sequences);
    upload(group_index_, shapes.group_index);
    upload(out_, std::vector<T>((rows + 1) * static_cast<std::size_t>(batch.out_columns() + 8),
                                T(std::numeric_limits<float>::quiet_NaN())));
    upload(log_sum_exp_, std::vector<float>(rows * static_cast<std::size_t>(batch.head_columns()) + 1,
                                            std::numeric_limits<float>::quiet_NaN()));
    if constexpr (Ring) {
      std::vector<const T*> pointers[2];
      for (const bool of_keys : {true, false})
        for (std::size_t s = 0; s < shapes.sequences.size(); ++s) {
          rings_.emplace_back(device, std::span<const T>(batch.ring(s, of_keys)));
          pointers[of_keys ? 0 : 1].push_back(rings_.back().data());
        }
      upload(past_keys_, pointers[0]);
      upload(past_values_, pointers[1]);
      upload(keys_, batch.fresh(true));
      upload(values_, batch.fresh(false));
    } else {
      upload(keys_, batch.pages(true));
      upload(values_, batch.pages(false));
      upload(pages_, batch.page_table());
    }
  }

  template <class Probe = cuda::NoProbe>
  cuda::AttentionParameters<Source, Probe> parameters(const Probe& probe = {}) const {
    return {.queries = {.data = queries_[0].data(), .stride = batch_.query_columns()},
            .key_values = source(),
            .out = {.data = out_[0].data(), .stride = batch_.out_columns() + 8},
            .group_index = group_index_[0].data(),
            .sequences = sequences_[0].data(),
            .log_sum_exp = log_sum_exp_[0].data(),
            .mask = shapes_.mask,
            .groups = static_cast<int>(batch_.group_count()),
            .heads = shapes_.heads,
            .probe = probe};
  }
  void check() const {
    batch_.check_output(out_[0].to_host());
    batch_.check_log_sum_exp(log_sum_exp_[0].to_host());
  }
  std::vector<T> out() const { return out_[0].to_host(); }

 private:
  template <class E>
  using Array = std::vector<cuda::DeviceArray<E, Device>>;  // of one, once uploaded

  template <class E>
  void upload(Array<E>& to, const std::vector<E>& from) {
    to.emplace_back(device_, std::span<const E>(from));
  }
  Source source() const {
    const auto groups = static_cast<int>(batch_.group_count());
    if constexpr (Ring)
      return {.past_keys = past_keys_[0].data(),
              .past_values = past_values_[0].data(),
              .keys = {.data = keys_[0].data(),
                       .stride = groups * (batch_.query_columns() / batch_.head_columns())},
              .values = {.data = values_[0].data(),
                         .stride = groups * (batch_.query_columns() / batch_.head_columns())},
              .sink = static_cast<int>(shapes_.mask.sink),
              .capacity = batch_.ring_capacity(),
              .groups = groups};
    else
      return {.keys = keys_[0].data(),
              .values = values_[0].data(),
              .pages = pages_[0].data(),
              .pages_per_sequence = batch_.pages_per_sequence(),
              .groups = groups};
  }

  Device& device_;
  const AttentionBatch<T>& batch_;
  AttentionShapes shapes_;
  Array<T> queries_, keys_, values_, out_, rings_;
  Array<const T*> past_keys_, past_values_;
  Array<int> pages_, group_index_;
  Array<SequenceRows> sequences_;
  Array<float> log_sum_exp_;
};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_ATTENTION_BATCH_HPP
