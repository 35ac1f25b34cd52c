#ifndef EXAMPLES_RECURFORMER_TEXT_CODEC_HPP
#define EXAMPLES_RECURFORMER_TEXT_CODEC_HPP

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/checkpoint/hf_config.hpp"
#include "recurformer/eval/evaluate.hpp"
#include "recurformer/train/text_files.hpp"

namespace rf {
class Tokenizer;
}

namespace cli {

/// How a model's tokens stand for text: as bytes where config.json says "vocabulary": "bytes", by the
/// folder's tokenizer.json where there is one; otherwise nobody knows, and only files of tokens can be used.
class TextCodec {
 public:
  /// That of a model folder with this config.
  TextCodec(const std::string& folder, const rf::ModelConfig& config);
  /// That of bytes.
  TextCodec() = default;

  bool is_bytes() const { return kind_ == Kind::bytes; }
  /// False if only files of tokens can be used.
  bool knows_text() const { return kind_ != Kind::unknown; }
  /// How documents become tokens, the first of end_tokens() after each. Refers to this codec.
  rf::DocumentEncoder encoder() const;
  /// A text to go on from, with the tokens that the tokenizer begins texts with if it is the start of one.
  /// FileError if knows_text() is false.
  std::vector<rf::Token> encode_prompt(std::string_view text, bool is_start) const;
  /// The text of tokens, without special ones and those that the tokenizer does not name, all bytes as they
  /// are, whole characters or not. knows_text() is true.
  std::string bytes(std::span<const rf::Token> tokens) const;
  /// The tokens that end a text; none with bytes.
  const std::vector<rf::Token>& end_tokens() const { return end_tokens_; }

 private:
  enum class Kind { bytes, tokenizer, unknown };

  /// Those that the tokenizer names: a model's vocabulary is often padded.
  std::vector<rf::Token> named(std::span<const rf::Token> tokens) const;

  Kind kind_ = Kind::bytes;
  int vocabulary_ = rf::byte_vocabulary;
  std::string folder_;
  std::shared_ptr<const rf::Tokenizer> tokenizer_;
  std::vector<rf::Token> end_tokens_;
};

/// Bytes of the text that a score's tokens stand for; nothing if nobody knows.
std::optional<std::int64_t> predicted_bytes(const rf::TextScore& score, const rf::TokenText& text,
                                            const TextCodec& codec);

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_TEXT_CODEC_HPP
