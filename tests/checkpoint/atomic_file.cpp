#include "recurformer/checkpoint/atomic_file.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

namespace {

using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

std::size_t entries(const TemporaryFolder& folder) {
  const std::filesystem::directory_iterator all(folder.path());
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

std::string write_error(const std::string& path, std::string_view content = "x") {
  return message_of<rf::FileError>([&] { rf::write_file_atomically(path, content); });
}

std::string read_error(const std::string& path) {
  return message_of<rf::FileError>([&] { rf::read_text_file(path); });
}

/// Lets this process write files of at most `bytes` bytes, so that a write fails half-way.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  sighandler_t handler_ = SIG_DFL;
};

/// File permissions do not bind root: become somebody else for a scope.
class WithoutRoot {
 public:
  WithoutRoot() : user_(::geteuid()) {
    if (user_ == 0) changed_ = ::seteuid(65534) == 0;
  }
  ~WithoutRoot() {
    if (changed_ && ::seteuid(user_) != 0) std::abort();
  }
  bool holds() const { return ::geteuid() != 0; }

 private:
  uid_t user_;
  bool changed_ = false;
};

}  // namespace

TEST_CASE("atomic file: creates, replaces, keeps every byte") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  std::string content("\0a\nb\r\n\xff", 7);
  rf::write_file_atomically(path, content);
  CHECK(rf::read_text_file(path) == content);
  rf::write_file_atomically(path, std::string_view());
  CHECK(rf::read_text_file(path).empty());
  content.assign(200'001, 'y');
  rf::write_file_atomically(path, std::as_bytes(std::span(content)));
  CHECK(rf::read_text_file(path) == content);
  CHECK(entries(folder) == 1);
}

TEST_CASE("atomic file: pieces of any size arrive in order") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  std::string expected;
  for (std::size_t size : {1u, 0u, 65'535u, 1u, 65'536u, 3u, 65'537u, 300'000u, 7u, 65'529u, 2u})
    expected.append(size, static_cast<char>('a' + expected.size() % 26));
  rf::write_file_atomically(path, [&](rf::FileWriter& file) {
    std::size_t at = 0;
    for (std::size_t size : {1u, 0u, 65'535u, 1u, 65'536u, 3u, 65'537u, 300'000u, 7u, 65'529u, 2u}) {
      file.write(std::string_view(expected).substr(at, size));
      at += size;
    }
  });
  CHECK(rf::read_text_file(path) == expected);
}

TEST_CASE("atomic file: an exception keeps the old file and leaves no temporary") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  const auto failing = [&] {
    rf::write_file_atomically(path, [](rf::FileWriter& file) {
      file.write(std::string(100'000, 'n'));
      throw std::logic_error("the producer failed");
    });
  };
  CHECK(message_of<std::logic_error>(failing) == "the producer failed");
  CHECK(entries(folder) == 0);
  rf::write_file_atomically(path, "old");
  CHECK(message_of<std::logic_error>(failing) == "the producer failed");
  CHECK(rf::read_text_file(path) == "old");
  CHECK(entries(folder) == 1);
}

TEST_CASE("atomic file: a write that fails half-way") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  rf::write_file_atomically(path, "old");
  std::string message;
  {
    const FileSizeLimit limit(100'000);
    message = write_error(path, std::string(300'000, 'n'));
  }
  CHECK(message == path + ": cannot be written: writing failed: File too large");
  CHECK(rf::read_text_file(path) == "old");
  CHECK(entries(folder) == 1);
}

TEST_CASE("atomic file: targets that cannot be written") {
  const TemporaryFolder folder;
  CHECK(contains(write_error(folder / "missing/file"),
                 "missing/file: cannot be written: its folder cannot be opened: No such file or directory"));
  CHECK(contains(write_error(""), "does not end in a file name"));
  CHECK(contains(write_error((folder / "name") + "/"), "does not end in a file name"));
  CHECK(contains(write_error(folder.path().string()), "it is a folder, device, pipe or socket"));
  CHECK(contains(write_error(folder / "."), "it is a folder"));
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(contains(write_error(folder / "pipe"), "it is a folder, device, pipe or socket"));
  // Replacing this one would break the machine for everybody.
  CHECK(contains(write_error("/dev/null"), "it is a folder, device, pipe or socket"));
  CHECK(contains(write_error(folder / std::string(300, 'n')), "File name too long"));
  CHECK(entries(folder) == 1);

  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  {
    const WithoutRoot scope;
    if (scope.holds())
      CHECK(
          contains(write_error(folder / "file"), "no file can be created in its folder: Permission denied"));
  }
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
}

TEST_CASE("atomic file: names as long as the file system allows") {
  const TemporaryFolder folder;
  const std::string path = folder / std::string(255, 'n');
  rf::write_file_atomically(path, "content");
  CHECK(rf::read_text_file(path) == "content");
}

TEST_CASE("atomic file: permissions and symbolic links survive a replacement") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  const std::string link = folder / "link";
  rf::write_file_atomically(path, "old");
  std::filesystem::permissions(path, std::filesystem::perms(0640));
  std::filesystem::create_symlink("file", link);
  rf::write_file_atomically(link, "new");
  CHECK(std::filesystem::is_symlink(link));
  CHECK(rf::read_text_file(path) == "new");
  CHECK(std::filesystem::status(path).permissions() == std::filesystem::perms(0640));
  CHECK(entries(folder) == 2);
}

TEST_CASE("atomic file: writers at the same time") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round)
        rf::write_file_atomically(path, std::string(70'000, static_cast<char>('a' + i)));
    });
  for (std::thread& thread : threads) thread.join();
  const std::string content = rf::read_text_file(path);
  REQUIRE(content.size() == 70'000);
  CHECK(content == std::string(70'000, content[0]));
  CHECK(entries(folder) == 1);
}

TEST_CASE("atomic file: kill -9 leaves the old file or the new one") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  rf::write_file_atomically(path, std::string(560'000, 'a'));
  std::string before = rf::read_text_file(path);
  for (int round = 0; round < 24; ++round) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (char c = before[0];;) {
        c = c == 'z' ? 'a' : static_cast<char>(c + 1);
        rf::write_file_atomically(path, [&](rf::FileWriter& file) {
          for (int piece = 0; piece < 8; ++piece) file.write(std::string(70'000, c));
        });
      }
    }
    // Once the child has replaced the file it is somewhere within the next writes: kill it at some odd
    // moment.
    for (int wait = 0; wait < 100'000 && rf::read_text_file(path) == before; ++wait) ::usleep(100);
    ::usleep(static_cast<useconds_t>(137 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));  // and did not end by an exception
    const std::string content = rf::read_text_file(path);
    REQUIRE(content.size() == 560'000);
    CHECK(content == std::string(560'000, content[0]));
    before = content;
  }
}

TEST_CASE("read_text_file: what cannot be read") {
  const TemporaryFolder folder;
  CHECK(read_error(folder / "missing") ==
        (folder / "missing") + ": cannot be opened: No such file or directory");
  CHECK(contains(read_error(folder.path().string()), "is a folder; expected a file"));
  const std::string path = folder / "secret";
  rf::write_file_atomically(path, "secret");
  std::filesystem::permissions(path, std::filesystem::perms(0));
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
  const WithoutRoot scope;
  if (scope.holds()) CHECK(read_error(path) == path + ": cannot be opened: Permission denied");
}

TEST_CASE("read_text_file: a pipe is read to its end") {
  const TemporaryFolder folder;
  const std::string path = folder / "pipe";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  std::string content(100'000, 'p');
  std::thread writer([&] {
    const int file = ::open(path.c_str(), O_WRONLY);
    for (std::size_t at = 0; at < content.size();)
      at += static_cast<std::size_t>(::write(file, content.data() + at, content.size() - at));
    ::close(file);
  });
  const std::string found = rf::read_text_file(path);
  writer.join();
  CHECK(found == content);
}

TEST_CASE("mapped file: content, emptiness, moves, replacement while mapped") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  rf::write_file_atomically(path, "");
  CHECK(rf::MappedFile(path).bytes().empty());
  rf::write_file_atomically(path, "mapped");
  rf::MappedFile first(path);
  rf::write_file_atomically(path, "other content");
  rf::MappedFile second(std::move(first));
  const auto content = [](const rf::MappedFile& file) {
    return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  };
  CHECK(content(second) == "mapped");
  CHECK(second.path() == path);
  rf::MappedFile third(path);
  third = std::move(second);
  CHECK(content(third) == "mapped");
}

TEST_CASE("mapped file: only regular files") {
  const TemporaryFolder folder;
  const auto error = [](const std::string& path) {
    return message_of<rf::FileError>([&] { rf::MappedFile file(path); });
  };
  CHECK(contains(error(folder / "missing"), "missing: cannot be opened: No such file or directory"));
  CHECK(contains(error(folder.path().string()), "is a folder; expected a file"));
  CHECK(contains(error("/dev/zero"), "is a device, pipe or socket; expected a regular file"));
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(contains(error(folder / "pipe"), "is a device, pipe or socket"));  // and does not wait for a writer
}
