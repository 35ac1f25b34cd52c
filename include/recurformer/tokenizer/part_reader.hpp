#ifndef RECURFORMER_TOKENIZER_PART_READER_HPP
#define RECURFORMER_TOKENIZER_PART_READER_HPP

// tokenizer.json is a list of parts (normalizer, pre_tokenizer, ...), each an object with a "type" or a
// "Sequence" of such objects. This is what reading them has in common.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/tokenizer/regex.hpp"

namespace rf::detail {

/// Parts that a Sequence may have, those of Sequences in it included; published files have at most six.
inline constexpr std::size_t longest_sequence = 32;

/// "tokenizer.json: model.dropout: found 0.1; supported: null"
[[noreturn]] inline void fail_supported(const JsonReader& field, std::string_view supported) {
  const std::string found = field.value().is_structured() ? text("an ", field.value().type_name())
                                                          : one_line(field.value().dump(), 100);
  field.fail("found ", found, "; supported: ", supported);
}

inline void append_parts(const JsonReader& part, std::string_view list, std::vector<JsonReader>& out) {
  if (part.at("type").string() != "Sequence") {
    if (out.size() == longest_sequence) part.fail("is one of more than ", longest_sequence, " parts");
    out.push_back(part);
    return;
  }
  part.reject_unknown({"type", list});
  for (const JsonReader& inner : part.at(list).array()) append_parts(inner, list, out);
}

/// The objects that `field` of `document` consists of, in their order: none if it is absent or null; for a
/// Sequence those in its field `list`, and in Sequences within it.
inline std::vector<JsonReader> read_parts(const JsonReader& document, std::string_view field,
                                          std::string_view list) {
  std::vector<JsonReader> out;
  if (const auto part = document.optional(field)) append_parts(*part, list, out);
  return out;
}

/// The field's boolean, or `otherwise` if it is absent or null.
inline bool read_flag(const JsonReader& reader, std::string_view field, bool otherwise) {
  const auto flag = reader.optional(field);
  return flag ? flag->boolean() : otherwise;
}

/// {"String": "…"} or {"Regex": "…"}
inline Pattern read_pattern(const JsonReader& reader) {
  reader.reject_unknown({"String", "Regex"});
  const auto literal = reader.optional("String");
  const auto regex = reader.optional("Regex");
  if (literal.has_value() == regex.has_value()) reader.fail("expected either String or Regex");
  try {
    return literal ? Pattern(literal->string()) : Pattern(Regex(regex->string()));
  } catch (const ArgumentError& error) {
    (literal ? literal : regex)->fail(error.what());
  }
}

/// A text of exactly one character.
inline std::string read_character(const JsonReader& reader) {
  const std::string& out = reader.string();
  if (out.empty() || first_utf8_sequence(out).bytes != out.size())
    reader.fail("expected one character, found ", printable(out));
  return out;
}

/// Refuses, with ArgumentError, to let `what` make `bytes` of a text out of `before`: a short file can ask
/// for doubling after doubling. Unicode's own normal forms make 11 times as many at most.
inline void check_growth(std::size_t before, std::size_t bytes, std::string_view what) {
  check(bytes <= 64 * before + 4096, what, " makes ", bytes, " bytes out of ", before,
        "; allowed: at most 64 times as many, and 4096");
}

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_PART_READER_HPP
