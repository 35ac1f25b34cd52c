#ifndef RECURFORMER_CORE_INSTRUCTION_SET_HPP
#define RECURFORMER_CORE_INSTRUCTION_SET_HPP

// One program, fast on machines of different age. CMake's recurformer_add_instruction_sets() compiles a
// source once for each of `instruction_sets`, and every time the source has the program's functions
// instantiated for that set:
//
//   template <rf::InstructionSet> double product(int n);                   // in a header
//
//   template <rf::InstructionSet> double product(int n) { … }              // in that source
//   template double product<rf::compiled_instruction_set>(int n);
//
// The program calls those of the best set that the machine has:
//
//   rf::with_instruction_set(rf::best_instruction_set(), [&](auto set) { return product<set>(n); });
//
// Nothing else that the source defines or instantiates, the library's or the standard library's, is visible
// outside its set: a linker that finds std::vector's functions in several files keeps one of them, and if
// that is the one compiled for AVX-512, the program dies on older machines. What is one per program
// elsewhere, such as the threads of core/parallel.hpp, is therefore one per set. Let the functions take and
// return plain data.

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>
#include <type_traits>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"

namespace rf {

/// What CPU kernels are compiled for, named after what it has beyond the architecture's first machines.
enum class InstructionSet {
  baseline,  ///< nothing
  neon,
  sse4_2,  ///< x86-64-v2
  avx2,    ///< with FMA
  avx512   ///< F, BW, DQ and VL
};

/// "avx2" for InstructionSet::avx2, and so on.
constexpr std::string_view name_of(InstructionSet set) {
  constexpr std::string_view names[] = {"baseline", "neon", "sse4_2", "avx2", "avx512"};
  return names[static_cast<int>(set)];
}

inline namespace RECURFORMER_ISA {

/// The set that the kernels of this file are compiled for.
inline constexpr InstructionSet compiled_instruction_set = InstructionSet::RECURFORMER_ISA;
#ifdef RECURFORMER_COMPILE_FOR
static_assert(
    compiled_instruction_set == InstructionSet::RECURFORMER_COMPILE_FOR,
    "recurformer: recurformer_add_instruction_sets() compiles this file for one set and the -m options of "
    "its target say another; leave them away");
#endif

/// Those that recurformer_add_instruction_sets() compiles for, the best first.
#if defined(__x86_64__)
inline constexpr InstructionSet instruction_sets[] = {InstructionSet::avx512, InstructionSet::avx2,
                                                      InstructionSet::sse4_2};
#else
inline constexpr InstructionSet instruction_sets[] = {compiled_instruction_set};
#endif

/// Whether this machine, its operating system included, runs what recurformer_add_instruction_sets() compiles
/// for `set`.
inline bool machine_has(InstructionSet set) {
#if defined(__x86_64__)
  switch (set) {
    case InstructionSet::avx512:
      return machine_has(InstructionSet::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case InstructionSet::avx2:
      return machine_has(InstructionSet::sse4_2) && __builtin_cpu_supports("avx2") &&
             __builtin_cpu_supports("fma");
    case InstructionSet::sse4_2:
      return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    case InstructionSet::baseline:
      return true;
    case InstructionSet::neon:
      break;
  }
  return false;
#else
  return set == compiled_instruction_set;
#endif
}

/// Calls f(std::integral_constant<InstructionSet, set>) and returns what it returns, of the same type for all
/// sets. An error unless `set` is one of `instruction_sets`.
template <std::size_t Index = 0, class F>
decltype(auto) with_instruction_set(InstructionSet set, F&& f) {
  constexpr InstructionSet candidate = instruction_sets[Index];
  if (set == candidate) return f(std::integral_constant<InstructionSet, candidate>{});
  if constexpr (Index + 1 < std::size(instruction_sets))
    return with_instruction_set<Index + 1>(set, f);
  else
    throw ArgumentError(text("this program was not compiled for ", name_of(set)));
}

}  // namespace RECURFORMER_ISA

namespace detail {
inline namespace RECURFORMER_ISA {

/// The first of `instruction_sets` for which has(set), or the one that is asked for by name; null and "" ask
/// for none.
template <class Has>
InstructionSet choose_instruction_set(const char* asked, Has&& has) {
  const auto *begin = std::begin(instruction_sets), *end = std::end(instruction_sets);
  std::string compiled;
  for (const InstructionSet set : instruction_sets) compiled += text(" ", name_of(set));
  const auto* best = std::find_if(begin, end, has);
  check(best != end,
        "this machine has none of the instruction sets that this program was compiled for:", compiled);
  if (asked == nullptr || *asked == '\0') return *best;
  const auto* named = std::find_if(begin, end, [&](InstructionSet set) { return name_of(set) == asked; });
  check(named != end, "RECURFORMER_INSTRUCTION_SET is \"", asked, "\"; this program was compiled for",
        compiled);
  check(has(*named), "RECURFORMER_INSTRUCTION_SET is ", asked,
        ", which this machine lacks; the best that it has is ", name_of(*best));
  return *named;
}

}  // namespace RECURFORMER_ISA
}  // namespace detail

inline namespace RECURFORMER_ISA {

/// The best of `instruction_sets` that this machine has, or the one that the environment variable
/// RECURFORMER_INSTRUCTION_SET names. An error if the machine lacks it, or has none of them.
inline InstructionSet best_instruction_set() {
  return detail::choose_instruction_set(std::getenv("RECURFORMER_INSTRUCTION_SET"), machine_has);
}

}  // namespace RECURFORMER_ISA
}  // namespace rf

#endif  // RECURFORMER_CORE_INSTRUCTION_SET_HPP
