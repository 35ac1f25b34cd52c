#ifndef RECURFORMER_TOKENIZER_REPLACE_HPP
#define RECURFORMER_TOKENIZER_REPLACE_HPP

// Replacing what a pattern matches, which normalizers and decoders do, and pre-tokenizers with spaces.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/tokenizer/regex.hpp"

namespace rf::detail {

/// Refuses, with ArgumentError, to let `what` make `bytes` of a text out of `before`: a short file can ask
/// for doubling after doubling. Unicode's own normal forms make 11 times as many at most.
inline void check_growth(std::size_t before, std::size_t bytes, std::string_view what) {
  check(bytes <= 64 * before + 4096, what, " makes ", bytes, " bytes out of ", before,
        "; allowed: at most 64 times as many, and 4096");
}

struct Replace {
  Pattern pattern;
  std::string content;

  /// `text` with the content in place of every match. ArgumentError if it becomes absurdly long.
  std::string operator()(const std::string& text) const {
    const std::vector<TextPart> parts = pattern.parts(text);
    const auto replaced = [this, &text](const TextPart& part) -> std::string_view {
      return part.match ? content : part.of(text);
    };
    std::size_t bytes = 0;
    for (const TextPart& part : parts) bytes += replaced(part).size();
    check_growth(text.size(), bytes, "Replace");
    std::string out;
    out.reserve(bytes);
    for (const TextPart& part : parts) out += replaced(part);
    return out;
  }
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_REPLACE_HPP
