// load_npy.

#include "recurformer/checkpoint/npy.hpp"

#include <string>
#include <string_view>

#include "recurformer/checkpoint/tensor_io.hpp"
#include "target.hpp"

namespace {

void load_npy(std::string_view bytes) {
  const std::string path = rf::test::scratch_file("f.npy", bytes);
  const rf::NpyArray array = rf::load_npy(path);
  if (rf::detail::tensor_bytes(array.dtype, array.shape) != array.bytes.size())
    rf::test::report_finding("an array's bytes do not have its shape");
  rf::test::expect_success_or_error([&] { rf::load_npy<float, rf::Dims<2>>(path); });
}

const rf::test::RegisteredTarget npy_target{{"npy", 4, 1 << 14, load_npy}};

}  // namespace
