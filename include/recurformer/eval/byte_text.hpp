#ifndef RECURFORMER_EVAL_BYTE_TEXT_HPP
#define RECURFORMER_EVAL_BYTE_TEXT_HPP

// Text as tokens, one per byte, divided into a training part and a held-out part. It is cut into pieces of 64
// KiB; one piece in twenty, chosen by a hash of its index, is held out. Rows of training text never touch a
// held-out piece.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/spec/batch.hpp"

namespace rf {

/// Independent rows of one length, packed; targets[i] follows tokens[i], -1 where it does not count.
struct Batch {
  std::vector<Token> tokens;
  std::vector<Token> targets;
  std::vector<SequenceRows> sequences;

  std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()); }
  void append(std::span<const Token> row_tokens, std::span<const Token> row_targets) {
    sequences.push_back({.first_row = rows(), .rows = static_cast<std::int64_t>(row_tokens.size())});
    tokens.insert(tokens.end(), row_tokens.begin(), row_tokens.end());
    targets.insert(targets.end(), row_targets.begin(), row_targets.end());
  }
};

/// Bytes as tokens, divided into a training part and a held-out part.
class ByteText {
 public:
  static constexpr int vocabulary = 256;

  /// Documents are concatenated. Needs enough text for one held-out piece.
  explicit ByteText(std::span<const std::string> documents) {
    std::string all;
    for (const auto& document : documents) all += document;
    const std::size_t pieces = (all.size() + piece_bytes - 1) / piece_bytes;
    // Short texts are cut finer, so that both parts exist.
    const std::size_t piece = pieces >= 40 ? piece_bytes : std::max<std::size_t>(1, (all.size() + 39) / 40);
    for (std::size_t first = 0, index = 0; first < all.size(); first += piece, ++index) {
      const std::string_view part = std::string_view(all).substr(first, piece);
      (is_held_out(index) ? held_out_ : train_).append(part);
    }
    check(train_.size() > 0 && held_out_.size() > 0, "the text has ", all.size(),
          " bytes; too few to hold a part out");
  }

  std::string_view train() const { return train_; }
  std::string_view held_out() const { return held_out_; }

  /// Row of `length` tokens starting anywhere in the training part, and the tokens that follow them.
  void append_train_row(Batch& batch, std::int64_t length, Random& random) const {
    append_row(batch, train_, length, start(train_, length, random));
  }
  /// The `index`-th row of the held-out part, rows side by side.
  void append_held_out_row(Batch& batch, std::int64_t length, std::int64_t index) const {
    append_row(batch, held_out_, length, index * length);
  }
  /// Whole rows of `length` tokens (and a following one) in the held-out part.
  std::int64_t held_out_rows(std::int64_t length) const {
    return (static_cast<std::int64_t>(held_out_.size()) - 1) / length;
  }

 private:
  static constexpr std::size_t piece_bytes = 65536;

  // The first of every twenty pieces' draws, and always piece 7, so that a text of 40 pieces has one.
  static bool is_held_out(std::size_t index) {
    return index == 7 || Random::stream(20, index).below(20) == 0;
  }

  static std::int64_t start(const std::string& part, std::int64_t length, Random& random) {
    const std::int64_t places = static_cast<std::int64_t>(part.size()) - length;
    check(places >= 1, "rows of ", length, " tokens need more text; the training part has ", part.size(),
          " bytes");
    return static_cast<std::int64_t>(random.uniform() * static_cast<double>(places));
  }

  static void append_row(Batch& batch, const std::string& part, std::int64_t length, std::int64_t first) {
    check(first + length < static_cast<std::int64_t>(part.size()), "row ", first / length, " of ", length,
          " tokens lies beyond the text's ", part.size(), " bytes");
    std::vector<Token> row(static_cast<std::size_t>(length) + 1);
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = static_cast<unsigned char>(part[static_cast<std::size_t>(first) + i]);
    batch.append(std::span(row).first(row.size() - 1), std::span(row).subspan(1));
  }

  std::string train_, held_out_;
};

}  // namespace rf

#endif  // RECURFORMER_EVAL_BYTE_TEXT_HPP
