#include "text_codec.hpp"

#include <algorithm>

#include "recurformer/checkpoint/tokenizer_files.hpp"
#include "recurformer/tokenizer/tokenizer.hpp"

namespace cli {

TextCodec::TextCodec(const std::string& folder, const rf::ModelConfig& config)
    : kind_(config.byte_vocabulary ? Kind::bytes : Kind::unknown),
      vocabulary_(config.shape.vocabulary),
      folder_(folder) {
  if (is_bytes()) return;
  for (const std::int32_t token : rf::read_end_tokens(folder)) {
    rf::check_file(token < vocabulary_, folder, "eos_token_id ", token,
                   " is outside the model's vocabulary of ", vocabulary_);
    end_tokens_.push_back(token);
  }
  const auto path = rf::find_tokenizer(folder);
  if (!path) return;
  kind_ = Kind::tokenizer;
  tokenizer_ = std::make_shared<const rf::Tokenizer>(rf::Tokenizer::load(*path));
}

rf::DocumentEncoder TextCodec::encoder() const {
  if (is_bytes()) return rf::byte_encoder(vocabulary_);
  rf::DocumentEncoder out{.vocabulary = vocabulary_, .append = {}};
  if (!end_tokens_.empty()) out.end_of_text = end_tokens_.front();
  if (tokenizer_)
    out.append = [this](std::string_view document, rf::PackedTokens& tokens) {
      tokens.append(tokenizer_->encode(document));
    };
  return out;
}

std::vector<rf::Token> TextCodec::encode_prompt(std::string_view text, bool is_start) const {
  rf::check_file(knows_text(), folder_,
                 "says neither with a tokenizer.json nor with \"vocabulary\": \"bytes\" in config.json what "
                 "the model's tokens are; put its tokenizer.json there");
  if (tokenizer_) return is_start ? tokenizer_->encode_with_specials(text) : tokenizer_->encode(text);
  std::vector<rf::Token> out;
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

std::string TextCodec::bytes(std::span<const rf::Token> tokens) const {
  if (tokenizer_) return tokenizer_->decode_bytes(named(tokens));
  std::string out;
  for (const rf::Token token : tokens)
    if (token < rf::byte_vocabulary) out += static_cast<char>(token);
  return out;
}

std::vector<rf::Token> TextCodec::named(std::span<const rf::Token> tokens) const {
  std::vector<rf::Token> out;
  for (const rf::Token token : tokens)
    if (tokenizer_->contains(token)) out.push_back(token);
  return out;
}

std::optional<std::int64_t> predicted_bytes(const rf::TextScore& score, const rf::TokenText& text,
                                            const TextCodec& codec) {
  if (codec.is_bytes()) return score.tokens;
  if (!codec.knows_text()) return std::nullopt;
  constexpr std::int64_t block = 1 << 16;  // tokens decoded at a time
  std::int64_t bytes = 0;
  for (std::int64_t first = 0; first < score.tokens; first += block) {
    const std::int64_t count = std::min(block, score.tokens - first);
    const std::vector<rf::Token> tokens =
        text.held_out().copy(static_cast<std::size_t>(1 + first), static_cast<std::size_t>(count));
    bytes += static_cast<std::int64_t>(codec.bytes(tokens).size());
  }
  return bytes;
}

}  // namespace cli
