#ifndef RECURFORMER_CHECKPOINT_TOKENIZER_FILES_HPP
#define RECURFORMER_CHECKPOINT_TOKENIZER_FILES_HPP

// What lies beside a model's weights and config.json and belongs to its tokens: the tokenizer's files, which
// go where the model goes, and the tokens that end a text.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/mapped_file.hpp"

namespace rf {

/// The files of a model's folder that say how its tokens are text and how it generates.
inline constexpr std::array<std::string_view, 4> tokenizer_files = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"};

namespace detail {

/// The path of a folder's file if it exists.
inline std::optional<std::string> existing_file(const std::string& folder, std::string_view name) {
  const std::filesystem::path path = std::filesystem::path(folder) / name;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return path.string();
}

/// "eos_token_id" of a file: a token, several, or null.
inline std::vector<std::int32_t> read_end_tokens_of(const std::string& path) {
  const nlohmann::json document = parse_json_file(path);
  std::vector<std::int32_t> out;
  const auto field = JsonReader(path, document).optional("eos_token_id");
  if (!field) return out;
  const auto add = [&](const JsonReader& token) {
    out.push_back(static_cast<std::int32_t>(token.integer(0, std::numeric_limits<std::int32_t>::max())));
  };
  if (!field->value().is_array()) {
    add(*field);
    return out;
  }
  constexpr std::size_t most = 1024;  // every generated token is compared with all of them
  const JsonArray tokens = field->array();
  if (tokens.size() > most) field->fail("names ", tokens.size(), " tokens; allowed: at most ", most);
  for (const JsonReader& token : tokens) add(token);
  return out;
}

}  // namespace detail

/// The path of a folder's tokenizer.json, if there is one.
inline std::optional<std::string> find_tokenizer(const std::string& folder) {
  return detail::existing_file(folder, tokenizer_files[0]);
}

/// Copies those of tokenizer_files that are there from one model's folder to another's, which exists.
inline void copy_tokenizer_files(const std::string& from, const std::string& to) {
  for (const std::string_view name : tokenizer_files)
    if (const auto path = detail::existing_file(from, name))
      write_file_atomically((std::filesystem::path(to) / name).string(), MappedFile(*path).bytes());
}

/// The tokens that end a text: "eos_token_id" of a folder's config.json, whose first ends documents in
/// training text, and of its generation_config.json. Each once; none if neither names one.
inline std::vector<std::int32_t> read_end_tokens(const std::string& folder) {
  std::vector<std::int32_t> out;
  for (const std::string_view name : {"config.json", "generation_config.json"})
    if (const auto path = detail::existing_file(folder, name))
      for (const std::int32_t token : detail::read_end_tokens_of(*path))
        if (std::find(out.begin(), out.end(), token) == out.end()) out.push_back(token);
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_TOKENIZER_FILES_HPP
