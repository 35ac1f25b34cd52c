#include "recurformer/core/instruction_set.hpp"

#include <doctest/doctest.h>

#include <iterator>
#include <string>

#include "../support/error_message.hpp"

namespace {

using rf::InstructionSet;
using rf::detail::choose_instruction_set;
using rf::test::message_of;

constexpr InstructionSet best = rf::instruction_sets[0];

bool has_all(InstructionSet) { return true; }

std::string error(const char* asked, bool (*has)(InstructionSet)) {
  return message_of<rf::ArgumentError>([&] { (void)choose_instruction_set(asked, has); });
}

}  // namespace

TEST_CASE("instruction set: the best that the machine has, unless another is asked for") {
  CHECK(choose_instruction_set(nullptr, has_all) == best);
  CHECK(choose_instruction_set("", has_all) == best);
  for (const InstructionSet set : rf::instruction_sets) {
    CHECK(choose_instruction_set(std::string(rf::name_of(set)).c_str(), has_all) == set);
    CHECK(choose_instruction_set(nullptr, [&](InstructionSet other) { return other == set; }) == set);
  }
}

TEST_CASE("instruction set: errors name what was asked for and what there is") {
  CHECK(error("avx1024", has_all)
            .starts_with("RECURFORMER_INSTRUCTION_SET is \"avx1024\"; this program was compiled for " +
                         std::string(rf::name_of(best))));
  CHECK(
      error(nullptr, [](InstructionSet) { return false; })
          .starts_with("this machine has none of the instruction sets that this program was compiled for: " +
                       std::string(rf::name_of(best))));
#if defined(__x86_64__)
  CHECK(error("avx512", [](InstructionSet set) { return set != InstructionSet::avx512; }) ==
        "RECURFORMER_INSTRUCTION_SET is avx512, which this machine lacks; the best that it has is avx2");
#endif
}

TEST_CASE("instruction set: a function is called with the set as a constant") {
  for (const InstructionSet set : rf::instruction_sets)
    CHECK(rf::with_instruction_set(set, [](auto constant) {
            constexpr InstructionSet value = constant;
            return value;
          }) == set);
  CHECK(message_of<rf::ArgumentError>(
            [] { rf::with_instruction_set(InstructionSet::baseline, [](auto) {}); }) ==
        (rf::compiled_instruction_set == InstructionSet::baseline && std::size(rf::instruction_sets) == 1
             ? "no error"
             : "this program was not compiled for baseline"));
}

TEST_CASE("instruction set: this machine has the one that this test was compiled for, and those below it") {
  CHECK(rf::machine_has(rf::compiled_instruction_set));
  for (const InstructionSet set : rf::instruction_sets)
    if (set <= rf::compiled_instruction_set) CHECK(rf::machine_has(set));
}
