// The SSD recurrence by itself: against the recurrence in double, one token after the other, forward and
// backward, and against itself cut in other ways.

#include "recurformer/cpu/ssd.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cpu/ssd_backward.hpp"

namespace {

using rf::cpu::SsdForm;
using rf::cpu::SsdGradient;
using rf::cpu::SsdSequence;
constexpr float nan_poison = std::numeric_limits<float>::quiet_NaN();

// Mamba2's forms, and some with keys of another width than values.
constexpr SsdForm narrow = rf::cpu::mamba2_form(16), wide = rf::cpu::mamba2_form(80);
constexpr SsdForm many_keys{.keys = 48, .values = 16}, few_keys{.keys = 16, .values = 64},
    all_different{.keys = 32, .values = 80, .constant_key = true};

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// One state's inputs; rows of q | k | v | Δ lie behind each other, with a column that nobody may touch.
struct Case {
  SsdForm form;
  int heads;
  std::int64_t rows, stride;
  float rate = -0.7f;
  std::vector<float> inputs, c0, c1, skip, state;

  Case(SsdForm f, int h, std::int64_t n, std::uint64_t seed = 1)
      : form(f), heads(h), rows(n), stride((h + 1) * f.keys + f.values + 2), state(at(f.size())) {
    rf::Random random(seed);
    inputs.resize(at(rows * stride));
    for (float& x : inputs) x = static_cast<float>(random.normal());
    for (std::int64_t t = 0; t < rows; ++t) {
      step(t) = static_cast<float>(random.uniform(0.0, 0.3));
      inputs[at((t + 1) * stride - 1)] = nan_poison;
    }
    for (int i = 0; f.constant_key && i < h; ++i) {
      c0.push_back(static_cast<float>(random.normal()));
      c1.push_back(static_cast<float>(random.normal() / std::sqrt(f.keys)));
    }
    for (int i = 0; i < h * f.values; ++i) skip.push_back(static_cast<float>(random.normal()));
    for (float& x : state) x = static_cast<float>(random.normal());
  }
  float& step(std::int64_t t) { return inputs[at((t + 1) * stride - 2)]; }
  std::int64_t y_width() const { return std::int64_t{heads} * form.values; }
  std::int64_t k() const { return std::int64_t{heads} * form.keys; }
  std::int64_t v() const { return k() + form.keys; }

  /// Rows [first, first + count); y is that of row `first`.
  SsdSequence sequence(std::int64_t first, std::int64_t count, float* y) const {
    const float* row = inputs.data() + first * stride;
    return {.rows = count,
            .heads = heads,
            .q = row,
            .k = row + k(),
            .v = row + v(),
            .step = row + v() + form.values,
            .stride = stride,
            .rate = rate,
            .c0 = c0.data(),
            .c1 = c1.data(),
            .skip = skip.data(),
            .y = y,
            .y_stride = y_width()};
  }
};

/// The recurrence, and its gradients by going back through it, in double.
struct Exact {
  std::vector<double> y, state;  // (rows, heads · values), the state behind the last row
  std::vector<double> dq, dk, dv, d_step, d_c0, d_c1, d_skip;
  double d_rate = 0;
};

Exact exact_recurrence(const Case& c, bool from_state, const std::vector<float>& dy = {}) {
  const int keys = c.form.keys, values = c.form.values, heads = c.heads, state_rows = c.form.rows();
  const std::int64_t size = c.form.size();
  Exact e;
  std::vector<std::vector<double>> states(at(c.rows + 1), std::vector<double>(at(size), 0.0));
  if (from_state) states[0].assign(c.state.begin(), c.state.end());
  e.y.assign(at(c.rows * c.y_width()), 0.0);
  const auto row = [&](std::int64_t t) { return c.inputs.data() + t * c.stride; };
  const auto key = [&](std::int64_t t, int i) {
    return i < keys ? static_cast<double>(row(t)[c.k() + i]) : 1.0;
  };
  const auto value = [&](std::int64_t t, int j) { return static_cast<double>(row(t)[c.v() + j]); };
  const auto c1 = [&](int h) { return c.form.constant_key ? static_cast<double>(c.c1[at(h)]) : 1.0; };
  const auto query = [&](std::int64_t t, int h, int i) {
    return i < keys ? c1(h) * static_cast<double>(row(t)[h * keys + i]) : static_cast<double>(c.c0[at(h)]);
  };
  const auto step = [&](std::int64_t t) { return static_cast<double>(row(t)[c.v() + values]); };
  const double rate = static_cast<double>(c.rate);
  for (std::int64_t t = 0; t < c.rows; ++t) {
    const auto& before = states[at(t)];
    auto& s = states[at(t + 1)];
    for (int i = 0; i < state_rows; ++i)
      for (int j = 0; j < values; ++j)
        s[at(i * values + j)] =
            std::exp(step(t) * rate) * before[at(i * values + j)] + step(t) * key(t, i) * value(t, j);
    for (int h = 0; h < heads; ++h)
      for (int j = 0; j < values; ++j) {
        double sum = static_cast<double>(c.skip[at(h * values + j)]) * value(t, j);
        for (int i = 0; i < state_rows; ++i) sum += query(t, h, i) * s[at(i * values + j)];
        e.y[at(t * c.y_width() + h * values + j)] = sum;
      }
  }
  e.state = states.back();
  if (dy.empty()) return e;
  e.dq.assign(at(c.rows * heads * keys), 0.0);
  e.dk.assign(at(c.rows * keys), 0.0);
  e.dv.assign(at(c.rows * values), 0.0);
  e.d_step.assign(at(c.rows), 0.0);
  e.d_c0.assign(c.c0.size(), 0.0);
  e.d_c1.assign(c.c1.size(), 0.0);
  e.d_skip.assign(at(heads * values), 0.0);
  std::vector<double> g(at(size), 0.0);  // gradient of the state behind row t
  for (std::int64_t t = c.rows - 1; t >= 0; --t) {
    const auto& s = states[at(t + 1)];
    const auto& before = states[at(t)];
    for (int h = 0; h < heads; ++h)
      for (int j = 0; j < values; ++j) {
        const double dy_j = static_cast<double>(dy[at(t * c.y_width() + h * values + j)]);
        e.d_skip[at(h * values + j)] += dy_j * value(t, j);
        e.dv[at(t * values + j)] += static_cast<double>(c.skip[at(h * values + j)]) * dy_j;
        for (int i = 0; i < state_rows; ++i) g[at(i * values + j)] += query(t, h, i) * dy_j;
        if (c.form.constant_key) e.d_c0[at(h)] += s[at(keys * values + j)] * dy_j;
        for (int i = 0; i < keys; ++i) {
          const double read = s[at(i * values + j)] * dy_j;
          e.dq[at((t * heads + h) * keys + i)] += c1(h) * read;
          if (c.form.constant_key) e.d_c1[at(h)] += static_cast<double>(row(t)[h * keys + i]) * read;
        }
      }
    const double decay = std::exp(step(t) * rate);
    double alpha = 0, written = 0;
    for (int i = 0; i < state_rows; ++i)
      for (int j = 0; j < values; ++j) {
        const double g_ij = g[at(i * values + j)];
        alpha += g_ij * decay * before[at(i * values + j)];
        written += g_ij * key(t, i) * value(t, j);
        if (i < keys) e.dk[at(t * keys + i)] += step(t) * g_ij * value(t, j);
        e.dv[at(t * values + j)] += step(t) * key(t, i) * g_ij;
        g[at(i * values + j)] = g_ij * decay;
      }
    e.d_step[at(t)] = written + rate * alpha;
    e.d_rate += step(t) * alpha;
  }
  return e;
}

/// ‖got - want‖ / ‖want‖, or ‖got‖ where nothing was wanted; NaN counts as infinite.
template <class Got>
double error_of(const Got& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    error += d * d, norm += want[i] * want[i];
  }
  const double relative = std::sqrt(norm > 0 ? error / norm : error);
  return relative <= 1e30 ? relative : 1e30;
}

struct Outputs {
  std::vector<float> y, state;
};

/// Forward in pieces of `piece` rows; each goes on from the state that the one before left.
template <SsdForm Form>
Outputs run_pieces(const Case& c, std::int64_t piece, bool from_state) {
  Outputs out{std::vector<float>(at(c.rows * c.y_width()), nan_poison), c.state};
  if (!from_state) std::fill(out.state.begin(), out.state.end(), 0.0f);
  for (std::int64_t first = 0; first < c.rows; first += piece) {
    SsdSequence s = c.sequence(first, std::min(piece, c.rows - first), out.y.data() + first * c.y_width());
    s.initial_state = first > 0 || from_state ? out.state.data() : nullptr;
    s.final_state = out.state.data();
    rf::cpu::ssd_forward<Form>(std::vector{s});
  }
  return out;
}

template <SsdForm Form>
void check_forward(const Case& c) {
  const Exact with_past = exact_recurrence(c, true), without = exact_recurrence(c, false);
  for (const std::int64_t piece : {c.rows, std::int64_t{37}, std::int64_t{1}}) {
    CAPTURE(piece);
    const Outputs from_past = run_pieces<Form>(c, piece, true), from_zero = run_pieces<Form>(c, piece, false);
    CHECK(error_of(from_past.y, with_past.y) <= 1e-5);
    CHECK(error_of(from_past.state, with_past.state) <= 1e-5);
    CHECK(error_of(from_zero.y, without.y) <= 1e-5);
    CHECK(error_of(from_zero.state, without.state) <= 1e-5);
  }
}

struct Gradients {
  std::vector<float> rows, d_skip;  // rows as the inputs lie
  std::vector<double> d_c0, d_c1;
  double d_rate = 0;
};

template <SsdForm Form>
Gradients run_backward(const Case& c, const std::vector<float>& dy) {
  std::vector<float> y(dy.size()),
      kept(at(rf::cpu::ssd_chunks(Form.values, c.rows) * Form.size()), nan_poison);
  SsdSequence s = c.sequence(0, c.rows, y.data());
  s.chunk_states = kept.data();
  rf::cpu::ssd_forward<Form>(std::vector{s});
  Gradients g{std::vector<float>(c.inputs.size(), nan_poison), std::vector<float>(c.skip.size()),
              std::vector<double>(c.c0.size()), std::vector<double>(c.c1.size())};
  const SsdGradient gradient{.chunk_states = kept.data(),
                             .dy = dy.data(),
                             .dy_stride = c.y_width(),
                             .dq = g.rows.data(),
                             .dk = g.rows.data() + c.k(),
                             .d_key_stride = c.stride,
                             .dv = g.rows.data() + c.v(),
                             .d_step = g.rows.data() + c.v() + Form.values,
                             .d_stride = c.stride,
                             .d_rate = &g.d_rate,
                             .d_c0 = g.d_c0.data(),
                             .d_c1 = g.d_c1.data(),
                             .d_skip = g.d_skip.data()};
  rf::cpu::ssd_backward<Form>(std::vector{s}, std::vector{gradient});
  return g;
}

template <SsdForm Form>
void check_backward(const Case& c) {
  rf::Random random(9);
  std::vector<float> dy(at(c.rows * c.y_width()));
  for (float& x : dy) x = static_cast<float>(random.normal());
  const Exact e = exact_recurrence(c, false, dy);
  const Gradients g = run_backward<Form>(c, dy);
  std::vector<float> dq, dk, dv, d_step;
  for (std::int64_t t = 0; t < c.rows; ++t) {
    const float* row = g.rows.data() + t * c.stride;
    dq.insert(dq.end(), row, row + c.k());
    dk.insert(dk.end(), row + c.k(), row + c.v());
    dv.insert(dv.end(), row + c.v(), row + c.v() + Form.values);
    d_step.push_back(row[c.v() + Form.values]);
    CHECK(std::isnan(row[c.stride - 1]));
  }
  CHECK(error_of(dq, e.dq) <= 1e-5);
  CHECK(error_of(dk, e.dk) <= 1e-5);
  CHECK(error_of(dv, e.dv) <= 1e-5);
  CHECK(error_of(d_step, e.d_step) <= 1e-5);
  CHECK(error_of(g.d_c0, e.d_c0) <= 1e-5);
  CHECK(error_of(g.d_c1, e.d_c1) <= 1e-5);
  CHECK(error_of(g.d_skip, e.d_skip) <= 1e-5);
  CHECK(error_of(std::vector{g.d_rate}, {e.d_rate}) <= 1e-5);
}

TEST_CASE("SSD forward: widths, heads and lengths that fill no tile") {
  check_forward<narrow>(Case(narrow, 2, 1));
  check_forward<narrow>(Case(narrow, 7, 70));
  check_forward<wide>(Case(wide, 1, 131));
  check_forward<wide>(Case(wide, 3, 64));
  check_forward<many_keys>(Case(many_keys, 1, 1));
  check_forward<many_keys>(Case(many_keys, 3, 70));
  check_forward<few_keys>(Case(few_keys, 2, 131));
  check_forward<all_different>(Case(all_different, 2, 131));
}

TEST_CASE("SSD backward: one token, one chunk, several, a ragged last one") {
  check_backward<narrow>(Case(narrow, 2, 1));
  check_backward<narrow>(Case(narrow, 1, 32));
  check_backward<narrow>(Case(narrow, 3, 100));
  check_backward<wide>(Case(wide, 2, 77));
  check_backward<many_keys>(Case(many_keys, 2, 100));
  check_backward<few_keys>(Case(few_keys, 1, 131));
  check_backward<all_different>(Case(all_different, 2, 131));
}

TEST_CASE("SSD: decays near 1 and near 0, and both in one chunk") {
  Case c(narrow, 2, 200);
  SUBCASE("hardly any decay") {
    for (std::int64_t t = 0; t < c.rows; ++t) c.step(t) = 1e-6f;
  }
  SUBCASE("hardly any step, as softplus(-50)") {
    for (std::int64_t t = 0; t < c.rows; ++t) c.step(t) = 1.9e-22f;
  }
  SUBCASE("nothing is remembered, as softplus(50)") {
    for (std::int64_t t = 0; t < c.rows; ++t) c.step(t) = 50.0f;
  }
  SUBCASE("steps of exactly 0") {
    for (std::int64_t t = 0; t < c.rows; t += 2) c.step(t) = 0.0f;
  }
  SUBCASE("small steps behind huge ones") {  // A_i - A_j of the small ones must not drown in A
    for (std::int64_t t = 0; t < c.rows; ++t) c.step(t) = t % 32 < 8 ? 3e4f : 0.01f;
  }
  SUBCASE("a decay too fast for a float") { c.rate = -1e30f; }
  SUBCASE("no decay at all") { c.rate = 0.0f; }
  check_forward<narrow>(c);
  check_backward<narrow>(c);
}

TEST_CASE("SSD: a long sequence") {
  Case c(narrow, 1, 5000);
  for (std::int64_t t = 0; t < c.rows; ++t) c.step(t) *= 0.01f;
  check_forward<narrow>(c);
  check_backward<narrow>(c);
}

TEST_CASE("SSD: one long sequence gives the same bits on any number of threads") {
  const Case c(narrow, 2, 1000);
  std::vector<Outputs> runs;
  std::vector<float> chunk_states[2];
  for (const int threads : {1, 5}) {
    rf::set_threads(threads);
    runs.push_back(run_pieces<narrow>(c, 700, true));
    runs.push_back(run_pieces<narrow>(c, 700, false));
    auto& kept = chunk_states[threads == 1 ? 0 : 1];
    kept.assign(at(rf::cpu::ssd_chunks(16, c.rows) * narrow.size()), nan_poison);
    std::vector<float> y(at(c.rows * c.y_width()));
    SsdSequence s = c.sequence(0, c.rows, y.data());
    s.chunk_states = kept.data();
    rf::cpu::ssd_forward<narrow>(std::vector{s});
  }
  rf::set_threads(2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(runs[i].y == runs[i + 2].y);
    CHECK(runs[i].state == runs[i + 2].state);
  }
  CHECK(chunk_states[0] == chunk_states[1]);
}

TEST_CASE("SSD: what an earlier call left in a thread's buffers does not matter") {
  rf::set_threads(1);
  Case poison(narrow, 2, 100);
  for (float& x : poison.inputs) x = nan_poison;
  const std::vector<float> poison_dy(at(poison.rows * poison.y_width()), nan_poison);
  for (const std::int64_t rows : {1, 7, 9, 33, 45}) {
    CAPTURE(rows);
    const Case c(narrow, 2, rows);
    const std::vector<float> dy(at(rows * c.y_width()), 0.5f);
    (void)run_pieces<narrow>(poison, poison.rows, false);
    (void)run_backward<narrow>(poison, poison_dy);
    CHECK(error_of(run_pieces<narrow>(c, rows, false).y, exact_recurrence(c, false).y) <= 1e-5);
    (void)run_backward<narrow>(poison, poison_dy);
    CHECK(error_of(run_backward<narrow>(c, dy).d_c0, exact_recurrence(c, false, dy).d_c0) <= 1e-5);
    check_backward<narrow>(c);
  }
  rf::set_threads(2);
}

TEST_CASE(
    "SSD: every row is prepared once before and finished once after, and empty sequences are left alone") {
  const Case c(narrow, 1, 300);
  for (const int threads : {1, 5}) {
    rf::set_threads(threads);
    std::vector<float> y(at(c.rows * c.y_width()), nan_poison), state(c.state.size(), 7.0f);
    SsdSequence empty = c.sequence(0, 0, nullptr);
    empty.initial_state = empty.final_state = state.data();
    const std::vector work{empty, c.sequence(0, c.rows, y.data())};
    std::vector<std::atomic<int>> prepared(at(c.rows)), finished(at(c.rows));
    std::atomic<bool> ordered = true;
    rf::cpu::ssd_forward<narrow>(
        work,
        [&](std::int64_t sequence, std::int64_t first, std::int64_t count) {
          if (sequence != 1) ordered = false;
          for (std::int64_t t = first; t < first + count; ++t) {
            if (!std::isnan(y[at(t * c.y_width())])) ordered = false;
            ++prepared[at(t)];
          }
        },
        [&](std::int64_t sequence, std::int64_t first, std::int64_t count) {
          if (sequence != 1) ordered = false;
          for (std::int64_t t = first; t < first + count; ++t) {
            if (std::isnan(y[at(t * c.y_width())])) ordered = false;
            ++finished[at(t)];
          }
        });
    CHECK(ordered);
    CHECK(std::all_of(prepared.begin(), prepared.end(), [](const auto& n) { return n == 1; }));
    CHECK(std::all_of(finished.begin(), finished.end(), [](const auto& n) { return n == 1; }));
    CHECK(std::all_of(state.begin(), state.end(), [](float x) { return x == 7.0f; }));
  }
  rf::set_threads(2);
}

}  // namespace
