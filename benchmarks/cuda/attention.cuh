#ifndef RECURFORMER_BENCHMARKS_CUDA_ATTENTION_CUH
#define RECURFORMER_BENCHMARKS_CUDA_ATTENTION_CUH

// A batch of equal sequences on the device, keys and values in pages as a model's cache has them.

#include <cstdint>
#include <vector>

#include "harness.cuh"
#include "random_array.cuh"
#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/key_values.hpp"

namespace rf::benchmarks {

/// `tokens` new ones in each sequence, behind `past` ones.
struct AttentionSizes {
  std::int64_t tokens = 1;
  std::int64_t past = 0;
  int groups = 1;
  int queries = 1;  ///< query heads of a group
  int sequences = 1;

  std::int64_t rows() const { return tokens * sequences; }
  std::int64_t length() const { return past + tokens; }
  int pages_per_sequence() const {
    return static_cast<int>((length() + cache_page_rows - 1) / cache_page_rows);
  }
  /// Pairs of a query and a key it sees.
  double pairs() const {
    const auto n = static_cast<double>(tokens), before = static_cast<double>(past);
    return n * (before + (n + 1) / 2) * sequences * groups * queries;
  }
};

template <int D>
class AttentionBatch {
 public:
  explicit AttentionBatch(const AttentionSizes& sizes)
      : sizes_(sizes),
        sequences_(make_sequences(sizes)),
        device_sequences_(on_device(sequences_)),
        group_index_(on_device(numbers(sizes.groups))),
        pages_(on_device(numbers(sizes.sequences * sizes.pages_per_sequence()))),
        keys_(random_array<bf16>(static_cast<std::int64_t>(pages_.size()) * page_elements())),
        values_(random_array<bf16>(static_cast<std::int64_t>(pages_.size()) * page_elements())),
        queries_(random_array<bf16>(sizes.rows() * columns())),
        out_(gpu(), queries_.size()) {}

  std::span<const SequenceRows> sequences() const { return sequences_; }

  cuda::AttentionParameters<cuda::PagedKeyValues<bf16>> parameters() const {
    return {.queries = {queries_.data(), columns()},
            .key_values = {.keys = keys_.data(),
                           .values = values_.data(),
                           .pages = pages_.data(),
                           .pages_per_sequence = sizes_.pages_per_sequence(),
                           .groups = sizes_.groups},
            .out = {out_.data(), columns()},
            .group_index = group_index_.data(),
            .sequences = device_sequences_.data(),
            .log_sum_exp = nullptr,
            .mask = {},
            .groups = sizes_.groups,
            .heads = sizes_.queries,
            .probe = {}};
  }

  /// Two products per visible pair and an exponential; queries and outputs once, every key and value once.
  Work work() const {
    const double keys =
        static_cast<double>(sizes_.length()) * static_cast<double>(sizes_.sequences) * sizes_.groups;
    return {.operations = 4 * sizes_.pairs() * D,
            .bytes = 2.0 * (2 * keys * D + 2 * static_cast<double>(queries_.size())),
            .exponentials = sizes_.pairs()};
  }

 private:
  std::int64_t columns() const { return std::int64_t{sizes_.groups} * sizes_.queries * D; }
  std::int64_t page_elements() const { return sizes_.groups * cache_page_rows * D; }

  static std::vector<SequenceRows> make_sequences(const AttentionSizes& sizes) {
    std::vector<SequenceRows> out;
    for (int s = 0; s < sizes.sequences; ++s)
      out.push_back({.first_row = s * sizes.tokens, .rows = sizes.tokens, .position = sizes.past});
    return out;
  }
  static std::vector<int> numbers(int count) {
    std::vector<int> out;
    for (int i = 0; i < count; ++i) out.push_back(i);
    return out;
  }

  AttentionSizes sizes_;
  std::vector<SequenceRows> sequences_;
  DeviceArray<SequenceRows> device_sequences_;
  DeviceArray<int> group_index_, pages_;
  DeviceArray<bf16> keys_, values_, queries_, out_;
};

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CUDA_ATTENTION_CUH
