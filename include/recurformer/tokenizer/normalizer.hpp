#ifndef RECURFORMER_TOKENIZER_NORMALIZER_HPP
#define RECURFORMER_TOKENIZER_NORMALIZER_HPP

// What happens to a text before it is split: Unicode's normal forms, replacing, prepending.

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/tokenizer/part_reader.hpp"
#include "recurformer/tokenizer/replace.hpp"
#include "recurformer/tokenizer/utf8.hpp"

namespace rf::detail {

/// NFC, NFD, NFKC or NFKD, in utf8proc's version of Unicode.
struct NormalForm {
  bool compose, compatible;

  std::string operator()(const std::string& text) const {
    const auto ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
    if (std::all_of(text.begin(), text.end(), ascii)) return text;
    std::vector<std::int32_t> codes = decompose(text);
    order_marks(codes);
    if (compose) {
      const auto length =
          utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
                                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
      codes.resize(static_cast<std::size_t>(length));
    }
    std::string out;
    out.reserve(text.size());
    for (const std::int32_t code : codes) append_utf8(out, static_cast<char32_t>(code));
    return out;
  }

 private:
  std::vector<std::int32_t> decompose(std::string_view text) const {
    const auto option = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                       (compatible ? UTF8PROC_COMPAT : 0));
    std::vector<std::int32_t> out;
    out.reserve(text.size());
    while (!text.empty()) {
      const std::size_t bytes = first_utf8_sequence(text).bytes;
      std::int32_t codes[32];  // U+FDFA, the longest, has 18
      int boundary = 0;
      const auto count = utf8proc_decompose_char(static_cast<std::int32_t>(code_point(text.substr(0, bytes))),
                                                 codes, std::size(codes), option, &boundary);
      out.insert(out.end(), codes, codes + count);
      text.remove_prefix(bytes);
    }
    return out;
  }

  /// Sorts every run of combining marks by their class. utf8proc does it, too, but in steps that are
  /// quadratic in the length of a run.
  static void order_marks(std::vector<std::int32_t>& codes) {
    const auto mark_class = [](std::int32_t code) { return utf8proc_get_property(code)->combining_class; };
    const auto is_mark = [&](std::int32_t code) { return mark_class(code) != 0; };
    const auto lower = [&](std::int32_t a, std::int32_t b) { return mark_class(a) < mark_class(b); };
    for (auto run = codes.begin(); run != codes.end();) {
      run = std::find_if(run, codes.end(), is_mark);
      const auto end = std::find_if_not(run, codes.end(), is_mark);
      std::stable_sort(run, end, lower);
      run = end;
    }
  }
};

struct Prepend {
  std::string prefix;

  std::string operator()(const std::string& text) const { return text.empty() ? text : prefix + text; }
};

/// The field "normalizer".
class Normalizer {
 public:
  explicit Normalizer(const JsonReader& document) {
    for (const JsonReader& part : read_parts(document, "normalizer", "normalizers"))
      steps_.push_back(read_step(part));
  }

  /// `text`: valid UTF-8, as is what comes back. ArgumentError if it becomes absurdly long.
  std::string operator()(std::string text) const {
    const std::size_t before = text.size();
    for (const Step& step : steps_) {
      text = std::visit([&](const auto& apply) { return apply(text); }, step);
      check_growth(before, text.size(), "the normalizer");
    }
    return text;
  }

 private:
  using Step = std::variant<NormalForm, Prepend, Replace>;

  static Step read_step(const JsonReader& reader) {
    const std::string& type = reader.at("type").string();
    if (type == "Replace") return read_replace(reader);
    if (type == "Prepend") {
      reader.reject_unknown({"type", "prepend"});
      return Prepend{reader.at("prepend").string()};
    }
    const bool compatible = type == "NFKC" || type == "NFKD", compose = type == "NFC" || type == "NFKC";
    if (!compatible && !compose && type != "NFD")
      fail_supported(reader.at("type"), "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
    reader.reject_unknown({"type"});
    return NormalForm{compose, compatible};
  }

  std::vector<Step> steps_;
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_NORMALIZER_HPP
