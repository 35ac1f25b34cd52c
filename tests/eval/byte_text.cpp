#include "recurformer/eval/byte_text.hpp"

#include <doctest/doctest.h>

#include <set>
#include <string>

#include "recurformer/train/data.hpp"

namespace {

/// Numbered lines, so that every place of the text is recognisable.
std::string numbered(std::size_t bytes) {
  std::string out;
  for (int i = 0; out.size() < bytes; ++i) out += "line " + std::to_string(i) + "\n";
  return out;
}

}  // namespace

TEST_CASE("training text and held-out text are disjoint and together the whole") {
  for (const std::size_t size : {2000u, 300000u, 6000000u}) {
    const std::string all = numbered(size);
    const std::string documents[] = {all.substr(0, all.size() / 3), all.substr(all.size() / 3)};
    const rf::ByteText text(documents);
    CHECK(text.train().size() + text.held_out().size() == all.size());
    const double share = static_cast<double>(text.held_out().size()) / static_cast<double>(all.size());
    CHECK(share > 0.01);
    CHECK(share < 0.2);
    // Whole lines of the held-out part occur nowhere in the training part.
    std::size_t line = text.held_out().find('\n');
    for (int checked = 0; checked < 20 && line != std::string_view::npos; ++checked) {
      const std::size_t end = text.held_out().find('\n', line + 1);
      if (end == std::string_view::npos) break;
      const auto whole = text.held_out().substr(line, end - line + 1);
      if (all.find(whole) != std::string::npos) CHECK(text.train().find(whole) == std::string_view::npos);
      line = end;
    }
  }
  CHECK_THROWS_AS(rf::ByteText(std::vector<std::string>{}), rf::ArgumentError);
  CHECK_THROWS_AS(rf::ByteText(std::vector<std::string>{"x"}), rf::ArgumentError);
}

TEST_CASE("rows are consecutive bytes and their targets the bytes that follow") {
  const std::string documents[] = {numbered(200000)};
  const rf::ByteText text(documents);
  rf::Batch batch;
  rf::Random random(1);
  text.append_train_row(batch, 50, random);
  text.append_held_out_row(batch, 50, 0);
  text.append_held_out_row(batch, 50, 1);
  CHECK(batch.rows() == 150);
  for (const auto& sequence : batch.sequences)
    for (std::int64_t i = sequence.first_row; i + 1 < sequence.first_row + sequence.rows; ++i)
      CHECK(batch.targets[static_cast<std::size_t>(i)] == batch.tokens[static_cast<std::size_t>(i + 1)]);
  CHECK(batch.targets[99] == batch.tokens[100]);  // held-out rows lie side by side
  CHECK_THROWS_AS(text.append_held_out_row(batch, 50, text.held_out_rows(50)), rf::ArgumentError);
  CHECK_THROWS_AS(text.append_train_row(batch, 1000000, random), rf::ArgumentError);
}

TEST_CASE("a batch is a function of seed and step, with the share of copies that was asked for") {
  const std::string documents[] = {numbered(200000)};
  const rf::ByteText text(documents);
  const rf::MixedData data{.text = &text, .rows = 4, .length = 40, .copy_rows = 1, .copy_lag = 10, .seed = 3};
  const rf::Batch batch = data(7);
  CHECK(batch.tokens == data(7).tokens);
  CHECK(batch.tokens != data(8).tokens);
  auto other = data;
  other.seed = 4;
  CHECK(batch.tokens != other(7).tokens);
  REQUIRE(batch.sequences.size() == 4);
  for (std::size_t i = 10; i < 40; ++i) CHECK(batch.tokens[i] == batch.tokens[i - 10]);
  CHECK(batch.targets[0] == -1);
  CHECK(batch.targets[40] >= 0);
}
