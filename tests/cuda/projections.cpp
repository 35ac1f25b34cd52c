// The input projections of attention, streaming, Mamba and Mamba-2 runs in one launch.
#include "recurformer/cuda/projections.hpp"

#include <doctest/doctest.h>

#include "cuda/gemm_harness.hpp"
#include "recurformer/cuda/linear.hpp"
#include "recurformer/cuda/pack_rows.hpp"
#include "recurformer/reference/rope.hpp"

namespace {

using namespace rf::test;
using rf::cuda::ProjectionLayout;
using rf::cuda::ProjectionTarget;

constexpr double rope_base = 100, epsilon = 1e-5;
constexpr int pages_per_sequence = 3, page_rows = static_cast<int>(rf::cache_page_rows);

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

/// Where one element of the product belongs.
struct Place {
  int target;
  std::int64_t element;
};

/// A layer with runs of four kinds, and where every element of its projection belongs by definition.
struct Layer {
  int d_head, d_model = 72, queries = 2, attention_groups = 2;
  enum Target { q, key_pages, value_pages, streaming_q, streaming_k, streaming_v, mamba, mamba2, targets };

  int group_columns() const { return (queries + 2) * d_head; }
  int mamba_columns() const { return 2 * queries * d_head; }
  int mamba2_columns() const { return (2 * queries + 2) * d_head + 1; }
  int mamba2_stride() const {
    return mamba2_columns() + 5;
  }  // no multiple of 8: the second group is unaligned
  int streaming_begin() const { return attention_groups * group_columns(); }
  int mamba_begin() const { return streaming_begin() + group_columns(); }
  int mamba2_begin() const { return mamba_begin() + mamba_columns(); }
  int columns() const { return mamba2_begin() + 2 * mamba2_columns(); }

  ProjectionLayout layout() const {
    ProjectionLayout out;
    out.add_attention({.q = q, .k = key_pages, .v = value_pages, .paged = true}, 0, attention_groups, queries,
                      d_head);
    out.add_attention({.q = streaming_q, .k = streaming_k, .v = streaming_v, .paged = false},
                      streaming_begin(), 1, queries, d_head);
    out.add_span(mamba, mamba_begin(), 0, mamba_columns());
    for (int group = 0; group < 2; ++group)
      out.add_span(mamba2, mamba2_begin() + group * mamba2_columns(), group * mamba2_stride(),
                   mamba2_columns());
    return out;
  }

  /// Elements from a row (page) of a target to the next.
  std::int64_t stride(int target) const {
    switch (target) {
      case q:
        return attention_groups * queries * d_head;
      case key_pages:
      case value_pages:
        return attention_groups * page_rows * d_head;
      case streaming_q:
        return queries * d_head;
      case mamba:
        return mamba_columns() + 8;
      case mamba2:
        return 2 * mamba2_stride() + 6;
      default:
        return d_head;
    }
  }

  /// True if the column is that of a query or key of an attention head.
  bool is_rotated(int column) const {
    return column < mamba_begin() && column % group_columns() < (queries + 1) * d_head;
  }

  Place place(int column, std::int64_t row, std::int64_t page, std::int64_t position) const {
    if (column < mamba_begin()) {
      const bool paged = column < streaming_begin();
      const std::int64_t group = paged ? column / group_columns() : 0;
      const int within = column % group_columns(), head = within / d_head, i = within % d_head;
      if (head < queries) {
        const int target = paged ? q : streaming_q;
        return {target, row * stride(target) + (group * queries + head) * d_head + i};
      }
      const bool key = head == queries;
      if (!paged) return {key ? streaming_k : streaming_v, row * d_head + i};
      return {key ? key_pages : value_pages,
              ((page * attention_groups + group) * page_rows + position % page_rows) * d_head + i};
    }
    if (column < mamba2_begin()) return {mamba, row * stride(mamba) + column - mamba_begin()};
    const int within = column - mamba2_begin();
    return {mamba2,
            row * stride(mamba2) + within / mamba2_columns() * mamba2_stride() + within % mamba2_columns()};
  }
};

template <class T>
struct Inputs {
  std::vector<T> x, w;
  std::vector<float> gain, bias;
  std::vector<rf::SequenceRows> sequences;
  std::vector<int> pages;
  int rows = 0;

  Inputs(const Layer& layer, const std::vector<rf::SequenceRows>& batch) : sequences(batch) {
    for (const auto& s : sequences) rows += static_cast<int>(s.rows);
    rf::Random random(4);
    x = random_values<T>(random, at(rows * layer.d_model));
    w = random_values<T>(random, at(layer.columns() * layer.d_model), 0.2);
    gain = random_values<float>(random, at(layer.d_model));
    bias = random_values<float>(random, at(layer.columns()));
    const auto count = static_cast<int>(sequences.size()) * pages_per_sequence;
    for (int i = 0; i < count; ++i)
      pages.push_back((i * 5 + 3) % count);  // a permutation: 5 and counts are coprime
  }
};

/// The projection by definition, before (T) rounding: rms_norm, product, bias, rotation.
template <class T>
std::vector<double> expected(const Layer& layer, const Inputs<T>& in, bool rounding) {
  auto y =
      product(normalised<T>(to_double(in.x), in.gain, epsilon, rounding), to_double(in.w), at(layer.d_model));
  const int columns = layer.columns();
  for (const auto& s : in.sequences)
    for (std::int64_t r = 0; r < s.rows; ++r) {
      double* row = y.data() + (s.first_row + r) * columns;
      for (int c = 0; c < columns; ++c) row[c] += static_cast<double>(in.bias[at(c)]);
      for (int c = 0; c < columns; c += layer.d_head) {
        if (c >= layer.mamba_begin()) break;
        if (layer.is_rotated(c))
          rf::reference::rotate(row + c, {.d_head = layer.d_head, .rope_base = rope_base}, s.position + r);
      }
    }
  return y;
}

std::vector<float> rotary_table(int d_head, int positions) {
  std::vector<float> out;
  for (int p = 0; p < positions; ++p)
    for (int sine = 0; sine < 2; ++sine)
      for (int i = 0; i < d_head / 2; ++i) {
        const double angle = p * std::pow(rope_base, -2.0 * i / d_head);
        out.push_back(static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
      }
  return out;
}

template <class Tile, class Device>
void check_projections(Device& device, const Layer& layer, const std::vector<rf::SequenceRows>& batch) {
  using T = typename Tile::Element;
  const int d_head = layer.d_head;
  CAPTURE(d_head);
  const Inputs<T> in(layer, batch);
  const ProjectionLayout layout = layer.layout();
  const int page_count = static_cast<int>(in.pages.size());

  const GuardedArray<T, Device> x(device, in.x), w(device, in.w);
  const GuardedArray<T, Device> packed(device, at(layout.columns() * layer.d_model));
  const GuardedArray<float, Device> gain(device, in.gain), bias(device, layout.arranged_bias(in.bias)),
      table(device, rotary_table(d_head, pages_per_sequence * page_rows)),
      sums(device, row_sums(to_double(in.x), at(layer.d_model), 3));
  const GuardedArray<int, Device> source(device, layout.source_rows()), pages(device, in.pages);
  const GuardedArray<rf::SequenceRows, Device> sequences(device, in.sequences);
  const GuardedArray<rf::cuda::RowPlace, Device> places(device, at(in.rows));
  const GuardedArray<rf::cuda::ProjectionUnit, Device> units(device, layout.units());

  std::vector<GuardedArray<T, Device>> memory;
  std::vector<ProjectionTarget<T>> where;
  for (int target = 0; target < Layer::targets; ++target) {
    const bool paged = target == Layer::key_pages || target == Layer::value_pages;
    memory.emplace_back(device, at((paged ? page_count : in.rows) * layer.stride(target)));
    where.push_back({memory.back().data(), layer.stride(target), paged ? d_head : 0});
  }
  const GuardedArray<ProjectionTarget<T>, Device> targets(device, where);

  rf::cuda::pack_rows<T, T>(device, layout.columns(),
                            {.weights = w.data(),
                             .gain = gain.data(),
                             .source = source.data(),
                             .out = packed.data(),
                             .inner = layer.d_model});
  rf::cuda::place_rows(device, sequences.data(), static_cast<int>(batch.size()), places.data());
  rf::cuda::launch_linear_tiles<Tile>(
      device,
      rf::cuda::GemmOperands<rf::cuda::DenseRows<T>>{.rows = {{x.data(), layer.d_model}, in.rows},
                                                     .weights = packed.data(),
                                                     .columns = layout.columns(),
                                                     .inner = layer.d_model},
      rf::cuda::RmsNorm{.sums = {sums.data(), 3}, .epsilon = static_cast<float>(epsilon)},
      rf::cuda::Project<T>{.units = units.data(),
                           .targets = targets.data(),
                           .bias = bias.data(),
                           .places = places.data(),
                           .rope = {table.data(), table.data() + d_head / 2, d_head},
                           .pages = pages.data(),
                           .pages_per_sequence = pages_per_sequence});

  const auto exact = expected(layer, in, false), unrounded = expected(layer, in, true);
  std::vector<std::vector<T>> got;
  for (const auto& one : memory) got.push_back(one.to_host());
  std::vector<T> ours;
  std::vector<double> plain;
  for (std::size_t sequence = 0; sequence < batch.size(); ++sequence)
    for (std::int64_t r = 0; r < batch[sequence].rows; ++r) {
      const std::int64_t row = batch[sequence].first_row + r, position = batch[sequence].position + r;
      const int page = in.pages[sequence * pages_per_sequence + at(position / page_rows)];
      for (int column = 0; column < layer.columns(); ++column) {
        const Place place = layer.place(column, row, page, position);
        T& element = got[at(place.target)][at(place.element)];
        ours.push_back(element);
        element = T::from_bits(0xffff);  // so that what remains was not to be written
        plain.push_back(rounded<T>(unrounded[at(row * layer.columns() + column)]));
      }
    }
  check_as_good(ours, plain, exact);
  for (const auto& one : got)
    CHECK(std::all_of(one.begin(), one.end(), [](T value) { return value.bits == 0xffff; }));
}

/// Empty sequences, one token, one that enters a new page, one far on.
const std::vector<rf::SequenceRows> short_batch = {
    {.first_row = 0, .rows = 0, .position = 5},   {.first_row = 0, .rows = 3, .position = 254},
    {.first_row = 3, .rows = 1, .position = 0},   {.first_row = 4, .rows = 0, .position = 0},
    {.first_row = 4, .rows = 2, .position = 600}, {.first_row = 6, .rows = 1, .position = 511},
    {.first_row = 7, .rows = 0, .position = 0}};

/// A small tensor tile: 16 x 64, one warp.
template <class T>
using SmallTile = rf::cuda::TensorTile<T, 16, 64, 16, 1>;

}  // namespace

TEST_CASE("projections: every schedule") {
  for (const auto& options : schedules()) {
    CAPTURE(options.seed);
    TestDevice device(options);
    check_projections<SmallTile<rf::bf16>>(device, {.d_head = 32}, short_batch);
    check_projections<rf::cuda::FewRowsTile<rf::bf16, 1>>(
        device, {.d_head = 16, .d_model = 24, .queries = 1, .attention_groups = 1}, short_batch);
  }
}

TEST_CASE("projections: head widths") {
  TestDevice device({.seed = 7});
  const std::vector<rf::SequenceRows> two = {{.first_row = 0, .rows = 2, .position = 255},
                                             {.first_row = 2, .rows = 1, .position = 511}};
  for (const int d_head : {64, 80, 256})
    check_projections<SmallTile<rf::bf16>>(
        device, {.d_head = d_head, .d_model = 8, .queries = 1, .attention_groups = 1}, two);
}

TEST_CASE("projections: rows of several tiles") {
  TestDevice device({.seed = 3});
  const std::vector<rf::SequenceRows> batch = {{.first_row = 0, .rows = 30, .position = 240},
                                               {.first_row = 30, .rows = 36, .position = 3}};
  check_projections<rf::cuda::MediumTile<rf::bf16>>(device, {.d_head = 16}, batch);
  check_projections<rf::cuda::LargeTile<rf::fp16>>(device, {.d_head = 16, .d_model = 8, .queries = 1}, batch);
}

TEST_CASE("projections: the layout covers every column of the weights once") {
  for (const int d_head : {16, 32, 80, 128}) {
    const Layer layer{.d_head = d_head};
    const ProjectionLayout layout = layer.layout();
    std::vector<int> rows = layout.source_rows();
    CHECK(rows.size() == at(layout.columns()));
    CHECK(layout.units().size() * 16 == rows.size());
    std::sort(rows.begin(), rows.end());
    rows.erase(rows.begin(), std::lower_bound(rows.begin(), rows.end(), 0));
    REQUIRE(rows.size() == at(layer.columns()));
    for (int i = 0; i < layer.columns(); ++i) CHECK(rows[at(i)] == i);
  }
}
