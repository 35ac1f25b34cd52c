#ifndef RECURFORMER_INTEROP_DLPACK_CACHE_HPP
#define RECURFORMER_INTEROP_DLPACK_CACHE_HPP

// What a cache remembers, as DLPack tensors: to look at it in another framework, or to fill it from there.
//   for (rf::DlpackPointer& page : rf::to_dlpack(cache, {.layer = 0, .kind = "attention:bf16", .field =
//   "key"}))
//     PyCapsule_New(page.release(), "dltensor", …);
// CacheItem (cache.items()) has the names. Shapes:
//   rows    one tensor per page of cache_page_rows tokens: (units, cache_page_rows, width)
//   ring    (units, sink + window + max_rollback, width); position p >= sink is row
//           sink + (p - sink) % (window + max_rollback)
//   state   (units, rows, columns) as the mixer declares it
// where units are the KV groups, or the heads, of the run.
//
// To fill a cache that was made without max_rollback: reserve(sequence, tokens), write to the tensors of all
// fields, advance(sequence, tokens). (Rolling back needs more than the fields: what the heads' inputs were.)

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/cuda/device_space.hpp"
#include "recurformer/interop/dlpack.hpp"
#include "recurformer/model/cache.hpp"
#include "recurformer/model/cache_layout.hpp"
#include "recurformer/model/device_cache.hpp"

namespace rf {

/// One field of one run of one sequence of a cache, by the names that CacheItem has.
struct CacheFieldName {
  int layer = 0;
  std::string_view kind = {};
  std::string_view field = {};
  std::int64_t sequence = 0;
};

namespace detail {

struct CacheFieldPlace {
  std::size_t layer, run, field;
};

/// Throws ArgumentError with the fields that there are.
inline CacheFieldPlace find_cache_field(const CacheLayout& layout, const CacheFieldName& name) {
  const auto layer = static_cast<std::size_t>(name.layer);
  check(layer < layout.layers.size(), "layer ", name.layer, " of a cache of ", layout.layers.size(),
        " layers");
  std::string there;
  const auto& runs = layout.layers[layer];
  for (std::size_t run = 0; run < runs.size(); ++run)
    for (std::size_t field = 0; runs[run].groups > 0 && field < runs[run].fields.size(); ++field) {
      const std::string_view found = runs[run].fields[field].field.name;
      if (runs[run].kind == name.kind && found == name.field) return {layer, run, field};
      there += text(there.empty() ? "" : ", ", runs[run].kind, " ", found);
    }
  throw ArgumentError(text("layer ", name.layer, " of the cache has no field ", name.field, " of kind ",
                           name.kind, "; it has: ", there));
}

/// Exports pages, rings and states of one field.
class CacheFieldExport {
 public:
  CacheFieldExport(const FieldLayout& layout, const DLDevice& device, std::int64_t max_rollback)
      : dtype_(layout.dtype), device_(device) {
    const CacheField& field = layout.field;
    if (field.kind == FieldKind::state)
      shape_ = {layout.units, field.slice.rows, field.slice.columns};
    else if (field.kind == FieldKind::ring)
      shape_ = {layout.units, field.sink + layout.ring_capacity(max_rollback), field.slice.size()};
    else
      shape_ = {layout.units, cache_page_rows, field.slice.size()};
  }
  DlpackPointer operator()(std::byte* data, std::shared_ptr<void> owner) const {
    const std::array<std::int64_t, 3> strides = {shape_[1] * shape_[2], shape_[2], 1};
    return export_dlpack(data, dtype_, device_, shape_, strides, std::move(owner));
  }

 private:
  DType dtype_;
  DLDevice device_;
  std::array<std::int64_t, 3> shape_{};
};

inline void check_replayed(const FieldLayout& layout, std::int64_t replay_from) {
  check(layout.field.kind != FieldKind::state || replay_from < 0, "field ", layout.field.name,
        " is where it was ", "after token ", replay_from,
        ", as the cache was rolled back; feed the next token before exporting it");
}

}  // namespace detail

/// A field's pages in the order of positions, or its ring or state alone. The memory lives until the deleters
/// are called (and needs its memory resource until then). It is the cache's own, with one exception: a page
/// keeps what it holds while it is exported, as the cache takes a copy before it appends to it. ArgumentError
/// for a field that is not there, or a state that a rollback has left to be computed.
inline std::vector<DlpackPointer> to_dlpack(Cache& cache, const CacheFieldName& name) {
  const detail::CacheFieldPlace at = detail::find_cache_field(cache.layout(), name);
  const detail::RunMemory& run = cache.memory(name.sequence, at.layer, at.run);
  const detail::FieldMemory& memory = run.fields[at.field];
  detail::check_replayed(memory.layout, run.replay_from);
  const detail::CacheFieldExport exported(memory.layout, dlpack_device(HostSpace{}), cache.max_rollback());
  std::vector<DlpackPointer> out;
  if (memory.layout.field.kind != FieldKind::rows)
    out.push_back(exported(memory.block.data(), memory.block.share()));
  for (const detail::Block& page : memory.pages) out.push_back(exported(page.data(), page.share()));
  return out;
}

/// The same on a device, where it is the cache's own memory, valid until the cache next grows or goes.
template <class Device>
std::vector<DlpackPointer> to_dlpack(const DeviceCache<Device>& cache, const CacheFieldName& name) {
  const detail::CacheFieldPlace at = detail::find_cache_field(cache.layout(), name);
  const FieldLayout& layout = cache.layout().layers[at.layer][at.run].fields[at.field];
  detail::check_replayed(layout, cache.position(name.sequence).replay_from);
  const cuda::DeviceMemory<Device> memory(cache.device());
  const detail::CacheFieldExport exported(layout, dlpack_device(cuda::DeviceSpace<Device>(memory)),
                                          cache.max_rollback());
  const auto block = [&](std::int64_t index) {
    return exported(
        cache.field(at.layer, at.run, at.field) + index * cache.block_stride(at.layer, at.run, at.field),
        nullptr);
  };
  std::vector<DlpackPointer> out;
  if (layout.field.kind != FieldKind::rows) {
    out.push_back(block(name.sequence));
    return out;
  }
  for (const int page : cache.pages(name.sequence)) out.push_back(block(page));
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_INTEROP_DLPACK_CACHE_HPP
