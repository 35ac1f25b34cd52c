#ifndef TESTS_MODEL_DEVICE_CACHE_CASES_HPP
#define TESTS_MODEL_DEVICE_CACHE_CASES_HPP

// The cache of a hybrid model on a device: files, and taking tokens back. The checks run on the simulated
// device (device_cache.cpp) and on a GPU (device_model.cu).

#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <vector>

#include "model/device_model_cases.hpp"
#include "recurformer/checkpoint/device_cache_file.hpp"
#include "support/error_message.hpp"
#include "support/temporary_folder.hpp"

namespace device_cache {

using device_model::random_tokens;
using Tokens = std::vector<rf::Token>;

template <class Model, class Cache>
std::vector<float> feed(Model& model, Cache& cache, std::span<const rf::Token> tokens,
                        std::int64_t sequence = 0) {
  const auto logits = model.next_logits(tokens, cache, sequence);
  return {logits.begin(), logits.end()};
}

/// A loaded cache continues with the same bits, and saves to the same file.
template <class Device>
void check_file(Device& device, std::int64_t max_rollback) {
  const auto host = device_model::host_weights();
  rf::Model<device_model::Spec, Device> model(device, host);
  const rf::CacheOptions options{.sequences = 3, .max_rollback = max_rollback};
  const rf::test::TemporaryFolder folder;
  auto saved = model.make_cache(options);
  feed(model, saved, random_tokens(261, 1), 0);
  feed(model, saved, random_tokens(3, 2), 1);
  rf::save_cache(saved, folder / "cache");
  auto loaded = model.make_cache(options);
  feed(model, loaded, random_tokens(20, 3), 2);  // what was there before is forgotten
  rf::load_cache(loaded, folder / "cache");
  rf::save_cache(loaded, folder / "again");
  CHECK((rf::read_text_file(folder / "again") == rf::read_text_file(folder / "cache")));
  for (const std::int64_t sequence : {0, 1, 2}) {
    CAPTURE(sequence);
    CHECK(loaded.length(sequence) == saved.length(sequence));
    for (const std::int64_t count : {1, 12})
      CHECK(feed(model, loaded, random_tokens(count, 4), sequence) ==
            feed(model, saved, random_tokens(count, 4), sequence));
  }
  CHECK(loaded.bytes() == saved.bytes());
}

}  // namespace device_cache

#endif  // TESTS_MODEL_DEVICE_CACHE_CASES_HPP
