#ifndef RECURFORMER_CORE_ERROR_HPP
#define RECURFORMER_CORE_ERROR_HPP

#include <charconv>
#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rf {

/// Every error of this library. what() is one line that says what was wrong, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument, shape or plan that cannot be worked with.
class ArgumentError : public Error {
 public:
  using Error::Error;
};

/// A file that is missing, unreadable or malformed.
class FileError : public Error {
 public:
  using Error::Error;
};

namespace detail {

inline void append_text(std::string& out, std::string_view text) { out += text; }
inline void append_text(std::string& out, const char* text) { out += text; }
inline void append_text(std::string& out, char c) { out += c; }
inline void append_text(std::string& out, bool value) { out += value ? "true" : "false"; }
template <class T>
requires((std::integral<T> || std::floating_point<T>)&&!std::same_as<T, bool> &&
         !std::same_as<T, char>) void append_text(std::string& out, T value) {
  char buffer[64];
  const auto [end, code] = std::to_chars(buffer, buffer + sizeof buffer, value);
  (void)code;  // 64 characters hold every number in shortest form
  out.append(buffer, end);
}

}  // namespace detail

/// Concatenates texts and numbers: text("layer ", 3, ": d_head ", 48).
template <class... Parts>
std::string text(const Parts&... parts) {
  std::string out;
  (detail::append_text(out, parts), ...);
  return out;
}

/// Throws ArgumentError with the concatenated parts unless `condition` holds. Say what, got, allowed, remedy.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    throw ArgumentError(text(parts...));
}

/// Throws FileError "<file>: <parts>" unless `condition` holds.
template <class... Parts>
void check_file(bool condition, std::string_view file, const Parts&... parts) {
  if (!condition) [[unlikely]]
    throw FileError(text(file, ": ", parts...));
}

}  // namespace rf

#endif  // RECURFORMER_CORE_ERROR_HPP
