#ifndef RECURFORMER_TOKENIZER_DECODER_HPP
#define RECURFORMER_TOKENIZER_DECODER_HPP

// How the contents of tokens become a text again.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/tokenizer/byte_level.hpp"
#include "recurformer/tokenizer/metaspace.hpp"
#include "recurformer/tokenizer/part_reader.hpp"
#include "recurformer/tokenizer/replace.hpp"
#include "recurformer/tokenizer/utf8.hpp"

namespace rf::detail {

/// What becomes of bytes that are not UTF-8.
enum class InvalidBytes { replace, keep };

/// The texts that decoding works on: at first one per token.
using Texts = std::vector<std::string>;

inline std::string joined(const Texts& texts, std::string_view separator) {
  std::string out;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) out += separator;
    out += texts[i];
  }
  return out;
}

/// Characters that stand for bytes become these, and all texts one. A text with another character is taken as
/// it is.
struct ByteLevelDecoder {
  void operator()(Texts& texts, InvalidBytes invalid) const {
    std::string bytes;
    for (const std::string& text : texts) bytes += from_byte_level(text).value_or(text);
    texts = {invalid == InvalidBytes::replace ? replace_invalid_utf8(bytes) : std::move(bytes)};
  }
};

/// Every run of texts like "<0x0A>" becomes its bytes, or, if these are not UTF-8, one U+FFFD for each of
/// them.
struct ByteFallbackDecoder {
  void operator()(Texts& texts, InvalidBytes invalid) const {
    Texts out;
    std::string run;
    const auto finish_run = [&] {
      if (run.empty()) return;
      if (invalid == InvalidBytes::keep || is_utf8(run)) {
        out.push_back(run);
      } else {
        out.insert(out.end(), run.size(), std::string(replacement_character));
      }
      run.clear();
    };
    for (std::string& text : texts) {
      if (const auto byte = byte_of(text)) {
        run += *byte;
      } else {
        finish_run();
        out.push_back(std::move(text));
      }
    }
    finish_run();
    texts = std::move(out);
  }

 private:
  static std::optional<char> byte_of(std::string_view text) {
    if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
    const auto digit = [](char c) {
      if (c >= '0' && c <= '9') return c - '0';
      const char lower = static_cast<char>(c | 0x20);
      return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
    };
    const int high = digit(text[3]), low = digit(text[4]);
    if (high < 0 || low < 0) return std::nullopt;
    return static_cast<char>(16 * high + low);
  }
};

struct FuseDecoder {
  void operator()(Texts& texts, InvalidBytes) const { texts = {joined(texts, "")}; }
};

/// Replaces within every text.
struct ReplaceDecoder {
  Replace replace;

  void operator()(Texts& texts, InvalidBytes) const {
    for (std::string& text : texts) text = replace(text);
  }
};

/// Takes up to `start` times `content` from the start of every text, and up to `stop` times from its end.
struct StripDecoder {
  std::string content;  ///< one character
  std::int64_t start, stop;

  void operator()(Texts& texts, InvalidBytes) const {
    for (std::string& text : texts) {
      std::string_view rest = text;
      for (std::int64_t i = 0; i < start && rest.starts_with(content); ++i)
        rest.remove_prefix(content.size());
      for (std::int64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
      text = std::string(rest);
    }
  }
};

/// Spaces again, but none in the first text where one was put before it.
struct MetaspaceDecoder {
  explicit MetaspaceDecoder(const MetaspaceSettings& settings)
      : to_space{Pattern(settings.replacement), " "},
        to_nothing{Pattern(settings.replacement), settings.scheme == PrependScheme::never ? " " : ""} {}

  void operator()(Texts& texts, InvalidBytes) const {
    for (std::size_t i = 0; i < texts.size(); ++i) texts[i] = (i == 0 ? to_nothing : to_space)(texts[i]);
  }

  Replace to_space, to_nothing;
};

/// The field "decoder".
class Decoder {
 public:
  explicit Decoder(const JsonReader& document) {
    if (!document.optional("decoder")) return;
    steps_.emplace();
    bool bytes = false;  // whether there may be some that are not UTF-8
    for (const JsonReader& part : read_parts(document, "decoder", "decoders")) {
      steps_->push_back(read_step(part));
      const Step& step = steps_->back();
      const auto* const replace = std::get_if<ReplaceDecoder>(&step);
      if (bytes && replace != nullptr && replace->replace.pattern.is_regex())
        part.fail(
            "a regular expression after ByteLevel or ByteFallback; supported: before them, or a String");
      bytes = bytes || std::holds_alternative<ByteLevelDecoder>(step) ||
              std::holds_alternative<ByteFallbackDecoder>(step);
    }
  }

  /// The text that `texts`, the contents of tokens, stand for. ArgumentError if it becomes absurdly long.
  std::string operator()(Texts texts, InvalidBytes invalid) const {
    if (!steps_) return joined(texts, " ");
    const std::size_t before = bytes_of(texts);
    for (const Step& step : *steps_) {
      std::visit([&](const auto& apply) { apply(texts, invalid); }, step);
      check_growth(before, bytes_of(texts), "the decoder");
    }
    return joined(texts, "");
  }

 private:
  using Step = std::variant<ByteLevelDecoder, ByteFallbackDecoder, FuseDecoder, ReplaceDecoder, StripDecoder,
                            MetaspaceDecoder>;

  static std::size_t bytes_of(const Texts& texts) {
    std::size_t out = 0;
    for (const std::string& text : texts) out += text.size();
    return out;
  }

  static Step read_step(const JsonReader& reader) {
    const std::string& type = reader.at("type").string();
    if (type == "Replace") return ReplaceDecoder{read_replace(reader)};
    if (type == "Strip") return read_strip(reader);
    if (type == "Metaspace") return MetaspaceDecoder(read_metaspace(reader));
    if (type == "ByteLevel") {
      reader.reject_unknown({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      return ByteLevelDecoder{};
    }
    if (type != "ByteFallback" && type != "Fuse")
      fail_supported(reader.at("type"), "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip");
    reader.reject_unknown({"type"});
    return type == "Fuse" ? Step(FuseDecoder{}) : Step(ByteFallbackDecoder{});
  }

  static StripDecoder read_strip(const JsonReader& reader) {
    reader.reject_unknown({"type", "content", "start", "stop"});
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    return {read_character(reader.at("content")), reader.at("start").integer(0, most),
            reader.at("stop").integer(0, most)};
  }

  std::optional<std::vector<Step>> steps_;
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_DECODER_HPP
