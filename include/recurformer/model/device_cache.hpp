#ifndef RECURFORMER_MODEL_DEVICE_CACHE_HPP
#define RECURFORMER_MODEL_DEVICE_CACHE_HPP

// The hybrid cache on a device (rf::Cuda, rf::Simulated). Like Cache it knows no mixer, only the fields they
// declare, and its blocks have the same layouts:
//   rows    a pool of pages per field, each (units, cache_page_rows, width). Sequences of all lengths share
//   the
//           pools; since every layer sees the same tokens, one list of page indices per sequence serves all
//           fields of all layers. Pools double when they are full.
//   ring    (units, sink + window + max_rollback, width) per sequence, one behind the other
//   state   (units, slice); the states of all layers lie together, one set per sequence
// Snapshots share pages, which are copied when first written after one; rings and states are copied.
//
// Rollback works as in Cache, by states at the last two multiples of max_rollback R and the inputs since: two
// more sets of states per sequence, and per recurrent run a ring of 2R recorded rows. Rolling back copies one
// set of states and leaves the replay to the model's next call (model/device_rollback.hpp).

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/model/cache_layout.hpp"
#include "recurformer/model/page_book.hpp"
#include "recurformer/model/recorded_row.hpp"

namespace rf {

namespace detail {

/// Where a sequence of a DeviceCache stands.
struct SequencePosition {
  std::int64_t length = 0;
  std::int64_t furthest = 0;                           // the largest length so far; rollback counts from here
  std::int64_t replay_from = -1;                       // the states are at this position; -1: at the length
  std::array<std::int64_t, 2> checkpoints = {-1, -1};  // tokens that the kept states have consumed; -1: none

  friend bool operator==(const SequencePosition&, const SequencePosition&) = default;
};

}  // namespace detail

/// A moment of a DeviceCache: pages are shared, rings, states and what rollback keeps are copied.
template <class Device>
class DeviceCacheSnapshot {
  template <class>
  friend class DeviceCache;
  std::shared_ptr<detail::PageBook> book_;  // of the cache whose pages these are
  std::vector<detail::SequencePosition> positions_;
  std::vector<detail::PageList> pages_;
  std::vector<cuda::DeviceArray<std::byte, Device>> blocks_;  // in the cache's order
};

/// The cache of a model on a device for a number of sequences. The device must outlive it. For one thread.
template <class Device>
class DeviceCache {
 public:
  using Memory = cuda::DeviceArray<std::byte, Device>;

  /// Allocates rings and states; pools come as sequences grow. `recorded`, per layer and run, is needed for
  /// rollback only.
  DeviceCache(Device& device, CacheLayout layout, CacheOptions options = {},
              std::vector<std::vector<RecordedRow>> recorded = {})
      : device_(&device),
        layout_(std::move(layout)),
        options_(options),
        recorded_rows_(std::move(recorded)),
        positions_(static_cast<std::size_t>(std::max<std::int64_t>(options.sequences, 0))),
        book_(std::make_shared<detail::PageBook>()),
        states_(device, 0) {
    check(options.sequences >= 1, "a cache for ", options.sequences, " sequences; it needs at least 1");
    check(options.max_rollback >= 0, "max_rollback is ", options.max_rollback, "; it must not be negative");
    pages_.assign(positions_.size(), detail::PageList(book_));
    for (std::size_t layer = 0; layer < layout_.layers.size(); ++layer) allocate_layer(layer);
    states_ = Memory(device, static_cast<std::size_t>(state_sets() * options.sequences * state_bytes_));
    for (std::int64_t index = 0; index < options.sequences; ++index) reset(index);
  }
  DeviceCache(const DeviceCache&) = delete;
  DeviceCache& operator=(const DeviceCache&) = delete;

  Device& device() const { return *device_; }
  const CacheLayout& layout() const { return layout_; }
  const CacheOptions& options() const { return options_; }
  std::int64_t sequences() const { return options_.sequences; }
  std::int64_t max_rollback() const { return options_.max_rollback; }
  /// Tokens that sequence `index` has consumed.
  std::int64_t length(std::int64_t index = 0) const { return position(index).length; }

  /// Bytes as allocated on the device now: pools with the pages nobody uses yet, rings, states, and what
  /// rollback keeps of each run.
  std::vector<CacheItem> items() const {
    std::vector<CacheItem> out;
    for_each_run([&](std::size_t layer, const RunLayout& run, const RunMemory& memory) {
      if (run.groups == 0) return;
      const auto add = [&](std::string_view field, std::int64_t bytes) {
        out.push_back({static_cast<int>(layer), run.kind, std::string(field), bytes});
      };
      std::int64_t kept = static_cast<std::int64_t>(memory.recorded.bytes());
      for (std::size_t f = 0; f < run.fields.size(); ++f) {
        const CacheField& field = run.fields[f].field;
        if (field.kind != FieldKind::state) {
          add(field.name, static_cast<std::int64_t>(memory.fields[f].bytes()));
          continue;
        }
        const std::int64_t bytes = sequences() * state_block_bytes(run.fields[f]);
        add(field.name, bytes);
        kept += (state_sets() - 1) * bytes;
      }
      if (max_rollback() > 0 && run.is_recurrent()) add("rollback", kept);
    });
    return out;
  }
  /// Total of items().
  std::int64_t bytes() const {
    std::int64_t total = 0;
    for (const CacheItem& item : items()) total += item.bytes;
    return total;
  }

  /// Forgets sequence `index` and gives its pages back.
  void reset(std::int64_t index = 0) {
    const std::size_t i = checked(index);
    positions_[i] = {};
    if (max_rollback() > 0) positions_[i].checkpoints[0] = 0;  // the zero state
    pages_[i].shrink(0);
    for_each_block([&](Memory& memory) {
      const std::size_t size = memory.bytes() / positions_.size();
      if (size > 0) device_->zero(memory.data() + i * size, size);
    });
    for (int set = 0; set < state_sets(); ++set)
      if (state_bytes_ > 0)
        device_->zero(states(state_slot(index, set)), static_cast<std::size_t>(state_bytes_));
  }

  /// Keeps this moment. Later writes copy the pages they touch.
  DeviceCacheSnapshot<Device> snapshot() {
    DeviceCacheSnapshot<Device> out;
    out.book_ = book_;
    out.positions_ = positions_;
    out.pages_ = pages_;
    const auto keep = [&](const Memory& memory) {
      out.blocks_.emplace_back(*device_, memory.size());
      device_->copy_on_device(out.blocks_.back().data(), memory.data(), memory.bytes());
    };
    for_each_block(keep);
    keep(states_);
    return out;
  }
  /// Goes back to a snapshot of this cache (any number of times). ArgumentError for one of another cache.
  void restore(const DeviceCacheSnapshot<Device>& snapshot) {
    check(snapshot.book_ == book_, "the snapshot is of another cache; its pages are not this one's");
    positions_ = snapshot.positions_;
    pages_ = snapshot.pages_;
    std::size_t block = 0;
    const auto copy_back = [&](Memory& memory) {
      device_->copy_on_device(memory.data(), snapshot.blocks_[block++].data(), memory.bytes());
    };
    for_each_block(copy_back);
    copy_back(states_);
  }

  /// Takes the last n tokens of a sequence back, as after rejected speculation. At most max_rollback tokens
  /// below the furthest length the sequence has reached.
  void rollback(std::int64_t n, std::int64_t index = 0) {
    detail::SequencePosition& at = positions_[checked(index)];
    check(n >= 0 && n <= at.length, "rollback of ", n, " tokens from a sequence of ", at.length);
    const std::int64_t target = at.length - n;
    check(n == 0 || at.furthest - target <= max_rollback(), "rollback to ", target, " tokens, ",
          at.furthest - target, " below the furthest length reached; this cache was made with max_rollback ",
          max_rollback());
    if (n == 0) return;
    if (state_bytes_ > 0) {
      int best = -1;
      for (int c = 0; c < 2; ++c) {
        const std::int64_t kept = at.checkpoints[static_cast<std::size_t>(c)];
        if (kept >= 0 && kept <= target &&
            (best < 0 || kept > at.checkpoints[static_cast<std::size_t>(best)]))
          best = c;
      }
      check(best >= 0, "no checkpoint at or before token ", target, " to roll back to");
      device_->copy_on_device(states(state_slot(index, 0)), states(state_slot(index, 1 + best)),
                              static_cast<std::size_t>(state_bytes_));
      at.replay_from = at.checkpoints[static_cast<std::size_t>(best)];
    }
    at.length = target;
  }

  // --- for the model, and for copies between a device and the host ---

  /// Makes room for `rows` more tokens of a sequence, with copies of its own of the pages they go to.
  void reserve(std::int64_t index, std::int64_t rows) {
    detail::PageList& list = pages_[checked(index)];
    const std::int64_t length = this->length(index);
    const auto first = static_cast<std::size_t>(length / cache_page_rows);
    const auto needed = static_cast<std::size_t>((length + rows + cache_page_rows - 1) / cache_page_rows);
    for (std::size_t page = first; rows > 0 && page < list.size(); ++page) {
      if (!book_->is_shared(list.pages()[page])) continue;
      const int copy = new_page();
      copy_page(copy, list.pages()[page]);
      list.replace(page, copy);
    }
    while (list.size() < needed) list.append(new_page());
  }
  /// Records that `rows` tokens were consumed by every layer.
  void advance(std::int64_t index, std::int64_t rows) {
    detail::SequencePosition& at = positions_[checked(index)];
    at.length += rows;
    at.furthest = std::max(at.furthest, at.length);
  }
  const detail::SequencePosition& position(std::int64_t index) const { return positions_[checked(index)]; }
  void set_position(std::int64_t index, const detail::SequencePosition& position) {
    positions_[checked(index)] = position;
  }

  /// Indices of a sequence's pages, in the order of positions.
  const std::vector<int>& pages(std::int64_t index) const { return pages_[checked(index)].pages(); }
  /// The pool, rings or states of one declared field: that of page or sequence i is i · block_stride()
  /// further.
  std::byte* field(std::size_t layer, std::size_t run, std::size_t field) const {
    const RunMemory& memory = memory_[layer][run];
    return is_state(layer, run, field) ? states_.data() + memory.state_offsets[field]
                                       : memory.fields[field].data();
  }
  std::int64_t block_stride(std::size_t layer, std::size_t run, std::size_t field) const {
    return is_state(layer, run, field) ? state_bytes_
                                       : layout_.layers[layer][run].fields[field].block_bytes(max_rollback());
  }

  /// What is recorded of a token of a recurrent run; without rollback nothing is.
  const RecordedRow& recorded_row(std::size_t layer, std::size_t run) const {
    return recorded_rows_[layer][run];
  }
  /// A sequence's recorded rows, that of position p in row p % (2 · max_rollback).
  std::byte* recorded(std::int64_t index, std::size_t layer, std::size_t run) const {
    const Memory& all = memory_[layer][run].recorded;
    return all.data() + checked(index) * (all.bytes() / positions_.size());
  }
  /// Where a field's states of a sequence are among the blocks of field(): set 0 are the current ones, set 1
  /// + c those of checkpoint c.
  std::int64_t state_slot(std::int64_t index, int set) const {
    return set * sequences() + static_cast<std::int64_t>(checked(index));
  }
  /// Keeps the current states of a layer as those of a multiple of max_rollback.
  void keep_checkpoint(std::int64_t index, std::size_t layer, std::int64_t position) {
    const auto [begin, end] = layer_states_[layer];
    if (begin == end) return;
    device_->copy_on_device(states(state_slot(index, 1 + checkpoint_of(position))) + begin,
                            states(state_slot(index, 0)) + begin, static_cast<std::size_t>(end - begin));
  }
  /// Records that the states of all layers were kept.
  void advance_checkpoint(std::int64_t index, std::int64_t position) {
    positions_[checked(index)].checkpoints[static_cast<std::size_t>(checkpoint_of(position))] = position;
  }
  /// Records that a sequence's states are at its length again.
  void finish_replay(std::int64_t index) { positions_[checked(index)].replay_from = -1; }

 private:
  /// The memory of one run of one layer.
  struct RunMemory {
    std::vector<Memory> fields;               // rows: the pool; rings of all sequences; states: nothing
    std::vector<std::int64_t> state_offsets;  // of each field, in a set of states
    Memory recorded;                          // of all sequences
  };

  std::size_t checked(std::int64_t index) const {
    check(index >= 0 && index < sequences(), "sequence ", index, " of a cache for ", sequences());
    return static_cast<std::size_t>(index);
  }
  bool is_state(std::size_t layer, std::size_t run, std::size_t field) const {
    return layout_.layers[layer][run].fields[field].field.kind == FieldKind::state;
  }
  int checkpoint_of(std::int64_t position) const { return static_cast<int>(position / max_rollback() % 2); }
  /// Sets of states per sequence: the current one, and two checkpoints.
  int state_sets() const { return max_rollback() > 0 ? 3 : 1; }
  std::byte* states(std::int64_t slot) const { return states_.data() + slot * state_bytes_; }
  /// Bytes of one state in a set: the next one starts where 16 bytes can be read at once.
  static std::int64_t state_block_bytes(const FieldLayout& field) {
    return (field.block_bytes(0) + 15) / 16 * 16;
  }

  /// Everything of a layer but its states, whose places this determines.
  void allocate_layer(std::size_t layer) {
    const std::int64_t begin = state_bytes_;
    auto& runs = memory_.emplace_back();
    for (std::size_t r = 0; r < layout_.layers[layer].size(); ++r) {
      const RunLayout& run = layout_.layers[layer][r];
      RunMemory& memory = runs.emplace_back(RunMemory{{}, {}, Memory(*device_, 0)});
      for (const FieldLayout& field : run.fields) {
        const bool is_ring = field.field.kind == FieldKind::ring;
        memory.fields.emplace_back(
            *device_,
            static_cast<std::size_t>(is_ring ? sequences() * field.block_bytes(max_rollback()) : 0));
        memory.state_offsets.push_back(state_bytes_);
        if (field.field.kind == FieldKind::state) state_bytes_ += state_block_bytes(field);
      }
      if (max_rollback() > 0 && run.groups > 0 && run.is_recurrent())
        memory.recorded = Memory(*device_, static_cast<std::size_t>(2 * max_rollback() * sequences() *
                                                                    recorded_row(layer, r).bytes()));
    }
    layer_states_.push_back({begin, state_bytes_});
  }

  /// Calls f(layer, run, memory) for every run.
  template <class F>
  void for_each_run(F&& f) const {
    for (std::size_t layer = 0; layer < layout_.layers.size(); ++layer)
      for (std::size_t run = 0; run < layout_.layers[layer].size(); ++run)
        f(layer, layout_.layers[layer][run], memory_[layer][run]);
  }
  /// Calls f(memory) for all rings, and for all recorded rows: a block per sequence each.
  template <class F>
  void for_each_block(F&& f) {
    for (std::size_t layer = 0; layer < layout_.layers.size(); ++layer)
      for (std::size_t run = 0; run < layout_.layers[layer].size(); ++run) {
        RunMemory& memory = memory_[layer][run];
        for (std::size_t field = 0; field < memory.fields.size(); ++field)
          if (layout_.layers[layer][run].fields[field].field.kind == FieldKind::ring) f(memory.fields[field]);
        f(memory.recorded);
      }
  }
  /// Calls f(bytes of a page, pool) for every field of rows.
  template <class F>
  void for_each_pool(F&& f) {
    for (std::size_t layer = 0; layer < layout_.layers.size(); ++layer)
      for (std::size_t run = 0; run < layout_.layers[layer].size(); ++run)
        for (std::size_t field = 0; field < memory_[layer][run].fields.size(); ++field) {
          const FieldLayout& layout = layout_.layers[layer][run].fields[field];
          if (layout.field.kind == FieldKind::rows && layout.units > 0)
            f(static_cast<std::size_t>(layout.block_bytes(0)), memory_[layer][run].fields[field]);
        }
  }

  int new_page() {
    if (const auto page = book_->take()) return *page;
    grow(std::max(4, 2 * book_->pages()));
    return *book_->take();
  }

  /// Pools of `pages` pages with the old ones' contents.
  void grow(int pages) {
    for_each_pool([&](std::size_t page_bytes, Memory& pool) {
      Memory larger(*device_, static_cast<std::size_t>(pages) * page_bytes);
      device_->copy_on_device(larger.data(), pool.data(), pool.bytes());
      pool = std::move(larger);
    });
    book_->grow(pages);
  }

  void copy_page(int to, int from) {
    for_each_pool([&](std::size_t page_bytes, Memory& pool) {
      device_->copy_on_device(pool.data() + static_cast<std::size_t>(to) * page_bytes,
                              pool.data() + static_cast<std::size_t>(from) * page_bytes, page_bytes);
    });
  }

  Device* device_;
  CacheLayout layout_;
  CacheOptions options_;
  std::vector<std::vector<RecordedRow>> recorded_rows_;  // per layer and run
  std::vector<detail::SequencePosition> positions_;      // per sequence
  std::shared_ptr<detail::PageBook> book_;
  std::vector<detail::PageList> pages_;         // per sequence
  std::vector<std::vector<RunMemory>> memory_;  // per layer and run
  std::int64_t state_bytes_ = 0;                // of one set of states of all layers
  std::vector<std::pair<std::int64_t, std::int64_t>>
      layer_states_;  // where those of a layer begin and end in a set
  Memory states_;     // (sets, sequences, state_bytes_)
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_CACHE_HPP
