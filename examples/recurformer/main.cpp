// recurformer: the whole method from the command line. Each command works on the files of the one before:
//   train -> analyze -> plan -> convert -> train (continual) -> eval, generate, inspect;  demo does all of it
//   at once.

#include <cstdio>
#include <exception>

#include "program.hpp"

int main(int argc, char** argv) {
#ifdef RECURFORMER_SEVERAL_INSTRUCTION_SETS
  try {
    return rf::with_instruction_set(rf::best_instruction_set(),
                                    [&](auto set) { return cli::run<set>(argc, argv); });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "recurformer: %s\n", error.what());
    return 1;
  }
#else
  return cli::run<rf::compiled_instruction_set>(argc, argv);
#endif
}
