// SafetensorsFile, and tensors read from it.

#include "recurformer/checkpoint/safetensors.hpp"

#include <string_view>

#include "recurformer/checkpoint/tensor_io.hpp"
#include "target.hpp"

namespace {

void read_safetensors(std::string_view bytes) {
  const rf::SafetensorsFile file(rf::test::scratch_file("f.safetensors", bytes));
  for (const rf::TensorEntry& tensor : file.tensors()) {
    if (&file.tensor(tensor.name) != &tensor) rf::test::report_finding("a tensor is not found by its name");
    rf::test::expect_success_or_error([&] { rf::read_tensor<float, rf::Dims<1>>(file, tensor.name); });
    rf::test::expect_success_or_error([&] { rf::read_tensor<bool, rf::Dims<2>>(file, tensor.name); });
  }
}

const rf::test::RegisteredTarget safetensors_target{
    {"safetensors", rf::test::json_memory, 1 << 14, read_safetensors}};

}  // namespace
