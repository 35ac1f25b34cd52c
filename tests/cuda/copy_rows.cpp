#include "recurformer/cuda/copy_rows.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/gemm_harness.hpp"

TEST_CASE("copy rows: pieces of any size, nothing beside them") {
  using rf::cuda::RowCopy;
  using rf::test::GuardedArray;
  using rf::test::TestDevice;
  using Words = std::vector<std::uint32_t>;
  struct Piece {
    int from, from_stride, to, to_stride, rows, words;
  };
  // in words; together they cover neither all that could be read nor all that could be written
  const std::vector<Piece> pieces = {
      {.from = 0, .from_stride = 8, .to = 4, .to_stride = 12, .rows = 3, .words = 8},
      {.from = 16, .from_stride = 0, .to = 48, .to_stride = 8, .rows = 5, .words = 4},
      {.from = 0, .from_stride = 4, .to = 0, .to_stride = 4, .rows = 0, .words = 4},
      {.from = 100, .from_stride = 640, .to = 100, .to_stride = 640, .rows = 1, .words = 640}};
  Words source(740);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::uint32_t>(i) + 1;
  Words expected(760, 0xffffffffu);
  for (const Piece& p : pieces)
    for (int r = 0; r < p.rows; ++r)
      for (int i = 0; i < p.words; ++i)
        expected[static_cast<std::size_t>(p.to + r * p.to_stride + i)] =
            source[static_cast<std::size_t>(p.from + r * p.from_stride + i)];

  for (const auto& schedule : rf::test::schedules()) {
    CAPTURE(schedule.seed);
    TestDevice device(schedule);
    const GuardedArray<std::uint32_t, TestDevice> from(device, source), to(device, expected.size());
    std::vector<RowCopy> copies;
    for (const Piece& p : pieces)
      copies.push_back({.from = reinterpret_cast<const std::byte*>(from.data() + p.from),
                        .to = reinterpret_cast<std::byte*>(to.data() + p.to),
                        .from_stride = 4 * p.from_stride,
                        .to_stride = 4 * p.to_stride,
                        .rows = p.rows,
                        .row_bytes = 4 * p.words});
    const rf::cuda::DeviceArray<RowCopy, TestDevice> on_device(device, std::span<const RowCopy>(copies));
    rf::cuda::copy_rows(device, {.pieces = on_device.data(), .count = 4, .most_rows = 5});
    CHECK(to.to_host() == expected);
  }
}
