// recurformer: the whole method from the command line. Each command works on the files of the one before:
//   train -> analyze -> plan -> convert -> train (continual) -> eval, generate, inspect;  demo does all of it
//   at once.

#include <cstdio>
#include <exception>

#include "commands.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/version.hpp"

int main(int argc, char** argv) {
  CLI::App program("Replace recency-aware attention heads by recurrent ones (RecurFormer, arXiv 2410.12850)",
                   "recurformer");
  program.set_version_flag("--version", rf::text(RECURFORMER_VERSION_MAJOR, ".", RECURFORMER_VERSION_MINOR,
                                                 ".", RECURFORMER_VERSION_PATCH));
  program.require_subcommand(1);
  cli::add_demo(program);
  cli::add_train(program);
  cli::add_analyze(program);
  cli::add_plan(program);
  cli::add_convert(program);
  cli::add_eval(program);
  cli::add_generate(program);
  cli::add_inspect(program);
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
