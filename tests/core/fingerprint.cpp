#include "recurformer/core/fingerprint.hpp"

#include <doctest/doctest.h>

namespace {

std::string fingerprint_of(std::string_view text) {
  rf::Fingerprint out;
  out.add(text);
  return out.hex();
}

}  // namespace

TEST_CASE("fingerprints are those that FNV-1a's authors publish, in 16 digits") {
  CHECK(fingerprint_of("") == "cbf29ce484222325");
  CHECK(fingerprint_of("a") == "af63dc4c8601ec8c");
  CHECK(fingerprint_of("foobar") == "85944171f73967e8");
  CHECK(fingerprint_of("77kepQFQ8Kl") == "0000000000000000");
}

TEST_CASE("content may be added in pieces") {
  rf::Fingerprint pieces;
  pieces.add("foo");
  pieces.add("");
  pieces.add("bar");
  CHECK(pieces.hex() == fingerprint_of("foobar"));
}
