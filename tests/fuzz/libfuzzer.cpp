// Runs the one target of this program under libFuzzer, which brings the main function.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  rf::test::run(rf::test::targets().at(0), {reinterpret_cast<const char*>(data), size});
  return 0;
}
