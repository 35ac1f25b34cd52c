#include "recurformer/tile/byte_quads.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "recurformer/core/random.hpp"

namespace {

using rf::simd::width;
using Bytes = std::array<std::int8_t, 4 * width>;

Bytes random_bytes(rf::Random& random) {
  Bytes bytes;
  for (auto& byte : bytes) byte = static_cast<std::int8_t>(static_cast<int>(random.below(256)) - 128);
  return bytes;
}

template <class V>
V as(const Bytes& bytes) {
  V v;
  static_assert(sizeof v == sizeof bytes);
  std::memcpy(&v, bytes.data(), sizeof v);
  return v;
}

}  // namespace

TEST_CASE("sums of products of quads are exact, at the ends of their range too") {
  rf::Random random(1);
  for (int round = 0; round < 50; ++round) {
    Bytes bytes = random_bytes(random);
    std::array<float, 4 * width> numbers;
    for (float& number : numbers) number = static_cast<float>(random.below(65535)) - rf::simd::largest_short;
    if (round == 0) {
      bytes.fill(-128);
      numbers.fill(-rf::simd::largest_short);
    }
    std::array<std::int32_t, 4 * width> factors;  // of the quad of lane i in places 4 · i and 4 · i + 1
    for (int v = 0; v < 4; ++v) {
      const rf::simd::IntVec some = rf::simd::factors_of_quads(rf::simd::load(numbers.data() + v * width));
      std::memcpy(factors.data() + v * width, &some, sizeof some);
    }
    const rf::simd::QuadPairs pairs = rf::simd::pairs_of(as<rf::simd::IntVec>(bytes));
    rf::simd::IntVec even, odd;
    for (int lane = 0; lane < width; ++lane) {
      even[lane] = factors[static_cast<std::size_t>(4 * lane)];
      odd[lane] = factors[static_cast<std::size_t>(4 * lane + 1)];
    }
    rf::simd::IntVec sums = rf::simd::IntVec{} + 7;
    sums = rf::simd::add_pair_products(sums, pairs.even, even);
    sums = rf::simd::add_pair_products(sums, pairs.odd, odd);
    for (int lane = 0; lane < width; ++lane) {
      std::int32_t expected = 7;
      for (int i = 4 * lane; i < 4 * lane + 4; ++i)
        expected +=
            bytes[static_cast<std::size_t>(i)] * static_cast<int>(numbers[static_cast<std::size_t>(i)]);
      CHECK(std::int32_t{sums[lane]} == expected);
    }
  }
}

TEST_CASE("factors are rounded to nearest") {
  alignas(64) float numbers[width] = {};
  numbers[0] = 2.6f;
  numbers[1] = -2.6f;
  numbers[2] = 0.4f;
  numbers[3] = -0.4f;
  const rf::simd::IntVec factors = rf::simd::factors_of_quads(rf::simd::load(numbers));
  CHECK(std::int32_t{factors[0]} == 3);       // and 0 above it
  CHECK(std::int32_t{factors[1]} == 0xfffd);  // -3, and 0 above it
}

TEST_CASE("quads of columns: every byte in its place") {
  rf::Random random(2);
  Bytes rows[4];
  for (Bytes& row : rows) row = random_bytes(random);
  const rf::simd::ByteQuads vectors[4] = {as<rf::simd::ByteQuads>(rows[0]), as<rf::simd::ByteQuads>(rows[1]),
                                          as<rf::simd::ByteQuads>(rows[2]), as<rf::simd::ByteQuads>(rows[3])};
  rf::simd::IntVec quads[4];
  rf::simd::quads_of_columns(vectors, quads);
  for (int v = 0; v < 4; ++v)
    for (int lane = 0; lane < width; ++lane) {
      const auto column = static_cast<std::size_t>(rf::simd::first_column_of_quads(v, lane / 4) + lane % 4);
      std::int8_t bytes[4];
      const std::int32_t quad = quads[v][lane];
      std::memcpy(bytes, &quad, sizeof quad);
      for (int r = 0; r < 4; ++r) CHECK(bytes[r] == rows[r][column]);
    }
}
