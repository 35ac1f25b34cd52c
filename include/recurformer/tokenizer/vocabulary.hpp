#ifndef RECURFORMER_TOKENIZER_VOCABULARY_HPP
#define RECURFORMER_TOKENIZER_VOCABULARY_HPP

// Tokens and their contents, in both directions. Ids may have gaps, however wide.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/model/backend.hpp"

namespace rf::detail {

/// The largest id, so that the vocabulary's size fits a Token.
inline constexpr Token largest_token = std::numeric_limits<Token>::max() - 1;

class Vocabulary {
 public:
  struct Entry {
    Token token;
    std::string content;
  };

  Vocabulary() = default;

  /// ArgumentError if two entries have the same id. Contents differ.
  explicit Vocabulary(std::vector<Entry> entries) : entries_(std::move(entries)) {
    std::sort(entries_.begin(), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.token < b.token; });
    for (std::size_t i = 1; i < entries_.size(); ++i)
      if (entries_[i].token == entries_[i - 1].token)
        throw ArgumentError(text(printable(entries_[i - 1].content), " and ", printable(entries_[i].content),
                                 " have the same id ", entries_[i].token));
    tokens_.reserve(entries_.size());
    for (const Entry& entry : entries_) tokens_.emplace(entry.content, entry.token);
  }

  // The keys of tokens_ refer to entries_, which a move leaves where they are.
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  /// The highest id + 1; 0 if there is none.
  int size() const { return entries_.empty() ? 0 : entries_.back().token + 1; }

  std::optional<Token> token(std::string_view content) const {
    const auto found = tokens_.find(content);
    return found == tokens_.end() ? std::nullopt : std::optional(found->second);
  }
  /// Nothing if there is no such token.
  std::optional<std::string_view> content(Token token) const {
    const auto found = std::lower_bound(entries_.begin(), entries_.end(), token,
                                        [](const Entry& entry, Token value) { return entry.token < value; });
    if (found == entries_.end() || found->token != token) return std::nullopt;
    return found->content;
  }

 private:
  std::vector<Entry> entries_;  // by token
  std::unordered_map<std::string_view, Token> tokens_;
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_VOCABULARY_HPP
