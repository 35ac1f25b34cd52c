// The tile program on a backend of plain doubles: it owes nothing to how the CPU's tiles are laid out.
#include "recurformer/kernel/attention.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/reference/attention.hpp"

namespace {

struct Rows {
  std::vector<double> values;
};
struct Matrix {
  int columns = 0;
  std::vector<double> values;  // row-major
  double& at(int r, int c) { return values[static_cast<std::size_t>(r * columns + c)]; }
  double at(int r, int c) const { return values[static_cast<std::size_t>(r * columns + c)]; }
};
struct Block {
  const double* data = nullptr;
  int rows = 0;
};

void multiply_abt(Matrix& s, const Matrix& a, const Block& b) {
  s = {.columns = b.rows,
       .values = std::vector<double>(a.values.size() / static_cast<std::size_t>(a.columns) *
                                     static_cast<std::size_t>(b.rows))};
  for (int r = 0; r * a.columns < static_cast<int>(a.values.size()); ++r)
    for (int j = 0; j < b.rows; ++j)
      for (int d = 0; d < a.columns; ++d) s.at(r, j) += a.at(r, d) * b.data[j * a.columns + d];
}
Rows row_max(const Rows& m, const Matrix& s, int columns) {
  Rows result = m;
  for (std::size_t r = 0; r < m.values.size(); ++r)
    for (int c = 0; c < columns; ++c)
      result.values[r] = std::max(result.values[r], s.at(static_cast<int>(r), c));
  return result;
}
template <class F>
Rows zip(const Rows& a, const Rows& b, F f) {
  Rows result = a;
  for (std::size_t r = 0; r < a.values.size(); ++r) result.values[r] = f(a.values[r], b.values[r]);
  return result;
}
void exponentiate(Matrix& s, const Rows& offset, Rows& sum, int columns) {
  for (std::size_t r = 0; r < sum.values.size(); ++r)
    for (int c = 0; c < columns; ++c) {
      double& x = s.at(static_cast<int>(r), c);
      sum.values[r] += x = std::exp2(x - offset.values[r]);
    }
}
void scale_multiply_ab(Matrix& o, const Rows& scale, const Matrix& p, const Block& b) {
  for (std::size_t r = 0; r < scale.values.size(); ++r)
    for (int d = 0; d < o.columns; ++d) {
      double sum = scale.values[r] * o.at(static_cast<int>(r), d);
      for (int j = 0; j < b.rows; ++j) sum += p.at(static_cast<int>(r), j) * b.data[j * o.columns + d];
      o.at(static_cast<int>(r), d) = sum;
    }
}

/// Query r sits at position r and sees keys from `first_key` to its own; keys come five at a time.
struct Backend {
  static constexpr double minus_infinity = -std::numeric_limits<double>::infinity();
  int count = 0, width = 0, first_key = 0;
  std::vector<double> q, k, v;  // (count, width); q scaled to units of log 2
  Matrix scaled{.columns = width, .values = q};
  Matrix out;
  std::vector<double> log_sum_exp;

  struct Mask {
    int begin, first_key;
    void hide(Matrix& s) const {
      for (int r = 0; r * s.columns < static_cast<int>(s.values.size()); ++r)
        for (int c = 0; c < s.columns; ++c)
          if (begin + c > r || begin + c < first_key) s.at(r, c) = minus_infinity;
    }
  };

  Rows rows(double x) const { return {std::vector<double>(static_cast<std::size_t>(count), x)}; }
  Matrix output() const { return {.columns = width, .values = std::vector<double>(q.size())}; }
  Matrix scores() const { return {}; }
  const Matrix& queries() const { return scaled; }
  template <class F>
  void stream(F f) {
    for (int begin = 0; begin < count; begin += 5) {
      const int n = std::min(5, count - begin);
      f(Block{k.data() + begin * width, n}, Block{v.data() + begin * width, n}, Mask{begin, first_key});
    }
  }
  static double finite_or_zero(double m) { return m == minus_infinity ? 0.0 : m; }
  static double exp2(double x) { return std::exp2(x); }
  void observe(const Matrix&, const Mask&, const Rows&) const {}
  void finish(const Matrix& o, const Rows& m, const Rows& l) {
    out = o;
    for (int r = 0; r < count; ++r) {
      const auto at = static_cast<std::size_t>(r);
      for (int d = 0; d < width; ++d) out.at(r, d) = l.values[at] == 0 ? 0 : o.at(r, d) / l.values[at];
      log_sum_exp.push_back(m.values[at] * std::log(2.0) + std::log(l.values[at]));
    }
  }
};

}  // namespace

TEST_CASE("tile program: softmax attention on any backend, rows that see nothing") {
  constexpr int count = 23, width = 4, first_key = 7;
  rf::Random random(3);
  std::vector<double> q(count * width), k(q), v(q), scaled(q);
  for (auto* values : {&q, &k, &v})
    for (double& x : *values) x = 2 * random.normal();
  for (std::size_t i = 0; i < q.size(); ++i) scaled[i] = q[i] * std::log2(std::exp(1.0)) / 2.0;  // √width = 2
  Backend backend{.count = count,
                  .width = width,
                  .first_key = first_key,
                  .q = scaled,
                  .k = k,
                  .v = v,
                  .out = {},
                  .log_sum_exp = {}};
  rf::kernel::flash_attention_forward(backend);
  for (int i = 0; i < count; ++i) {
    if (i < first_key) {
      CHECK(backend.log_sum_exp[static_cast<std::size_t>(i)] == Backend::minus_infinity);
      for (int d = 0; d < width; ++d) CHECK(backend.out.at(i, d) == 0.0);
      continue;
    }
    // the same as attention over the keys from first_key on
    const auto row = rf::reference::attention_row(q.data() + i * width, k.data() + first_key * width,
                                                  count - first_key, width, {}, i - first_key);
    CHECK(backend.log_sum_exp[static_cast<std::size_t>(i)] ==
          doctest::Approx(row.log_sum_exp).epsilon(1e-12));
    for (int d = 0; d < width; ++d) {
      double want = 0;
      for (int j = first_key; j <= i; ++j)
        want +=
            row.weights[static_cast<std::size_t>(j - first_key)] * v[static_cast<std::size_t>(j * width + d)];
      CHECK(backend.out.at(i, d) == doctest::Approx(want).epsilon(1e-12));
    }
  }
}
