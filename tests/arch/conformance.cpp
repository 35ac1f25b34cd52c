// The simulator does what the manual says: every case of the conformance suite, under many schedules.
#include "arch/conformance.hpp"

#include <doctest/doctest.h>

#include "arch/conformance_hopper.hpp"
#include "recurformer/cuda/simulated.hpp"

namespace conformance {
std::vector<std::vector<std::uint32_t>> simulated_outputs(bool hopper);
}

namespace {

template <class Cases>
std::vector<conformance::Words> all_outputs() {
  std::vector<conformance::Words> out;
  conformance::for_each_case(Cases{}, [&]<class Case>(int) {
    rf::Simulated device;
    out.push_back(conformance::outputs<Case>(device));
  });
  return out;
}

template <class Cases>
void check_cases() {
  conformance::for_each_case(Cases{}, []<class Case>(int index) {
    CAPTURE(index);
    CAPTURE(Case::name);
    conformance::Words expected(Case::out_words);
    Case::expect(conformance::inputs<Case>(), expected);
    using rf::arch::CopyTiming;
    for (unsigned seed = 0; seed < 5; ++seed)
      for (const CopyTiming copies : {CopyTiming::early, CopyTiming::late, CopyTiming::random}) {
        CAPTURE(seed);
        rf::Simulated device({.seed = seed, .copies = copies});
        CHECK(conformance::distance<Case>(expected, conformance::outputs<Case>(device)) <= 1);
      }
  });
}

}  // namespace

/// What the simulator makes of every case, for the comparison with a GPU (conformance_device.cu).
std::vector<std::vector<std::uint32_t>> conformance::simulated_outputs(bool hopper) {
  return hopper ? all_outputs<HopperCases>() : all_outputs<Cases>();
}

TEST_CASE("conformance: the simulator does what the manual says") { check_cases<conformance::Cases>(); }

TEST_CASE("conformance: the simulator does what the manual says of Hopper") {
  check_cases<conformance::HopperCases>();
}
