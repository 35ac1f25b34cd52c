// ModelTensors of a folder with two files of weights: the bytes are their index.

#include <filesystem>
#include <string>
#include <string_view>

#include "recurformer/checkpoint/model_tensors.hpp"
#include "recurformer/checkpoint/tensor_io.hpp"
#include "target.hpp"

namespace {

/// Writes two tensors, named after the file and a number, to "<name>.safetensors".
void write_shard(const std::string& name) {
  rf::SafetensorsWriter writer;
  const float values[] = {1, 2, 3};
  for (const std::string& tensor : {name + ".0", name + ".1"}) writer.add(tensor, {3}, values);
  const std::string path = rf::test::scratch_file(name + ".safetensors", "");
  writer.write(path);
}

void read_index(std::string_view bytes) {
  [[maybe_unused]] static const bool written = (write_shard("a"), write_shard("b"), true);
  const std::string path = rf::test::scratch_file("model.safetensors.index.json", bytes);
  const rf::ModelTensors tensors(std::filesystem::path(path).parent_path().string());
  for (const std::string& name : tensors.names())
    if (tensors.find(name) == nullptr) rf::test::report_finding("a tensor is not found by its name");
}

const rf::test::RegisteredTarget index_target{{"index", rf::test::json_memory, 1 << 15, read_index}};

}  // namespace
