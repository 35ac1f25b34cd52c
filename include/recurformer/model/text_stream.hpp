#ifndef RECURFORMER_MODEL_TEXT_STREAM_HPP
#define RECURFORMER_MODEL_TEXT_STREAM_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/model/backend.hpp"

namespace rf {

namespace detail {

/// Whether a text ends within a UTF-8 sequence that could still be completed.
inline bool ends_in_half_a_character(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0u) == 0x80u) continue;  // within a sequence: look for its first byte
    const std::size_t length = byte >= 0xf8 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back;
  }
  return false;
}

}  // namespace detail

/// Text of tokens that come one by one, handed out as soon as it is certain: whole UTF-8 characters, whatever
/// a token is of. A token is decoded together with those before it that were handed out last, since what it
/// stands for may depend on its neighbour (a space between words).
class TextStream {
 public:
  /// decode(tokens) is the bytes of tokens, those of incomplete characters too, as Tokenizer::decode_bytes()
  /// gives them: they begin with those of the first of the tokens. (With U+FFFD in place of what is no
  /// character yet they would not: one byte more can make characters of what was none, and the reverse.)
  explicit TextStream(std::function<std::string(std::span<const Token>)> decode)
      : decode_(std::move(decode)) {}

  /// Tokens whose text is known already, such as the prompt's.
  void start_after(std::span<const Token> tokens) {
    tokens_.assign(tokens.begin(), tokens.end());
    shown_ = tokens_.size();
  }
  /// The text that the next token completes; often empty where characters take several tokens.
  std::string add(Token token) {
    tokens_.push_back(token);
    const std::string text = decode_(tokens_);
    if (detail::ends_in_half_a_character(text)) return {};
    return hand_out(text);
  }
  /// What is left at the end: of a character that was never completed.
  std::string finish() { return hand_out(decode_(tokens_)); }

 private:
  std::string hand_out(const std::string& text) {
    const std::size_t known = decode_(std::span<const Token>(tokens_).first(shown_)).size();
    tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(shown_));
    shown_ = tokens_.size();
    return text.size() > known ? text.substr(known) : std::string();
  }

  std::function<std::string(std::span<const Token>)> decode_;
  std::vector<Token> tokens_;  // handed out last, then not yet
  std::size_t shown_ = 0;      // how many of them were handed out
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_TEXT_STREAM_HPP
