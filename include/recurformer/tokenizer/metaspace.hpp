#ifndef RECURFORMER_TOKENIZER_METASPACE_HPP
#define RECURFORMER_TOKENIZER_METASPACE_HPP

// SentencePiece's spaces: every space is written as one visible character, most often U+2581, and one is put
// before a text. Pre-tokenizers and decoders share the settings.

#include <string>

namespace rf::detail {

/// Which pieces of a text get a space before them.
enum class PrependScheme { always, first, never };

struct MetaspaceSettings {
  std::string replacement;  ///< one character
  PrependScheme scheme;
  bool split;  ///< before every replaced space
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_METASPACE_HPP
