#ifndef RECURFORMER_TOKENIZER_BPE_HPP
#define RECURFORMER_TOKENIZER_BPE_HPP

// Byte pair encoding: a piece of text starts as one token per character, and of all neighbours that the list
// of merges knows, those that stand first in it, and among these the leftmost, become one token, until no
// merge is left. With n characters that takes O(n log n): neighbours wait in a heap, and tokens are a linked
// list.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/tokenizer/part_reader.hpp"
#include "recurformer/tokenizer/utf8.hpp"
#include "recurformer/tokenizer/vocabulary.hpp"

namespace rf::detail {

/// The content of the token that stands for a byte: "<0x0A>".
inline std::string byte_token_content(unsigned char byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15u], '>'};
}

/// A merge: how early it comes in the list, and the token that it makes.
struct Merge {
  std::uint32_t rank;
  Token result;
};

/// Two neighbours that may be merged.
struct Candidate {
  std::uint32_t rank;
  std::int64_t left;  ///< index of the left one
  Token result;

  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

/// All merges of a model, by the tokens that they merge.
class MergeTable {
 public:
  void reserve(std::size_t merges) { merges_.reserve(merges); }
  void set(Token left, Token right, Merge merge) { merges_[key(left, right)] = merge; }
  /// nullptr if the two are not merged.
  const Merge* find(Token left, Token right) const {
    const auto found = merges_.find(key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }

 private:
  static std::uint64_t key(Token left, Token right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }

  std::unordered_map<std::uint64_t, Merge> merges_;
};

/// The tokens of one piece, which it merges.
class MergeList {
 public:
  MergeList(const std::vector<Token>& tokens, const MergeTable& table) : table_(table) {
    links_.reserve(tokens.size());
    for (const Token token : tokens) {
      const auto at = static_cast<std::int64_t>(links_.size());
      links_.push_back({token, at - 1, at + 1});
    }
    for (std::int64_t left = 0; left + 1 < size(); ++left) push(left);
  }

  void merge_all() {
    while (!candidates_.empty()) {
      const Candidate top = candidates_.top();
      candidates_.pop();
      if (link(top.left).token == gone || link(top.left).next == size()) continue;
      // The neighbours may have changed since. As in the reference library, what they would become counts,
      // not whether they are the same ones.
      const Merge* const now = find_merge(top.left);
      if (now != nullptr && now->result == top.result) merge(top.left, top.result);
    }
  }

  void append_to(std::vector<Token>& out) const {
    for (const Link& one : links_)
      if (one.token != gone) out.push_back(one.token);
  }

 private:
  static constexpr Token gone = -1;

  struct Link {
    Token token;
    std::int64_t previous;  // -1 before the first
    std::int64_t next;      // size() behind the last
  };

  std::int64_t size() const { return static_cast<std::int64_t>(links_.size()); }
  Link& link(std::int64_t at) { return links_[static_cast<std::size_t>(at)]; }

  /// Of the token at `left` and the one behind it.
  const Merge* find_merge(std::int64_t left) {
    return table_.find(link(left).token, link(link(left).next).token);
  }
  void push(std::int64_t left) {
    if (const Merge* const merge = find_merge(left)) candidates_.push({merge->rank, left, merge->result});
  }
  void merge(std::int64_t left, Token result) {
    const std::int64_t right = link(left).next;
    link(left).token = result;
    link(left).next = link(right).next;
    link(right).token = gone;
    if (link(left).next < size()) link(link(left).next).previous = left;
    if (link(left).previous >= 0) push(link(left).previous);
    if (link(left).next < size()) push(left);
  }

  const MergeTable& table_;
  std::vector<Link> links_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates_;
};

/// The field "model", of type BPE.
class Bpe {
 public:
  explicit Bpe(const JsonReader& reader) {
    check_supported(reader);
    vocabulary_ = read_vocabulary(reader.at("vocab"));
    read_merges(reader.at("merges"));
    ignore_merges_ = read_flag(reader, "ignore_merges", false);
    fuse_unknown_ = read_flag(reader, "fuse_unk", false);
    if (const auto unknown = reader.optional("unk_token"); unknown && !unknown->string().empty()) {
      unknown_ = vocabulary_.token(unknown->string());
      if (!unknown_) unknown->fail(printable(unknown->string()), " is not in the vocabulary");
    }
    if (read_flag(reader, "byte_fallback", false))
      for (std::size_t byte = 0; byte < 256; ++byte)
        byte_tokens_[byte] = vocabulary_.token(byte_token_content(static_cast<unsigned char>(byte)));
  }

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Appends the tokens of `piece`, valid UTF-8.
  void encode(std::string_view piece, std::vector<Token>& out) const {
    if (ignore_merges_) {
      if (const auto whole = vocabulary_.token(piece)) {
        out.push_back(*whole);
        return;
      }
    }
    MergeList list(characters(piece), merges_);
    list.merge_all();
    list.append_to(out);
  }

 private:
  static void check_supported(const JsonReader& reader) {
    if (const auto type = reader.optional("type"); type && type->string() != "BPE")
      fail_supported(*type, "\"BPE\"");
    reader.reject_unknown({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                           "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (const auto dropout = reader.optional("dropout")) fail_supported(*dropout, "null");
    for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const auto found = reader.optional(affix); found && !found->string().empty())
        fail_supported(*found, "null, \"\"");
  }

  static Vocabulary read_vocabulary(const JsonReader& reader) {
    if (!reader.value().is_object()) fail_supported(reader, "an object of tokens and their ids");
    std::vector<Vocabulary::Entry> entries;
    entries.reserve(reader.value().size());
    for (const auto& [content, id] : reader.value().items())
      entries.push_back(
          {read_token(JsonReader(reader.file(), id, field_path(reader.path(), content))), content});
    try {
      return Vocabulary(std::move(entries));
    } catch (const ArgumentError& error) {
      reader.fail(error.what());
    }
  }

  void read_merges(const JsonReader& reader) {
    merges_.reserve(reader.value().size());
    std::uint32_t rank = 0;
    for (const JsonReader& merge : reader.array()) read_merge(merge, rank++);
  }
  /// "a b" or ["a", "b"]. Of two merges of the same tokens the last one counts.
  void read_merge(const JsonReader& reader, std::uint32_t rank) {
    const auto [left, right] = merge_contents(reader);
    const auto token = [&](const std::string& content) {
      const auto found = vocabulary_.token(content);
      if (!found) reader.fail(printable(content), " is not in the vocabulary");
      return *found;
    };
    const Token left_token = token(left), right_token = token(right), result = token(left + right);
    merges_.set(left_token, right_token, {rank, result});
  }
  static std::pair<std::string, std::string> merge_contents(const JsonReader& reader) {
    if (reader.value().is_array()) {
      if (reader.value().size() != 2) reader.fail("expected two tokens, found ", reader.value().size());
      const auto both = reader.array();
      return {both[0].string(), both[1].string()};
    }
    const std::string& both = reader.string();
    const std::size_t space = both.find(' ');
    if (space == both.npos || both.find(' ', space + 1) != both.npos)
      reader.fail("expected two tokens and a space between them, found ", printable(both));
    return {both.substr(0, space), both.substr(space + 1)};
  }

  /// One token per character. A character that is not in the vocabulary is the tokens of its bytes, if it has
  /// all of them, or else the unknown token, if there is one, or else nothing.
  std::vector<Token> characters(std::string_view piece) const {
    std::vector<Token> out;
    out.reserve(piece.size());
    // An unknown token waits, so that one that follows can be fused with it. As in the reference library,
    // bytes overtake it.
    bool unknown_waits = false;
    const auto release = [&] {
      if (std::exchange(unknown_waits, false)) out.push_back(*unknown_);
    };
    while (!piece.empty()) {
      const std::string_view character = piece.substr(0, first_utf8_sequence(piece).bytes);
      piece.remove_prefix(character.size());
      if (const auto token = vocabulary_.token(character)) {
        release();
        out.push_back(*token);
      } else if (!append_bytes(character, out) && unknown_) {
        if (!fuse_unknown_) release();
        unknown_waits = true;
      }
    }
    release();
    return out;
  }
  /// Whether all bytes of `character` have tokens; if so, they are appended.
  bool append_bytes(std::string_view character, std::vector<Token>& out) const {
    const std::size_t before = out.size();
    for (const char byte : character) {
      const auto token = byte_tokens_[static_cast<unsigned char>(byte)];
      if (!token) {
        out.resize(before);
        return false;
      }
      out.push_back(*token);
    }
    return true;
  }

  Vocabulary vocabulary_;
  MergeTable merges_;
  bool ignore_merges_ = false, fuse_unknown_ = false;
  std::optional<Token> unknown_;
  std::array<std::optional<Token>, 256> byte_tokens_;  // none without byte fallback
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_BPE_HPP
