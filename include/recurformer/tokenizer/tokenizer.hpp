#ifndef RECURFORMER_TOKENIZER_TOKENIZER_HPP
#define RECURFORMER_TOKENIZER_TOKENIZER_HPP

// Text to tokens and back, as the tokenizer.json of a checkpoint says, with the results of the Hugging Face
// library "tokenizers":
//
//   const rf::Tokenizer tokenizer = rf::Tokenizer::load("llama/tokenizer.json");
//   std::vector<rf::Token> prompt = tokenizer.encode_with_specials("Once upon a time");
//   std::string text = tokenizer.decode(prompt);
//
// A text is cut at added tokens (added_tokens.hpp), what is between them is normalized (normalizer.hpp) and
// cut into pieces (pre_tokenizer.hpp), and each of these becomes tokens by byte pair encoding (bpe.hpp).
// Decoding joins the tokens' contents (decoder.hpp). What the files of GPT-2, Llama 2 and 3, Mistral and Qwen
// 2, 2.5 and 3 use is there; a file that asks for something else is refused by name of the field. Chat
// templates are not read.
//
// Letters, numbers and normal forms are those of the installed PCRE2 and utf8proc: a character that was added
// to Unicode after them may be cut differently.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/tokenizer/added_tokens.hpp"
#include "recurformer/tokenizer/bpe.hpp"
#include "recurformer/tokenizer/decoder.hpp"
#include "recurformer/tokenizer/normalizer.hpp"
#include "recurformer/tokenizer/part_reader.hpp"
#include "recurformer/tokenizer/post_processor.hpp"
#include "recurformer/tokenizer/pre_tokenizer.hpp"
#include "recurformer/tokenizer/utf8.hpp"

namespace rf {

namespace detail {

/// A whole tokenizer.json.
struct TokenizerParts {
  explicit TokenizerParts(const JsonReader& document)
      : normalizer(document),
        pre_tokenizer(document),
        bpe(document.at("model")),
        added(document, bpe.vocabulary(), normalizer),
        post_processor(document),
        decoder(document) {
    document.reject_unknown({"version", "truncation", "padding", "added_tokens", "normalizer",
                             "pre_tokenizer", "post_processor", "decoder", "model"});
    if (const auto version = document.optional("version"); version && version->string() != "1.0")
      fail_supported(*version, "\"1.0\"");
    for (const std::string_view field : {"truncation", "padding"})
      if (const auto found = document.optional(field)) fail_supported(*found, "null");
    for (const auto* const tokens : {&post_processor.before(), &post_processor.behind()})
      for (const Token token : *tokens)
        if (!content(token))
          document.at("post_processor").fail("the id ", token, " is not in the vocabulary");
  }

  /// Nothing if there is no such token.
  std::optional<std::string_view> content(Token token) const {
    const AddedToken* const found = added.find(token);
    return found != nullptr ? std::optional<std::string_view>(found->content)
                            : bpe.vocabulary().content(token);
  }

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  AddedTokens added;
  PostProcessor post_processor;
  Decoder decoder;
};

}  // namespace detail

/// A tokenizer. Copies share what was read; all functions may be called by many threads at once.
class Tokenizer {
 public:
  /// Reads a tokenizer.json. FileError that names file, field, what was found and what is supported.
  static Tokenizer load(const std::string& path) { return parse(read_text_file(path), path); }
  /// The same for the text of such a file; `name` is for messages.
  static Tokenizer parse(std::string_view json, const std::string& name) {
    const nlohmann::json document = parse_json(json, name);
    return Tokenizer(std::make_shared<const detail::TokenizerParts>(JsonReader(name, document)));
  }

  /// The tokens of `text`, nothing added around it; special tokens that are written in it are found. What is
  /// not UTF-8 counts as U+FFFD, one for each maximal part of a character (Python's errors="replace").
  /// ArgumentError if the file's regular expressions or replacements get out of hand on this text, which
  /// published ones do not.
  std::vector<Token> encode(std::string_view text) const {
    const std::string valid = detail::replace_invalid_utf8(text);
    std::vector<Token> out;
    for (const detail::Segment& segment : parts_->added.cut_text(valid)) {
      if (segment.token != nullptr) {
        out.push_back(segment.token->token);
      } else {
        append_text(valid.substr(segment.begin, segment.end - segment.begin), segment.begin == 0, out);
      }
    }
    return out;
  }
  /// The same, with the special tokens that the file's post-processor puts around a text.
  std::vector<Token> encode_with_specials(std::string_view text) const {
    std::vector<Token> out = parts_->post_processor.before();
    const std::vector<Token> tokens = encode(text), &behind = parts_->post_processor.behind();
    out.insert(out.end(), tokens.begin(), tokens.end());
    out.insert(out.end(), behind.begin(), behind.end());
    return out;
  }

  /// The text of `tokens`, always UTF-8: bytes that are none become U+FFFD. Special tokens are left out
  /// unless `skip_special` is false. ArgumentError if one is not in the vocabulary.
  std::string decode(std::span<const Token> tokens, bool skip_special = true) const {
    return parts_->decoder(contents(tokens, skip_special), detail::InvalidBytes::replace);
  }
  /// The same, with all bytes as they are. For text that appears token by token: a character may be several
  /// tokens, and with the decoders of published files the bytes of some tokens are the first bytes of these
  /// and more tokens.
  std::string decode_bytes(std::span<const Token> tokens, bool skip_special = true) const {
    return parts_->decoder(contents(tokens, skip_special), detail::InvalidBytes::keep);
  }

  /// The highest id + 1, added tokens included. Ids below may be without a token.
  int vocabulary() const { return std::max(parts_->bpe.vocabulary().size(), parts_->added.size()); }
  /// The token with exactly this content, as it is written in the file.
  std::optional<Token> token(std::string_view content) const {
    const auto added = parts_->added.token(content);
    return added ? added : parts_->bpe.vocabulary().token(content);
  }
  /// Whether there is this token: models have room for more than their tokenizers name.
  bool contains(Token token) const { return parts_->content(token).has_value(); }
  /// A token's content, as it is written in the file. ArgumentError if there is no such token.
  std::string_view content(Token token) const {
    const auto found = parts_->content(token);
    check(found.has_value(), "the token ", token, " is not in the vocabulary, which has ids from 0 to ",
          vocabulary() - 1);
    return *found;
  }
  /// Whether decoding can leave the token out.
  bool is_special(Token token) const {
    const detail::AddedToken* const found = parts_->added.find(token);
    return found != nullptr && found->special;
  }

 private:
  explicit Tokenizer(std::shared_ptr<const detail::TokenizerParts> parts) : parts_(std::move(parts)) {}

  /// Tokens of a text without added tokens; `first` if nothing is before it.
  void append_text(std::string text, bool first, std::vector<Token>& out) const {
    const std::string normalized = parts_->normalizer(std::move(text));
    for (const detail::Segment& segment : parts_->added.cut_normalized(normalized)) {
      if (segment.token != nullptr) {
        out.push_back(segment.token->token);
        continue;
      }
      std::vector<detail::Piece> pieces;
      parts_->pre_tokenizer(
          {normalized.substr(segment.begin, segment.end - segment.begin), first && segment.begin == 0},
          pieces);
      for (const detail::Piece& piece : pieces) parts_->bpe.encode(piece.text, out);
    }
  }

  detail::Texts contents(std::span<const Token> tokens, bool skip_special) const {
    detail::Texts out;
    for (const Token token : tokens)
      if (const std::string_view found = content(token); !skip_special || !is_special(token))
        out.emplace_back(found);
    return out;
  }

  std::shared_ptr<const detail::TokenizerParts> parts_;
};

}  // namespace rf

#endif  // RECURFORMER_TOKENIZER_TOKENIZER_HPP
