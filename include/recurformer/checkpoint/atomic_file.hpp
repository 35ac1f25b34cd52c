#ifndef RECURFORMER_CHECKPOINT_ATOMIC_FILE_HPP
#define RECURFORMER_CHECKPOINT_ATOMIC_FILE_HPP

// Files that are written completely or not at all.
//
// Flow: create ".recurformer-<process>-<number>.tmp" in the target's folder -> write -> fsync -> rename over
// the target -> fsync the folder. Whoever reads the target at any moment, also after kill -9 or a power cut,
// finds the whole old file or the whole new one. An error removes the temporary; only a killed process leaves
// it.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/mapped_file.hpp"
#include "recurformer/core/error.hpp"

namespace rf {

/// Where the content of an atomically written file goes; handed to the callback of write_file_atomically.
class FileWriter {
 public:
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter() {
    if (!temporary_.empty()) ::unlinkat(folder_.get(), temporary_.c_str(), 0);
  }

  /// Appends. FileError with the operating system's reason, e.g. "No space left on device".
  void write(std::span<const std::byte> bytes) {
    if (bytes.size() < buffer_size - buffer_.size()) {
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
      return;
    }
    flush();
    write_through(bytes);
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

 private:
  static constexpr std::size_t buffer_size = std::size_t{1} << 16;

  template <std::invocable<FileWriter&> Produce>
  friend void write_file_atomically(const std::string& path, Produce&& produce);

  explicit FileWriter(const std::string& path) : path_(path) {}

  // Not part of the constructor, so that the destructor runs if it fails half-way.
  void open() {
    const std::filesystem::path target = resolved_target();
    name_ = target.filename().string();
    check_file(!name_.empty(), path_, "cannot be written: it does not end in a file name");
    const std::string folder = target.has_parent_path() ? target.parent_path().string() : ".";
    folder_ = detail::FileDescriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder_.get() < 0) fail("its folder cannot be opened", errno);
    create_temporary();
  }

  /// A symbolic link stays one: the file it points to is replaced.
  std::filesystem::path resolved_target() const {
    std::error_code ignored;  // whatever is wrong with the path shows when its folder is opened
    if (!std::filesystem::is_symlink(path_, ignored)) return path_;
    const std::filesystem::path resolved = std::filesystem::weakly_canonical(path_, ignored);
    return resolved.empty() ? std::filesystem::path(path_) : resolved;
  }

  void create_temporary() {
    struct stat old {};
    const bool replaces = ::fstatat(folder_.get(), name_.c_str(), &old, 0) == 0;
    check_file(!replaces || S_ISREG(old.st_mode), path_,
               "cannot be written: it is a folder, device, pipe or socket; expected a regular file or none");
    static std::atomic<std::uint64_t> counter{0};
    do {  // a name may be taken by what a killed process with the same number left behind
      temporary_ = text(".recurformer-", ::getpid(), "-", ++counter, ".tmp");
      file_ = detail::FileDescriptor(
          ::openat(folder_.get(), temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    } while (file_.get() < 0 && errno == EEXIST);
    if (file_.get() < 0) {
      temporary_.clear();
      fail("no file can be created in its folder", errno);
    }
    // A private file stays private when it is replaced.
    if (replaces && ::fchmod(file_.get(), old.st_mode & 0777u) != 0)
      fail("cannot keep its permissions", errno);
  }

  void flush() {
    write_through(buffer_);
    buffer_.clear();
  }

  void write_through(std::span<const std::byte> bytes) {
    constexpr std::size_t largest = std::size_t{1} << 30;  // Linux writes at most 2 GiB per call
    while (!bytes.empty()) {
      const ssize_t written = ::write(file_.get(), bytes.data(), std::min(bytes.size(), largest));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("writing failed", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  void commit() {
    flush();
    if (::fsync(file_.get()) != 0) fail("flushing it to the disk failed", errno);
    if (const int code = file_.close(); code != 0) fail("closing it failed", code);
    if (::renameat(folder_.get(), temporary_.c_str(), folder_.get(), name_.c_str()) != 0)
      fail("renaming the finished temporary file failed", errno);
    temporary_.clear();
    // Some file systems cannot flush folders and say so with EINVAL; they order renames themselves.
    if (::fsync(folder_.get()) != 0 && errno != EINVAL)
      throw FileError(text(
          path_, ": was written, but flushing its folder to the disk failed: ", detail::os_reason(errno)));
  }

  [[noreturn]] void fail(std::string_view what, int code) const {
    throw FileError(text(path_, ": cannot be written: ", what, ": ", detail::os_reason(code)));
  }

  std::string path_;       // as the caller wrote it, for messages
  std::string name_;       // the target within folder_
  std::string temporary_;  // within folder_; empty when there is none to remove
  detail::FileDescriptor folder_;
  detail::FileDescriptor file_;
  std::vector<std::byte> buffer_;
};

/// Replaces or creates the file `path` with what `produce(FileWriter&)` writes. FileError with the reason if
/// that fails; whatever is thrown, by `produce` too, the old file is still there and no temporary is.
template <std::invocable<FileWriter&> Produce>
void write_file_atomically(const std::string& path, Produce&& produce) {
  FileWriter writer(path);
  writer.open();
  std::forward<Produce>(produce)(writer);
  writer.commit();
}

/// Replaces or creates the file `path` with these bytes.
inline void write_file_atomically(const std::string& path, std::span<const std::byte> bytes) {
  write_file_atomically(path, [&](FileWriter& file) { file.write(bytes); });
}
inline void write_file_atomically(const std::string& path, std::string_view content) {
  write_file_atomically(path, [&](FileWriter& file) { file.write(content); });
}

/// The content of a file (or of a pipe, up to its end), unchanged. FileError if it is missing, a folder or
/// unreadable.
inline std::string read_text_file(const std::string& path) {
  const detail::FileDescriptor file = detail::open_for_reading(path);
  std::string content;
  char block[1 << 14];
  for (;;) {
    const ssize_t count = ::read(file.get(), block, sizeof block);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw FileError(text(path, ": cannot be read: ", detail::os_reason(errno)));
    if (count == 0) return content;
    content.append(block, static_cast<std::size_t>(count));
  }
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_ATOMIC_FILE_HPP
