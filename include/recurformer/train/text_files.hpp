#ifndef RECURFORMER_TRAIN_TEXT_FILES_HPP
#define RECURFORMER_TRAIN_TEXT_FILES_HPP

// Files of text, and of tokens, as one stream of tokens (eval/token_text.hpp):
//
//   *.jsonl   a document per line: an object, in which one field is the text
//   *.npy     tokens already: uint8, uint16, uint32, int32 or int64 in one dimension, taken as they are
//   others    a document per file; a file with zero bytes in it is not text, and is passed over
//
// A folder is all files in it and its subfolders, in the order of their paths. One document is in memory at a
// time, beside the tokens.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/mapped_file.hpp"
#include "recurformer/checkpoint/npy.hpp"
#include "recurformer/eval/token_text.hpp"

namespace rf {

/// How a document becomes tokens of a model.
struct DocumentEncoder {
  int vocabulary = byte_vocabulary;
  /// Appends a document's tokens; empty if nobody knows how, and only files of tokens can be read.
  std::function<void(std::string_view document, PackedTokens& tokens)> append;
  std::optional<Token> end_of_text = {};  ///< appended after every document
};

/// The encoder of models whose tokens are bytes.
inline DocumentEncoder byte_encoder(int vocabulary = byte_vocabulary) {
  return {.vocabulary = vocabulary,
          .append = [](std::string_view document, PackedTokens& tokens) { tokens.append_bytes(document); }};
}

struct TextFileOptions {
  std::string text_field = "text";  ///< of the objects in .jsonl files
  /// Called after every document with the bytes of files that are read and those of all.
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};
};

namespace detail {

/// The files that a path names, sorted.
inline std::vector<std::string> files_below(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) return {path};
  std::vector<std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

/// Calls append(std::int64_t token) for every element.
template <class T, class Append>
void for_each_integer(std::span<const std::byte> bytes, Append&& append) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    append(static_cast<std::int64_t>(value));
  }
}

/// Appends a file of tokens. FileError naming the first that the vocabulary does not have.
inline void append_npy_tokens(const std::string& path, PackedTokens& tokens) {
  const NpyFile file(path);
  check_file(file.shape().size() == 1, path, "has shape ", shape_text(file.shape()),
             "; expected one dimension of tokens");
  std::int64_t position = 0;
  const auto append = [&](std::int64_t token) {
    check_file(token >= 0 && token < tokens.vocabulary(), path, "token ", token, " at position ", position,
               " is outside the model's vocabulary; expected 0 to ", tokens.vocabulary() - 1);
    tokens.append(static_cast<Token>(token));
    ++position;
  };
  switch (file.dtype()) {
    case DType::U8:
      return for_each_integer<std::uint8_t>(file.bytes(), append);
    case DType::U16:
      return for_each_integer<std::uint16_t>(file.bytes(), append);
    case DType::U32:
      return for_each_integer<std::uint32_t>(file.bytes(), append);
    case DType::I32:
      return for_each_integer<std::int32_t>(file.bytes(), append);
    case DType::I64:
      return for_each_integer<std::int64_t>(file.bytes(), append);
    default:
      throw FileError(
          text(path, ": has dtype ", name_of(file.dtype()), "; expected tokens as U8, U16, U32, I32 or I64"));
  }
}

/// Reads file after file into one stream.
class TextFilesReader {
 public:
  TextFilesReader(const DocumentEncoder& encoder, const TextFileOptions& options)
      : encoder_(encoder), options_(options), tokens_(encoder.vocabulary) {}

  PackedTokens read(const std::string& path) {
    const std::vector<std::string> files = files_below(path);
    for (const std::string& file : files) total_ += file_size(file);
    for (const std::string& file : files) {
      read_file(file);
      done_before_ += file_size(file);
      report(done_before_);
    }
    check_file(tokens_.size() > 0, path, "contains no text");
    return std::move(tokens_);
  }

 private:
  /// 0 for a pipe.
  static std::int64_t file_size(const std::string& path) {
    std::error_code code;
    const auto size = std::filesystem::file_size(path, code);
    return code ? 0 : static_cast<std::int64_t>(size);
  }

  void read_file(const std::string& path) {
    if (path.ends_with(".npy")) return append_npy_tokens(path, tokens_);
    if (path.ends_with(".jsonl")) return read_lines(path);
    const std::string content = read_text_file(path);
    if (content.find('\0') == std::string::npos) append(path, content);
  }

  void read_lines(const std::string& path) {
    const MappedFile file(path);
    const std::string_view all(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    std::size_t line = 1;
    for (std::size_t first = 0; first < all.size(); ++line) {
      const std::size_t end = std::min(all.find('\n', first), all.size());
      const std::string_view object = all.substr(first, end - first);
      first = end + 1;
      if (object.find_first_not_of(" \t\r") == object.npos) continue;
      const std::string where = text(path, ": document in line ", line);
      const nlohmann::json document = parse_json(object, where);
      append(path, JsonReader(where, document).at(options_.text_field).string());
      report(done_before_ + static_cast<std::int64_t>(end));
    }
  }

  void append(const std::string& path, std::string_view document) {
    check_file(static_cast<bool>(encoder_.append), path,
               "is text, but the model's folder says neither with a tokenizer.json nor with \"vocabulary\": "
               "\"bytes\" in config.json what its tokens are; put its tokenizer.json there, or use .npy "
               "files of tokens");
    encoder_.append(document, tokens_);
    if (encoder_.end_of_text) tokens_.append(*encoder_.end_of_text);
  }

  void report(std::int64_t done) const {
    if (options_.progress) options_.progress(done, total_);
  }

  const DocumentEncoder& encoder_;
  const TextFileOptions& options_;
  PackedTokens tokens_;
  std::int64_t total_ = 0, done_before_ = 0;  // bytes of all files, and of those that are read
};

}  // namespace detail

/// The tokens of a file or folder. FileError naming the file if it cannot be read, if a line of a .jsonl file
/// is no object with that field, if a .npy file has tokens that the vocabulary lacks, and if there is text
/// that cannot be encoded or nothing at all.
inline PackedTokens read_tokens(const std::string& path, const DocumentEncoder& encoder,
                                const TextFileOptions& options = {}) {
  return detail::TextFilesReader(encoder, options).read(path);
}

}  // namespace rf

#endif  // RECURFORMER_TRAIN_TEXT_FILES_HPP
