#include "common.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/core/instruction_set.hpp"

namespace cli {

void add_common_options(CLI::App& command, CommonOptions& options) {
  command.add_option("--threads", options.threads, "CPU threads; 0: one per core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "Seed of everything random")->capture_default_str();
  command.add_option("--json", options.json, "Also write the results to this file");
}

void use_cpu(const CommonOptions& options, const std::string& why) {
  if (options.threads > 0) rf::set_threads(options.threads);
  std::fprintf(stderr, "backend: cpu (%s, %d threads)%s\n",
               std::string(rf::name_of(rf::compiled_instruction_set)).c_str(), rf::default_pool().threads(),
               why.empty() ? "" : (", since " + why).c_str());
}

void write_results(const CommonOptions& options, nlohmann::json results) {
  if (const auto peak = peak_memory()) {
    std::fprintf(stderr, "peak memory: %s MiB\n", fixed(static_cast<double>(*peak) / (1 << 20), 1).c_str());
    results["peak_memory_bytes"] = *peak;
  }
  if (!options.json.empty()) rf::write_file_atomically(options.json, results.dump(1) + "\n");
}

std::string default_text() { return RECURFORMER_DEFAULT_TEXT; }

Progress::Progress(std::string what, std::int64_t total, std::int64_t already_done)
    : what_(std::move(what)), total_(total), first_(already_done), terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (line_open_) std::fputc('\n', stderr);
}

void Progress::update(std::int64_t done, const std::string& details) {
  const double now = watch_.seconds();
  const bool last = done >= total_;
  if (!last && now - last_shown_ < (terminal_ ? 0.1 : 10.0)) return;
  last_shown_ = now;
  const auto in_this_run = static_cast<double>(std::max<std::int64_t>(done - first_, 1));
  const double left = now / in_this_run * static_cast<double>(total_ - done);
  std::string line = rf::text(what_, "  ", done, "/", total_);
  if (!details.empty()) line += "  " + details;
  line += last ? "  in " + fixed(now, 1) + " s" : "  " + fixed(left, 0) + " s left";
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
    line_open_ = true;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
}

void LateProgress::operator()(std::int64_t done, std::int64_t total) {
  if (!shown_ && (watch_.seconds() < 2 || done >= total)) return;
  if (!shown_) shown_.emplace(what_, total, done);
  shown_->update(done);
}

std::string bytes_text(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (value >= 1024.0 * 1024 * 1024) return fixed(value / (1024.0 * 1024 * 1024), 2) + " GiB";
  if (value >= 1024.0 * 1024) return fixed(value / (1024.0 * 1024), 2) + " MiB";
  return fixed(value / 1024.0, 1) + " KiB";
}

std::string fixed(double value, int decimals) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  return buffer;
}

namespace {

/// A size that a file of the kernel's gives in KiB behind this name, in bytes.
std::optional<std::int64_t> size_in(const char* file, const std::string& name) {
  std::ifstream info(file);
  for (std::string line; std::getline(info, line);)
    if (line.starts_with(name)) return std::strtoll(line.c_str() + name.size(), nullptr, 10) * 1024;
  return std::nullopt;
}

}  // namespace

std::string check_memory(const std::string& needs, std::int64_t bytes) {
  // What could be allocated without swapping, as Linux estimates it.
  const auto available = size_in("/proc/meminfo", "MemAvailable:");
  if (!available) return bytes_text(bytes);
  rf::check(bytes <= *available, needs, " needs ", bytes_text(bytes), " of memory; the machine has ",
            bytes_text(*available), " available");
  return bytes_text(bytes) + " of " + bytes_text(*available);
}

std::optional<std::int64_t> peak_memory() { return size_in("/proc/self/status", "VmHWM:"); }

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) {
      const auto colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  return "unknown";
}

}  // namespace cli
