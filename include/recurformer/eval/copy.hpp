#ifndef RECURFORMER_EVAL_COPY_HPP
#define RECURFORMER_EVAL_COPY_HPP

// Fixed-lag copy: `lag` random letters, repeated to the end of the row.
//   tokens[i] = pattern[i mod lag],  targets[i] = pattern[(i + 1) mod lag] where i + 1 >= lag, else not
//   scored
// A head answers by looking back exactly lag - 1 tokens, so no window shorter than the lag suffices. Tokens
// are the bytes of the letters a-z, then A-Z.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/eval/task.hpp"

namespace rf {

struct CopyTask {
  std::int64_t row_length = 256;  ///< tokens of a row, > lag
  std::int64_t lag = 64;          ///< length of the pattern, >= 1
  int letters = 26;               ///< size of the alphabet, 2 to 52
  Split split = Split::train;

  std::int64_t length() const { return row_length; }

  /// A row of `row_length` tokens, row_length - lag + 1 of them scored.
  TaskRow row(Random& random) const {
    validate();
    const auto period = static_cast<std::size_t>(lag);
    std::vector<std::int32_t> pattern(period);
    detail::draw_until(
        [&] {
          for (auto& token : pattern) token = letter(random.below(static_cast<std::uint64_t>(letters)));
          return split_of(least_rotation(pattern)) == split;
        },
        "copy task", "use more letters or a longer lag");

    TaskRow row;
    row.tokens.resize(static_cast<std::size_t>(row_length));
    row.targets.resize(row.tokens.size());
    for (std::size_t i = 0; i < row.tokens.size(); ++i) {
      row.tokens[i] = pattern[i % period];
      row.targets[i] = i + 1 >= period ? pattern[(i + 1) % period] : -1;
    }
    return row;
  }

 private:
  void validate() const {
    check(lag >= 1 && row_length > lag, "copy task: a lag of ", lag, " in rows of ", row_length,
          " tokens; the lag must be at least 1 and shorter than the row");
    check(letters >= 2 && letters <= 52, "copy task: ", letters, " letters; allowed: 2 to 52");
  }

  static std::int32_t letter(std::uint64_t index) {
    return static_cast<std::int32_t>(index < 26 ? 'a' + index : 'A' + (index - 26));
  }

  /// A row contains every rotation of its pattern, so all rotations belong to one split.
  static std::vector<std::int32_t> least_rotation(const std::vector<std::int32_t>& pattern) {
    std::vector<std::int32_t> twice(pattern);
    twice.insert(twice.end(), pattern.begin(), pattern.end());
    const auto period = static_cast<std::ptrdiff_t>(pattern.size());
    auto least = twice.begin();
    for (auto start = twice.begin() + 1; start != twice.begin() + period; ++start)
      if (std::lexicographical_compare(start, start + period, least, least + period)) least = start;
    return {least, least + period};
  }
};

}  // namespace rf

#endif  // RECURFORMER_EVAL_COPY_HPP
