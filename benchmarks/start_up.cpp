// From a checkpoint to the first token: Qwen2-0.5B's sizes in bf16, a file of 1 GB in the page cache, a
// prompt of one token, weights as load_model() leaves them.
//
// The floor is reading the file once: all threads add up a number of every cache line of a new mapping of it.
// Beside it, one thread that copies the file into a buffer, as `cat` does. All are timed in turn, in every
// iteration; what is reported are medians, and the shortest times.

#include <benchmark/benchmark.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/mapped_file.hpp"
#include "recurformer/checkpoint/model_files.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/spec/attention.hpp"

namespace {

struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, rf::Bf16>>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 64>;
};
using Model = rf::Model<Spec>;

/// A folder with a random checkpoint, removed when the program ends.
class Checkpoint {
 public:
  Checkpoint() {
    folder_ = (std::filesystem::temp_directory_path() / "recurformer-benchmark-XXXXXX").string();
    if (::mkdtemp(folder_.data()) == nullptr)
      throw std::runtime_error("cannot create a folder like " + folder_);
    const rf::ModelShape shape{
        .vocabulary = 151936,
        .layers = 24,
        .layer = {.d_model = 896, .d_head = 64, .kv_groups = 2, .queries_per_group = 7, .d_ff = 4864},
        .tied_embeddings = true};
    Model model(shape, rf::uniform_plan({"attention_qkv_bias", "bf16", {}}, shape.layers, 2));
    rf::initialise(model.weights(), 1);
    rf::save_model(model.weights(), rf::model_config(model), folder_);
  }
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;
  ~Checkpoint() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  const std::string& folder() const { return folder_; }
  std::string file() const { return folder_ + "/model.safetensors"; }

 private:
  std::string folder_;
};

/// Time since it was made.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Seconds until a number of every cache line of the file is added up, on all threads.
double read_seconds(const std::string& path) {
  constexpr std::size_t line = 64, piece = std::size_t{1} << 20;
  const Stopwatch watch;
  const rf::MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  std::atomic<std::uint64_t> total{0};
  rf::parallel_for(static_cast<std::int64_t>((bytes.size() + piece - 1) / piece), [&](std::int64_t i) {
    const std::size_t first = static_cast<std::size_t>(i) * piece,
                      end = std::min(bytes.size(), first + piece);
    std::uint64_t sum = 0;
    for (std::size_t at = first; at < end; at += line) sum += static_cast<std::uint64_t>(bytes[at]);
    total += sum;
  });
  benchmark::DoNotOptimize(total.load());
  return watch.seconds();
}

/// Seconds in which one thread copies the file into a buffer.
double copy_seconds(const std::string& path) {
  std::vector<char> buffer(std::size_t{1} << 20);
  const Stopwatch watch;
  const rf::detail::FileDescriptor file = rf::detail::open_for_reading(path);
  while (::read(file.get(), buffer.data(), buffer.size()) > 0) benchmark::DoNotOptimize(buffer.data());
  return watch.seconds();
}

/// Seconds from the checkpoint to the likeliest token after a prompt of one.
double token_seconds(const std::string& folder) {
  const Stopwatch watch;
  auto model = rf::load_model<Model>(folder);
  rf::Cache cache = model.make_cache();
  const rf::Token prompt = 1000;
  const auto logits = model.next_logits({&prompt, 1}, cache);
  benchmark::DoNotOptimize(std::max_element(logits.begin(), logits.end()));
  return watch.seconds();
}

void start_up(benchmark::State& state) {
  static const Checkpoint checkpoint;
  read_seconds(checkpoint.file());  // everything is in the page cache, and scratch memory has grown
  token_seconds(checkpoint.folder());
  std::vector<double> read, copy, token;
  for (auto _ : state) {
    read.push_back(read_seconds(checkpoint.file()));
    copy.push_back(copy_seconds(checkpoint.file()));
    token.push_back(token_seconds(checkpoint.folder()));
    state.SetIterationTime(token.back());
  }
  const auto report = [&](const std::string& name, std::vector<double>& seconds) {
    std::sort(seconds.begin(), seconds.end());
    state.counters[name + "_least_ms"] = seconds.front() * 1e3;
    state.counters[name + "_ms"] = seconds[seconds.size() / 2] * 1e3;
    return seconds[seconds.size() / 2];
  };
  const double reading = report("read", read), copying = report("copy", copy),
               starting = report("token", token);
  state.SetLabel("floor: reading the file");
  state.counters["floor_us"] = reading * 1e6;
  state.counters["share"] = reading / starting;
  state.counters["token/read"] = starting / reading;
  state.counters["token/copy"] = starting / copying;
}
BENCHMARK(start_up)->Iterations(15)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
