#ifndef RECURFORMER_TOKENIZER_POST_PROCESSOR_HPP
#define RECURFORMER_TOKENIZER_POST_PROCESSOR_HPP

// Special tokens around a text, as Llama's beginning of sequence.

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/tokenizer/part_reader.hpp"
#include "recurformer/tokenizer/vocabulary.hpp"

namespace rf::detail {

/// The field "post_processor": ByteLevel, which changes no tokens, and TemplateProcessing, of which the
/// template for a single text counts.
class PostProcessor {
 public:
  explicit PostProcessor(const JsonReader& document) {
    bool has_template = false;
    for (const JsonReader& part : read_parts(document, "post_processor", "processors")) {
      const std::string& type = part.at("type").string();
      if (type == "ByteLevel") continue;
      if (type != "TemplateProcessing")
        fail_supported(part.at("type"), "ByteLevel, Sequence, TemplateProcessing");
      if (std::exchange(has_template, true)) part.fail("a second TemplateProcessing; supported: one");
      read_template(part);
    }
  }

  const std::vector<Token>& before() const { return before_; }
  const std::vector<Token>& behind() const { return behind_; }

 private:
  /// A template that names a long list of ids again and again would be many times as long as its file.
  static constexpr std::size_t most_tokens = 1024;

  void read_template(const JsonReader& reader) {
    reader.reject_unknown({"type", "single", "pair", "special_tokens"});
    const JsonReader single = reader.at("single"), special = reader.at("special_tokens");
    bool text_seen = false;
    for (const JsonReader& piece : single.array()) {
      piece.reject_unknown({"Sequence", "SpecialToken"});
      if (const auto sequence = piece.optional("Sequence")) {
        if (sequence->at("id").string() != "A") fail_supported(sequence->at("id"), "\"A\"");
        if (std::exchange(text_seen, true)) piece.fail("the text for a second time; supported: once");
      } else {
        const JsonReader ids = special.at(piece.at("SpecialToken").at("id").string()).at("ids");
        for (const JsonReader& id : ids.array()) (text_seen ? behind_ : before_).push_back(read_token(id));
        if (before_.size() + behind_.size() > most_tokens)
          single.fail("puts more than ", most_tokens, " tokens around a text");
      }
    }
    if (!text_seen) single.fail("has no place for the text, a Sequence");
  }

  std::vector<Token> before_, behind_;
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_POST_PROCESSOR_HPP
