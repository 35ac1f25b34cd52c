// budgets <budgets, logs and PTX files>...
//
// Holds compiled kernels to written budgets, where there is no GPU to time them. The logs are what nvcc
// prints with -Xptxas -v, the PTX files what it leaves with --keep. A line of the budgets file is
//
//   <regular expression of the kernel's name> | <most registers> | <instructions that must occur in its PTX>
//
// and "#" starts a comment. Every kernel must match exactly one line and every line a kernel, on every
// architecture; no kernel may use the stack: that would be spilled registers, or an array indexed at run
// time. Nor may ptxas report (C75..) that it has made wgmma wait for each other or ignored setmaxnreg.

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Budget {
  std::string pattern;
  std::regex name;
  int registers = 0;
  std::vector<std::string> instructions;
  int kernels = 0;
};

struct Kernel {
  std::string name, architecture;
  int registers = -1, stack = -1;
};

int failures = 0;

void fail(const std::string& text) {
  std::fprintf(stderr, "FAILED: %s\n", text.c_str());
  ++failures;
}

std::ifstream open(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "%s: cannot be read\n", path.c_str());
    std::exit(2);
  }
  return file;
}

/// "rf::cuda::device::EmbeddingKernel<rf::bf16>": the kernel's type, which is what entry<> is a template of.
std::string kernel_name(const std::string& mangled) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  const std::string whole = demangled ? demangled : mangled;
  std::free(demangled);
  const std::size_t begin = whole.find("entry<");
  if (begin == std::string::npos) return whole;
  std::size_t end = begin + 6;
  for (int depth = 1; end < whole.size(); ++end) {
    depth += whole[end] == '<' ? 1 : whole[end] == '>' ? -1 : 0;
    if (depth == 0) break;
  }
  return whole.substr(begin + 6, end - begin - 6);
}

std::vector<Budget> read_budgets(const std::string& path) {
  std::vector<Budget> out;
  auto file = open(path);
  const std::regex form(R"(^(.*\S)\s*\|\s*(\d+)\s*\|\s*(.*)$)");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::smatch match;
    if (!std::regex_match(line, match, form)) {
      std::fprintf(stderr, "%s: not a budget: %s\n", path.c_str(), line.c_str());
      std::exit(2);
    }
    Budget budget;
    budget.pattern = match[1];
    budget.name = std::regex(budget.pattern);
    budget.registers = std::stoi(match[2]);
    std::istringstream words(match[3]);
    for (std::string word; words >> word;) budget.instructions.push_back(word);
    out.push_back(budget);
  }
  return out;
}

std::vector<Kernel> read_log(const std::string& path) {
  std::vector<Kernel> out;
  auto file = open(path);
  const std::regex entry("Compiling entry function '([^']+)' for '([^']+)'"),
      stack("(\\d+) bytes stack frame"), registers("Used (\\d+) registers");
  for (std::string line; std::getline(file, line);) {
    std::smatch match;
    if (line.find("(C75") != std::string::npos) fail(path + ": " + line);
    if (std::regex_search(line, match, entry)) out.push_back({match[1], match[2]});
    if (out.empty()) continue;
    if (std::regex_search(line, match, stack)) out.back().stack = std::stoi(match[1]);
    if (std::regex_search(line, match, registers)) out.back().registers = std::stoi(match[1]);
  }
  return out;
}

/// The PTX of every kernel in a file.
void read_ptx(const std::string& path, std::map<std::string, std::string>& out) {
  auto file = open(path);
  std::string* body = nullptr;
  const std::string mark = ".entry ";
  for (std::string line; std::getline(file, line);) {
    const std::size_t at = line.find(mark);
    if (at != std::string::npos)
      body = &out[line.substr(at + mark.size(), line.find('(') - at - mark.size())];
    if (body) *body += line + "\n";
  }
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<Budget> budgets;
  std::vector<Kernel> kernels;
  std::map<std::string, std::string> ptx;  // of all architectures
  for (int i = 1; i < count; ++i) {
    const std::string path = arguments[i];
    if (path.ends_with(".txt"))
      for (Budget& budget : read_budgets(path)) budgets.push_back(std::move(budget));
    else if (path.ends_with(".ptx"))
      read_ptx(path, ptx);
    else
      for (const Kernel& kernel : read_log(path)) kernels.push_back(kernel);
  }

  for (const Kernel& kernel : kernels) {
    const std::string name = kernel_name(kernel.name), where = kernel.architecture + " " + name;
    std::printf("%4d registers  %s\n", kernel.registers, where.c_str());
    if (kernel.registers < 0 || kernel.stack < 0) fail(where + ": the log does not say what it uses");
    if (kernel.stack > 0) fail(where + ": uses " + std::to_string(kernel.stack) + " bytes of stack");
    Budget* found = nullptr;
    for (Budget& budget : budgets) {
      if (!std::regex_search(name, budget.name)) continue;
      if (found) fail(where + ": matches '" + found->pattern + "' and '" + budget.pattern + "'");
      found = &budget;
    }
    if (!found) {
      fail(where + ": has no budget");
      continue;
    }
    ++found->kernels;
    if (kernel.registers > found->registers)
      fail(where + ": " + std::to_string(kernel.registers) + " registers; its budget is " +
           std::to_string(found->registers));
    for (const std::string& instruction : found->instructions)
      if (ptx[kernel.name].find(instruction) == std::string::npos)
        fail(where + ": no " + instruction + " in its PTX");
  }
  for (const Budget& budget : budgets)
    if (budget.kernels == 0) fail("no kernel matches '" + budget.pattern + "'");
  if (kernels.empty()) fail("no kernels in the logs");
  std::printf("%zu kernels, %d failures\n", kernels.size(), failures);
  return failures == 0 ? 0 : 1;
}
