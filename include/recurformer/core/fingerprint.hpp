#ifndef RECURFORMER_CORE_FINGERPRINT_HPP
#define RECURFORMER_CORE_FINGERPRINT_HPP

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace rf {

/// A short name for long content, so that two runs or files can be compared without keeping the content:
/// 64-bit FNV-1a. It tells apart what differs by accident, and is no protection against forgery.
class Fingerprint {
 public:
  /// Appends to the content.
  void add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) hash_ = (hash_ ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3u;
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }

  /// 16 hexadecimal digits.
  std::string hex() const {
    char digits[16];
    const char* end = std::to_chars(digits, digits + 16, hash_, 16).ptr;
    const std::string_view written(digits, static_cast<std::size_t>(end - digits));
    return std::string(16 - written.size(), '0').append(written);
  }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace rf

#endif  // RECURFORMER_CORE_FINGERPRINT_HPP
