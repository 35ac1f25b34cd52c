#ifndef RECURFORMER_TOKENIZER_UTF8_HPP
#define RECURFORMER_TOKENIZER_UTF8_HPP

// Text as UTF-8: where its code points begin and end, and what is made of bytes that are none.

#include <cstddef>
#include <string>
#include <string_view>

namespace rf::detail {

inline constexpr std::string_view replacement_character = "\xef\xbf\xbd";  // U+FFFD

/// The first code point of a text, or what stands in its place.
struct Utf8Sequence {
  std::size_t bytes;  ///< 1 to 4
  bool valid;  ///< if not, these bytes are the start of a code point that ends too early, or one wrong byte
};

/// The sequence at the start of `text`, which is not empty: the longest part that could begin a code point
/// (Unicode's table of well-formed sequences; surrogates and overlong forms are not).
inline Utf8Sequence first_utf8_sequence(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, true};
  const std::size_t length = lead < 0xc2 || lead > 0xf4 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  std::size_t at = 1;
  for (; at < length && at < text.size() && byte(at) >= low && byte(at) <= high; ++at)
    low = 0x80, high = 0xbf;
  return {at, at == length};
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Sequence first = first_utf8_sequence(text);
    if (!first.valid) return false;
    text.remove_prefix(first.bytes);
  }
  return true;
}

/// `text` with U+FFFD in place of every invalid sequence, as Python's bytes.decode("utf-8", errors="replace")
/// and Unicode's chapter 3.9 do it: one for each maximal part that could begin a code point.
inline std::string replace_invalid_utf8(std::string_view text) {
  if (is_utf8(text)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Sequence first = first_utf8_sequence(text);
    out += first.valid ? text.substr(0, first.bytes) : replacement_character;
    text.remove_prefix(first.bytes);
  }
  return out;
}

/// The code point that `sequence`, one valid sequence and nothing else, encodes.
inline char32_t code_point(std::string_view sequence) {
  const auto byte = [sequence](std::size_t i) { return static_cast<unsigned char>(sequence[i]); };
  if (sequence.size() == 1) return byte(0);
  char32_t out = byte(0) & (0x7fu >> sequence.size());
  for (std::size_t i = 1; i < sequence.size(); ++i) out = out << 6 | (byte(i) & 0x3fu);
  return out;
}

inline void append_utf8(std::string& out, char32_t code) {
  const auto append = [&out](char32_t bits) { out += static_cast<char>(static_cast<unsigned char>(bits)); };
  if (code < 0x80) return append(code);
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
  append((0xff00u >> (more + 1) & 0xffu) | code >> (6 * more));
  for (int i = more - 1; i >= 0; --i) append(0x80u | (code >> (6 * i) & 0x3fu));
}

/// Unicode's White_Space property.
inline bool is_white_space(char32_t code) {
  return (code >= 9 && code <= 0xd) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
         code == 0x205f || code == 0x3000;
}

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_UTF8_HPP
