#ifndef EXAMPLES_RECURFORMER_DATA_OPTIONS_HPP
#define EXAMPLES_RECURFORMER_DATA_OPTIONS_HPP

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "common.hpp"
#include "text_codec.hpp"

namespace cli {

/// What a model is trained and measured on: rows of text, some of them fixed-lag copies.
struct DataOptions {
  std::string text = default_text(), text_field = "text";
  std::int64_t rows = 8, length = 256, copy_rows = 2, copy_lag = 64;

  /// Throws ArgumentError, naming the option, unless they go together.
  void validate() const {
    rf::check(copy_rows <= rows, "--copy-rows is ", copy_rows, ", more than the ", rows, " rows of a batch");
    rf::check(copy_lag < length, "--copy-lag is ", copy_lag, "; it must be smaller than --length, ", length);
  }

  /// The tokens of --text for a model with this codec, with progress where that takes long.
  rf::TokenText read(const TextCodec& codec) const {
    rf::check_file(std::filesystem::exists(text), text,
                   "no such file or folder; --text needs a file of text or tokens, or a folder of them");
    LateProgress progress("read bytes of text");
    return rf::TokenText(
        rf::read_tokens(text, codec.encoder(), {.text_field = text_field, .progress = std::ref(progress)}));
  }

  rf::MixedData mixed(const rf::TokenText& tokens, std::uint64_t seed) const {
    validate();
    return {.text = &tokens,
            .rows = rows,
            .length = length,
            .copy_rows = copy_rows,
            .copy_lag = copy_lag,
            .seed = seed};
  }
};

/// Adds --text, --text-field, --rows, --length, --copy-rows and --copy-lag to a command.
inline void add_data_options(CLI::App& command, DataOptions& options) {
  command
      .add_option("--text", options.text, "Text, .jsonl with texts, .npy with tokens, or a folder of them")
      ->capture_default_str();
  command.add_option("--text-field", options.text_field, "Where the text is in the objects of .jsonl files")
      ->capture_default_str();
  command.add_option("--rows", options.rows, "Rows per batch")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--length", options.length, "Tokens per row")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--copy-rows", options.copy_rows, "How many rows of a batch are fixed-lag copies")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--copy-lag", options.copy_lag, "Lag of the copies")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_DATA_OPTIONS_HPP
