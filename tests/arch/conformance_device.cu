// A GPU does what the simulator does: every case of the conformance suite. The simulator's outputs come from
// conformance.cpp, which nvcc does not see.
#include <doctest/doctest.h>

#include "arch/conformance.hpp"
#include "arch/conformance_hopper.hpp"
#include "recurformer/cuda/device.cuh"
#include "support/test_device.hpp"

namespace conformance {
std::vector<std::vector<std::uint32_t>> simulated_outputs(bool hopper);
}

namespace {

template <class Cases>
void check_cases(rf::Cuda& device, const std::vector<conformance::Words>& simulated) {
  conformance::for_each_case(Cases{}, [&]<class Case>(int index) {
    CAPTURE(index);
    CAPTURE(Case::name);
    const conformance::Words got = conformance::outputs<Case>(device);
    CHECK(conformance::distance<Case>(simulated[static_cast<std::size_t>(index)], got) <= 1);
  });
}

}  // namespace

TEST_CASE("conformance: this GPU does what the simulator does") {
  rf::Cuda device;
  check_cases<conformance::Cases>(device, conformance::simulated_outputs(false));
}

TEST_CASE("conformance: this Hopper GPU does what the simulator does") {
  if (rf::test::lacks_hopper()) return;
  rf::Cuda device;
  check_cases<conformance::HopperCases>(device, conformance::simulated_outputs(true));
}
