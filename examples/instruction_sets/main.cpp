// One program for every machine: a layer compiled for SSE4.2, for AVX2 and for AVX-512
// (examples/CMakeLists.txt: recurformer_add_instruction_sets), of which it takes the best that is there, or
// the one it is told to:
//
//   RECURFORMER_INSTRUCTION_SET=avx2 build/release/examples/instruction_sets
//
// This file is compiled for the oldest machine, and asks the machine before it calls anything else.

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "layer.hpp"
#include "recurformer/core/random.hpp"

int main() {
  try {
    const rf::InstructionSet best = rf::best_instruction_set();
    std::printf("%s\n", std::string(rf::name_of(best)).c_str());

    std::vector<float> x(64 * layer_width);
    rf::Random random(2);
    for (float& value : x) value = static_cast<float>(random.normal());
    rf::with_instruction_set(best, [&](auto set) { forward_layer<set>(x); });

    // The last token: the same numbers for every set, but for rounding.
    for (std::size_t i = x.size() - layer_width; i < x.size(); ++i)
      std::printf("%.5f\n", static_cast<double>(x[i]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
