#ifndef RECURFORMER_TESTS_SUPPORT_TEMPORARY_FOLDER_HPP
#define RECURFORMER_TESTS_SUPPORT_TEMPORARY_FOLDER_HPP

// A folder of its own for a test that writes files, removed with everything in it at the end of the scope.

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

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
  /// Writes an entry, without waiting for the disk as write_file_atomically does, and returns its path.
  std::string write(std::string_view name, std::string_view content) const {
    std::filesystem::remove(path_ / name);  // cutting an old file short makes ext4 wait for the disk
    std::ofstream file(path_ / name, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    file.close();
    if (!file) throw std::runtime_error("cannot write " + (*this / name));
    return *this / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_TEMPORARY_FOLDER_HPP
