#ifndef RECURFORMER_TOKENIZER_REGEX_HPP
#define RECURFORMER_TOKENIZER_REGEX_HPP

// Regular expressions of tokenizer.json by PCRE2, and plain texts to look for. A pattern divides a text into
// parts that match and parts between them; what becomes of the parts is for others to say (split.hpp).

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/tokenizer/pattern_syntax.hpp"
#include "recurformer/tokenizer/utf8.hpp"

namespace rf::detail {

/// Bytes [begin, end) of a text.
struct TextPart {
  std::size_t begin, end;
  bool match;

  std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
};

/// Collects the matches of a text, in their order, and what lies between them.
class PartList {
 public:
  explicit PartList(std::size_t text_bytes) : bytes_(text_bytes) {}

  void add_match(std::size_t begin, std::size_t end) {
    add_rest(begin);
    parts_.push_back({begin, end, true});
    at_ = end;
  }
  /// The parts, which together are the text. An empty text is one part that does not match.
  std::vector<TextPart> finish() {
    if (bytes_ == 0) return {{0, 0, false}};
    add_rest(bytes_);
    return std::move(parts_);
  }

 private:
  void add_rest(std::size_t end) {
    if (at_ < end) parts_.push_back({at_, end, false});
  }

  std::size_t bytes_;
  std::size_t at_ = 0;
  std::vector<TextPart> parts_;
};

struct FreePcre2 {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
template <class T>
using Pcre2 = std::unique_ptr<T, FreePcre2>;

/// A regular expression. Matching is const and may be done by many threads at once.
class Regex {
 public:
  /// Bytes; published ones have some hundred.
  static constexpr std::size_t longest_pattern = 4096;

  /// `pattern` in the syntax of pattern_syntax.hpp. ArgumentError that says what is wrong with it.
  explicit Regex(std::string_view pattern) : source_(pattern) {
    check(!pattern.empty(), "the pattern is empty");
    check(pattern.size() <= longest_pattern, "the pattern has ", pattern.size(), " bytes; allowed: at most ",
          longest_pattern);
    check(is_utf8(pattern), "the pattern is not UTF-8");
    compile(PatternTranslator(pattern).translate());
  }

  /// The matches of `text`, which is valid UTF-8, from left to right. An empty match directly after another
  /// match does not count. ArgumentError if the pattern needs too many steps, as some need on some texts.
  std::vector<TextPart> parts(std::string_view text) const {
    PartList out(text.size());
    if (text.empty()) return out.finish();
    const Pcre2<pcre2_match_data> data(pcre2_match_data_create(1, nullptr));
    const Pcre2<pcre2_match_context> limits(pcre2_match_context_create(nullptr));
    if (!data || !limits) throw std::bad_alloc();
    limit(text.size(), limits.get());
    const std::size_t none = text.size() + 1;
    for (std::size_t from = 0, last_end = none; from <= text.size();) {
      if (!search(text, from, data.get(), limits.get())) break;
      const PCRE2_SIZE* const found = pcre2_get_ovector_pointer(data.get());
      if (found[0] == found[1] && found[1] == last_end) {
        from += from < text.size() ? first_utf8_sequence(text.substr(from)).bytes : 1;
        continue;
      }
      out.add_match(found[0], found[1]);
      from = last_end = found[1];
    }
    return out.finish();
  }

 private:
  void compile(const std::string& translated) {
    const Pcre2<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
    if (!context) throw std::bad_alloc();
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE offset = 0;
    constexpr std::uint32_t options =
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options,
                              &code, &offset, context.get()));
    check(code_ != nullptr, "the pattern ", printable(source_), " is wrong: ", reason(code));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // without such a compiler, matching interprets
  }

  /// Steps and memory for one match: a million and 32 MiB, and for each character of a long run that it goes
  /// back over a few more.
  static void limit(std::size_t bytes, pcre2_match_context* limits) {
    const auto bounded = [](std::size_t n) {
      return static_cast<std::uint32_t>(std::min<std::size_t>(n, 1u << 31));
    };
    pcre2_set_match_limit(limits, bounded(1'000'000 + 16 * bytes));
    pcre2_set_heap_limit(limits, bounded(32 * 1024 + bytes / 2));  // KiB
  }

  /// Whether there is a match at or behind `from`; it is left in `data`.
  bool search(std::string_view text, std::size_t from, pcre2_match_data* data,
              pcre2_match_context* limits) const {
    const auto match = [&](std::uint32_t options) {
      return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data, limits);
    };
    int found = match(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
      throw ArgumentError(rf::text("the pattern ", printable(source_), " on a text of ", text.size(),
                                   " bytes: ", reason(found)));
    return found >= 0;
  }

  static std::string reason(int code) {
    char buffer[256] = {};
    pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(buffer), sizeof buffer);
    return buffer;
  }

  std::string source_;
  Pcre2<pcre2_code> code_;
};

/// What Split and Replace look for: a regular expression, or a text, which is not empty.
class Pattern {
 public:
  explicit Pattern(Regex regex) : pattern_(std::move(regex)) {}
  explicit Pattern(std::string literal) : pattern_(std::move(literal)) {
    check(!std::get<std::string>(pattern_).empty(), "the pattern is empty");
  }

  bool is_regex() const { return std::holds_alternative<Regex>(pattern_); }

  /// As Regex::parts. A text that is looked for need not be found in UTF-8.
  std::vector<TextPart> parts(std::string_view text) const {
    if (const auto* const regex = std::get_if<Regex>(&pattern_)) return regex->parts(text);
    const std::string& literal = std::get<std::string>(pattern_);
    PartList out(text.size());
    for (std::size_t at = text.find(literal); at != text.npos; at = text.find(literal, at + literal.size()))
      out.add_match(at, at + literal.size());
    return out.finish();
  }

 private:
  std::variant<Regex, std::string> pattern_;
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_REGEX_HPP
