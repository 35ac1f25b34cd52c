#include "recurformer/checkpoint/cache_file.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/model.hpp"

namespace {

using rf::Cache;
using rf::SafetensorsFile;
using rf::Token;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

using AttentionKind = rf::Kind<rf::Attention<>, rf::Bf16>;
using StreamingKind = rf::Kind<rf::StreamingAttention<>, rf::Fp32>;
using MambaKind = rf::Kind<rf::Mamba<>, rf::Fp32>;

template <class... K>
struct SpecOf {
  using Kinds = rf::Kinds<K...>;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};
using Model = rf::Model<SpecOf<AttentionKind, StreamingKind, MambaKind>>;
/// The same kinds in another order.
using Reordered = rf::Model<SpecOf<StreamingKind, MambaKind, AttentionKind>>;

const rf::ModelShape shape{
    .vocabulary = 17,
    .layers = 2,
    .layer = {.d_model = 16, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 16},
    .tied_embeddings = true};
const rf::Plan plan{.kinds = {{"attention", "bf16", {}},
                              {"streaming", "fp32", {{"sink", 2}, {"window", 6}}},
                              {"mamba", "fp32", {}}},
                    .kind_of_group = {{0, 2, 1, 0}, {2, 0, 2, 2}}};

Model made(const rf::Plan& of_plan = plan, const rf::ModelShape& of_shape = shape) {
  Model model(of_shape, of_plan);
  rf::initialise(model.weights(), 11);
  return model;
}

std::vector<Token> tokens(std::size_t count, std::size_t start) {
  std::vector<Token> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<Token>((i * i + 5 * i + start) % 17);
  return out;
}

std::vector<float> feed(Model& model, Cache& cache, std::int64_t sequence, std::size_t count,
                        std::size_t start) {
  const auto logits = model.next_logits(tokens(count, start), cache, sequence);
  return {logits.begin(), logits.end()};
}

/// Three sequences: one of several pages, one of a few tokens, one without any.
Cache filled(Model& model, std::int64_t max_rollback) {
  Cache cache = model.make_cache({.sequences = 3, .max_rollback = max_rollback});
  feed(model, cache, 0, 517, 0);
  feed(model, cache, 1, 3, 1);
  return cache;
}

/// A copy of a cache file whose metadata and tensors went through `change`.
struct Tensor {
  std::string name;
  rf::DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};
void change_file(const std::string& from, const std::string& to,
                 const std::function<void(nlohmann::json&, std::vector<Tensor>&)>& change) {
  const SafetensorsFile file(from);
  nlohmann::json document = nlohmann::json::parse(file.metadata().at("recurformer_cache"));
  std::vector<Tensor> all;
  for (const auto& tensor : file.tensors())
    all.push_back({tensor.name, tensor.dtype, tensor.shape, {tensor.bytes.begin(), tensor.bytes.end()}});
  change(document, all);
  rf::SafetensorsWriter writer;
  writer.metadata("recurformer_cache", document.dump());
  for (const auto& tensor : all) writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
  writer.write(to);
}

}  // namespace

TEST_CASE("cache file: a loaded cache continues with the same bits") {
  Model model = made();
  for (const std::int64_t max_rollback : {0, 5}) {
    CAPTURE(max_rollback);
    const TemporaryFolder folder;
    Cache saved = filled(model, max_rollback);
    rf::save_cache(saved, folder / "cache");
    Cache loaded = model.make_cache({.sequences = 3, .max_rollback = max_rollback});
    feed(model, loaded, 2, 300, 4);  // what was there before is forgotten
    rf::load_cache(loaded, folder / "cache");
    for (const std::int64_t sequence : {0, 1, 2}) {
      CAPTURE(sequence);
      CHECK(loaded.length(sequence) == saved.length(sequence));
      for (const std::size_t count : {1u, 4u, 40u})
        CHECK(feed(model, loaded, sequence, count, 3) == feed(model, saved, sequence, count, 3));
    }
    CHECK(loaded.bytes() == saved.bytes());
    rf::save_cache(saved, folder / "a");
    rf::save_cache(loaded, folder / "b");
    CHECK((rf::read_text_file(folder / "a") == rf::read_text_file(folder / "b")));
  }
}

TEST_CASE("cache file: a loaded cache rolls back with the same bits, also when saved amid a rollback") {
  Model model = made();
  const TemporaryFolder folder;
  for (const std::int64_t before_saving : {0, 2, 5})
    for (const std::int64_t after_loading : {0, 1, 3}) {
      if (before_saving + after_loading > 5) continue;  // all that max_rollback allows
      CAPTURE(before_saving);
      CAPTURE(after_loading);
      Cache saved = filled(model, 5);
      saved.rollback(before_saving, 0);
      rf::save_cache(saved, folder / "cache");
      Cache loaded = model.make_cache({.sequences = 3, .max_rollback = 5});
      rf::load_cache(loaded, folder / "cache");
      for (Cache* cache : {&saved, &loaded}) {
        cache->rollback(after_loading, 0);
        cache->rollback(after_loading, 1);
      }
      CHECK(message_of<rf::ArgumentError>([&] { loaded.rollback(6 - before_saving - after_loading, 0); }) !=
            "no error");
      for (const std::int64_t sequence : {0, 1})
        CHECK(feed(model, loaded, sequence, 2, 8) == feed(model, saved, sequence, 2, 8));
    }
}

TEST_CASE("cache file: loading leaves snapshots alone") {
  Model model = made();
  const TemporaryFolder folder;
  Cache cache = filled(model, 0);
  rf::save_cache(cache, folder / "cache");
  feed(model, cache, 0, 20, 2);
  const rf::CacheSnapshot snapshot = cache.snapshot();
  const auto expected = feed(model, cache, 0, 1, 9);
  rf::load_cache(cache, folder / "cache");
  feed(model, cache, 0, 20, 6);
  cache.restore(snapshot);
  CHECK(feed(model, cache, 0, 1, 9) == expected);
}

TEST_CASE("cache file: what is in it, whatever the order of kinds in the program") {
  Model model = made();
  const TemporaryFolder folder;
  const Cache cache = filled(model, 5);
  rf::save_cache(cache, folder / "a");
  const SafetensorsFile file(folder / "a");
  const auto shape_of = [&](const std::string& name) { return file.tensor(name).shape; };
  using Shape = std::vector<std::int64_t>;
  CHECK(shape_of("sequence.0.layer.0.attention:bf16.0.key") == Shape{2, 517, 16});
  CHECK(file.tensor("sequence.0.layer.0.attention:bf16.0.key").dtype == rf::DType::BF16);
  CHECK(shape_of("sequence.1.layer.1.attention:bf16.1.value") == Shape{1, 3, 16});
  CHECK(shape_of("sequence.2.layer.1.attention:bf16.1.value") == Shape{1, 0, 16});
  CHECK(shape_of("sequence.2.layer.0.streaming:fp32.2.value") == Shape{1, 2 + 6 + 5, 16});
  CHECK(shape_of("sequence.0.layer.1.mamba:fp32.0.scan") == Shape{6, 16, 16});
  CHECK(shape_of("sequence.0.layer.1.mamba:fp32.0.checkpoint.1.scan") == Shape{6, 16, 16});
  CHECK(shape_of("sequence.0.layer.0.mamba:fp32.1.conv") == Shape{2, 3, 16});
  CHECK(shape_of("sequence.0.layer.1.mamba:fp32.0.recorded") == Shape{10, 6 * 32});
  // No token is a multiple of max_rollback yet, except 0.
  CHECK(!file.contains("sequence.1.layer.1.mamba:fp32.0.checkpoint.1.scan"));

  Cache other = Reordered(shape, plan).make_cache({.sequences = 3, .max_rollback = 5});
  rf::load_cache(other, folder / "a");
  rf::save_cache(other, folder / "b");
  CHECK((rf::read_text_file(folder / "a") == rf::read_text_file(folder / "b")));
}

TEST_CASE("cache file: a cache of another layout is refused, and says what differs") {
  Model model = made();
  const TemporaryFolder folder;
  rf::save_cache(filled(model, 5), folder / "cache");
  const auto error = [&](const rf::Plan& of_plan,
                         rf::CacheOptions options = {.sequences = 3, .max_rollback = 5},
                         const rf::ModelShape& of_shape = shape) {
    Cache cache = Model(of_shape, of_plan).make_cache(options);
    return message_of<rf::FileError>([&] { rf::load_cache(cache, folder / "cache"); });
  };
  REQUIRE(error(plan) == "no error");
  CHECK(contains(error(plan, {.sequences = 2, .max_rollback = 5}), "the file has 3 sequences, this cache 2"));
  CHECK(contains(error(plan, {.sequences = 3, .max_rollback = 0}),
                 "the file's cache can be rolled back by 5 tokens, this one by 0"));
  rf::Plan other = plan;
  other.kinds[1].options = {{"sink", 2}, {"window", 7}};
  std::string message = error(other);
  CHECK(contains(message, "layer.0.streaming:fp32.2"));
  CHECK(contains(message, "window 6"));
  CHECK(contains(message, "window 7"));
  other = plan;  // as many groups of each kind, but others
  other.kind_of_group[1] = {2, 2, 0, 2};
  CHECK(contains(error(other), "layer.1.attention:bf16.2"));
  other = plan;
  other.kind_of_group[1] = {2, 0, 2, 0};
  message = error(other);
  CHECK(contains(message, "the file has 1 KV groups (1)"));
  CHECK(contains(message, "this cache has 2 KV groups (1 3)"));
  other = plan;
  other.kind_of_group[0] = {0, 2, 0, 0};
  CHECK(contains(error(other), "layer.0.attention:bf16.0"));
  rf::ModelShape other_shape = shape;
  other_shape.layers = 1;
  other = plan;
  other.kind_of_group.pop_back();
  CHECK(contains(error(other, {.sequences = 3, .max_rollback = 5}, other_shape),
                 "the file has 'layer.1.attention:bf16.1'; this cache has none"));
  other_shape = shape;
  other_shape.layers = 3;
  other = plan;
  other.kind_of_group.push_back({0, 0, 0, 0});
  CHECK(contains(error(other, {.sequences = 3, .max_rollback = 5}, other_shape),
                 "the file has no layer.2.attention:bf16.0"));

  rf::CacheLayout wider = model.cache_layout();
  for (auto& layer : wider.layers)
    for (auto& run : layer)
      if (run.kind == "attention:bf16") run.kind = "attention:fp32";
  Cache cache(wider, {.sequences = 3, .max_rollback = 5});
  CHECK(contains(message_of<rf::FileError>([&] { rf::load_cache(cache, folder / "cache"); }),
                 "the file has 'layer.0.attention:bf16.0', this cache layer.0.attention:fp32.0: a cache is "
                 "loaded in the precision that it was saved in"));
}

TEST_CASE("cache file: damaged files are refused and change nothing") {
  Model model = made();
  const TemporaryFolder folder;
  Cache cache = filled(model, 5);
  rf::save_cache(cache, folder / "cache");
  const auto error = [&](const std::function<void(nlohmann::json&, std::vector<Tensor>&)>& change) {
    change_file(folder / "cache", folder / "changed", change);
    const std::string message = message_of<rf::FileError>([&] { rf::load_cache(cache, folder / "changed"); });
    rf::save_cache(cache, folder / "again");
    CHECK((rf::read_text_file(folder / "again") == rf::read_text_file(folder / "cache")));
    return message;
  };
  using Tensors = std::vector<Tensor>;
  REQUIRE(error([](auto&, Tensors&) {}) == "no error");
  CHECK(contains(error([](auto& d, Tensors&) { d["format"] = 2; }), "format: found format 2; supported: 1"));
  CHECK(contains(error([](auto& d, Tensors&) { d["sequences"][0]["length"] = 518; }), "expected an integer"));
  CHECK(contains(error([](auto& d, Tensors&) {
                   auto& sequence = d["sequences"][0];
                   sequence["length"] = sequence["furthest"] = 1 << 29;
                   for (auto& run : sequence["runs"]) run["checkpoints"] = {1 << 29, (1 << 29) - 5};
                 }),
                 "of shape"));
  CHECK(contains(error([](auto& d, Tensors&) { d["sequences"][0]["length"] = -1; }), "length: expected"));
  CHECK(contains(error([](auto& d, Tensors&) { d["sequences"][1]["furthest"] = 9; }),
                 "furthest: expected an integer from 3 to 8"));
  const auto mamba = [](auto& d) -> nlohmann::json& {
    return d["sequences"][0]["runs"]["layer.1.mamba:fp32.0"];
  };
  CHECK(contains(error([&](auto& d, Tensors&) { mamba(d)["replay_from"] = 518; }), "replay_from: expected"));
  CHECK(contains(error([&](auto& d, Tensors&) { mamba(d)["replay_from"] = 3; }),
                 "found 3; only the last 10 of 517 inputs are kept"));
  CHECK(contains(error([&](auto& d, Tensors&) { mamba(d)["checkpoints"] = {1, 2, 3}; }), "has 3 positions"));
  CHECK(contains(error([&](auto& d, Tensors&) { mamba(d)["checkpoints"] = {600, 2}; }), "checkpoints[0]"));
  // 5 tokens may be taken back; the inputs of the last 10 are there to go on from a checkpoint.
  CHECK(contains(error([&](auto& d, Tensors&) {
                   mamba(d)["checkpoints"] = {515, 506};
                 }),
                 "found a position of 506; the inputs since 507 are kept"));
  CHECK(contains(error([&](auto& d, Tensors&) {
                   mamba(d)["checkpoints"] = {515, 513};
                 }),
                 "found 515 and 513; one is expected from 507 to 512"));
  CHECK(contains(error([](auto&, Tensors& tensors) { tensors.pop_back(); }), "sequence."));
  CHECK(contains(error([](auto&, Tensors& tensors) {
                   tensors.push_back(tensors.back());
                   tensors.back().name = "x";
                 }),
                 " tensors; expected "));
  CHECK(contains(error([](auto&, Tensors& tensors) {
                   for (Tensor& tensor : tensors)
                     if (tensor.name == "sequence.0.layer.0.mamba:fp32.1.conv") tensor.shape = {3, 2, 16};
                 }),
                 "tensor 'sequence.0.layer.0.mamba:fp32.1.conv' is F32 of shape"));
  rf::SafetensorsWriter writer;
  writer.write(folder / "changed");
  CHECK(contains(message_of<rf::FileError>([&] { rf::load_cache(cache, folder / "changed"); }),
                 "is not a cache: its metadata has no recurformer_cache"));
}
