// Runs every target on its seeds: test_fuzz_corpus <folder with a folder per target>, or one target on some
// files, such as one that libFuzzer has left: test_fuzz_corpus <target> <file>…

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "target.hpp"

namespace {

std::vector<std::string> files_in(const std::filesystem::path& folder) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

void replay(const rf::test::Target& target, const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    const std::string bytes = rf::read_text_file(file);
    std::fprintf(stderr, "%s: ", file.c_str());
    std::fprintf(stderr, "%s\n", rf::test::run(target, bytes).c_str());
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> given(arguments + 1, arguments + count);
  if (given.empty()) return 2;
  for (const auto& target : rf::test::targets()) {
    if (given.size() == 1) replay(target, files_in(std::filesystem::path(given[0]) / target.name));
    if (given.size() > 1 && given[0] == target.name) replay(target, {given.begin() + 1, given.end()});
  }
}
