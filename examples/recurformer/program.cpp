#include "program.hpp"

#include <cstdio>
#include <exception>

#include "commands.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/version.hpp"

namespace cli {

template <rf::InstructionSet>
int run(int argc, char** argv) {
  CLI::App program("Replace recency-aware attention heads by recurrent ones (RecurFormer, arXiv 2410.12850)",
                   "recurformer");
  program.set_version_flag("--version", rf::text(RECURFORMER_VERSION_MAJOR, ".", RECURFORMER_VERSION_MINOR,
                                                 ".", RECURFORMER_VERSION_PATCH));
  program.require_subcommand(1);
  add_demo(program);
  add_train(program);
  add_analyze(program);
  add_plan(program);
  add_convert(program);
  add_eval(program);
  add_generate(program);
  add_inspect(program);
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    std::fprintf(stderr, "recurformer: %s (see --help)\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "recurformer: %s\n", error.what());
    return 1;
  }
}

template int run<rf::compiled_instruction_set>(int argc, char** argv);

}  // namespace cli
