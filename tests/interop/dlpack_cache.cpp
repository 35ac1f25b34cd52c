#include "recurformer/interop/dlpack_cache.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/cuda/simulated.hpp"
#include "recurformer/model/cache.hpp"
#include "support/error_message.hpp"

namespace {

using rf::Dims;
using rf::FieldKind;
using rf::test::message_of;

/// One layer with a field of every kind: two KV groups of attention in bf16, and one of something that keeps
/// a ring and a state.
rf::CacheLayout layout() {
  const auto field = [](std::string_view name, FieldKind kind, rf::SliceShape slice, std::int64_t units,
                        rf::DType dtype) {
    return rf::FieldLayout{.field = {.name = name, .kind = kind, .slice = slice, .sink = 1, .window = 4},
                           .dtype = dtype,
                           .units = units};
  };
  return {
      {{rf::RunLayout{.kind = "attention:bf16",
                      .groups = 2,
                      .fields = {field("key", FieldKind::rows, rf::slice_of(8), 2, rf::DType::BF16)}},
        rf::RunLayout{.kind = "other:fp32",
                      .groups = 1,
                      .projected_width = 3,
                      .fields = {field("recent", FieldKind::ring, rf::slice_of(8), 1, rf::DType::F32),
                                 field("state", FieldKind::state, rf::slice_of(8, 5), 3, rf::DType::F32)}}}}};
}
constexpr rf::CacheFieldName keys{.kind = "attention:bf16", .field = "key"};
constexpr rf::CacheFieldName recent{.kind = "other:fp32", .field = "recent"};
constexpr rf::CacheFieldName state{.kind = "other:fp32", .field = "state"};

std::vector<std::int64_t> shape_of(const rf::DlpackPointer& tensor) {
  return {tensor->dl_tensor.shape, tensor->dl_tensor.shape + tensor->dl_tensor.ndim};
}
using Shape = std::vector<std::int64_t>;

/// Adds tokens as a layer would.
template <class Cache>
void grow(Cache& cache, std::int64_t tokens, std::int64_t sequence = 0) {
  cache.reserve(sequence, tokens);
  cache.advance(sequence, tokens);
}

template <class Cache>
void check_shapes(Cache& cache) {
  CHECK(rf::to_dlpack(cache, keys).empty());  // no token, no page
  grow(cache, rf::cache_page_rows + 1);
  const auto pages = rf::to_dlpack(cache, keys);
  REQUIRE(pages.size() == 2);
  CHECK(shape_of(pages[1]) == Shape{2, rf::cache_page_rows, 8});
  CHECK(pages[1]->dl_tensor.dtype.code == kDLBfloat);
  const auto rings = rf::to_dlpack(cache, recent), states = rf::to_dlpack(cache, state);
  REQUIRE(rings.size() == 1);
  REQUIRE(states.size() == 1);
  CHECK(shape_of(rings[0]) == Shape{1, 1 + 4 + cache.max_rollback(), 8});
  CHECK(shape_of(states[0]) == Shape{3, 8, 5});
}

}  // namespace

TEST_CASE("dlpack: a cache's pages, rings and states, and what they hold") {
  rf::Cache cache(layout(), {.max_rollback = 2});
  check_shapes(cache);

  auto* const held = reinterpret_cast<float*>(cache.memory(0, 0, 1).fields[1].block.data());
  held[1 * 40 + 2 * 5 + 3] = 7;
  rf::DlpackTensor<float, Dims<3>> exported(rf::to_dlpack(cache, state)[0].release());
  CHECK(exported.view()(1, 2, 3) == 7);
  exported.view()(0, 0, 1) = 8;
  CHECK(held[1] == 8);
  cache.reset();
  CHECK(exported.view()(0, 0, 1) == 8);  // it outlives the cache's own use of it
}

TEST_CASE("dlpack: an exported page keeps what it holds when the cache grows on") {
  rf::Cache cache(layout());
  grow(cache, 3);
  const rf::DlpackTensor<rf::bf16, Dims<3>> page(rf::to_dlpack(cache, keys)[0].release());
  page.view()(1, 2, 7) = rf::bf16(3);
  grow(cache, 1);
  rf::DlpackPointer now = std::move(rf::to_dlpack(cache, keys)[0]);
  CHECK(now->dl_tensor.data != page.view().data());
  CHECK(float(rf::dlpack_view<rf::bf16, Dims<3>>(now->dl_tensor)(1, 2, 7)) == 3);
}

TEST_CASE("dlpack: a cache is filled from another one's tensors") {
  rf::Cache from(layout()), to(layout());
  grow(from, 300);
  to.reserve(0, 300);
  float next = 1;
  for (const auto& name : {keys, recent, state}) {
    const auto source = rf::to_dlpack(from, name), target = rf::to_dlpack(to, name);
    REQUIRE(source.size() == target.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      const DLTensor& tensor = source[i]->dl_tensor;
      const std::size_t bytes =
          static_cast<std::size_t>(tensor.shape[0] * tensor.strides[0]) * tensor.dtype.bits / 8;
      for (std::size_t at = 0; at < bytes; at += sizeof next, next += 1)
        std::memcpy(static_cast<std::byte*>(tensor.data) + at, &next, sizeof next);
      std::memcpy(target[i]->dl_tensor.data, tensor.data, bytes);
    }
  }
  to.advance(0, 300);
  CHECK(to.length() == from.length());
  for (std::size_t run = 0; run < 2; ++run)
    for (std::size_t field = 0; field < layout().layers[0][run].fields.size(); ++field) {
      const auto &a = from.memory(0, 0, run).fields[field], &b = to.memory(0, 0, run).fields[field];
      if (a.block.bytes() > 0) CHECK(std::memcmp(a.block.data(), b.block.data(), a.block.span().size()) == 0);
      for (std::size_t page = 0; page < a.pages.size(); ++page)
        CHECK(std::memcmp(a.pages[page].data(), b.pages[page].data(), a.pages[page].span().size()) == 0);
    }
}

TEST_CASE("dlpack: fields of a cache on a device are its own memory, sequence by sequence") {
  rf::Simulated device;
  rf::DeviceCache<rf::Simulated> cache(device, layout(), {.sequences = 2});
  check_shapes(cache);

  grow(cache, 5, 1);
  const auto pages = rf::to_dlpack(cache, {.kind = keys.kind, .field = keys.field, .sequence = 1});
  REQUIRE(pages.size() == 1);
  CHECK(pages[0]->dl_tensor.data == cache.field(0, 0, 0) + cache.pages(1)[0] * cache.block_stride(0, 0, 0));
  for (const std::size_t field : {0u, 1u}) {
    const auto& name = field == 0 ? recent : state;
    const auto second = rf::to_dlpack(cache, {.kind = name.kind, .field = name.field, .sequence = 1});
    CHECK(second[0]->dl_tensor.data == cache.field(0, 1, field) + cache.block_stride(0, 1, field));
  }
}

TEST_CASE("dlpack: fields that a cache does not have, and states that are to be computed first") {
  rf::Cache cache(layout(), {.max_rollback = 2});
  const auto message = [&](const rf::CacheFieldName& name) {
    return message_of<rf::ArgumentError>([&] { (void)rf::to_dlpack(cache, name); });
  };
  CHECK(message({.layer = 1, .kind = "attention:bf16", .field = "key"}) == "layer 1 of a cache of 1 layers");
  CHECK(message({.layer = -1}) == "layer -1 of a cache of 1 layers");
  CHECK(message({.kind = "attention:bf16", .field = "state"}) ==
        "layer 0 of the cache has no field state of kind attention:bf16; it has: attention:bf16 key, "
        "other:fp32 "
        "recent, other:fp32 state");
  CHECK(message({.kind = "other:fp32", .field = "state", .sequence = 1}) == "sequence 1 of a cache for 1");
  grow(cache, 1);
  cache.rollback(1);
  CHECK(message(state) ==
        "field state is where it was after token 0, as the cache was rolled back; feed the next token before "
        "exporting it");
  CHECK(message(recent) == "no error");
}
