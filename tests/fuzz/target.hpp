#ifndef RECURFORMER_TESTS_FUZZ_TARGET_HPP
#define RECURFORMER_TESTS_FUZZ_TARGET_HPP

// A fuzz target hands bytes that nobody vouches for to one of the library's readers, as a file would. What
// may come of it: success, or an rf::Error whose message is a readable line; and never more memory than a
// small multiple of the bytes. Anything else is a finding, and ends the program.
//
// Every target is a file beside this one that defines a constant Target. Two drivers run targets:
// libfuzzer.cpp one of them on what libFuzzer comes up with, replay.cpp all of them on the corpus.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "../support/memory.hpp"
#include "../support/temporary_folder.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"

namespace rf::test {

/// Bytes of memory that a byte of JSON may take: "{}," is a value of 16 bytes, a map of 48, and room for
/// more.
inline constexpr std::size_t json_memory = 48;

struct Target {
  std::string_view name;                 ///< also of the corpus's folder
  std::size_t memory_per_byte;           ///< reading may take this many bytes of memory per byte of input,
  std::size_t memory_for_any;            ///< and these
  void (*read)(std::string_view bytes);  ///< may throw rf::Error
};

/// The targets of this program.
inline std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}
/// Defined as a constant, enters a target into the list.
struct RegisteredTarget {
  explicit RegisteredTarget(const Target& target) { targets().push_back(target); }
};

[[noreturn]] inline void report_finding(const std::string& what) {
  std::fprintf(stderr, "finding: %s\n", what.c_str());
  std::abort();
}

/// Accepts what `action` may do: succeed, or throw an rf::Error with a message of one line, which is
/// returned.
template <class Action>
std::string expect_success_or_error(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    constexpr std::size_t longest = 5000;
    const std::string_view message = error.what();
    if (message.size() > longest || detail::one_line(message, longest) != message)
      report_finding(text("a message of ", message.size(),
                          " bytes, or with control characters: ", detail::one_line(message, longest)));
    return std::string(message);
  }
  return "accepted";
}

/// Runs a target on one input; what came of it.
inline std::string run(const Target& target, std::string_view bytes) {
  const std::size_t before = memory_in_use();
  reset_peak_memory();
  const std::string outcome = expect_success_or_error([&] { target.read(bytes); });
  const std::size_t used = peak_memory() - before;
  const std::size_t allowed = target.memory_per_byte * bytes.size() + target.memory_for_any;
  if (used > allowed)
    report_finding(text(target.name, ": reading ", bytes.size(), " bytes took ", used,
                        " bytes of memory; allowed: ", allowed));
  return text(outcome, " [", used, " bytes of memory for ", bytes.size(), "]");
}

/// A file of these bytes, overwritten by the next one of the name; its path.
inline std::string scratch_file(std::string_view name, std::string_view bytes) {
  static const TemporaryFolder folder;
  return folder.write(name, bytes);
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_FUZZ_TARGET_HPP
