#ifndef RECURFORMER_MODEL_CACHE_LAYOUT_HPP
#define RECURFORMER_MODEL_CACHE_LAYOUT_HPP

// What a model's cache consists of, and how many bytes that is: the one place where cache bytes are computed.
// Planning asks it before anything is allocated; Cache allocates exactly what it says.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/spec/run.hpp"

namespace rf {

struct CacheOptions {
  std::int64_t sequences = 1;     ///< independent sequences, >= 1
  std::int64_t max_rollback = 0;  ///< tokens that rollback() can take back, >= 0
};

/// One declared field of one run.
struct FieldLayout {
  CacheField field;
  DType dtype = DType::F32;
  std::int64_t units = 0;  ///< slices: one per group or per head of the run

  /// Bytes of one page (rows), of the whole ring, or of the whole state.
  std::int64_t block_bytes(std::int64_t max_rollback) const {
    const auto element = static_cast<std::int64_t>(size_of(dtype));
    std::int64_t rows = 1;
    if (field.kind == FieldKind::rows) rows = cache_page_rows;
    if (field.kind == FieldKind::ring) rows = field.sink + ring_capacity(max_rollback);
    return units * rows * field.slice.size() * element;
  }
  /// Slots of a ring after its sink rows: the window, and what a rollback may need again.
  std::int64_t ring_capacity(std::int64_t max_rollback) const { return field.window + max_rollback; }
};

/// One run of one layer.
struct RunLayout {
  std::string kind;                  ///< kind_name()
  std::int64_t groups = 0;           ///< KV groups; 0 for a kind this layer does not use
  std::int64_t projected_width = 0;  ///< floats per token that a rollback has to record
  std::vector<FieldLayout> fields;
  std::vector<int> members = {};  ///< which KV groups of the layer; empty where only sizes matter

  /// True if rolling back needs more than forgetting rows.
  bool is_recurrent() const {
    for (const auto& field : fields)
      if (field.field.kind == FieldKind::state) return true;
    return false;
  }
  std::int64_t state_bytes() const {
    std::int64_t total = 0;
    for (const auto& field : fields)
      if (field.field.kind == FieldKind::state) total += field.block_bytes(0);
    return total;
  }
};

/// Bytes of one field, summed over the sequences of a cache.
struct CacheItem {
  int layer = 0;
  std::string kind;
  std::string field;
  std::int64_t bytes = 0;
};

/// The runs of every layer.
struct CacheLayout {
  std::vector<std::vector<RunLayout>> layers;

  /// Itemised bytes of one sequence with `length` tokens; what Cache allocates.
  std::vector<CacheItem> items(std::int64_t length, std::int64_t max_rollback = 0) const {
    std::vector<CacheItem> out;
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
      for (const RunLayout& run : layers[layer]) {
        if (run.groups == 0) continue;
        const auto add = [&](const std::string& field, std::int64_t bytes) {
          out.push_back({static_cast<int>(layer), run.kind, field, bytes});
        };
        for (const FieldLayout& field : run.fields) {
          const std::int64_t blocks =
              field.field.kind == FieldKind::rows ? (length + cache_page_rows - 1) / cache_page_rows : 1;
          add(std::string(field.field.name), blocks * field.block_bytes(max_rollback));
        }
        if (max_rollback > 0 && run.is_recurrent()) add("rollback", rollback_bytes(run, max_rollback));
      }
    return out;
  }

  /// Total of items().
  std::int64_t bytes(std::int64_t length, std::int64_t max_rollback = 0) const {
    std::int64_t total = 0;
    for (const CacheItem& item : items(length, max_rollback)) total += item.bytes;
    return total;
  }

  /// Two checkpoint states and the inputs of 2·max_rollback tokens (see Cache).
  static std::int64_t rollback_bytes(const RunLayout& run, std::int64_t max_rollback) {
    return 2 * run.state_bytes() +
           2 * max_rollback * run.projected_width * static_cast<std::int64_t>(sizeof(float));
  }
};

namespace detail {

/// Where one run of one layer is found among others, whatever the order of kinds in the program that wrote
/// it.
inline std::string run_name(std::size_t layer, const RunLayout& run) {
  return text("layer.", layer, ".", run.kind, ".", run.members.empty() ? 0 : run.members.front());
}

/// What has to agree between two caches for the one to take what the other remembers, in words.
inline std::string run_text(const RunLayout& run) {
  std::string out = text(run.groups, " KV groups (");
  for (std::size_t i = 0; i < run.members.size(); ++i) out += text(i > 0 ? " " : "", run.members[i]);
  out += text("), ", run.projected_width, " inputs");
  for (const FieldLayout& layout : run.fields) {
    const CacheField& field = layout.field;
    constexpr std::array<std::string_view, 3> kinds = {"rows", "ring", "state"};
    out += text(", ", field.name, " ", kinds[static_cast<std::size_t>(field.kind)], " of ", layout.units,
                " x ", field.slice.rows, " x ", field.slice.columns, " ", name_of(layout.dtype));
    if (field.kind == FieldKind::ring) out += text(" with sink ", field.sink, " and window ", field.window);
  }
  return out;
}

/// Calls f(layer, run, RunLayout) for every run that has groups.
template <class F>
void for_each_cached_run(const CacheLayout& layout, F&& f) {
  for (std::size_t layer = 0; layer < layout.layers.size(); ++layer)
    for (std::size_t run = 0; run < layout.layers[layer].size(); ++run)
      if (layout.layers[layer][run].groups > 0) f(layer, run, layout.layers[layer][run]);
}

/// Throws ArgumentError, naming both owners, unless the caches of two layouts can take what the other
/// remembers.
inline void check_same_layout(std::string_view owner, const CacheLayout& layout, std::string_view other_owner,
                              const CacheLayout& other) {
  check(layout.layers.size() == other.layers.size(), owner, " has ", layout.layers.size(), " layers, ",
        other_owner, " ", other.layers.size());
  for_each_cached_run(other, [&](std::size_t layer, std::size_t run, const RunLayout& wanted) {
    check(layout.layers[layer].size() == other.layers[layer].size(), "layer ", layer, ": ", owner, " has ",
          layout.layers[layer].size(), " kinds, ", other_owner, " ", other.layers[layer].size());
    const RunLayout& found = layout.layers[layer][run];
    check(found.kind == wanted.kind && run_text(found) == run_text(wanted), run_name(layer, wanted), ": ",
          owner, " has ", found.kind, " of ", run_text(found), "; ", other_owner, " has ", run_text(wanted));
  });
}

}  // namespace detail

/// A field and its type.
struct StoredField {
  CacheField field;
  DType dtype = DType::F32;
};

/// What a mixer's cache consists of in precision P: the fields that it declares and, where rows are 8-bit
/// integers, behind them the scales of each. ArgumentError if the mixer's kernels know no such rows.
template <Precision P, Mixer M>
std::vector<StoredField> stored_fields(const M& mixer, const HeadShape& shape) {
  std::vector<StoredField> out, scales;
  for (const CacheField& field : mixer.cache_fields(shape)) {
    const bool state = field.kind == FieldKind::state;
    out.push_back({field, state ? dtype_of<typename P::State> : dtype_of<typename P::Cache>});
    if (state || !has_scales<typename P::Cache>) continue;
    check(!field.scales.empty(), "the mixer ", M::name, " does not keep its cache in 8-bit integers, as ",
          P::name, " asks for; give it another precision");
    CacheField& of_rows = scales.emplace_back(StoredField{field, DType::F32}).field;
    of_rows.name = field.scales;
    of_rows.slice = slice_of(1);
  }
  out.insert(out.end(), scales.begin(), scales.end());
  return out;
}

/// Layout of a run of `groups` groups of kind K, with the mixer's run-time options.
template <class K>
RunLayout run_layout(const typename K::Mixer& mixer, const HeadShape& shape, std::int64_t groups) {
  RunLayout run{.kind = kind_name<K>(),
                .groups = groups,
                .projected_width = groups * projection_width(mixer, shape),
                .fields = {}};
  for (const auto& [field, dtype] : stored_fields<typename K::Precision>(mixer, shape))
    run.fields.push_back({.field = field,
                          .dtype = dtype,
                          .units = groups * (field.unit == Unit::head ? shape.queries_per_group : 1)});
  return run;
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_CACHE_LAYOUT_HPP
