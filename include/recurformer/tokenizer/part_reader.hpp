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
#include "recurformer/model/backend.hpp"
#include "recurformer/tokenizer/metaspace.hpp"
#include "recurformer/tokenizer/regex.hpp"
#include "recurformer/tokenizer/replace.hpp"
#include "recurformer/tokenizer/utf8.hpp"
#include "recurformer/tokenizer/vocabulary.hpp"

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

inline Replace read_replace(const JsonReader& reader) {
  reader.reject_unknown({"type", "pattern", "content"});
  return {read_pattern(reader.at("pattern")), reader.at("content").string()};
}

inline PrependScheme read_prepend_scheme(const JsonReader& reader) {
  const auto field = reader.optional("prepend_scheme");
  const std::string scheme = field ? field->string() : "always";
  if (scheme != "always" && scheme != "first" && scheme != "never")
    fail_supported(*field, "\"always\", \"first\", \"never\"");
  // The older way of saying it.
  if (!read_flag(reader, "add_prefix_space", true)) {
    if (field && scheme != "never") field->fail("contradicts add_prefix_space, which is false");
    return PrependScheme::never;
  }
  return scheme == "always"  ? PrependScheme::always
         : scheme == "first" ? PrependScheme::first
                             : PrependScheme::never;
}

inline MetaspaceSettings read_metaspace(const JsonReader& reader) {
  reader.reject_unknown({"type", "replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"});
  return {read_character(reader.at("replacement")), read_prepend_scheme(reader),
          read_flag(reader, "split", true)};
}

inline Token read_token(const JsonReader& reader) {
  return static_cast<Token>(reader.integer(0, largest_token));
}

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_PART_READER_HPP
