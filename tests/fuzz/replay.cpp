// Runs every target on its seeds and on the worst cases for memory: test_fuzz_corpus <folder with a folder
// per target>, or one target on some files, such as one that libFuzzer has left: test_fuzz_corpus <target>
// <file>…

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "target.hpp"
#include "worst_cases.hpp"

namespace {

std::vector<std::string> files_in(const std::filesystem::path& folder) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

void report(const rf::test::Target& target, const std::string& what, const std::string& bytes) {
  std::fprintf(stderr, "%.*s: %s: ", static_cast<int>(target.name.size()), target.name.data(), what.c_str());
  std::fprintf(stderr, "%s\n", rf::test::run(target, bytes).c_str());
}

void replay(const rf::test::Target& target, const std::vector<std::string>& files) {
  for (const std::string& file : files) report(target, file, rf::read_text_file(file));
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> given(arguments + 1, arguments + count);
  if (given.empty()) return 2;
  for (const auto& target : rf::test::targets()) {
    if (given.size() == 1) {
      replay(target, files_in(std::filesystem::path(given[0]) / target.name));
      for (const auto& worst : rf::test::worst_cases(20'000))
        if (worst.target == target.name) report(target, "worst case: " + worst.what, worst.bytes);
    }
    if (given.size() > 1 && given[0] == target.name) replay(target, {given.begin() + 1, given.end()});
  }
}
