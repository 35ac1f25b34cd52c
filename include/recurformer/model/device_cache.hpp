#ifndef RECURFORMER_MODEL_DEVICE_CACHE_HPP
#define RECURFORMER_MODEL_DEVICE_CACHE_HPP

// The hybrid cache on a device (rf::Cuda, rf::Simulated). Like Cache it knows no mixer, only the fields they
// declare, and its blocks have the same layouts:
//   rows    a pool of pages per field, each (units, cache_page_rows, width). Sequences of all lengths share
//   the
//           pools; since every layer sees the same tokens, one list of page indices per sequence serves all
//           fields of all layers. Pools double when they are full.
//   ring    (units, sink + window, width) per sequence, one behind the other
//   state   (units, slice) per sequence, one behind the other
// Snapshots share pages, which are copied when first written after one; rings and states are copied.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/model/cache_layout.hpp"

namespace rf {

namespace detail {

/// Which pages of the pools are in use, and by how many sequences and snapshots.
class PageBook {
 public:
  /// A page that nobody uses, now used once; none if all are in use.
  std::optional<int> take() {
    if (free_.empty()) return std::nullopt;
    const int page = free_.back();
    free_.pop_back();
    uses_[static_cast<std::size_t>(page)] = 1;
    return page;
  }
  void share(int page) { ++uses_[static_cast<std::size_t>(page)]; }
  void give_back(int page) {
    if (--uses_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
  }
  bool is_shared(int page) const { return uses_[static_cast<std::size_t>(page)] > 1; }
  int pages() const { return static_cast<int>(uses_.size()); }
  void grow(int pages) {
    for (int page = pages - 1; page >= this->pages(); --page) free_.push_back(page);
    uses_.resize(static_cast<std::size_t>(pages), 0);
  }

 private:
  std::vector<int> uses_;
  std::vector<int> free_;
};

/// The pages of one sequence, in the order of positions. Gives them back when it goes.
class PageList {
 public:
  explicit PageList(std::shared_ptr<PageBook> book) : book_(std::move(book)) {}
  PageList(const PageList& other) : book_(other.book_), pages_(other.pages_) {
    for (const int page : pages_) book_->share(page);
  }
  PageList(PageList&& other) noexcept : book_(other.book_), pages_(std::exchange(other.pages_, {})) {}
  PageList& operator=(PageList other) noexcept {
    std::swap(book_, other.book_);
    std::swap(pages_, other.pages_);
    return *this;
  }
  ~PageList() { shrink(0); }

  const std::vector<int>& pages() const { return pages_; }
  std::size_t size() const { return pages_.size(); }
  void append(int page) { pages_.push_back(page); }
  /// Puts `page`, taken for this, in the place of another one, which is given back.
  void replace(std::size_t index, int page) { book_->give_back(std::exchange(pages_[index], page)); }
  void shrink(std::size_t size) {
    for (; pages_.size() > size; pages_.pop_back()) book_->give_back(pages_.back());
  }

 private:
  std::shared_ptr<PageBook> book_;
  std::vector<int> pages_;
};

}  // namespace detail

/// A moment of a DeviceCache: pages are shared, rings and states copied.
template <class Device>
class DeviceCacheSnapshot {
  template <class>
  friend class DeviceCache;
  std::vector<std::int64_t> lengths_;
  std::vector<detail::PageList> pages_;
  std::vector<cuda::DeviceArray<std::byte, Device>> blocks_;  // rings and states, in the cache's order
};

/// The cache of a model on a device for a number of sequences. The device must outlive it. For one thread.
template <class Device>
class DeviceCache {
 public:
  using Memory = cuda::DeviceArray<std::byte, Device>;

  /// Allocates rings and states; pools come as sequences grow.
  DeviceCache(Device& device, CacheLayout layout, std::int64_t sequences = 1)
      : device_(&device),
        layout_(std::move(layout)),
        lengths_(static_cast<std::size_t>(std::max<std::int64_t>(sequences, 0)), 0),
        book_(std::make_shared<detail::PageBook>()) {
    check(sequences >= 1, "a cache for ", sequences, " sequences; it needs at least 1");
    pages_.assign(lengths_.size(), detail::PageList(book_));
    for (const auto& layer : layout_.layers)
      for (const RunLayout& run : layer)
        for (const FieldLayout& field : run.fields) {
          const bool block = field.field.kind != FieldKind::rows && run.groups > 0;
          const std::int64_t bytes = block ? sequences * field.block_bytes(0) : 0;
          memory_.emplace_back(device, static_cast<std::size_t>(bytes));
          device.zero(memory_.back().data(), memory_.back().bytes());
        }
  }
  DeviceCache(const DeviceCache&) = delete;
  DeviceCache& operator=(const DeviceCache&) = delete;

  const CacheLayout& layout() const { return layout_; }
  std::int64_t sequences() const { return static_cast<std::int64_t>(lengths_.size()); }
  /// Tokens that sequence `index` has consumed.
  std::int64_t length(std::int64_t index = 0) const { return lengths_[checked(index)]; }

  /// Bytes as allocated on the device now: pools with the pages nobody uses yet, rings, states.
  std::vector<CacheItem> items() const {
    std::vector<CacheItem> out;
    for_each_field(
        [&](std::size_t layer, const RunLayout& run, const FieldLayout& field, const Memory& memory) {
          if (run.groups > 0)
            out.push_back({static_cast<int>(layer), run.kind, std::string(field.field.name),
                           static_cast<std::int64_t>(memory.bytes())});
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
    lengths_[i] = 0;
    pages_[i].shrink(0);
    for_each_field([&](std::size_t, const RunLayout&, const FieldLayout& field, Memory& memory) {
      if (field.field.kind == FieldKind::rows || memory.bytes() == 0) return;
      const auto size = static_cast<std::size_t>(field.block_bytes(0));
      device_->zero(memory.data() + i * size, size);
    });
  }

  /// Keeps this moment. Later writes copy the pages they touch.
  DeviceCacheSnapshot<Device> snapshot() {
    DeviceCacheSnapshot<Device> out;
    out.lengths_ = lengths_;
    out.pages_ = pages_;
    for_each_field([&](std::size_t, const RunLayout&, const FieldLayout& field, Memory& memory) {
      if (field.field.kind == FieldKind::rows) return;
      out.blocks_.emplace_back(*device_, memory.size());
      device_->copy_on_device(out.blocks_.back().data(), memory.data(), memory.bytes());
    });
    return out;
  }
  /// Goes back to a snapshot of this cache (any number of times).
  void restore(const DeviceCacheSnapshot<Device>& snapshot) {
    check(snapshot.lengths_.size() == lengths_.size(), "the snapshot holds ", snapshot.lengths_.size(),
          " sequences, this cache ", lengths_.size());
    lengths_ = snapshot.lengths_;
    pages_ = snapshot.pages_;
    std::size_t block = 0;
    for_each_field([&](std::size_t, const RunLayout&, const FieldLayout& field, Memory& memory) {
      if (field.field.kind == FieldKind::rows) return;
      device_->copy_on_device(memory.data(), snapshot.blocks_[block++].data(), memory.bytes());
    });
  }

  // --- for the model ---

  /// Makes room for `rows` more tokens of a sequence, with copies of its own of the pages they go to.
  void reserve(std::int64_t index, std::int64_t rows) {
    const std::size_t i = checked(index);
    detail::PageList& list = pages_[i];
    const auto first = static_cast<std::size_t>(lengths_[i] / cache_page_rows);
    const auto needed =
        static_cast<std::size_t>((lengths_[i] + rows + cache_page_rows - 1) / cache_page_rows);
    for (std::size_t page = first; rows > 0 && page < list.size(); ++page) {
      if (!book_->is_shared(list.pages()[page])) continue;
      const int copy = new_page();
      copy_page(copy, list.pages()[page]);
      list.replace(page, copy);
    }
    while (list.size() < needed) list.append(new_page());
  }
  /// Records that `rows` tokens were consumed by every layer.
  void advance(std::int64_t index, std::int64_t rows) { lengths_[checked(index)] += rows; }

  /// Indices of a sequence's pages, in the order of positions.
  const std::vector<int>& pages(std::int64_t index) const { return pages_[checked(index)].pages(); }
  /// The pool, rings or states of one declared field, as described at the top of this file.
  std::byte* field(std::size_t layer, std::size_t run, std::size_t field) {
    return memory_[field_index(layer, run) + field].data();
  }
  /// Bytes of one sequence's ring or state.
  std::int64_t block_bytes(std::size_t layer, std::size_t run, std::size_t field) const {
    return layout_.layers[layer][run].fields[field].block_bytes(0);
  }

 private:
  std::size_t checked(std::int64_t index) const {
    check(index >= 0 && index < sequences(), "sequence ", index, " of a cache for ", sequences());
    return static_cast<std::size_t>(index);
  }

  std::size_t field_index(std::size_t layer, std::size_t run) const {
    std::size_t index = 0;
    for (std::size_t l = 0; l <= layer; ++l)
      for (std::size_t r = 0; r < (l == layer ? run : layout_.layers[l].size()); ++r)
        index += layout_.layers[l][r].fields.size();
    return index;
  }

  /// Calls f(layer, run, field, memory) for every field of every run.
  template <class F>
  void for_each_field(F&& f) {
    std::size_t index = 0;
    for (std::size_t layer = 0; layer < layout_.layers.size(); ++layer)
      for (const RunLayout& run : layout_.layers[layer])
        for (const FieldLayout& field : run.fields) f(layer, run, field, memory_[index++]);
  }
  template <class F>
  void for_each_field(F&& f) const {
    const_cast<DeviceCache*>(this)->for_each_field(
        [&](std::size_t layer, const RunLayout& run, const FieldLayout& field, Memory& memory) {
          f(layer, run, field, std::as_const(memory));
        });
  }

  int new_page() {
    if (const auto page = book_->take()) return *page;
    grow(std::max(4, 2 * book_->pages()));
    return *book_->take();
  }

  /// Pools of `pages` pages with the old ones' contents.
  void grow(int pages) {
    for_each_field([&](std::size_t, const RunLayout& run, const FieldLayout& field, Memory& memory) {
      if (field.field.kind != FieldKind::rows || run.groups == 0) return;
      Memory larger(*device_, static_cast<std::size_t>(pages * field.block_bytes(0)));
      device_->copy_on_device(larger.data(), memory.data(), memory.bytes());
      memory = std::move(larger);
    });
    book_->grow(pages);
  }

  void copy_page(int to, int from) {
    for_each_field([&](std::size_t, const RunLayout& run, const FieldLayout& field, Memory& memory) {
      if (field.field.kind != FieldKind::rows || run.groups == 0) return;
      const auto size = static_cast<std::size_t>(field.block_bytes(0));
      device_->copy_on_device(memory.data() + static_cast<std::size_t>(to) * size,
                              memory.data() + static_cast<std::size_t>(from) * size, size);
    });
  }

  Device* device_;
  CacheLayout layout_;
  std::vector<std::int64_t> lengths_;
  std::shared_ptr<detail::PageBook> book_;
  std::vector<detail::PageList> pages_;  // per sequence
  std::vector<Memory> memory_;           // per layer, run and field
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_CACHE_HPP
