#ifndef EXAMPLES_RECURFORMER_COMMANDS_HPP
#define EXAMPLES_RECURFORMER_COMMANDS_HPP

// One function per command: adds its options and what it does to the program.

#include <CLI/CLI.hpp>

namespace cli {

void add_demo(CLI::App& program);
void add_train(CLI::App& program);
void add_analyze(CLI::App& program);
void add_plan(CLI::App& program);
void add_convert(CLI::App& program);
void add_generate(CLI::App& program);
void add_eval(CLI::App& program);
void add_inspect(CLI::App& program);

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_COMMANDS_HPP
