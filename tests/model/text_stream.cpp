#include "recurformer/model/text_stream.hpp"

#include <doctest/doctest.h>

#include <span>
#include <string>
#include <vector>

namespace {

using rf::Token;

std::string bytes_of(std::span<const Token> tokens) {
  std::string out;
  for (const Token token : tokens) out += static_cast<char>(token);
  return out;
}

/// Token n is " w<n>", without the space at the start of a text.
std::string words(std::span<const Token> tokens) {
  std::string out;
  for (const Token token : tokens) out += (out.empty() ? "w" : " w") + std::to_string(token);
  return out;
}

/// What every byte of a text hands out.
template <class Decode>
std::vector<std::string> parts_of(const std::string& text, Decode decode) {
  rf::TextStream stream(decode);
  std::vector<std::string> out;
  for (const char c : text) out.push_back(stream.add(static_cast<unsigned char>(c)));
  out.push_back(stream.finish());
  return out;
}

using Parts = std::vector<std::string>;

}  // namespace

TEST_CASE("characters of several tokens are handed out when they are whole") {
  CHECK(parts_of("a\xc3\xa9z", bytes_of) == Parts{"a", "", "\xc3\xa9", "z", ""});
  CHECK(parts_of("\xf0\x9f\x98\x80!", bytes_of) == Parts{"", "", "", "\xf0\x9f\x98\x80", "!", ""});
  CHECK(parts_of("", bytes_of) == Parts{""});
}

TEST_CASE("what never becomes a character is handed out as soon as that is certain, or at the end") {
  CHECK(parts_of("\xe2\x82", bytes_of) == Parts{"", "", "\xe2\x82"});
  CHECK(parts_of("\xe2z", bytes_of) == Parts{"", "\xe2z", ""});
  CHECK(parts_of("\xff\x80\x80\x80\x80", bytes_of) == Parts{"\xff", "\x80", "\x80", "\x80", "\x80", ""});
}

TEST_CASE("a token is decoded beside its neighbour, the prompt's last one too") {
  rf::TextStream stream(words);
  CHECK(stream.add(1) == "w1");
  CHECK(stream.add(2) == " w2");
  CHECK(stream.add(3) == " w3");
  CHECK(stream.finish().empty());

  rf::TextStream after(words);
  after.start_after(std::vector<Token>{7, 8});
  CHECK(after.add(9) == " w9");
  CHECK(after.add(10) == " w10");
  CHECK(after.finish().empty());
}
