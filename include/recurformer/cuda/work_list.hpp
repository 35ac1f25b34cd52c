#ifndef RECURFORMER_CUDA_WORK_LIST_HPP
#define RECURFORMER_CUDA_WORK_LIST_HPP

// The order in which the blocks of a grid take the items of all heads of a layer (cuda/work_item.hpp), made
// on the host. Attention keeps the tensor cores busy, scans the special functions and decoding the memory; a
// multiprocessor is best used when its blocks do different things, and when no long item starts late. So
//
//   others_wait   come first: the first pass of a scan that is cut along time
//   free          are paced: every run proceeds such that it would be through when the launch is, less its
//                 longest item. A scan that is one long chain so starts at once, short ones are spread among
//                 the attention tiles
//   waits         come last and fill the tail
//
// Mixing kinds on every multiprocessor is POD-Attention's idea (arXiv 2410.18038).
//
// Only the order depends on the costs, which are estimates; results do not.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda {

enum class WorkStage { others_wait, free, waits };

class WorkList {
 public:
  /// Items added from now on belong to work `run` of the launch.
  void begin_run(int run) { run_ = run; }

  /// `microseconds`: about how long a block is busy with it, on an H100 whose other blocks are busy, too.
  void add(WorkStage stage, double microseconds, WorkItem item) {
    item.run = static_cast<std::int16_t>(run_);
    entries_.push_back({stage, microseconds, item});
    total_ += microseconds;
  }
  /// `count` counters for the run, zero at launch: the index of the first among the launch's counters.
  int take_counters(std::int64_t count) {
    const int first = counters_;
    counters_ += static_cast<int>(count);
    return first;
  }

  int size() const { return static_cast<int>(entries_.size()); }
  int counters() const { return counters_; }
  /// Microseconds of one block, of all items so far.
  double total() const { return total_; }

  /// The items in the order in which `blocks` blocks are to take them. An item of a run never comes before
  /// one of the same stage that was added before it.
  std::vector<WorkItem> ordered(int blocks) const {
    struct Run {
      double total = 0, longest = 0, so_far = 0;
    };
    std::vector<Run> runs;
    for (const Entry& entry : entries_) {
      const auto index = static_cast<std::size_t>(entry.item.run);
      if (index >= runs.size()) runs.resize(index + 1);
      if (entry.stage != WorkStage::free) continue;
      runs[index].total += entry.microseconds;
      runs[index].longest = std::max(runs[index].longest, entry.microseconds);
    }
    const double end = total_ / std::max(blocks, 1);
    struct Placed {
      WorkStage stage;
      double start;
      const WorkItem* item;
    };
    std::vector<Placed> placed;
    for (const Entry& entry : entries_) {
      Run& run = runs[static_cast<std::size_t>(entry.item.run)];
      double start = 0;
      if (entry.stage == WorkStage::free && run.total > 0) {
        start = run.so_far / run.total * std::max(0.0, end - run.longest);
        run.so_far += entry.microseconds;
      }
      placed.push_back({entry.stage, start, &entry.item});
    }
    std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
      return a.stage != b.stage ? a.stage < b.stage : a.start < b.start;
    });
    std::vector<WorkItem> out;
    for (const Placed& entry : placed) out.push_back(*entry.item);
    return out;
  }

 private:
  struct Entry {
    WorkStage stage;
    double microseconds;
    WorkItem item;
  };

  std::vector<Entry> entries_;
  int run_ = 0;
  int counters_ = 0;
  double total_ = 0;
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_WORK_LIST_HPP
