// A GPU does what the simulator does: every case of the conformance suite. The simulator's outputs come from
// conformance.cpp, which nvcc does not see.
#include <doctest/doctest.h>

#include "arch/conformance.hpp"
#include "recurformer/cuda/device.cuh"
#include "recurformer/cuda/device_array.hpp"

namespace conformance {
std::vector<Words> simulated_outputs();
}

TEST_CASE("conformance: this GPU does what the simulator does") {
  rf::Cuda device;
  const std::vector<conformance::Words> simulated = conformance::simulated_outputs();
  conformance::for_each_case(conformance::Cases{}, [&]<class Case>(int index) {
    CAPTURE(index);
    CAPTURE(Case::name);
    const conformance::Words in = conformance::inputs<Case>(), zeros(Case::out_words);
    rf::cuda::DeviceArray<conformance::Word, rf::Cuda> from(device, in), to(device, zeros);
    device.launch<Case>(
        {.blocks = {Case::blocks}, .shared_bytes = Case::shared_bytes, .cooperative = Case::blocks > 1},
        {from.data(), to.data()});
    CHECK(conformance::distance<Case>(simulated[static_cast<std::size_t>(index)], to.to_host()) <= 1);
  });
}
