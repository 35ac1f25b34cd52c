#ifndef RECURFORMER_TOKENIZER_BYTE_LEVEL_HPP
#define RECURFORMER_TOKENIZER_BYTE_LEVEL_HPP

// GPT-2's byte-level texts: every byte is written as one printable character, so that a vocabulary of texts
// covers all bytes. Printable bytes of Latin-1 stand for themselves, the other 68 are U+0100, U+0101, ... in
// their order.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "recurformer/tokenizer/utf8.hpp"

namespace rf::detail {

/// GPT-2's pattern, with which ByteLevel splits unless it is told not to.
inline constexpr std::string_view byte_level_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// [byte]: the character that it is written as; below 0x144.
inline constexpr std::array<char32_t, 256> byte_characters = [] {
  std::array<char32_t, 256> out{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    out[byte] = printable ? byte : next++;
  }
  return out;
}();

/// [character]: the byte that it is written for, -1 if none is.
inline constexpr std::array<std::int16_t, 0x144> character_bytes = [] {
  std::array<std::int16_t, 0x144> out{};
  out.fill(-1);
  for (std::size_t byte = 0; byte < 256; ++byte) out[byte_characters[byte]] = static_cast<std::int16_t>(byte);
  return out;
}();

inline std::string to_byte_level(std::string_view bytes) {
  std::string out;
  out.reserve(2 * bytes.size());
  for (const char byte : bytes) append_utf8(out, byte_characters[static_cast<unsigned char>(byte)]);
  return out;
}

/// The bytes that `text`, valid UTF-8, was written for; nothing if it has a character that stands for no
/// byte.
inline std::optional<std::string> from_byte_level(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = first_utf8_sequence(text).bytes;
    const char32_t character = code_point(text.substr(0, length));
    if (character >= character_bytes.size() || character_bytes[character] < 0) return std::nullopt;
    out += static_cast<char>(character_bytes[character]);
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_BYTE_LEVEL_HPP
