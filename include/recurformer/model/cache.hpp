#ifndef RECURFORMER_MODEL_CACHE_HPP
#define RECURFORMER_MODEL_CACHE_HPP

// The hybrid cache: what decoding remembers, for every layer, run and sequence. It knows no mixer, only the
// fields they declare:
//   rows   pages of cache_page_rows tokens, allocated as the sequence grows and never moved;
//   ring   the first `sink` rows and window + max_rollback latest rows;
//   state  one block.
// Pages are shared with snapshots and copied when first written after one.
//
// Rollback. Attention forgets rows; a ring still holds the older ones. A recurrent state cannot be run
// backwards, so with max_rollback R > 0 each recurrent run keeps its state at the last two multiples of R and
// the projected inputs since (2R rows). Rolling back restores the checkpoint before the target, and the layer
// replays the inputs up to the target at its next call.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/core/memory.hpp"
#include "recurformer/cpu/field_view.hpp"
#include "recurformer/model/cache_layout.hpp"

namespace rf {

namespace detail {

/// Zeroed bytes from a memory resource, given back when the last owner goes.
class Block {
 public:
  Block() = default;
  Block(std::int64_t bytes, std::pmr::memory_resource* memory) : bytes_(bytes), memory_(memory) {
    const auto size = static_cast<std::size_t>(bytes);
    auto* raw = static_cast<std::byte*>(memory->allocate(size, alignment));
    data_ = std::shared_ptr<std::byte>(
        raw, [size, memory](std::byte* p) { memory->deallocate(p, size, alignment); });
    std::memset(raw, 0, size);
  }
  std::byte* data() const { return data_.get(); }
  std::int64_t bytes() const { return bytes_; }
  bool is_shared() const { return data_.use_count() > 1; }
  std::shared_ptr<std::byte> share() const { return data_; }
  std::span<std::byte> span() const { return {data(), static_cast<std::size_t>(bytes_)}; }
  Block clone() const {
    if (!data_) return {};
    Block copy(bytes_, memory_);
    std::memcpy(copy.data(), data(), static_cast<std::size_t>(bytes_));
    return copy;
  }

 private:
  static constexpr std::size_t alignment = 64;
  std::int64_t bytes_ = 0;
  std::pmr::memory_resource* memory_ = nullptr;
  std::shared_ptr<std::byte> data_;
};

/// One field of one run of one sequence.
struct FieldMemory {
  FieldLayout layout;
  std::vector<Block> pages;          // rows
  std::vector<void*> page_pointers;  // what kernels get
  Block block;                       // ring, state

  FieldMemory clone_sharing_pages() const {
    FieldMemory copy = *this;
    copy.block = block.clone();
    return copy;
  }
};

/// One run of one sequence.
struct RunMemory {
  std::vector<FieldMemory> fields;
  // Rollback of recurrent runs; empty without.
  struct Checkpoint {
    std::int64_t position = -1;  // tokens consumed by the states below; -1: none yet
    std::vector<Block> states;
  };
  std::array<Checkpoint, 2> checkpoints;
  Block recorded;                 // (2R, projected_width) floats, the input of position p in row p % 2R
  std::int64_t replay_from = -1;  // the states are at this position and must first be replayed to the length

  RunMemory clone_sharing_pages() const {
    RunMemory copy = *this;
    for (auto& field : copy.fields) field = field.clone_sharing_pages();
    for (auto& checkpoint : copy.checkpoints)
      for (auto& state : checkpoint.states) state = state.clone();
    copy.recorded = recorded.clone();
    return copy;
  }
};

/// One sequence: its length, and the memory of every run of every layer.
struct SequenceMemory {
  std::int64_t length = 0;
  std::int64_t furthest = 0;  // the largest length so far; rollback counts from here
  std::vector<std::vector<RunMemory>> layers;

  SequenceMemory clone_sharing_pages() const {
    SequenceMemory copy = *this;
    for (auto& layer : copy.layers)
      for (auto& run : layer) run = run.clone_sharing_pages();
    return copy;
  }
};

}  // namespace detail

/// A moment of a cache, cheap to take: pages are shared, only rings and states are copied.
class CacheSnapshot {
  friend class Cache;
  CacheLayout layout_;
  std::int64_t max_rollback_ = 0;
  std::vector<detail::SequenceMemory> sequences_;
};

/// The cache of a model for a number of sequences. Not thread-safe; use one per generation loop.
class Cache {
 public:
  /// Allocates rings and states; pages come as sequences grow. All memory comes from `memory`.
  explicit Cache(CacheLayout layout, CacheOptions options = {},
                 std::pmr::memory_resource* memory = default_memory())
      : layout_(std::move(layout)), options_(options), memory_(memory) {
    check(options.sequences >= 1, "a cache for ", options.sequences, " sequences; it needs at least 1");
    check(options.max_rollback >= 0, "max_rollback is ", options.max_rollback, "; it must not be negative");
    for (std::int64_t i = 0; i < options.sequences; ++i) sequences_.push_back(fresh_sequence());
  }
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  Cache(Cache&&) = default;
  Cache& operator=(Cache&&) = default;

  const CacheLayout& layout() const { return layout_; }
  std::int64_t sequences() const { return options_.sequences; }
  std::int64_t max_rollback() const { return options_.max_rollback; }
  /// Tokens that sequence `index` has consumed.
  std::int64_t length(std::int64_t index = 0) const { return sequence(index).length; }

  /// Itemised bytes as allocated now, summed over sequences; bookkeeping (a pointer per page) is not counted.
  std::vector<CacheItem> items() const {
    std::vector<CacheItem> out;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      const auto of_sequence = layout_.items(allocated_rows(sequences_[i]), options_.max_rollback);
      if (i == 0)
        out = of_sequence;
      else
        for (std::size_t k = 0; k < out.size(); ++k) out[k].bytes += of_sequence[k].bytes;
    }
    return out;
  }
  /// Total of items().
  std::int64_t bytes() const {
    std::int64_t total = 0;
    for (const auto& item : items()) total += item.bytes;
    return total;
  }

  /// Forgets sequence `index` and gives its pages back.
  void reset(std::int64_t index = 0) { sequence(index) = fresh_sequence(); }

  /// Keeps this moment. Later writes copy the pages they touch.
  CacheSnapshot snapshot() const {
    CacheSnapshot out;
    out.layout_ = layout_;
    out.max_rollback_ = options_.max_rollback;
    for (const auto& one : sequences_) out.sequences_.push_back(one.clone_sharing_pages());
    return out;
  }
  /// Goes back to a snapshot of this cache, or of another one with the same layout and options (any number of
  /// times). Throws ArgumentError, and changes nothing, if those differ.
  void restore(const CacheSnapshot& snapshot) {
    check(snapshot.sequences_.size() == sequences_.size(), "the snapshot holds ", snapshot.sequences_.size(),
          " sequences, this cache ", sequences_.size());
    check(snapshot.max_rollback_ == options_.max_rollback, "the snapshot is of a cache with max_rollback ",
          snapshot.max_rollback_, ", this cache has ", options_.max_rollback);
    detail::check_same_layout("the snapshot", snapshot.layout_, "this cache", layout_);
    std::vector<detail::SequenceMemory> restored;
    for (const auto& one : snapshot.sequences_) restored.push_back(one.clone_sharing_pages());
    sequences_ = std::move(restored);
  }

  /// Takes the last n tokens of a sequence back, as after rejected speculation. At most max_rollback tokens
  /// below the furthest length the sequence has reached.
  void rollback(std::int64_t n, std::int64_t index = 0) {
    auto& one = sequence(index);
    check(n >= 0 && n <= one.length, "rollback of ", n, " tokens from a sequence of ", one.length);
    const std::int64_t target = one.length - n;
    check(n == 0 || one.furthest - target <= options_.max_rollback, "rollback to ", target, " tokens, ",
          one.furthest - target, " below the furthest length reached; this cache was made with max_rollback ",
          options_.max_rollback);
    if (n == 0) return;
    for (auto& layer : one.layers)
      for (auto& run : layer)
        if (run.recorded.bytes() > 0) restore_checkpoint(run, target);
    one.length = target;
  }

  // --- for the model
  // -------------------------------------------------------------------------------------------

  /// Makes room for `rows` more tokens of a sequence, unsharing the page they start in.
  void reserve(std::int64_t index, std::int64_t rows) {
    auto& one = sequence(index);
    const std::int64_t first_page = one.length / cache_page_rows;
    const std::int64_t pages = (one.length + rows + cache_page_rows - 1) / cache_page_rows;
    for (auto& layer : one.layers)
      for (auto& run : layer)
        for (auto& field : run.fields)
          if (field.layout.field.kind == FieldKind::rows) reserve_pages(field, first_page, pages);
  }
  /// Records that `rows` tokens were consumed by every layer.
  void advance(std::int64_t index, std::int64_t rows) {
    auto& one = sequence(index);
    one.length += rows;
    one.furthest = std::max(one.furthest, one.length);
  }
  /// Appends the views of one run's fields for one sequence.
  void append_views(std::int64_t index, std::size_t layer, std::size_t run,
                    std::vector<cpu::FieldView>& out) {
    for (auto& field : memory(index, layer, run).fields)
      out.push_back({.data = field.block.data(),
                     .pages = field.page_pointers.data(),
                     .capacity = field.layout.field.kind == FieldKind::ring
                                     ? field.layout.ring_capacity(options_.max_rollback)
                                     : 0});
  }
  detail::RunMemory& memory(std::int64_t index, std::size_t layer, std::size_t run) {
    return sequence(index).layers[layer][run];
  }
  detail::SequenceMemory& sequence(std::int64_t index) {
    check(index >= 0 && index < options_.sequences, "sequence ", index, " of a cache for ",
          options_.sequences);
    return sequences_[static_cast<std::size_t>(index)];
  }
  const detail::SequenceMemory& sequence(std::int64_t index) const {
    return const_cast<Cache*>(this)->sequence(index);
  }

 private:
  detail::SequenceMemory fresh_sequence() const {
    detail::SequenceMemory out;
    for (const auto& layer : layout_.layers) {
      auto& runs = out.layers.emplace_back();
      for (const auto& run : layer) runs.push_back(fresh_run(run));
    }
    return out;
  }

  detail::RunMemory fresh_run(const RunLayout& run) const {
    detail::RunMemory out;
    const bool checkpoints = run.groups > 0 && options_.max_rollback > 0 && run.is_recurrent();
    for (const auto& layout : run.fields) {
      auto& field = out.fields.emplace_back();
      field.layout = layout;
      if (layout.field.kind == FieldKind::rows || run.groups == 0) continue;
      field.block = detail::Block(layout.block_bytes(options_.max_rollback), memory_);
      if (checkpoints && layout.field.kind == FieldKind::state)
        for (auto& checkpoint : out.checkpoints)
          checkpoint.states.emplace_back(layout.block_bytes(0), memory_);
    }
    if (checkpoints) {
      out.checkpoints[0].position = 0;  // the zero state
      const std::int64_t floats = 2 * options_.max_rollback * run.projected_width;
      out.recorded = detail::Block(floats * static_cast<std::int64_t>(sizeof(float)), memory_);
    }
    return out;
  }

  void reserve_pages(detail::FieldMemory& field, std::int64_t first_page, std::int64_t pages) {
    if (field.layout.units == 0) return;
    if (first_page < static_cast<std::int64_t>(field.pages.size())) {
      // After a rollback or a restore, later pages hold rows nobody refers to any more: they are reused.
      for (auto page = static_cast<std::size_t>(first_page); page < field.pages.size(); ++page)
        if (field.pages[page].is_shared()) field.pages[page] = field.pages[page].clone();
    }
    while (static_cast<std::int64_t>(field.pages.size()) < pages)
      field.pages.emplace_back(field.layout.block_bytes(options_.max_rollback), memory_);
    field.page_pointers.clear();
    for (const auto& page : field.pages) field.page_pointers.push_back(page.data());
  }

  static void restore_checkpoint(detail::RunMemory& run, std::int64_t target) {
    const detail::RunMemory::Checkpoint* best = nullptr;
    for (const auto& checkpoint : run.checkpoints)
      if (checkpoint.position >= 0 && checkpoint.position <= target &&
          (!best || checkpoint.position > best->position))
        best = &checkpoint;
    check(best != nullptr, "no checkpoint at or before token ", target, " to roll back to");
    std::size_t state = 0;
    for (auto& field : run.fields)
      if (field.layout.field.kind == FieldKind::state)
        std::memcpy(field.block.data(), best->states[state++].data(),
                    static_cast<std::size_t>(field.block.bytes()));
    run.replay_from = best->position;
  }

  static std::int64_t allocated_rows(const detail::SequenceMemory& one) {
    for (const auto& layer : one.layers)
      for (const auto& run : layer)
        for (const auto& field : run.fields)
          if (!field.pages.empty()) return static_cast<std::int64_t>(field.pages.size()) * cache_page_rows;
    return 0;
  }

  CacheLayout layout_;
  CacheOptions options_;
  std::pmr::memory_resource* memory_;
  std::vector<detail::SequenceMemory> sequences_;
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_CACHE_HPP
