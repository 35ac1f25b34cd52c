#ifndef RECURFORMER_TOKENIZER_ADDED_TOKENS_HPP
#define RECURFORMER_TOKENIZER_ADDED_TOKENS_HPP

// Tokens that are found in a text as a whole, before anything else is done with it: <|endoftext|>. Those that
// are "normalized" are looked for in the normalized text between the others.

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/tokenizer/normalizer.hpp"
#include "recurformer/tokenizer/part_reader.hpp"
#include "recurformer/tokenizer/regex.hpp"
#include "recurformer/tokenizer/utf8.hpp"
#include "recurformer/tokenizer/vocabulary.hpp"

namespace rf::detail {

struct AddedToken {
  Token token;
  std::string content;
  bool special;      ///< decoding can leave it out
  bool single_word;  ///< not found beside a letter or digit
  bool left_strip;   ///< takes the white space before it
  bool right_strip;  ///< takes the white space behind it
  bool normalized;   ///< is looked for in the normalized text
};

/// Finds the longest of several texts that stands at a place.
class TextSet {
 public:
  static constexpr std::size_t longest_text =
      1024;  ///< bytes; as many steps are made at every place of a text

  /// Of equal texts the first counts.
  void add(std::string text, const AddedToken& token) { entries_.push_back({std::move(text), &token}); }
  void finish() {
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const Entry& a, const Entry& b) { return a.text < b.text; });
    for (const Entry& entry : entries_) starts_[static_cast<unsigned char>(entry.text[0])] = true;
  }

  struct Found {
    std::size_t bytes;
    const AddedToken* token;
  };
  /// Nothing if none of the texts starts `text`, which is not empty.
  std::optional<Found> longest(std::string_view text) const {
    if (!starts_[static_cast<unsigned char>(text[0])]) return std::nullopt;
    std::optional<Found> found;
    // [first, last): the entries that start with the `length` bytes before
    auto first = entries_.begin(), last = entries_.end();
    for (std::size_t length = 0; first != last; ++length) {
      if (first->text.size() == length) found = {length, first->token};
      if (length == text.size()) break;
      const auto shorter = [length](const Entry& entry) { return entry.text.size() == length; };
      first = std::partition_point(first, last, shorter);
      const auto byte = [length](const Entry& entry) {
        return static_cast<unsigned char>(entry.text[length]);
      };
      const auto wanted = static_cast<unsigned char>(text[length]);
      first = std::partition_point(first, last, [&](const Entry& entry) { return byte(entry) < wanted; });
      last = std::partition_point(first, last, [&](const Entry& entry) { return byte(entry) == wanted; });
    }
    return found;
  }

 private:
  struct Entry {
    std::string text;
    const AddedToken* token;
  };

  std::vector<Entry> entries_;  // sorted by bytes
  std::array<bool, 256> starts_{};
};

/// A part of a text: an added token, or text between two of them.
struct Segment {
  std::size_t begin, end;
  const AddedToken* token;  ///< nullptr for text
};

/// Unicode's word characters (UTS #18): Alphabetic, M, Nd, Pc and Join_Control. What is Alphabetic and
/// neither letter nor mark are letter numbers and letters in circles and squares.
inline constexpr std::string_view word_character_pattern =
    R"([\p{L}\p{M}\p{Nl}\p{Nd}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169})"
    R"(\x{1f170}-\x{1f189}])";

/// The field "added_tokens".
class AddedTokens {
 public:
  /// FileError if an id or a content is there twice, or means something else in the model's vocabulary.
  /// `normalizer` is what is done with texts.
  AddedTokens(const JsonReader& document, const Vocabulary& model, const Normalizer& normalizer) {
    const auto list = document.optional("added_tokens");
    if (!list) return;
    for (const JsonReader& reader : list->array()) add(reader, model);
    // Special ones first: where two normalized contents are the same, the reference library takes the first.
    for (const bool special : {true, false})
      for (const JsonReader& reader : list->array())
        if (const AddedToken& token = by_token_.at(read_token(reader.at("id"))); token.special == special)
          add_to_set(token, normalizer, reader);
    in_text_.finish();
    in_normalized_.finish();
  }

  // The texts refer to by_token_, whose nodes a move leaves where they are.
  AddedTokens(AddedTokens&&) = default;
  AddedTokens& operator=(AddedTokens&&) = default;

  /// The highest id + 1; 0 if there is none.
  int size() const { return by_token_.empty() ? 0 : by_token_.rbegin()->first + 1; }
  /// nullptr if it is none of these.
  const AddedToken* find(Token token) const {
    const auto found = by_token_.find(token);
    return found == by_token_.end() ? nullptr : &found->second;
  }
  std::optional<Token> token(std::string_view content) const {
    const auto found = by_content_.find(content);
    return found == by_content_.end() ? std::nullopt : std::optional(found->second);
  }

  /// A text, before it is normalized, cut at tokens that are not "normalized".
  std::vector<Segment> cut_text(std::string_view text) const { return cut(text, in_text_); }
  /// A normalized text, cut at the others.
  std::vector<Segment> cut_normalized(std::string_view text) const { return cut(text, in_normalized_); }

 private:
  void add(const JsonReader& reader, const Vocabulary& model) {
    reader.reject_unknown({"id", "content", "special", "single_word", "lstrip", "rstrip", "normalized"});
    AddedToken token{.token = read_token(reader.at("id")),
                     .content = reader.at("content").string(),
                     .special = reader.at("special").boolean(),
                     .single_word = reader.at("single_word").boolean(),
                     .left_strip = reader.at("lstrip").boolean(),
                     .right_strip = reader.at("rstrip").boolean(),
                     .normalized = reader.at("normalized").boolean()};
    check_consistent(reader, token, model);
    const Token id = token.token;
    const auto [place, is_new] = by_token_.emplace(id, std::move(token));
    if (!is_new) reader.at("id").fail(id, " is the id of ", printable(place->second.content), ", too");
    if (!by_content_.emplace(place->second.content, id).second)
      reader.at("content").fail(printable(place->second.content), " is listed twice");
  }

  static void check_consistent(const JsonReader& reader, const AddedToken& token, const Vocabulary& model) {
    const JsonReader content = reader.at("content");
    if (token.content.empty()) content.fail("is empty");
    if (token.content.size() > TextSet::longest_text)
      content.fail("has ", token.content.size(), " bytes; allowed: at most ", TextSet::longest_text);
    const auto other_token = model.token(token.content);
    if (other_token && *other_token != token.token)
      reader.at("id").fail("expected ", *other_token, ", the id of ", printable(token.content),
                           " in model.vocab, found ", token.token);
    const auto other_content = model.content(token.token);
    if (other_content && *other_content != token.content)
      content.fail("expected ", printable(*other_content), ", the content of ", token.token,
                   " in model.vocab, found ", printable(token.content));
  }

  void add_to_set(const AddedToken& token, const Normalizer& normalizer, const JsonReader& reader) {
    if (token.single_word && !word_character_) word_character_.emplace(word_character_pattern);
    if (!token.normalized) return in_text_.add(token.content, token);
    std::string content;
    try {
      content = normalizer(token.content);
    } catch (const ArgumentError& error) {
      reader.at("content").fail(error.what());
    }
    if (content.empty()) reader.at("content").fail(printable(token.content), " is empty when normalized");
    in_normalized_.add(std::move(content), token);
  }

  /// As the reference library: a token that must be a word and is none hides others within it, and white
  /// space that one token has taken may be found to be another.
  std::vector<Segment> cut(std::string_view text, const TextSet& set) const {
    std::vector<Segment> out;
    std::size_t done = 0;  // all before is in `out`
    for (std::size_t at = 0; at < text.size();) {
      const auto found = set.longest(text.substr(at));
      if (!found) {
        ++at;
        continue;
      }
      std::size_t begin = at, end = at + found->bytes;
      at = end;
      if (found->token->single_word && !is_word_alone(text, begin, end)) continue;
      if (found->token->left_strip) begin = white_space_before(text, begin, done);
      if (found->token->right_strip) end = white_space_behind(text, end, done);
      if (done < begin) out.push_back({done, begin, nullptr});
      out.push_back({begin, end, found->token});
      done = end;
    }
    if (done < text.size()) out.push_back({done, text.size(), nullptr});
    return out;
  }

  bool is_word_alone(std::string_view text, std::size_t begin, std::size_t end) const {
    const auto is_word = [&](std::size_t from, std::size_t to) {
      return word_character_->parts(text.substr(from, to - from))[0].match;
    };
    const bool word_before = begin > 0 && is_word(last_character(text, begin), begin);
    const bool word_behind =
        end < text.size() && is_word(end, end + first_utf8_sequence(text.substr(end)).bytes);
    return !word_before && !word_behind;
  }
  /// Where the character that ends at `end`, which is not 0, begins.
  static std::size_t last_character(std::string_view text, std::size_t end) {
    do --end;
    while ((static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u);
    return end;
  }
  /// Where the white space that ends at `end` begins, but not before `done`.
  static std::size_t white_space_before(std::string_view text, std::size_t end, std::size_t done) {
    while (end > done) {
      const std::size_t begin = last_character(text, end);
      if (!is_white_space(code_point(text.substr(begin, end - begin)))) break;
      end = begin;
    }
    return std::max(end, done);
  }
  /// Where the white space that starts at `begin` ends. If `done` lies behind `begin`, all before it is known
  /// to be white space.
  static std::size_t white_space_behind(std::string_view text, std::size_t begin, std::size_t done) {
    begin = std::max(begin, done);
    while (begin < text.size()) {
      const std::size_t bytes = first_utf8_sequence(text.substr(begin)).bytes;
      if (!is_white_space(code_point(text.substr(begin, bytes)))) break;
      begin += bytes;
    }
    return begin;
  }

  std::map<Token, AddedToken> by_token_;
  std::map<std::string, Token, std::less<>> by_content_;
  TextSet in_text_, in_normalized_;
  std::optional<Regex> word_character_;  // if any token is a single word
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_ADDED_TOKENS_HPP
