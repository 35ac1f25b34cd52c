#include "recurformer/cpu/selective_scan.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/cpu/selective_scan_backward.hpp"
#include "recurformer/math/scan_element.hpp"
#include "support/error_message.hpp"
#include "support/mixer_memory.hpp"

namespace {

using rf::cpu::SelectiveScan, rf::cpu::SelectiveScanGradient;
using rf::test::GuardedFloats, rf::test::same_bits;
using Doubles = std::vector<double>;

/// Inputs of one scan, and its definition in double by the algebra of scan elements.
struct Problem {
  std::size_t rows, channels, states;
  // x, delta: (rows, channels); b, c: (rows, states); a, state: (states, channels); skip: (channels)
  Doubles x, delta, b, c, a, skip, state;

  Problem(std::size_t r, std::size_t d, std::size_t n, double step = 0.5) : rows(r), channels(d), states(n) {
    rf::Random random(r * 1000 + d + n);
    const auto fill = [&](Doubles& values, std::size_t count, auto draw) {
      values.resize(count);
      for (double& value : values) value = static_cast<double>(static_cast<float>(draw()));
    };
    fill(x, r * d, [&] { return random.normal(); });
    fill(delta, r * d, [&] { return random.uniform(0, step); });
    fill(b, r * n, [&] { return random.normal(); });
    fill(c, r * n, [&] { return random.normal(); });
    fill(a, n * d, [&] { return -random.uniform(0.01, 4.0); });
    fill(skip, d, [&] { return random.normal(); });
    fill(state, n * d, [&] { return random.normal(); });
  }

  /// y (rows, channels) and the final state (states, channels).
  std::pair<Doubles, Doubles> solve() const {
    Doubles y(rows * channels), last(states * channels);
    for (std::size_t t = 0; t < rows; ++t)
      for (std::size_t d = 0; d < channels; ++d) y[t * channels + d] = skip[d] * x[t * channels + d];
    for (std::size_t n = 0; n < states; ++n)
      for (std::size_t d = 0; d < channels; ++d) {
        rf::ScanElement<double> so_far;
        for (std::size_t t = 0; t < rows; ++t) {
          const double step = delta[t * channels + d];
          so_far = combine(so_far, {.decay = std::exp(step * a[n * channels + d]),
                                    .input = step * x[t * channels + d] * b[t * states + n]});
          y[t * channels + d] += so_far.apply(state[n * channels + d]) * c[t * states + n];
        }
        last[n * channels + d] = so_far.apply(state[n * channels + d]);
      }
    return {y, last};
  }
};

/// Memory of a kernel call: rows further apart than needed, canaries around what is written.
class Call {
 public:
  explicit Call(const Problem& p)
      : rows(static_cast<std::int64_t>(p.rows)),
        channels(static_cast<std::int64_t>(p.channels)),
        states(static_cast<std::int64_t>(p.states)),
        y(rows * (channels + 3)),
        state(states * channels),
        chunk_states(rf::cpu::scan_chunks(rows) * states * channels),
        x_(p.x.begin(), p.x.end()),
        delta_(p.delta.begin(), p.delta.end()),
        b_(p.b.begin(), p.b.end()),
        c_(p.c.begin(), p.c.end()),
        a_(p.a.begin(), p.a.end()),
        skip_(p.skip.begin(), p.skip.end()) {
    for (std::size_t i = 0; i < p.state.size(); ++i) state.data()[i] = static_cast<float>(p.state[i]);
  }
  SelectiveScan scan() {
    return {.rows = rows,
            .channels = channels,
            .x = {x_.data(), channels},
            .delta = {delta_.data(), channels},
            .b = {b_.data(), states},
            .c = {c_.data(), states},
            .a = a_.data(),
            .skip = skip_.data(),
            .y = {y.data(), channels + 3},
            .state = state.data()};
  }
  bool intact() const {
    bool gaps = true;
    for (std::int64_t t = 0; t < rows; ++t)
      for (std::int64_t i = 0; i < 3; ++i)
        gaps &= std::isnan(const_cast<GuardedFloats&>(y).data()[t * (channels + 3) + channels + i]);
    return gaps && y.intact() && state.intact() && chunk_states.intact();
  }
  std::vector<float> y_rows() {
    std::vector<float> out;
    for (std::int64_t t = 0; t < rows; ++t)
      out.insert(out.end(), y.data() + t * (channels + 3), y.data() + t * (channels + 3) + channels);
    return out;
  }

  std::int64_t rows, channels, states;
  GuardedFloats y, state, chunk_states;

 private:
  std::vector<float> x_, delta_, b_, c_, a_, skip_;
};

/// ‖got - want‖ / ‖want‖; NaN counts as infinite.
template <class Values>
double relative_error(const Values& got, const Doubles& want) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += want[i] * want[i];
  }
  return error <= std::numeric_limits<double>::max() ? std::sqrt(error / norm)
                                                     : std::numeric_limits<double>::infinity();
}

template <int States>
void check_forward(std::size_t rows, std::size_t channels, double step = 0.5) {
  const Problem problem(rows, channels, States, step);
  const auto [y, last] = problem.solve();
  Call call(problem);
  rf::cpu::selective_scan<States>(call.scan());
  INFO("rows ", rows, ", channels ", channels, ", states ", States);
  CHECK(call.intact());
  CHECK(relative_error(call.y_rows(), y) < 1e-6);
  CHECK(relative_error(std::vector<float>(call.state.data(), call.state.data() + call.state.size()), last) <
        1e-6);
}

TEST_CASE("exp2_decay: close to 2^x, exact at both ends, passes NaN") {
  const auto decay = [](float x) { return rf::cpu::exp2_decay(rf::simd::broadcast(x))[rf::simd::width - 1]; };
  double worst = 0, worst_slope = 0;
  for (double x = -125.9; x < 0; x += 0.00317) {
    const auto f = static_cast<float>(x);
    const double want = std::exp2(static_cast<double>(f));
    worst = std::max(worst, std::abs(static_cast<double>(decay(f)) - want) / want);
  }
  CHECK(worst < 2e-7);
  for (double x = -0.4; x < -0.05; x *= 0.999) {
    const auto f = static_cast<float>(x);
    const double want = -std::expm1(static_cast<double>(f) * std::log(2.0));
    worst_slope = std::max(worst_slope, std::abs(1 - static_cast<double>(decay(f)) - want) / want);
  }
  CHECK(worst_slope < 3e-6);  // float's rounding of 1 - x at x = 0.03
  CHECK(decay(0.0f) == 1.0f);
  CHECK(decay(-0.0f) == 1.0f);
  CHECK(decay(-1e-30f) == 1.0f);
  CHECK(decay(-1.0f) == 0.5f);
  CHECK(decay(-126.0f) == 0x1p-126f);
  for (const float x : {-128.0f, -1000.0f, -3e38f, -std::numeric_limits<float>::infinity()})
    CHECK(decay(x) == 0.0f);
  CHECK(std::isnan(decay(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("selective_scan equals the recurrence for every kind of size") {
  for (const std::size_t rows : {1u, 2u, 15u, 16u, 17u, 100u}) check_forward<16>(rows, 48);
  check_forward<16>(33, 16);
  check_forward<3>(19, 32);
  check_forward<18>(19, 32);        // two passes over time
  check_forward<16>(40, 16, 60.0);  // most decays vanish
  check_forward<16>(40, 16, 1e-6);  // none does
}

TEST_CASE("selective_scan of no tokens keeps the state") {
  const Problem problem(0, 16, 3);
  Call call(problem);
  rf::cpu::selective_scan<3>(call.scan());
  CHECK(call.intact());
  for (std::size_t i = 0; i < problem.state.size(); ++i)
    CHECK(static_cast<double>(call.state.data()[i]) == problem.state[i]);
}

TEST_CASE("selective_scan: slow decays do not drift over a long sequence") {
  Problem problem(20000, 16, 3);
  for (double& a : problem.a) a = -1.0;
  for (double& step : problem.delta) step = 0.001;  // a memory of a thousand tokens
  for (double& x : problem.x) x = 1.0;
  for (double& b : problem.b) b = 1.0;
  problem.state.assign(problem.state.size(), 0.0);
  const auto [y, last] = problem.solve();
  Call call(problem);
  rf::cpu::selective_scan<3>(call.scan());
  // A decay of 0.999 is stored with an error of up to 3e-8, which the state amplifies a thousand times.
  for (std::int64_t i = 0; i < call.state.size(); ++i)
    CHECK(std::abs(static_cast<double>(call.state.data()[i]) - last[static_cast<std::size_t>(i)]) < 1e-4);
}

TEST_CASE("selective_scan continues where it stopped, bit for bit, and saves the states between chunks") {
  const Problem problem(50, 32, 16);
  Call whole(problem), cut(problem), saving(problem);
  rf::cpu::selective_scan<16>(whole.scan());
  SelectiveScan part = cut.scan(), rest = cut.scan();
  part.rows = 33;
  rf::cpu::selective_scan<16>(part);
  rest.rows = 17;
  for (auto* view : {&rest.x, &rest.delta, &rest.b, &rest.c}) view->data = view->row(33);
  rest.y.data = rest.y.row(33);
  rf::cpu::selective_scan<16>(rest);
  CHECK(same_bits(whole.y_rows(), cut.y_rows()));

  SelectiveScan saved = saving.scan();
  saved.chunk_states = {saving.chunk_states.data(), saving.channels};
  rf::cpu::selective_scan<16>(saved);
  CHECK(saving.intact());
  CHECK(same_bits(whole.y_rows(), saving.y_rows()));
  Call until(problem);
  SelectiveScan first = until.scan();
  first.rows = 2 * rf::cpu::scan_chunk;
  rf::cpu::selective_scan<16>(first);
  bool equal = true;
  for (std::int64_t i = 0; i < until.state.size(); ++i)
    equal &= same_bits(saving.chunk_states.data()[2 * until.state.size() + i], until.state.data()[i]);
  CHECK(equal);
}

TEST_CASE("selective_scan: NaN stays in its channel") {
  const Problem problem(20, 32, 16);
  Call clean(problem), dirty(problem);
  rf::cpu::selective_scan<16>(clean.scan());
  SelectiveScan scan = dirty.scan();
  std::vector<float> x(scan.x.data, scan.x.data + 20 * 32);
  x[5 * 32 + 7] = rf::test::nan_poison;
  scan.x.data = x.data();
  rf::cpu::selective_scan<16>(scan);
  const auto before = clean.y_rows(), after = dirty.y_rows();
  for (std::size_t i = 0; i < before.size(); ++i)
    if (i % 32 == 7 && i / 32 >= 5)
      CHECK(std::isnan(after[i]));
    else
      REQUIRE(same_bits(before[i], after[i]));
}

TEST_CASE("selective_scan refuses channels that do not fill vectors") {
  SelectiveScan scan;
  scan.channels = 24;
  CHECK(rf::test::message_of<rf::ArgumentError>([&] { rf::cpu::selective_scan<16>(scan); }) ==
        "a selective scan has 24 channels; allowed are multiples of 16, pad with zeros");
}

// --- gradients ---

/// Everything selective_scan_backward writes, one vector of floats per quantity.
struct Gradients {
  std::vector<float> x, delta, b, c, a, skip, state;
};

template <int States>
Gradients gradients(const Problem& problem, const Doubles& d_y_weights, const Doubles& d_last) {
  Call call(problem);
  SelectiveScan scan = call.scan();
  scan.chunk_states = {call.chunk_states.data(), call.channels};
  rf::cpu::selective_scan<States>(scan);
  const std::int64_t rows = call.rows, channels = call.channels;
  std::vector<float> d_y(d_y_weights.begin(), d_y_weights.end());
  GuardedFloats d_x(rows * channels), d_delta(rows * channels), d_b(rows * States), d_c(rows * States);
  GuardedFloats d_state(States * channels), d_a(States * channels), d_skip(channels);
  for (std::int64_t i = 0; i < d_state.size(); ++i) {
    d_state.data()[i] = static_cast<float>(d_last[static_cast<std::size_t>(i)]);
    d_a.data()[i] = 0.5f;  // gradients are added
  }
  std::fill_n(d_skip.data(), channels, 0.5f);
  scan.y = {};
  scan.state = nullptr;
  rf::cpu::selective_scan_backward<States>({.forward = scan,
                                            .d_y = {d_y.data(), channels},
                                            .d_x = {d_x.data(), channels},
                                            .d_delta = {d_delta.data(), channels},
                                            .d_b = {d_b.data(), States},
                                            .d_c = {d_c.data(), States},
                                            .d_state = d_state.data(),
                                            .d_a = d_a.data(),
                                            .d_skip = d_skip.data()});
  const auto values = [](GuardedFloats& g, float offset) {
    CHECK(g.intact());
    std::vector<float> out(g.data(), g.data() + g.size());
    for (float& value : out) value -= offset;
    return out;
  };
  return {.x = values(d_x, 0),
          .delta = values(d_delta, 0),
          .b = values(d_b, 0),
          .c = values(d_c, 0),
          .a = values(d_a, 0.5f),
          .skip = values(d_skip, 0.5f),
          .state = values(d_state, 0)};
}

template <int States>
void check_gradients(std::size_t rows, std::size_t channels) {
  Problem problem(rows, channels, States);
  rf::Random random(9);
  Doubles d_y(rows * channels), d_last(States * channels);
  for (Doubles* weights : {&d_y, &d_last})
    for (double& w : *weights) w = static_cast<double>(static_cast<float>(random.normal()));
  const Gradients got = gradients<States>(problem, d_y, d_last);

  const auto loss = [&] {
    const auto [y, last] = problem.solve();
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * d_y[i];
    for (std::size_t i = 0; i < last.size(); ++i) sum += last[i] * d_last[i];
    return sum;
  };
  const auto check = [&](const char* name, Doubles& values, const std::vector<float>& gradient) {
    // at most about sixty elements of each quantity, spread over all of it
    const std::size_t stride = values.size() / 60 + 1;
    Doubles want;
    std::vector<float> have;
    for (std::size_t i = 0; i < values.size(); i += stride) {
      const double keep = values[i], step = 1e-5;
      values[i] = keep + step;
      const double above = loss();
      values[i] = keep - step;
      want.push_back((above - loss()) / (2 * step));
      values[i] = keep;
      have.push_back(gradient[i]);
    }
    INFO(name, ": ", rows, " rows, ", channels, " channels, ", States, " states");
    CHECK(relative_error(have, want) < 1e-5);
  };
  check("x", problem.x, got.x);
  check("delta", problem.delta, got.delta);
  check("b", problem.b, got.b);
  check("c", problem.c, got.c);
  check("a", problem.a, got.a);
  check("skip", problem.skip, got.skip);
  check("state", problem.state, got.state);
}

TEST_CASE("selective_scan_backward equals finite differences") {
  check_gradients<16>(37, 16);
  check_gradients<3>(1, 16);
  check_gradients<3>(16, 144);  // two slices of channels
  check_gradients<18>(17, 32);
}

TEST_CASE("selective_scan_backward: the same bits for any number of threads") {
  const Problem problem(40, 272, 3);
  const Doubles d_y(40 * 272, 0.3), d_last(3 * 272, -0.2);
  const auto run = [&](int threads) {
    rf::set_threads(threads);
    const Gradients g = gradients<3>(problem, d_y, d_last);
    std::vector<float> all;
    for (const auto* part : {&g.x, &g.delta, &g.b, &g.c, &g.a, &g.skip, &g.state})
      all.insert(all.end(), part->begin(), part->end());
    return all;
  };
  const auto one = run(1), three = run(3);
  rf::set_threads(2);
  CHECK(same_bits(one, three));
}

}  // namespace
