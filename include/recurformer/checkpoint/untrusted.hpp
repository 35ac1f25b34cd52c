#ifndef RECURFORMER_CHECKPOINT_UNTRUSTED_HPP
#define RECURFORMER_CHECKPOINT_UNTRUSTED_HPP

// What every reader of files needs when the file may be damaged or hostile: sizes that cannot overflow, and
// error messages that stay one readable line whatever the file contains.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/shape.hpp"

namespace rf::detail {

inline bool is_control_character(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

/// `text` for a message: control characters as \x1b, at most `limit` bytes, then "...".
inline std::string one_line(std::string_view text, std::size_t limit) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::size_t length = text.size();
  if (length > limit) {
    length = limit;  // not in the middle of a UTF-8 sequence
    while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0u) == 0x80u) --length;
  }
  std::string out;
  for (const char c : text.substr(0, length)) {
    if (is_control_character(c)) {
      const auto code = static_cast<unsigned char>(c);
      out += "\\x";
      out += digits[code >> 4];
      out += digits[code & 15u];
    } else {
      out += c;
    }
  }
  if (length < text.size()) out += "...";
  return out;
}

/// A name or value from a file in single quotes.
inline std::string printable(std::string_view text) { return "'" + one_line(text, 100) + "'"; }

/// Bytes of a tensor, or nothing if a size is negative or the bytes do not fit in 63 bits. Sizes of zero
/// count as one in the latter test, so that strides computed from an accepted shape cannot overflow either.
inline std::optional<std::size_t> tensor_bytes(DType dtype, std::span<const std::int64_t> shape) {
  constexpr auto limit = std::numeric_limits<std::int64_t>::max();
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0) return std::nullopt;
    empty = empty || size == 0;
    if (size > 1 && bytes > limit / size) return std::nullopt;
    if (size > 1) bytes *= size;
  }
  return empty ? 0 : static_cast<std::size_t>(bytes);
}

}  // namespace rf::detail

#endif  // RECURFORMER_CHECKPOINT_UNTRUSTED_HPP
