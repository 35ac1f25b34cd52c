#ifndef RECURFORMER_BENCHMARKS_CEILINGS_HPP
#define RECURFORMER_BENCHMARKS_CEILINGS_HPP

// What this machine can do at most, measured on all threads of the default pool between the calls that are
// timed, and the floor that it sets under the time of a piece of work. Every line of a benchmark prints
//
//   floor_us  the time the ceilings allow: the longest of operations, bytes and exponentials; the label says
//             which of them it is
//   share     the floor over the time taken; it means the same on every machine, a time does not

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/selective_scan.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::benchmarks {

/// Seconds of a call.
template <class Body>
double seconds_of(Body&& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

namespace detail {

/// Keeps a value that nothing else uses.
inline void keep(float value) { asm volatile("" : : "g"(value) : "memory"); }

/// `steps` rounds of twelve independent fused multiply-adds, all in registers.
[[gnu::noinline]] inline void multiply_add_loop(std::int64_t steps, float factor, float term) {
  simd::Vec sums[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sums[i] = simd::broadcast(static_cast<float>(i));
  const simd::Vec f = simd::broadcast(factor), t = simd::broadcast(term);
  for (std::int64_t step = 0; step < steps; ++step)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = sums[i] * f + t;
  simd::Vec total = simd::zero();
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) total += sums[i];
  keep(simd::reduce_add(total));
}

/// Sum of `count` floats through eight chains, so that loads and not additions limit it.
[[gnu::noinline]] inline void read_loop(const float* data, std::int64_t count) {
  simd::Vec sums[8] = {};
  for (std::int64_t i = 0; i + 8 * simd::width <= count; i += 8 * simd::width)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sums[j] += simd::load(data + i + j * simd::width);
  simd::Vec total = simd::zero();
  for (const auto& sum : sums) total += sum;
  keep(simd::reduce_add(total));
}

/// Exponentials per vector lane of one step of exponential_loop.
inline constexpr int exponentials_per_step = 16;

/// `steps` rounds of sixteen decays, the cheapest exponentials the library has, added up.
[[gnu::noinline]] inline void exponential_loop(const float* rates, const float* delta, std::int64_t steps) {
  simd::Vec sums[4] = {};
  for (std::int64_t t = 0; t < steps; ++t) {
    const simd::Vec step = simd::load(delta + t % 64 * simd::width);
#pragma GCC unroll 16
    for (int n = 0; n < exponentials_per_step; ++n)
      sums[n % 4] += cpu::exp2_decay(step * simd::load(rates + n * simd::width));
  }
  keep(simd::reduce_add(sums[0] + sums[1] + sums[2] + sums[3]));
}

}  // namespace detail

/// Floating-point operations per second of fused multiply-adds on registers, at the moment.
inline double peak_flops() {
  constexpr std::int64_t steps = 500'000;
  const int threads = default_pool().threads();
  const double seconds = seconds_of(
      [&] { parallel_for(threads, [&](std::int64_t) { detail::multiply_add_loop(steps, 0.999f, 1e-3f); }); });
  return static_cast<double>(threads) * static_cast<double>(steps) * 12 * 2 * simd::width / seconds;
}

/// Bytes per second read from memory, far beyond the caches, at the moment.
inline double read_bandwidth() {
  constexpr std::int64_t count = std::int64_t{1} << 26, piece = 1 << 18;  // 256 MiB in pieces of 1 MiB
  static const cpu::AlignedBuffer<float> buffer = [] {
    cpu::AlignedBuffer<float> ones(static_cast<std::size_t>(count));
    parallel_for(count / piece, [&](std::int64_t i) { std::fill_n(ones.data() + i * piece, piece, 1.0f); });
    return ones;
  }();
  const double seconds = seconds_of([&] {
    parallel_for(count / piece, [&](std::int64_t i) { detail::read_loop(buffer.data() + i * piece, piece); });
  });
  return static_cast<double>(count) * sizeof(float) / seconds;
}

/// Exponentials per second of arguments that are at hand, at the moment.
inline double peak_exponentials() {
  constexpr std::int64_t steps = 20'000;
  static const std::vector<float> rates(detail::exponentials_per_step * simd::width, -0.7f);
  static const std::vector<float> delta(64 * simd::width, 0.3f);
  const int threads = default_pool().threads();
  const double seconds = seconds_of([&] {
    parallel_for(threads, [&](std::int64_t) { detail::exponential_loop(rates.data(), delta.data(), steps); });
  });
  return static_cast<double>(threads * steps * detail::exponentials_per_step * simd::width) / seconds;
}

/// What one iteration of a benchmark has to do at least.
struct Work {
  double operations = 0;    ///< floating-point, in multiply-adds
  double bytes = 0;         ///< read or written once each
  double exponentials = 0;  ///< numbers of which the exponential is taken
};

/// The time the ceilings allow for some work, and what sets it.
struct Floor {
  double seconds = 0;
  std::string limit = {};
};

/// Measures the ceilings that the work meets.
inline Floor floor_of(const Work& work) {
  Floor floor;
  const auto raise = [&](double amount, double (*ceiling)(), const char* limit) {
    if (amount <= 0) return;
    const double seconds = amount / ceiling();
    if (seconds > floor.seconds) floor = {seconds, limit};
  };
  raise(work.operations, peak_flops, "floor: operations");
  raise(work.bytes, read_bandwidth, "floor: bytes");
  raise(work.exponentials, peak_exponentials, "floor: exponentials");
  return floor;
}

/// Times body() and reports the floor, the share of it reached, and the rates of whatever the work counts.
/// Use with UseRealTime().
///
/// The ceilings are measured anew every tenth of a second, between two calls: on a machine that others use,
/// too, they change within seconds by a factor of two, and with them the time of the work.
template <class Body>
void measure(benchmark::State& state, const Work& work, Body&& body) {
  constexpr double between = 0.1;  // seconds
  body();                          // the first call grows scratch memory
  double total = 0, since = between;
  std::vector<double> floors;
  for (auto _ : state) {
    if (since >= between) {
      state.PauseTiming();
      const Floor now = floor_of(work);
      state.SetLabel(now.limit);
      floors.push_back(now.seconds), since = 0;
      state.ResumeTiming();
    }
    const double seconds = seconds_of(body);
    total += seconds, since += seconds;
  }
  const double seconds = total / static_cast<double>(state.iterations());
  const auto middle = floors.begin() + static_cast<std::ptrdiff_t>(floors.size() / 2);
  std::nth_element(floors.begin(), middle, floors.end());
  const double floor = *middle;  // some of them were measured while somebody disturbed
  state.counters["floor_us"] = floor * 1e6;
  state.counters["share"] = floor / seconds;
  if (work.operations > 0) state.counters["GFLOP/s"] = work.operations / seconds * 1e-9;
  if (work.bytes > 0) state.counters["GB/s"] = work.bytes / seconds * 1e-9;
  if (work.exponentials > 0) state.counters["Gexp/s"] = work.exponentials / seconds * 1e-9;
}

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CEILINGS_HPP
