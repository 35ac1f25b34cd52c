#include "recurformer/model/generate.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <vector>

#include "support/error_message.hpp"
#include "support/small_model.hpp"

namespace {

const auto go_on = [](rf::Token) { return true; };

std::vector<rf::Token> generate(small::Model& model, const rf::SamplingOptions& options) {
  auto cache = model.make_cache();
  return rf::generate(model, cache, small::tokens(9), 12, options, go_on);
}

}  // namespace

TEST_CASE("generation: greedy tokens are the most probable, fed back one by one") {
  auto model = small::model();
  const auto drawn = generate(model, {});
  REQUIRE(drawn.size() == 12);
  auto all = small::tokens(9);
  all.insert(all.end(), drawn.begin(), drawn.end());
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    auto cache = model.make_cache();
    const auto logits = model.next_logits(std::span(all).first(9 + i), cache);
    CHECK(drawn[i] == std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
}

TEST_CASE("generation: the seed decides, and nothing else") {
  auto model = small::model();
  const auto drawn = generate(model, {.temperature = 2, .seed = 5});
  CHECK(generate(model, {.temperature = 2, .seed = 5}) == drawn);
  CHECK(generate(model, {.temperature = 2, .seed = 6}) != drawn);
}

TEST_CASE("generation: stops when told or at the count, and goes on with the last token as the prompt") {
  auto model = small::model();
  const auto whole = generate(model, {});
  auto cache = model.make_cache({.sequences = 2});
  std::vector<rf::Token> seen;
  const auto first = rf::generate(
      model, cache, small::tokens(9), 12, {},
      [&](rf::Token token) {
        seen.push_back(token);
        return seen.size() < 5;
      },
      1);
  CHECK(first == std::vector(whole.begin(), whole.begin() + 5));
  CHECK(seen == first);
  CHECK(cache.length(1) == 9 + 4);  // the last one was not fed
  CHECK(cache.length(0) == 0);
  const auto rest = rf::generate(model, cache, std::span(first).last(1), 7, {}, go_on, 1);
  CHECK(rest == std::vector(whole.begin() + 5, whole.end()));
  CHECK(rf::generate(model, cache, std::span(first).last(1), 0, {}, go_on).empty());
  CHECK(cache.length(0) == 0);
}

TEST_CASE("generation without a prompt is an error") {
  auto model = small::model();
  auto cache = model.make_cache();
  CHECK(rf::test::message_of<rf::ArgumentError>([&] {
          rf::generate(model, cache, std::span<const rf::Token>{}, 3, {}, go_on);
        }) == "generation needs a prompt of at least one token");
}
