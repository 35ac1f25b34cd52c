#ifndef RECURFORMER_TOKENIZER_METASPACE_HPP
#define RECURFORMER_TOKENIZER_METASPACE_HPP

// SentencePiece's spaces: every space is written as one visible character, most often U+2581, and one is put
// before a text. Pre-tokenizers and decoders share the settings.

#include <string>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/tokenizer/part_reader.hpp"

namespace rf::detail {

/// Which pieces of a text get a space before them.
enum class PrependScheme { always, first, never };

struct MetaspaceSettings {
  std::string replacement;  ///< one character
  PrependScheme scheme;
  bool split;  ///< before every replaced space
};

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

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_METASPACE_HPP
