// The simulator does what the manual says: every case of the conformance suite, under many schedules.
#include "arch/conformance.hpp"

#include <doctest/doctest.h>

#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/simulated.hpp"

namespace conformance {
std::vector<Words> simulated_outputs();
}

namespace {

template <class Case>
conformance::Words outputs(const rf::arch::SimulatorOptions& options) {
  rf::Simulated device(options);
  const conformance::Words in = conformance::inputs<Case>(), zeros(Case::out_words);
  rf::cuda::DeviceArray<conformance::Word, rf::Simulated> from(device, in), to(device, zeros);
  device.launch<Case>(
      {.blocks = {Case::blocks}, .shared_bytes = Case::shared_bytes, .cooperative = Case::blocks > 1},
      {from.data(), to.data()});
  return to.to_host();
}

}  // namespace

/// What the simulator makes of every case, for the comparison with a GPU (conformance_device.cu).
std::vector<conformance::Words> conformance::simulated_outputs() {
  std::vector<Words> out;
  for_each_case(Cases{}, [&]<class Case>(int) { out.push_back(outputs<Case>({})); });
  return out;
}

TEST_CASE("conformance: the simulator does what the manual says") {
  conformance::for_each_case(conformance::Cases{}, []<class Case>(int index) {
    CAPTURE(index);
    CAPTURE(Case::name);
    conformance::Words expected(Case::out_words);
    Case::expect(conformance::inputs<Case>(), expected);
    using rf::arch::CopyTiming;
    for (unsigned seed = 0; seed < 5; ++seed)
      for (const CopyTiming copies : {CopyTiming::early, CopyTiming::late, CopyTiming::random}) {
        CAPTURE(seed);
        CHECK(conformance::distance<Case>(expected, outputs<Case>({.seed = seed, .copies = copies})) <= 1);
      }
  });
}
