#include "recurformer/eval/token_text.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "recurformer/train/data.hpp"

namespace {

/// Numbered lines, so that every place of the text is recognisable.
std::string numbered(std::size_t bytes) {
  std::string out;
  for (int i = 0; out.size() < bytes; ++i) out += "line " + std::to_string(i) + "\n";
  return out;
}

rf::TokenText of_bytes(const std::string& document) {
  return rf::TokenText::of_bytes(std::vector<std::string>{document});
}

std::string as_string(const rf::PackedTokens& bytes) {
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); ++i) out += static_cast<char>(bytes[i]);
  return out;
}

}  // namespace

TEST_CASE("packed tokens take the bytes that the vocabulary needs and come back as they were") {
  struct Case {
    int vocabulary;
    std::size_t width;
  };
  for (const Case& one :
       {Case{1, 1}, Case{256, 1}, Case{257, 2}, Case{65536, 2}, Case{65537, 4}, Case{1 << 24, 4}}) {
    const int vocabulary = one.vocabulary;
    CAPTURE(vocabulary);
    rf::PackedTokens packed(vocabulary);
    std::vector<rf::Token> tokens;
    for (int i = 0; i < 100; ++i) tokens.push_back(i % 2 == 0 ? (i * 7919) % vocabulary : vocabulary - 1);
    packed.append(tokens);
    CHECK(packed.size() == 100);
    CHECK(packed.bytes().size() == 100 * one.width);
    CHECK(packed.copy(0, 100) == tokens);
    CHECK(packed[99] == vocabulary - 1);
    CHECK(packed.copy(100, 0).empty());
    CHECK_THROWS_AS(packed.copy(99, 2), rf::ArgumentError);
    CHECK_THROWS_WITH_AS(
        packed.append(vocabulary),
        rf::text("token ", vocabulary, " at position 100 is outside the vocabulary of ", vocabulary).c_str(),
        rf::ArgumentError);
    CHECK_THROWS_AS(packed.append(-1), rf::ArgumentError);
    CHECK(packed.size() == 100);
  }
  CHECK_THROWS_AS(rf::PackedTokens(0), rf::ArgumentError);
}

TEST_CASE("bytes are tokens of every vocabulary that has them") {
  for (const int vocabulary : {256, 300, 70000}) {
    rf::PackedTokens packed(vocabulary);
    packed.append_bytes("a\xff");
    CHECK(packed.copy(0, 2) == std::vector<rf::Token>{'a', 255});
  }
  CHECK_THROWS_AS(rf::PackedTokens(255).append_bytes("a"), rf::ArgumentError);
}

TEST_CASE("pieces are taken out in order, and the rest closes up") {
  for (const int vocabulary : {256, 1000}) {
    rf::PackedTokens packed(vocabulary);
    for (rf::Token token = 0; token < 11; ++token) packed.append(token);
    const auto taken = packed.take_pieces(3, [](std::size_t index) { return index == 1 || index == 3; });
    CHECK(taken.copy(0, taken.size()) == std::vector<rf::Token>{3, 4, 5, 9, 10});
    CHECK(packed.copy(0, packed.size()) == std::vector<rf::Token>{0, 1, 2, 6, 7, 8});
  }
}

TEST_CASE("training text and held-out text are disjoint and together the whole") {
  for (const std::size_t size : {2000u, 300000u, 6000000u}) {
    const std::string all = numbered(size);
    const std::string documents[] = {all.substr(0, all.size() / 3), all.substr(all.size() / 3)};
    const auto text = rf::TokenText::of_bytes(documents);
    const std::string train = as_string(text.train()), held_out = as_string(text.held_out());
    CHECK(train.size() + held_out.size() == all.size());
    const double share = static_cast<double>(held_out.size()) / static_cast<double>(all.size());
    CHECK(share > 0.01);
    CHECK(share < 0.2);
    // Whole lines of the held-out part occur nowhere in the training part.
    std::size_t line = held_out.find('\n');
    for (int checked = 0; checked < 20 && line != std::string::npos; ++checked) {
      const std::size_t end = held_out.find('\n', line + 1);
      if (end == std::string::npos) break;
      const auto whole = held_out.substr(line, end - line + 1);
      if (all.find(whole) != std::string::npos) CHECK(train.find(whole) == std::string::npos);
      line = end;
    }
  }
  CHECK_THROWS_AS(rf::TokenText::of_bytes({}), rf::ArgumentError);
  CHECK_THROWS_AS(of_bytes("x"), rf::ArgumentError);
}

TEST_CASE("the division is by position, whatever a token is wide") {
  const std::string all = numbered(300000);
  const auto bytes = of_bytes(all);
  for (const int vocabulary : {300, 100000}) {
    rf::PackedTokens packed(vocabulary);
    for (const char c : all) packed.append(rf::Token{static_cast<unsigned char>(c)});
    const rf::TokenText wide(std::move(packed));
    CHECK(as_string(wide.train()) == as_string(bytes.train()));
    CHECK(as_string(wide.held_out()) == as_string(bytes.held_out()));
  }
}

TEST_CASE("rows are consecutive tokens and their targets the tokens that follow") {
  const auto text = of_bytes(numbered(200000));
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
  const auto text = of_bytes(numbered(200000));
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
