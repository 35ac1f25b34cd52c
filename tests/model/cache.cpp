#include "recurformer/model/cache.hpp"

#include <doctest/doctest.h>

#include "recurformer/core/memory.hpp"
#include "support/error_message.hpp"
#include "support/small_model.hpp"

namespace {

std::vector<float> next(small::Model& model, rf::Cache& cache, std::span<const rf::Token> tokens) {
  const auto logits = model.next_logits(tokens, cache);
  return {logits.begin(), logits.end()};
}

/// Logits after `prompt` and after each of `more`, fed one by one to a fresh cache.
std::vector<std::vector<float>> trajectory(small::Model& model, rf::Cache& cache,
                                           std::span<const rf::Token> more) {
  std::vector<std::vector<float>> out;
  for (std::size_t i = 0; i < more.size(); ++i) out.push_back(next(model, cache, more.subspan(i, 1)));
  return out;
}

/// The rule of design §8 for the same sequence of tokens fed in different pieces.
void check_close(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::abs(a[i] - b[i])));
    scale = std::max(scale, static_cast<double>(std::abs(b[i])));
  }
  CHECK(worst <= 1e-5 * scale);
}

}  // namespace

TEST_CASE(
    "bytes() is what is allocated, at every length, with and without rollback, and all of it is given back") {
  for (const std::int64_t max_rollback : {0, 3}) {
    auto model = small::model();
    rf::CountingMemory memory(std::pmr::new_delete_resource());
    {
      rf::Cache cache(model.cache_layout(), {.sequences = 2, .max_rollback = max_rollback}, &memory);
      CHECK(cache.bytes() == memory.live_bytes());
      const auto tokens = small::tokens(600);
      std::size_t first = 0;
      for (const std::size_t count : {1u, 254u, 1u, 1u, 300u}) {
        next(model, cache, std::span(tokens).subspan(first, count));
        first += count;
        CHECK(cache.bytes() == memory.live_bytes());
      }
      const std::int64_t one = model.cache_layout().bytes(557, max_rollback),
                         empty = model.cache_layout().bytes(0, max_rollback);
      CHECK(cache.bytes() == one + empty);
      std::int64_t total = 0;
      for (const auto& item : cache.items()) total += item.bytes;
      CHECK(total == cache.bytes());
      cache.reset(0);
      CHECK(cache.bytes() == 2 * empty);
      CHECK(cache.bytes() == memory.live_bytes());
    }
    CHECK(memory.live_bytes() == 0);
  }
}

TEST_CASE("growing allocates pages and copies nothing") {
  auto model = small::model();
  rf::CountingMemory memory(std::pmr::new_delete_resource());
  rf::Cache cache(model.cache_layout(), {}, &memory);
  const auto tokens = small::tokens(700);
  next(model, cache, std::span(tokens).first(256));
  const auto before = memory.allocations();
  next(model, cache, std::span(tokens).subspan(256, 1));
  const auto per_page =
      memory.allocations() - before;  // one page per field of rows: 2 fields x 2 attention runs
  CHECK(per_page == 4);
  for (std::size_t i = 257; i < 512; ++i) next(model, cache, std::span(tokens).subspan(i, 1));
  CHECK(memory.allocations() == before + per_page);
}

TEST_CASE("a snapshot restores the exact moment, any number of times") {
  auto model = small::model();
  auto cache = model.make_cache();
  const auto tokens = small::tokens(300);
  next(model, cache, std::span(tokens).first(250));
  const auto snapshot = cache.snapshot();
  const auto first = trajectory(model, cache, std::span(tokens).subspan(250, 20));
  const auto later = cache.snapshot();
  const auto second_half = trajectory(model, cache, std::span(tokens).subspan(270, 20));
  for (int round = 0; round < 2; ++round) {
    cache.restore(snapshot);
    CHECK(cache.length() == 250);
    // Another branch writes over the same positions …
    trajectory(model, cache, small::tokens(15, 99));
    // … and harms neither snapshot.
    cache.restore(snapshot);
    CHECK(trajectory(model, cache, std::span(tokens).subspan(250, 20)) == first);
    cache.restore(later);
    CHECK(trajectory(model, cache, std::span(tokens).subspan(270, 20)) == second_half);
  }
}

TEST_CASE("rollback takes tokens back, wherever the sequence stands") {
  const auto tokens = small::tokens(80);
  for (const std::int64_t max_rollback : {1, 4, 7}) {
    for (const std::int64_t length : {3, 8, 9, 40}) {
      for (std::int64_t n = 0; n <= std::min(max_rollback, length); ++n) {
        CAPTURE(max_rollback);
        CAPTURE(length);
        CAPTURE(n);
        auto model = small::model();
        auto cache = model.make_cache({.max_rollback = max_rollback});
        // Accepted tokens, then n that are rejected, then the real continuation.
        if (length > n) next(model, cache, std::span(tokens).first(static_cast<std::size_t>(length - n)));
        if (n > 0) next(model, cache, small::tokens(n, 50));
        cache.rollback(n);
        CHECK(cache.length() == length - n);
        const auto continued =
            next(model, cache, std::span(tokens).subspan(static_cast<std::size_t>(length - n), 12));
        auto plain = model.make_cache();
        check_close(continued,
                    next(model, plain, std::span(tokens).first(static_cast<std::size_t>(length - n + 12))));
      }
    }
  }
}

TEST_CASE("speculative decoding: drafts of four, some rejected, step after step") {
  auto model = small::model();
  const auto tokens = small::tokens(120);
  auto cache = model.make_cache({.max_rollback = 4});
  rf::Random random(5);
  std::size_t accepted = 0;
  while (accepted < 90) {
    const auto right = random.below(5);  // how many of the draft are right
    std::vector<rf::Token> draft(tokens.begin() + static_cast<std::ptrdiff_t>(accepted),
                                 tokens.begin() + static_cast<std::ptrdiff_t>(accepted + 4));
    for (std::size_t i = right; i < 4; ++i) draft[i] = (draft[i] + 1) % 40;
    next(model, cache, draft);
    cache.rollback(static_cast<std::int64_t>(4 - right));
    accepted += right;
  }
  auto plain = model.make_cache();
  next(model, plain, std::span(tokens).first(accepted));
  check_close(next(model, cache, std::span(tokens).subspan(accepted, 1)),
              next(model, plain, std::span(tokens).subspan(accepted, 1)));
}

TEST_CASE("snapshots with rollback keep the checkpoints, the recorded inputs and the older rows of rings") {
  auto model = small::model();
  const auto tokens = small::tokens(60);
  const auto from = [&](std::size_t first) { return std::span(tokens).subspan(first, 12); };
  const auto expected = [&](std::size_t length) {
    auto plain = model.make_cache();
    return next(model, plain, std::span(tokens).first(length));
  };
  // Nothing happens at a multiple of max_rollback, where checkpoints are and nothing has to be replayed.
  auto cache = model.make_cache({.max_rollback = 4});
  next(model, cache, std::span(tokens).first(21));
  next(model, cache, small::tokens(4, 50));
  cache.rollback(4);
  const auto rolled_back = cache.snapshot();  // states that must first be replayed
  const auto first = next(model, cache, from(21));
  check_close(first, expected(33));
  const auto later = cache.snapshot();
  for (int round = 0; round < 2; ++round) {
    // Another branch wraps the rings and replaces both checkpoints …
    next(model, cache, small::tokens(30, 99));
    cache.rollback(3);
    // … and neither moment remembers it.
    cache.restore(later);
    cache.rollback(3);
    check_close(next(model, cache, from(30)), expected(42));
    cache.restore(rolled_back);
    CHECK(cache.length() == 21);
    CHECK(next(model, cache, from(21)) == first);
  }
}

TEST_CASE("a snapshot of another cache: the same moment if the layouts agree, else an error") {
  auto model = small::model();
  const auto tokens = small::tokens(30);
  auto cache = model.make_cache({.max_rollback = 2});
  next(model, cache, std::span(tokens).first(20));
  const auto snapshot = cache.snapshot();
  auto same = model.make_cache({.max_rollback = 2});
  same.restore(snapshot);
  CHECK(next(model, same, std::span(tokens).subspan(20)) ==
        next(model, cache, std::span(tokens).subspan(20)));

  const auto error = [&](rf::Cache other) {
    return rf::test::message_of<rf::ArgumentError>([&] { other.restore(snapshot); });
  };
  CHECK(error(model.make_cache({.sequences = 2, .max_rollback = 2})) ==
        "the snapshot holds 1 sequences, this cache 2");
  CHECK(error(model.make_cache({.max_rollback = 3})) ==
        "the snapshot is of a cache with max_rollback 2, this cache has 3");
  auto plan = small::hybrid_plan();
  plan.kinds[1].options[1].second = 6;  // the window
  CHECK(rf::test::contains(error(small::model(plan).make_cache({.max_rollback = 2})),
                           "with sink 2 and window 5; this cache has"));
  CHECK(rf::test::contains(error(small::model(small::attention_plan()).make_cache({.max_rollback = 2})),
                           "layer.0.attention:fp32.0: the snapshot has attention:fp32 of 1 KV groups (0)"));
}

TEST_CASE("what a cache cannot do is an error") {
  auto model = small::model();
  auto cache = model.make_cache({.max_rollback = 2});
  next(model, cache, small::tokens(10));
  CHECK_THROWS_WITH_AS(
      cache.rollback(3),
      "rollback to 7 tokens, 3 below the furthest length reached; this cache was made with max_rollback 2",
      rf::ArgumentError);
  CHECK_THROWS_AS(cache.rollback(11), rf::ArgumentError);
  CHECK_THROWS_AS(cache.rollback(-1), rf::ArgumentError);
  cache.rollback(2);
  CHECK_THROWS_AS(cache.rollback(1), rf::ArgumentError);
  CHECK_THROWS_AS((void)cache.length(1), rf::ArgumentError);
  CHECK_THROWS_AS(model.make_cache({.sequences = 0}), rf::ArgumentError);
  CHECK_THROWS_AS(model.make_cache({.max_rollback = -1}), rf::ArgumentError);
}
