#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/device_cache_cases.hpp"
#include "recurformer/checkpoint/device_cache_file.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba2_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/model.hpp"
#include "support/simulated_model.hpp"
#include "support/temporary_folder.hpp"

namespace {

using device_cache::feed;
using device_cache::joined;
using device_cache::Tokens;
using device_model::Expected;
using device_model::host_weights;
using device_model::random_tokens;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

using SimulatedModel = rf::Model<device_model::Spec, rf::Simulated>;
using SimulatedCache = rf::DeviceCache<rf::Simulated>;
using CpuModel = rf::Model<device_model::Spec>;

CpuModel cpu_model() {
  CpuModel model(device_model::host_shape, device_model::host_plan);
  model.weights() = host_weights();
  return model;
}

bool same_files(const std::string& a, const std::string& b) {
  return rf::read_text_file(a) == rf::read_text_file(b);
}

/// A device that counts what it has allocated.
struct CountingDevice : rf::Simulated {
  void* allocate(std::size_t bytes) {
    live += bytes;
    return rf::Simulated::allocate(bytes);
  }
  void deallocate(void* memory, std::size_t bytes) {
    live -= bytes;
    rf::Simulated::deallocate(memory, bytes);
  }
  std::size_t live = 0;
};

}  // namespace

TEST_CASE("device cache, simulated: rollback takes tokens back, wherever the sequence stands") {
  rf::Simulated device({.seed = 1});
  device_cache::check_rollback(device);
}

TEST_CASE("device cache, simulated: a replay gives the bits of a cache that never went further") {
  rf::Simulated device({.seed = 2});
  device_cache::check_replay(device);
}

TEST_CASE("device cache, simulated: speculative decoding of two sequences") {
  rf::Simulated device({.seed = 3});
  device_cache::check_speculation(device);
}

TEST_CASE("device cache, simulated: prompts of all lengths in one call, then taken back") {
  rf::Simulated device({.seed = 4});
  device_cache::check_batch(device);
}

TEST_CASE("device cache, simulated: what it cannot take back is an error") {
  rf::Simulated device;
  device_cache::check_refusals(device);
}

TEST_CASE(
    "device cache: bytes() is what is allocated, with and without rollback, and all of it is given back") {
  const rf::CacheLayout layout = cpu_model().cache_layout();
  for (const std::int64_t max_rollback : {0, 3}) {
    CountingDevice device;
    {
      std::vector<std::vector<rf::RecordedRow>> recorded;
      for (const auto& layer : layout.layers)
        recorded.emplace_back(layer.size(),
                              rf::RecordedRow{.dtype = rf::DType::BF16, .widths = {8, 24}, .elements = {}});
      rf::DeviceCache cache(device, layout, {.sequences = 2, .max_rollback = max_rollback}, recorded);
      const auto check_bytes = [&] {
        std::int64_t total = 0;
        for (const auto& item : cache.items()) total += item.bytes;
        CHECK(total == cache.bytes());
        CHECK(static_cast<std::size_t>(total) == device.live);
      };
      check_bytes();
      for (const std::int64_t rows : {1, 300, 1000}) {
        cache.reserve(1, rows);
        cache.advance(1, rows);
        check_bytes();
      }
      if (max_rollback == 0) CHECK(cache.bytes() > layout.bytes(1301));
      const std::int64_t rollback = cache.bytes();
      cache.reset(1);
      CHECK(cache.bytes() == rollback);  // pools keep their pages
    }
    CHECK(device.live == 0);
  }
}

TEST_CASE(
    "device cache, simulated: a loaded cache continues with the same bits, also when saved amid a rollback") {
  rf::Simulated device;
  const auto host = host_weights();
  SimulatedModel model(device, host);
  const TemporaryFolder folder;
  struct Case {
    std::int64_t max_rollback, before_saving, after_loading;
  };
  for (const auto& c : {Case{0, 0, 0}, Case{5, 0, 3}, Case{5, 2, 3}}) {
    CAPTURE(c.max_rollback);
    CAPTURE(c.before_saving);
    const rf::CacheOptions options{.sequences = 3, .max_rollback = c.max_rollback};
    auto saved = model.make_cache(options), loaded = model.make_cache(options);
    feed(model, saved, random_tokens(261, 1), 0);
    feed(model, saved, random_tokens(3, 2), 1);
    saved.rollback(c.before_saving, 0);
    rf::save_cache(saved, folder / "cache");
    feed(model, loaded, random_tokens(20, 3), 2);  // what was there before is forgotten
    rf::load_cache(loaded, folder / "cache");
    rf::save_cache(loaded, folder / "again");
    CHECK(same_files(folder / "again", folder / "cache"));
    for (SimulatedCache* cache : {&saved, &loaded}) {
      cache->rollback(c.after_loading, 0);
      cache->rollback(c.after_loading, 1);
    }
    for (const std::int64_t sequence : {0, 1, 2}) {
      CAPTURE(sequence);
      CHECK(loaded.length(sequence) == saved.length(sequence));
      for (const std::int64_t count : {1, 12})
        CHECK(feed(model, loaded, random_tokens(count, 4), sequence) ==
              feed(model, saved, random_tokens(count, 4), sequence));
    }
  }
}

TEST_CASE("device cache, simulated: what one backend has saved the other one continues, and rolls back") {
  rf::Simulated device;
  const auto host = host_weights();
  SimulatedModel on_device(device, host);
  CpuModel on_host = cpu_model();
  const TemporaryFolder folder;
  const rf::CacheOptions options{.sequences = 2, .max_rollback = 4};
  const Tokens prompt = random_tokens(27, 1), wrong = random_tokens(4, 2), more = random_tokens(5, 3);
  const Expected expected(host, joined(prompt, more)),
      shorter(host, joined(std::span(prompt).first(5), more));

  const auto check_way = [&](auto& from, auto from_cache, auto& to, auto to_cache) {
    feed(from, from_cache, joined(prompt, wrong), 0);
    feed(from, from_cache, std::span(prompt).first(7), 1);
    from_cache.rollback(1, 0);
    rf::save_cache(from_cache, folder / "cache");
    rf::load_cache(to_cache, folder / "cache");
    to_cache.rollback(3, 0);
    to_cache.rollback(2, 1);
    CHECK(expected.allows(feed(to, to_cache, more, 0)));
    CHECK(shorter.allows(feed(to, to_cache, more, 1)));
    CHECK_THROWS_AS(to_cache.rollback(5, 0), rf::ArgumentError);
  };
  check_way(on_device, on_device.make_cache(options), on_host, on_host.make_cache(options));
  check_way(on_host, on_host.make_cache(options), on_device, on_device.make_cache(options));
}

TEST_CASE("device model, simulated: prefill and teacher-forced decode agree with the CPU's") {
  rf::Simulated device({.seed = 6});
  const auto host = host_weights();
  SimulatedModel on_device(device, host);
  CpuModel on_host = cpu_model();
  auto device_memory = on_device.make_cache();
  auto host_memory = on_host.make_cache();
  const Tokens text = random_tokens(37 + 16, 8);
  int clear = 0;
  for (std::size_t length = 37, done = 0; length <= text.size(); done = length++) {
    CAPTURE(length);
    const Expected expected(host, std::span(text).first(length));
    const auto next = std::span(text).subspan(done, length - done);
    const std::vector<float> ours = feed(on_device, device_memory, next),
                             theirs = feed(on_host, host_memory, next);
    CHECK(expected.allows(ours));
    CHECK(expected.allows(theirs));
    double apart = 0;
    for (std::size_t i = 0; i < ours.size(); ++i)
      apart = std::max(apart, static_cast<double>(std::abs(ours[i] - theirs[i])));
    CHECK(apart <= expected.allowance);  // closer than the rule for each would have them
    if (!expected.is_clear()) continue;
    ++clear;
    const auto best = [](const std::vector<float>& logits) {
      return static_cast<rf::Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    };
    CHECK(best(ours) == expected.best());
    CHECK(best(theirs) == expected.best());
  }
  CHECK(clear > 0);
}

TEST_CASE("device cache, simulated: files and caches of another layout are refused, and change nothing") {
  rf::Simulated device;
  const auto host = host_weights();
  SimulatedModel model(device, host);
  const TemporaryFolder folder;
  const std::string path = folder / "cache", damaged = folder / "damaged";
  auto saved = model.make_cache({.sequences = 2, .max_rollback = 4});
  feed(model, saved, random_tokens(10, 1));
  rf::save_cache(saved, path);
  const auto error = [&](rf::CacheOptions options) {
    auto cache = model.make_cache(options);
    return message_of<rf::FileError>([&] { rf::load_cache(cache, path); });
  };
  CHECK(error({.sequences = 2, .max_rollback = 4}) == "no error");
  CHECK(contains(error({.sequences = 3, .max_rollback = 4}), "the file has 2 sequences, this cache 3"));
  CHECK(contains(error({.sequences = 2}), "the file's cache can be rolled back by 4 tokens, this one by 0"));

  std::string bytes = rf::read_text_file(path);
  folder.write("damaged", bytes.substr(0, bytes.size() - 100));
  CHECK(contains(message_of<rf::FileError>([&] { rf::load_cache(saved, damaged); }), damaged));
  const std::string run = "layer.1.mamba:bf16.3\\\":{\\\"checkpoints\\\":[8,4]";
  REQUIRE(contains(bytes, run));
  bytes.replace(bytes.find(run) + run.size() - 4, 3, "7,4");
  folder.write("damaged", bytes);
  CHECK(contains(message_of<rf::FileError>([&] { rf::load_cache(saved, damaged); }),
                 "is at other positions than layer."));
  rf::save_cache(saved, damaged);
  CHECK(same_files(damaged, path));

  auto other_plan = device_model::host_plan;
  other_plan.kind_of_group[1] = {3, 0, 2, 1};
  const CpuModel other(device_model::host_shape, other_plan);
  const std::string message = message_of<rf::ArgumentError>(
      [&] { rf::copy_from_host(other.make_cache({.sequences = 2, .max_rollback = 4}), saved); });
  CHECK(
      contains(message, "layer.1.streaming:bf16.2: the host's cache has streaming:bf16 of 1 KV groups (3)"));
  CHECK(contains(message_of<rf::ArgumentError>([&] { rf::copy_from_host(other.make_cache(), saved); }),
                 "the host's cache has 1 sequences, the device's 2"));
  CHECK(contains(
      message_of<rf::ArgumentError>([&] { rf::copy_from_host(other.make_cache({.sequences = 2}), saved); }),
      "can be rolled back by 0 tokens, the device's by 4"));
}
