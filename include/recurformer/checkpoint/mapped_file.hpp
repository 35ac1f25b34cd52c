#ifndef RECURFORMER_CHECKPOINT_MAPPED_FILE_HPP
#define RECURFORMER_CHECKPOINT_MAPPED_FILE_HPP

// Files opened with the operating system's calls (POSIX): a descriptor that closes itself, and a mapping,
// through which a checkpoint is read without a copy and shared between processes.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "recurformer/core/error.hpp"

namespace rf {

namespace detail {

/// The operating system's words for an errno value, e.g. "No such file or directory".
inline std::string os_reason(int code) { return std::system_category().message(code); }

/// Owns a file descriptor; -1 is none.
class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor = -1) : descriptor_(descriptor) {}
  FileDescriptor(FileDescriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FileDescriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  int get() const { return descriptor_; }
  /// Closes now and returns 0 or the errno value: a network file system may report a failed write only here.
  int close() { return ::close(std::exchange(descriptor_, -1)) == 0 ? 0 : errno; }

 private:
  int descriptor_;
};

/// Opens for reading. FileError if the file is missing, a folder or unreadable.
inline FileDescriptor open_for_reading(const std::string& path, int flags = 0) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
  if (file.get() < 0) throw FileError(text(path, ": cannot be opened: ", os_reason(errno)));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0)
    throw FileError(text(path, ": cannot be examined: ", os_reason(errno)));
  check_file(!S_ISDIR(status.st_mode), path, "is a folder; expected a file");
  return file;
}

}  // namespace detail

/// A whole file as memory, which is never written back to it. The bytes stay valid when another file is
/// renamed over this one (as all writers of this library do); a file that is cut short while mapped raises
/// SIGBUS on access, as every mapping does.
class MappedFile {
 public:
  /// FileError if the file is missing, unreadable or not a regular file. An empty file maps to no bytes.
  explicit MappedFile(std::string path) : path_(std::move(path)) {
    // A pipe would block here until somebody writes to it; it is refused below instead.
    const detail::FileDescriptor file = detail::open_for_reading(path_, O_NONBLOCK);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0)
      throw FileError(text(path_, ": cannot be examined: ", detail::os_reason(errno)));
    check_file(S_ISREG(status.st_mode), path_, "is a device, pipe or socket; expected a regular file");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;
    // Not reserved: a large file is no request for as much memory, and most of its pages are only read.
    void* const address =
        ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
    if (address == MAP_FAILED) throw FileError(text(path_, ": cannot be mapped: ", detail::os_reason(errno)));
    bytes_ = {static_cast<std::byte*>(address),
              [size = size_](std::byte* mapped) { ::munmap(mapped, size); }};
  }
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        bytes_(std::move(other.bytes_)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(bytes_, other.bytes_);
    std::swap(size_, other.size_);
    return *this;
  }

  std::span<const std::byte> bytes() const { return {bytes_.get(), size_}; }
  const std::string& path() const { return path_; }
  /// The bytes from `offset` on, which keep the file mapped for as long as somebody holds them. Whoever
  /// writes to them gets a page of their own; the file and other processes do not see it.
  std::shared_ptr<std::byte> share(std::size_t offset) const { return {bytes_, bytes_.get() + offset}; }

 private:
  std::string path_;
  std::shared_ptr<std::byte> bytes_;
  std::size_t size_ = 0;
};

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_MAPPED_FILE_HPP
