#ifndef RECURFORMER_EVAL_MQAR_HPP
#define RECURFORMER_EVAL_MQAR_HPP

// Multi-query associative recall (Zoology, arXiv 2312.04927, section 4): key-value pairs, then every key once
// more, far from or close to its first occurrence; the model answers with the value.
//
//   tokens    k1 v1 k2 v2 ... kP vP   0 0  k2 v2  0 0 0 0  k1 v1  0 0 ...
//   targets    -  - ...                     v2             v1
//
// Query slot g = 0, 1, ... is the pair of tokens at 2P + 2g. The P queries take distinct slots, drawn one
// after the other with probability proportional to (g + 1)^(power - 1): with a small power, most are near.
// Vocabulary: 0 is the filler, keys are 1 to V/2 - 1, values V/2 to V - 1, so that V = 256 fits a byte-level
// model. As in the paper's configurations keys and values of a row are distinct and the rest is filler;
// unlike there, the value follows its query in the text, so that the row is ordinary next-token text.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "recurformer/eval/task.hpp"

namespace rf {

struct MqarTask {
  std::int64_t row_length = 256;  ///< tokens of a row, >= 4 * pairs
  std::int64_t pairs = 8;         ///< key-value pairs P, >= 1, fewer than a quarter of the vocabulary
  std::int64_t vocabulary = 256;  ///< V, even, >= 8
  double power = 0.01;            ///< exponent of the power law, > 0; 1 is uniform
  Split split = Split::train;

  std::int64_t length() const { return row_length; }

  /// A row of `row_length` tokens, `pairs` of them scored.
  TaskRow row(Random& random) const {
    validate();
    const auto bindings = draw_bindings(random);
    const auto slots = draw_slots(random);
    TaskRow row;
    row.tokens.assign(static_cast<std::size_t>(row_length), 0);
    row.targets.assign(row.tokens.size(), -1);
    for (std::size_t i = 0; i < bindings.size(); ++i) {
      const auto [key, value] = bindings[i];
      const std::size_t query = 2 * bindings.size() + 2 * slots[i];
      row.tokens[2 * i] = row.tokens[query] = key;
      row.tokens[2 * i + 1] = row.tokens[query + 1] = row.targets[query] = value;
    }
    return row;
  }

 private:
  using Binding = std::pair<std::int32_t, std::int32_t>;

  void validate() const {
    check(vocabulary >= 8 && vocabulary <= (std::int64_t{1} << 31) && vocabulary % 2 == 0,
          "MQAR: a vocabulary of ", vocabulary, "; allowed: even numbers from 8 to 2^31");
    check(pairs >= 1 && pairs < vocabulary / 4, "MQAR: ", pairs, " pairs with a vocabulary of ", vocabulary,
          "; allowed: at least 1, fewer than a quarter of the vocabulary");
    check(row_length >= 4 * pairs, "MQAR: rows of ", row_length, " tokens for ", pairs,
          " pairs; they take at least four tokens a pair");
    check(power > 0 && std::isfinite(power), "MQAR: a power of ", power, "; it must be above 0 and finite");
  }

  /// Distinct keys with distinct values. The splits differ in which value may follow which key: a model
  /// cannot know held-out bindings by heart, but has seen every token.
  std::vector<Binding> draw_bindings(Random& random) const {
    const auto half = static_cast<std::uint64_t>(vocabulary / 2);
    std::set<std::int32_t> seen;
    std::vector<Binding> bindings(static_cast<std::size_t>(pairs));
    for (auto& [key, value] : bindings) {
      detail::draw_until(
          [&, &key = key, &value = value] {
            key = static_cast<std::int32_t>(1 + random.below(half - 1));
            value = static_cast<std::int32_t>(half + random.below(half));
            const std::int32_t binding[] = {key, value};
            return split_of(binding) == split && !seen.contains(key) && !seen.contains(value);
          },
          "MQAR", "use a larger vocabulary or fewer pairs");
      seen.insert({key, value});
    }
    return bindings;
  }

  /// `pairs` distinct slots, in the order in which they are drawn. Drawing without replacement with weights w
  /// is the order of arrival of exponential clocks with rates w.
  std::vector<std::size_t> draw_slots(Random& random) const {
    std::vector<std::pair<double, std::size_t>> arrivals(static_cast<std::size_t>(row_length / 2 - pairs));
    for (std::size_t slot = 0; slot < arrivals.size(); ++slot) {
      const double rate = std::pow(static_cast<double>(slot + 1), power - 1.0);
      arrivals[slot] = {-std::log(1.0 - random.uniform()) / rate, slot};
    }
    const auto end = arrivals.begin() + static_cast<std::ptrdiff_t>(pairs);
    std::partial_sort(arrivals.begin(), end, arrivals.end());
    std::vector<std::size_t> slots;
    for (auto arrival = arrivals.begin(); arrival != end; ++arrival) slots.push_back(arrival->second);
    return slots;
  }
};

}  // namespace rf

#endif  // RECURFORMER_EVAL_MQAR_HPP
