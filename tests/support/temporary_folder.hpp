#ifndef RECURFORMER_TESTS_SUPPORT_TEMPORARY_FOLDER_HPP
#define RECURFORMER_TESTS_SUPPORT_TEMPORARY_FOLDER_HPP

// A folder of its own for a test that writes files, removed with everything in it at the end of the scope.

#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rf::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string path = (std::filesystem::temp_directory_path() / "recurformer-test-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) throw std::runtime_error("cannot create a folder like " + path);
    path_ = path;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  /// The path of an entry of the folder.
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_TEMPORARY_FOLDER_HPP
