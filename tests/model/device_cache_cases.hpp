#ifndef TESTS_MODEL_DEVICE_CACHE_CASES_HPP
#define TESTS_MODEL_DEVICE_CACHE_CASES_HPP

// Taking tokens back from the cache of a hybrid model on a device. The checks run on the simulated device
// (device_cache.cpp) and on a GPU (device_model.cu).

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/device_model_cases.hpp"
#include "support/error_message.hpp"

namespace device_cache {

using device_model::Expected;
using device_model::host_weights;
using device_model::random_tokens;
using Tokens = std::vector<rf::Token>;

template <class Model, class Cache>
std::vector<float> feed(Model& model, Cache& cache, std::span<const rf::Token> tokens,
                        std::int64_t sequence = 0) {
  const auto logits = model.next_logits(tokens, cache, sequence);
  return {logits.begin(), logits.end()};
}

/// `head` and then `tail`.
inline Tokens joined(std::span<const rf::Token> head, std::span<const rf::Token> tail) {
  Tokens out(head.begin(), head.end());
  out.insert(out.end(), tail.begin(), tail.end());
  return out;
}

/// Accepted tokens, then some that are taken back, then a continuation of one token or of many: wherever the
/// sequence stands among the multiples of max_rollback.
template <class Device>
void check_rollback(Device& device) {
  const auto host = host_weights();
  rf::Model<device_model::Spec, Device> model(device, host);
  struct Case {
    std::int64_t max_rollback, accepted, rejected, more;
  };
  for (const Case c :
       {Case{1, 2, 1, 1}, Case{4, 0, 3, 2}, Case{4, 4, 4, 1}, Case{4, 5, 4, 3}, Case{4, 8, 1, 1},
        Case{4, 37, 3, 12}, Case{16, 20, 12, 1}, Case{16, 33, 16, 20}, Case{3, 250, 3, 9}}) {
    CAPTURE(c.max_rollback);
    CAPTURE(c.accepted);
    CAPTURE(c.rejected);
    auto cache = model.make_cache({.max_rollback = c.max_rollback});
    const Tokens accepted = random_tokens(c.accepted, 1), more = random_tokens(c.more, 3);
    if (c.accepted > 0) feed(model, cache, accepted);
    feed(model, cache, random_tokens(c.rejected, 2));
    cache.rollback(c.rejected);
    CHECK(cache.length() == c.accepted);
    CHECK(Expected(host, joined(accepted, more)).allows(feed(model, cache, more)));
    CHECK(cache.length() == c.accepted + c.more);
  }
}

/// A replay computes what the tokens' own calls have: bits are those of a cache that never went further.
template <class Device>
void check_replay(Device& device) {
  const auto host = host_weights();
  rf::Model<device_model::Spec, Device> model(device, host);
  const Tokens prompt = random_tokens(8, 1), text = random_tokens(6, 2), wrong = random_tokens(4, 3);
  auto cache = model.make_cache({.max_rollback = 4}), plain = model.make_cache();
  for (auto* one : {&cache, &plain}) {
    feed(model, *one, prompt);
    feed(model, *one, std::span(text).first(1));
  }
  for (std::size_t i = 0; i < 3; ++i) feed(model, cache, std::span(wrong).subspan(i, 1));
  cache.rollback(1);
  const auto moment = cache.snapshot();
  cache.rollback(2);  // before anything was replayed
  for (std::size_t i = 1; i < 3; ++i)
    CHECK(feed(model, cache, std::span(text).subspan(i, 1)) ==
          feed(model, plain, std::span(text).subspan(i, 1)));
  cache.restore(moment);
  CHECK(cache.length() == 11);
  cache.rollback(2);
  auto again = model.make_cache();
  feed(model, again, prompt);
  feed(model, again, std::span(text).first(1));
  CHECK(feed(model, cache, std::span(text).subspan(1, 1)) ==
        feed(model, again, std::span(text).subspan(1, 1)));

  cache.reset();  // to no token at all
  feed(model, cache, std::span(wrong).first(3));
  cache.rollback(3);
  CHECK(cache.length() == 0);
  auto fresh = model.make_cache();
  CHECK(feed(model, cache, std::span(prompt).first(3)) == feed(model, fresh, std::span(prompt).first(3)));
}

/// Speculative decoding of two sequences in one call: drafts of four, some rejected, step after step; the
/// third sequence stays behind.
template <class Device>
void check_speculation(Device& device) {
  const auto host = host_weights();
  rf::Model<device_model::Spec, Device> model(device, host);
  auto cache = model.make_cache({.sequences = 3, .max_rollback = 4});
  const std::vector<Tokens> texts = {random_tokens(60, 1), random_tokens(60, 2)};
  const Tokens third = random_tokens(7, 3);
  feed(model, cache, third, 2);
  rf::Random random(5);
  std::vector<std::size_t> accepted(2, 0);
  for (int step = 0; step < 14; ++step) {
    Tokens drafts;
    std::vector<std::int64_t> rejected;
    for (std::size_t s = 0; s < 2; ++s) {
      const auto right = random.below(5);  // how many of the draft are right
      for (std::size_t i = 0; i < 4; ++i) {
        const rf::Token token = texts[s][accepted[s] + i];
        drafts.push_back(i < right ? token : (token + 1) % device_model::vocabulary);
      }
      accepted[s] += right;
      rejected.push_back(static_cast<std::int64_t>(4 - right));
    }
    const std::vector<rf::SequenceTokens> parts = {{0, 4}, {1, 4}};
    model.forward(drafts, parts, cache);
    for (std::size_t s = 0; s < 2; ++s) cache.rollback(rejected[s], static_cast<std::int64_t>(s));
  }
  for (std::size_t s = 0; s < 2; ++s) {
    CAPTURE(s);
    CHECK(cache.length(static_cast<std::int64_t>(s)) == static_cast<std::int64_t>(accepted[s]));
    const auto next = std::span(texts[s]).subspan(accepted[s], 1);
    CHECK(Expected(host, std::span(texts[s]).first(accepted[s] + 1))
              .allows(feed(model, cache, next, static_cast<std::int64_t>(s))));
  }
  const Tokens more = random_tokens(1, 4);
  CHECK(Expected(host, joined(third, more)).allows(feed(model, cache, more, 2)));
}

/// Prompts that end on both sides of multiples, together in one call, each cut where it needs to be.
template <class Device>
void check_batch(Device& device) {
  const auto host = host_weights();
  rf::Model<device_model::Spec, Device> model(device, host);
  auto cache = model.make_cache({.sequences = 3, .max_rollback = 8});
  const std::vector<Tokens> prompts = {random_tokens(5, 1), random_tokens(16, 2), random_tokens(29, 3)};
  const Tokens more = random_tokens(2, 4);
  Tokens all;
  std::vector<rf::SequenceTokens> parts;
  for (const Tokens& prompt : prompts) {
    parts.push_back({static_cast<std::int64_t>(parts.size()), static_cast<std::int64_t>(prompt.size())});
    all = joined(all, prompt);
  }
  const auto logits = model.forward(all, parts, cache);
  for (std::size_t s = 0; s < 3; ++s)
    CHECK(Expected(host, prompts[s])
              .allows(logits.subspan(s * device_model::vocabulary, device_model::vocabulary)));
  for (std::size_t s = 0; s < 3; ++s) {
    CAPTURE(s);
    const std::size_t taken = s == 0 ? 5 : 8;
    const auto sequence = static_cast<std::int64_t>(s);
    cache.rollback(static_cast<std::int64_t>(taken), sequence);
    const auto kept = std::span(prompts[s]).first(prompts[s].size() - taken);
    CHECK(Expected(host, joined(kept, more)).allows(feed(model, cache, more, sequence)));
  }
}

/// What a cache cannot take back.
template <class Device>
void check_refusals(Device& device) {
  using rf::test::message_of;
  const auto host = host_weights();
  rf::Model<device_model::Spec, Device> model(device, host);
  auto cache = model.make_cache({.max_rollback = 2});
  feed(model, cache, random_tokens(10, 1));
  CHECK(message_of<rf::ArgumentError>([&] { cache.rollback(3); }) ==
        "rollback to 7 tokens, 3 below the furthest length reached; this cache was made with max_rollback 2");
  CHECK(message_of<rf::ArgumentError>([&] { cache.rollback(11); }) ==
        "rollback of 11 tokens from a sequence of 10");
  CHECK_THROWS_AS(cache.rollback(-1), rf::ArgumentError);
  CHECK_THROWS_AS(cache.rollback(1, 1), rf::ArgumentError);
  cache.rollback(2);
  cache.rollback(0);
  CHECK_THROWS_AS(cache.rollback(1), rf::ArgumentError);
  CHECK(cache.length() == 8);
  CHECK_THROWS_AS(model.make_cache({.sequences = 0}), rf::ArgumentError);
  CHECK_THROWS_AS(model.make_cache({.max_rollback = -1}), rf::ArgumentError);
  auto without = model.make_cache();
  feed(model, without, random_tokens(2, 1));
  CHECK_THROWS_AS(without.rollback(1), rf::ArgumentError);
  CHECK(message_of<rf::ArgumentError>([&] { cache.restore(without.snapshot()); }) ==
        "the snapshot is of another cache; its pages are not this one's");
  CHECK(cache.length() == 8);
}

}  // namespace device_cache

#endif  // TESTS_MODEL_DEVICE_CACHE_CASES_HPP
