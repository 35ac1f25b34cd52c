#ifndef RECURFORMER_EVAL_TOKEN_TEXT_HPP
#define RECURFORMER_EVAL_TOKEN_TEXT_HPP

// Text as tokens of any vocabulary (bytes, a tokenizer's), divided into a training part and a held-out part.
// It is cut into pieces of 65536 tokens; one piece in twenty, chosen by a hash of its index, is held out.
// Rows of training text never touch a held-out piece.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
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

/// The vocabulary of text whose tokens are its bytes.
inline constexpr int byte_vocabulary = 256;

/// Many tokens of one vocabulary in one, two or four bytes each, as few as its largest token needs.
class PackedTokens {
 public:
  /// None yet; tokens are 0 to vocabulary - 1.
  explicit PackedTokens(int vocabulary)
      : vocabulary_(vocabulary),
        width_(vocabulary <= 0x100     ? 1
               : vocabulary <= 0x10000 ? 2
                                       : 4) {
    check(vocabulary >= 1, "a vocabulary of ", vocabulary, " tokens; it must have at least 1");
  }

  int vocabulary() const { return vocabulary_; }
  std::size_t size() const { return bytes_.size() / width_; }
  Token operator[](std::size_t index) const {
    std::uint32_t token = 0;
    std::memcpy(&token, bytes_.data() + index * width_, width_);  // little-endian
    return static_cast<Token>(token);
  }
  /// The tokens [first, first + count).
  std::vector<Token> copy(std::size_t first, std::size_t count) const {
    check(first <= size() && count <= size() - first, "tokens ", first, " to ", first + count,
          " asked for of ", size());
    std::vector<Token> out(count);
    for (std::size_t i = 0; i < count; ++i) out[i] = (*this)[first + i];
    return out;
  }
  /// As they lie in memory: equal bytes are equal tokens, for vocabularies of one width.
  std::span<const std::byte> bytes() const { return bytes_; }

  /// Makes room for `count` tokens in all.
  void reserve(std::size_t count) { bytes_.reserve(count * width_); }
  /// ArgumentError if the token is outside the vocabulary.
  void append(Token token) {
    check(token >= 0 && token < vocabulary_, "token ", token, " at position ", size(),
          " is outside the vocabulary of ", vocabulary_);
    const auto* const first = reinterpret_cast<const std::byte*>(&token);
    bytes_.insert(bytes_.end(), first, first + width_);
  }
  void append(std::span<const Token> tokens) {
    for (const Token token : tokens) append(token);
  }
  /// One token per byte. The vocabulary has all of them.
  void append_bytes(std::string_view text) {
    check(vocabulary_ >= byte_vocabulary, "bytes are tokens 0 to 255; the vocabulary has ", vocabulary_);
    if (width_ == 1) {
      const auto bytes = std::as_bytes(std::span(text));
      bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    } else {
      for (const char c : text) append(Token{static_cast<unsigned char>(c)});
    }
  }

  /// Takes out, and returns in their order, those pieces of `piece` tokens (the last one may be shorter)
  /// whose index is_taken() chooses; what stays closes up.
  template <class IsTaken>
  PackedTokens take_pieces(std::size_t piece, IsTaken&& is_taken) {
    PackedTokens taken(vocabulary_);
    const std::size_t step = piece * width_;
    auto kept = bytes_.begin();
    for (std::size_t first = 0, index = 0; first < bytes_.size(); first += step, ++index) {
      const auto part = std::span(bytes_).subspan(first, std::min(step, bytes_.size() - first));
      if (is_taken(index))
        taken.bytes_.insert(taken.bytes_.end(), part.begin(), part.end());
      else
        kept = std::copy(part.begin(), part.end(), kept);
    }
    bytes_.erase(kept, bytes_.end());
    return taken;
  }

 private:
  int vocabulary_;
  std::size_t width_;  // bytes of a token
  std::vector<std::byte> bytes_;
};

/// Tokens divided into a training part and a held-out part.
class TokenText {
 public:
  /// Needs enough tokens for one held-out piece.
  explicit TokenText(PackedTokens tokens) : train_(std::move(tokens)), held_out_(train_.vocabulary()) {
    const std::size_t size = train_.size(), pieces = (size + piece_tokens - 1) / piece_tokens;
    // Short texts are cut finer, so that both parts exist.
    const std::size_t piece = pieces >= 40 ? piece_tokens : std::max<std::size_t>(1, (size + 39) / 40);
    held_out_ = train_.take_pieces(piece, is_held_out);
    check(train_.size() > 0 && held_out_.size() > 0, "the text has ", size, size == 1 ? " token" : " tokens",
          "; too few to hold a part out");
  }
  /// Text whose tokens are its bytes. Documents are concatenated.
  static TokenText of_bytes(std::span<const std::string> documents) {
    PackedTokens bytes(byte_vocabulary);
    for (const std::string& document : documents) bytes.append_bytes(document);
    return TokenText(std::move(bytes));
  }

  const PackedTokens& train() const { return train_; }
  const PackedTokens& held_out() const { return held_out_; }

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
  static constexpr std::size_t piece_tokens = 65536;

  // The first of every twenty pieces' draws, and always piece 7, so that a text of 40 pieces has one.
  static bool is_held_out(std::size_t index) {
    return index == 7 || Random::stream(20, index).below(20) == 0;
  }

  static std::int64_t start(const PackedTokens& part, std::int64_t length, Random& random) {
    const std::int64_t places = static_cast<std::int64_t>(part.size()) - length;
    check(places >= 1, "rows of ", length, " tokens need more text; the training part has ", part.size(),
          " tokens");
    return static_cast<std::int64_t>(random.uniform() * static_cast<double>(places));
  }

  static void append_row(Batch& batch, const PackedTokens& part, std::int64_t length, std::int64_t first) {
    check(first + length < static_cast<std::int64_t>(part.size()), "row ", first / length, " of ", length,
          " tokens lies beyond the text's ", part.size(), " tokens");
    const std::vector<Token> row =
        part.copy(static_cast<std::size_t>(first), static_cast<std::size_t>(length) + 1);
    batch.append(std::span(row).first(row.size() - 1), std::span(row).subspan(1));
  }

  PackedTokens train_, held_out_;
};

}  // namespace rf

#endif  // RECURFORMER_EVAL_TOKEN_TEXT_HPP
