#ifndef RECURFORMER_MODEL_DEVICE_CACHE_COPY_HPP
#define RECURFORMER_MODEL_DEVICE_CACHE_COPY_HPP

// Copies between a DeviceCache and the host's Cache, in which a model on the one continues what a model on
// the other has read, and by way of which a DeviceCache gets into a file (checkpoint/device_cache_file.hpp).
// Blocks are the same bytes on both sides. What rollback has recorded is not: the device keeps projected
// inputs in its 16-bit type, padded as its kernels want them, the host in floats; from the host they are
// rounded, as the device's projection rounds.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/model/cache.hpp"
#include "recurformer/model/device_cache.hpp"

namespace rf {

namespace detail {

/// Pairs the memory of one sequence in a DeviceCache with the same in a Cache.
template <class Device>
class CachePairing {
 public:
  CachePairing(const DeviceCache<Device>& device, const Cache& host, std::int64_t sequence)
      : device_(device), host_(host), sequence_(sequence) {}

  /// Calls f(device pointer, host pointer, bytes) for every block and page, whose rows both sides have
  /// reserved.
  template <class F>
  void for_each_block(F&& f) const {
    for_each_cached_run(device_.layout(), [&](std::size_t layer, std::size_t run, const RunLayout&) {
      const RunMemory& memory = host_.sequence(sequence_).layers[layer][run];
      std::size_t state = 0;
      for (std::size_t field = 0; field < memory.fields.size(); ++field) {
        std::byte* const data = device_.field(layer, run, field);
        const std::int64_t stride = device_.block_stride(layer, run, field);
        const auto pair = [&](std::int64_t index, const Block& block) {
          f(data + index * stride, block.data(), static_cast<std::size_t>(block.bytes()));
        };
        const FieldMemory& one = memory.fields[field];
        switch (one.layout.field.kind) {
          case FieldKind::rows:
            for (std::size_t page = 0; page < used_pages(); ++page)
              pair(device_.pages(sequence_)[page], one.pages[page]);
            break;
          case FieldKind::ring:
            pair(sequence_, one.block);
            break;
          case FieldKind::state:
            pair(device_.state_slot(sequence_, 0), one.block);
            for (int c = 0; c < 2 && memory.recorded.bytes() > 0; ++c)
              pair(device_.state_slot(sequence_, 1 + c),
                   memory.checkpoints[static_cast<std::size_t>(c)].states[state]);
            ++state;
        }
      }
    });
  }

  /// Calls f(device pointer, row, host pointer, projected width) for every recurrent run that records; both
  /// pointers are to rows of 2 · max_rollback tokens.
  template <class F>
  void for_each_recorded(F&& f) const {
    for_each_cached_run(device_.layout(), [&](std::size_t layer, std::size_t run, const RunLayout& layout) {
      const RunMemory& memory = host_.sequence(sequence_).layers[layer][run];
      if (memory.recorded.bytes() == 0) return;
      const RecordedRow& row = device_.recorded_row(layer, run);
      check(std::find(row.elements.begin(), row.elements.end(), -1) == row.elements.end(),
            run_name(layer, layout), " does not record its inputs as they were projected; with max_rollback ",
            device_.max_rollback(), " its cache stays on the device");
      f(device_.recorded(sequence_, layer, run), row, reinterpret_cast<float*>(memory.recorded.data()),
        layout.projected_width);
    });
  }

 private:
  std::size_t used_pages() const {
    return static_cast<std::size_t>((host_.length(sequence_) + cache_page_rows - 1) / cache_page_rows);
  }

  const DeviceCache<Device>& device_;
  const Cache& host_;
  std::int64_t sequence_;
};

/// Calls f(T()) for the 16-bit type that `dtype` is.
template <class F>
void with_recorded_type(DType dtype, F&& f) {
  if (dtype == DType::BF16) return f(bf16());
  check(dtype == DType::F16, "inputs are recorded in BF16 or F16, not ", name_of(dtype));
  f(fp16());
}

}  // namespace detail

/// What a device's cache remembers, in a cache of the same layout and options on the host.
template <class Device>
Cache copy_to_host(const DeviceCache<Device>& from) {
  Cache to(from.layout(), from.options());
  Device& device = from.device();
  for (std::int64_t s = 0; s < from.sequences(); ++s) {
    const detail::SequencePosition& at = from.position(s);
    to.reserve(s, at.length);
    to.sequence(s).length = at.length;
    to.sequence(s).furthest = at.furthest;
    const detail::CachePairing<Device> pairing(from, to, s);
    pairing.for_each_block([&](const std::byte* there, std::byte* here, std::size_t bytes) {
      device.copy_to_host(here, there, bytes);
    });
    pairing.for_each_recorded([&](const std::byte* there, const RecordedRow& row, float* here,
                                  std::int64_t width) {
      detail::with_recorded_type(row.dtype, [&]<class T>(T) {
        std::vector<T> rows(static_cast<std::size_t>(2 * from.max_rollback() * row.width()));
        device.copy_to_host(rows.data(), there, rows.size() * sizeof(T));
        device.synchronize();
        for (std::int64_t r = 0; r < 2 * from.max_rollback(); ++r)
          for (std::int64_t c = 0; c < width; ++c)
            here[r * width + c] = convert<float>(
                rows[static_cast<std::size_t>(r * row.width() + row.elements[static_cast<std::size_t>(c)])]);
      });
    });
    for (auto& layer : to.sequence(s).layers)
      for (detail::RunMemory& run : layer) {
        if (run.recorded.bytes() == 0) continue;
        run.replay_from = at.replay_from;
        for (std::size_t c = 0; c < 2; ++c) run.checkpoints[c].position = at.checkpoints[c];
      }
  }
  device.synchronize();
  return to;
}

/// Replaces what a device's cache remembers by what a cache on the host does. ArgumentError, saying what
/// differs, if their layouts, numbers of sequences or max_rollback do; the device's cache is then as before.
template <class Device>
void copy_from_host(const Cache& from, DeviceCache<Device>& to) {
  check(from.sequences() == to.sequences(), "the host's cache has ", from.sequences(),
        " sequences, the device's ", to.sequences());
  check(from.max_rollback() == to.max_rollback(), "the host's cache can be rolled back by ",
        from.max_rollback(), " tokens, the device's by ", to.max_rollback());
  detail::check_same_layout("the host's cache", from.layout(), "the device's", to.layout());
  Device& device = to.device();
  for (std::int64_t s = 0; s < to.sequences(); ++s) {
    to.reset(s);
    const detail::SequenceMemory& sequence = from.sequence(s);
    to.reserve(s, sequence.length);
    detail::SequencePosition at = to.position(s);
    at.length = sequence.length;
    at.furthest = sequence.furthest;
    for (const auto& layer : sequence.layers)
      for (const detail::RunMemory& run : layer) {
        if (run.recorded.bytes() == 0) continue;
        at.replay_from = run.replay_from;
        for (std::size_t c = 0; c < 2; ++c) at.checkpoints[c] = run.checkpoints[c].position;
      }
    const detail::CachePairing<Device> pairing(to, from, s);
    pairing.for_each_block([&](std::byte* there, const std::byte* here, std::size_t bytes) {
      device.copy_to_device(there, here, bytes);
    });
    pairing.for_each_recorded(
        [&](std::byte* there, const RecordedRow& row, const float* here, std::int64_t width) {
          detail::with_recorded_type(row.dtype, [&]<class T>(T) {
            std::vector<T> rows(static_cast<std::size_t>(2 * to.max_rollback() * row.width()));
            for (std::int64_t r = 0; r < 2 * to.max_rollback(); ++r)
              for (std::int64_t c = 0; c < width; ++c)
                rows[static_cast<std::size_t>(r * row.width() + row.elements[static_cast<std::size_t>(c)])] =
                    convert<T>(here[r * width + c]);
            device.copy_to_device(there, rows.data(), rows.size() * sizeof(T));
            device.synchronize();  // the rows here go now
          });
        });
    to.set_position(s, at);
  }
  device.synchronize();
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_CACHE_COPY_HPP
