#ifndef RECURFORMER_CHECKPOINT_MODEL_TENSORS_HPP
#define RECURFORMER_CHECKPOINT_MODEL_TENSORS_HPP

// The tensors of a model's folder, as Hugging Face lays them out: in model.safetensors, or in several files
// that model.safetensors.index.json names:
//
//   {"metadata": {…}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors", …}}

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/safetensors.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"

namespace rf {

/// The open file or files of a model. Entries and their bytes are valid while it lives.
class ModelTensors {
 public:
  /// Maps and checks the files. FileError if there are none, if one is damaged, or if the index and the files
  /// disagree about who has which tensor.
  explicit ModelTensors(const std::string& folder) {
    const std::filesystem::path single = std::filesystem::path(folder) / "model.safetensors";
    path_ = single.string();
    std::error_code ignored;
    const std::string index = path_ + ".index.json";
    if (!std::filesystem::exists(single, ignored) && std::filesystem::exists(index, ignored)) {
      path_ = index;
      open_shards(folder);
    } else {
      files_.emplace(path_, path_);
    }
  }

  /// What messages call it: the one file, or the index of several.
  const std::string& path() const { return path_; }
  /// The folder they are in, where config.json says what they mean.
  std::string folder() const { return std::filesystem::path(path_).parent_path().string(); }
  /// Names of all tensors, file by file in the order of their data.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [path, file] : files_)
      for (const TensorEntry& tensor : file.tensors()) out.push_back(tensor.name);
    return out;
  }
  /// Bytes of all tensors.
  std::int64_t bytes() const {
    std::size_t total = 0;
    for (const auto& [path, file] : files_)
      for (const TensorEntry& tensor : file.tensors()) total += tensor.bytes.size();
    return static_cast<std::int64_t>(total);
  }
  /// The tensor, or null if there is none of that name.
  const TensorEntry* find(std::string_view name) const {
    for (const auto& [path, file] : files_)
      if (file.contains(name)) return &file.tensor(name);
    return nullptr;
  }
  /// The path of the file that has the tensor, which exists.
  const std::string& path_of(std::string_view name) const {
    for (const auto& [path, file] : files_)
      if (file.contains(name)) return path;
    return path_;
  }
  /// The elements of that tensor, which exists; they keep its file mapped, see MappedFile::share().
  std::shared_ptr<std::byte> share(std::string_view name) const {
    const SafetensorsFile& file = files_.at(path_of(name));
    return file.share(file.tensor(name));
  }
  /// What the one file says of itself; nothing for several.
  std::map<std::string, std::string> metadata() const {
    return files_.size() == 1 ? files_.begin()->second.metadata() : std::map<std::string, std::string>{};
  }

 private:
  void open_shards(const std::string& folder) {
    const nlohmann::json document = parse_json_file(path_);
    const JsonReader map = JsonReader(path_, document).at("weight_map");
    std::map<std::string, std::string> file_of;  // tensor -> path
    for (const std::string& tensor : map.object_keys()) {
      const JsonReader shard = map.at(tensor);
      const std::string& name = shard.string();
      const bool is_plain = std::filesystem::path(name).filename() == name &&
                            name.ends_with(".safetensors") &&
                            std::none_of(name.begin(), name.end(), detail::is_control_character);
      if (!is_plain)
        shard.fail("found ", detail::printable(name), "; expected the name of a .safetensors file beside it");
      file_of[tensor] = (std::filesystem::path(folder) / name).string();
    }
    check_file(!file_of.empty(), path_, "its weight_map names no tensors");
    for (const auto& [tensor, path] : file_of)
      if (!files_.contains(path)) files_.emplace(path, path);
    for (const auto& [tensor, path] : file_of)
      check_file(files_.at(path).contains(tensor), path, "lacks tensor ", detail::printable(tensor),
                 ", which ", path_, " says it has");
    for (const auto& [path, file] : files_)
      for (const TensorEntry& tensor : file.tensors()) {
        const auto named = file_of.find(tensor.name);
        check_file(named != file_of.end() && named->second == path, path, "has tensor ",
                   detail::printable(tensor.name), ", which ", path_, " does not say it has");
      }
  }

  std::string path_;
  std::map<std::string, SafetensorsFile> files_;  // by path
};

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_MODEL_TENSORS_HPP
