#ifndef EXAMPLES_RECURFORMER_COMMON_HPP
#define EXAMPLES_RECURFORMER_COMMON_HPP

// What all commands share: options, text, progress, results as JSON.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "engine.hpp"
#include "recurformer/checkpoint/model_files.hpp"

namespace cli {

/// Options that every command has.
struct CommonOptions {
  int threads = 0;  ///< 0: one per core
  std::uint64_t seed = 0;
  std::string json;  ///< file for the results; empty: none
};

/// Adds --threads, --seed and --json to a command.
void add_common_options(CLI::App& command, CommonOptions& options);

/// Starts the thread pool and says on stderr that the CPU computes, and why if nobody asked for it ("this
/// program was built without CUDA"). Commands do so once all their inputs are there: a wrong one is one line.
void use_cpu(const CommonOptions& options, const std::string& why = {});

/// Ends a command: says on stderr what memory it took at most, and writes `results` and that where --json
/// says, if it was given.
void write_results(const CommonOptions& options, nlohmann::json results);

/// The C++ standard library headers of the compiler that built this program: real text on every machine that
/// can build it.
std::string default_text();

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Progress on stderr: one line that is rewritten on a terminal, a plain line now and then elsewhere.
class Progress {
 public:
  /// total: steps of the whole work, those already done by an earlier run included.
  Progress(std::string what, std::int64_t total, std::int64_t already_done = 0);
  ~Progress();
  /// After `done` steps; `details` is shown between the count and the time left.
  void update(std::int64_t done, const std::string& details = {});

 private:
  std::string what_;
  std::int64_t total_, first_;
  bool terminal_;
  Stopwatch watch_;
  double last_shown_ = -1e9;
  bool line_open_ = false;
};

/// Progress of work that is mostly quick, whose size it tells itself: shown from the third second on.
class LateProgress {
 public:
  explicit LateProgress(std::string what) : what_(std::move(what)) {}
  /// After `done` of `total`.
  void operator()(std::int64_t done, std::int64_t total);

 private:
  std::string what_;
  Stopwatch watch_;
  std::optional<Progress> shown_;
};

/// "12.3 MiB".
std::string bytes_text(std::int64_t bytes);
/// A number with `decimals` digits after the point.
std::string fixed(double value, int decimals);

/// Throws rf::Error, saying what `needs` it, if the machine has less than this many bytes of memory to give.
/// "1.50 GiB of 20.1 GiB" otherwise; where the system does not tell what is available, only the need.
std::string check_memory(const std::string& needs, std::int64_t bytes);

/// The most memory, in bytes, that this process has had at any moment, pages of mapped files included;
/// nothing where the system does not tell.
std::optional<std::int64_t> peak_memory();

/// The processor's name, as the system gives it.
std::string processor_name();

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_COMMON_HPP
