#ifndef RECURFORMER_TOKENIZER_PRE_TOKENIZER_HPP
#define RECURFORMER_TOKENIZER_PRE_TOKENIZER_HPP

// How a normalized text is cut into pieces, within which tokens are merged.

#include <cstddef>
#include <iterator>
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
#include "recurformer/tokenizer/regex.hpp"
#include "recurformer/tokenizer/replace.hpp"
#include "recurformer/tokenizer/split.hpp"

namespace rf::detail {

struct Piece {
  std::string text;  ///< not empty
  bool first;        ///< the whole text starts with it
};

/// Appends what is left of `piece` when its parts are split.
inline void append_split(const Piece& piece, std::vector<TextPart> parts, SplitBehavior behavior,
                         std::vector<Piece>& out) {
  for (const TextPart& part : split_parts(std::move(parts), behavior))
    if (part.begin < part.end)
      out.push_back({std::string(part.of(piece.text)), piece.first && part.begin == 0});
}

/// Splits at the matches of a pattern, or, inverted, at what is between them.
struct Split {
  Pattern pattern;
  SplitBehavior behavior;
  bool invert;

  void operator()(const Piece& piece, std::vector<Piece>& out) const {
    std::vector<TextPart> parts = pattern.parts(piece.text);
    if (invert)
      for (TextPart& part : parts) part.match = !part.match;
    append_split(piece, std::move(parts), behavior, out);
  }
};

/// Splits as GPT-2 does, if it has a pattern, and writes every byte as a character.
struct ByteLevel {
  bool add_prefix_space;
  std::optional<Pattern> pattern;

  void operator()(Piece piece, std::vector<Piece>& out) const {
    if (add_prefix_space && !piece.text.starts_with(' ')) piece.text.insert(0, 1, ' ');
    const std::size_t first = out.size();
    if (pattern) {
      append_split(piece, pattern->parts(piece.text), SplitBehavior::isolated, out);
    } else {
      out.push_back(std::move(piece));
    }
    for (std::size_t i = first; i < out.size(); ++i) out[i].text = to_byte_level(out[i].text);
  }
};

struct Metaspace {
  explicit Metaspace(const MetaspaceSettings& of)
      : settings(of), spaces{Pattern(std::string(" ")), of.replacement}, replacement(of.replacement) {}

  void operator()(Piece piece, std::vector<Piece>& out) const {
    piece.text = spaces(piece.text);
    const bool prepends =
        settings.scheme == PrependScheme::always || (settings.scheme == PrependScheme::first && piece.first);
    if (prepends && !piece.text.starts_with(settings.replacement)) piece.text.insert(0, settings.replacement);
    if (settings.split) {
      append_split(piece, replacement.parts(piece.text), SplitBehavior::merged_with_next, out);
    } else {
      out.push_back(std::move(piece));
    }
  }

  MetaspaceSettings settings;
  Replace spaces;
  Pattern replacement;
};

/// The field "pre_tokenizer".
class PreTokenizer {
 public:
  explicit PreTokenizer(const JsonReader& document) {
    for (const JsonReader& part : read_parts(document, "pre_tokenizer", "pretokenizers")) add_step(part);
  }

  /// Appends the pieces of `piece` to `out`.
  void operator()(Piece piece, std::vector<Piece>& out) const {
    std::vector<Piece> pieces;
    pieces.push_back(std::move(piece));
    for (const Step& step : steps_) {
      std::vector<Piece> next;
      for (Piece& one : pieces) std::visit([&](const auto& apply) { apply(std::move(one), next); }, step);
      pieces = std::move(next);
    }
    out.insert(out.end(), std::make_move_iterator(pieces.begin()), std::make_move_iterator(pieces.end()));
  }

 private:
  using Step = std::variant<Split, ByteLevel, Metaspace>;

  void add_step(const JsonReader& reader) {
    Step step = read_step(reader);
    // Both make texts longer, and mean nothing twice.
    for (const Step& earlier : steps_)
      if (earlier.index() == step.index() && !std::holds_alternative<Split>(step))
        reader.fail("a second ", reader.at("type").string(), "; supported: one");
    steps_.push_back(std::move(step));
  }

  static Step read_step(const JsonReader& reader) {
    const std::string& type = reader.at("type").string();
    if (type == "Split") return read_split(reader);
    if (type == "ByteLevel") return read_byte_level(reader);
    if (type == "Metaspace") return Metaspace(read_metaspace(reader));
    if (type == "Digits") return read_digits(reader);
    fail_supported(reader.at("type"), "ByteLevel, Digits, Metaspace, Sequence, Split");
  }

  static Split read_split(const JsonReader& reader) {
    reader.reject_unknown({"type", "pattern", "behavior", "invert"});
    return {read_pattern(reader.at("pattern")), read_behavior(reader.at("behavior")),
            read_flag(reader, "invert", false)};
  }
  static SplitBehavior read_behavior(const JsonReader& reader) {
    const std::string& name = reader.string();
    if (name == "Removed") return SplitBehavior::removed;
    if (name == "Isolated") return SplitBehavior::isolated;
    if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
    if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
    if (name == "Contiguous") return SplitBehavior::contiguous;
    fail_supported(reader, "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
  }

  static ByteLevel read_byte_level(const JsonReader& reader) {
    reader.reject_unknown({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    ByteLevel out{reader.at("add_prefix_space").boolean(), std::nullopt};
    if (read_flag(reader, "use_regex", true)) out.pattern.emplace(Regex(byte_level_pattern));
    return out;
  }

  static Split read_digits(const JsonReader& reader) {
    reader.reject_unknown({"type", "individual_digits"});
    const bool individual = reader.at("individual_digits").boolean();
    return {Pattern(Regex(R"(\p{N})")), individual ? SplitBehavior::isolated : SplitBehavior::contiguous,
            false};
  }

  std::vector<Step> steps_;
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_PRE_TOKENIZER_HPP
