// 08  A CUDA kernel without a GPU.
//
//   g++ -std=c++20 -O1 -g -pthread -I include examples/08_simulated_kernel.cpp -o 08_simulated_kernel
//   ./08_simulated_kernel
//
// The same source compiles for the GPU with nvcc (rf::Cuda instead of rf::Simulated) and runs here thread by
// thread on the CPU, where a debugger, a sanitizer and the simulator's own checks look at it.
//
// To step through one CUDA thread, build with the debug preset and
//
//   gdb build/debug/examples/08_simulated_kernel
//   (gdb) break 08_simulated_kernel.cpp:57 if rf::arch::thread_index() == 37
//   (gdb) run
//   (gdb) print largest
//
// With -fsanitize=thread (the tsan preset; run it as `setarch -R …`) a missing barrier is reported as a data
// race between two CUDA threads, with its line.

#include <cmath>
#include <cstdio>
#include <numbers>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/simulated.hpp"

/// out (rows, columns) = softmax of every row of in: one warp per row, whatever the number of columns.
template <bool WaitsForAllLanes>
struct SoftmaxRows {
  struct Parameters {
    const float* in;
    float* out;
    int rows;
    int columns;
  };
  static constexpr int threads = 128, blocks_per_multiprocessor = 1;
  static constexpr int rows_per_block = threads / rf::arch::warp_size;

  template <class F>
  RECURFORMER_DEVICE static float over_lanes(float x, F combine) {
    for (int bits = rf::arch::warp_size / 2; bits > 0; bits /= 2)
      x = combine(x, rf::arch::shuffle_xor(x, bits));
    return x;
  }

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int row = rf::arch::block_index().x * rows_per_block + rf::arch::warp_index();
    if (row >= p.rows) return;  // a whole warp leaves: the others never wait for it
    const float* in = p.in + row * p.columns;
    float* out = p.out + row * p.columns;
    const int lane = rf::arch::lane_index();

    if (!WaitsForAllLanes && lane >= p.columns) return;  // the mistake: these lanes are missing below
    float largest = rf::arch::minus_infinity();
    for (int c = lane; c < p.columns; c += rf::arch::warp_size) largest = in[c] > largest ? in[c] : largest;
    largest = over_lanes(largest, [](float a, float b) { return a > b ? a : b; });

    float sum = 0;
    for (int c = lane; c < p.columns; c += rf::arch::warp_size)
      sum += out[c] = rf::arch::exp2((in[c] - largest) * std::numbers::log2e_v<float>);
    sum = over_lanes(sum, [](float a, float b) { return a + b; });
    for (int c = lane; c < p.columns; c += rf::arch::warp_size) out[c] /= sum;
  }
};

template <bool WaitsForAllLanes, class Device>
std::vector<float> softmax(Device& device, const std::vector<float>& in, int rows, int columns) {
  using Kernel = SoftmaxRows<WaitsForAllLanes>;
  rf::cuda::DeviceArray<float, Device> from(device, in), to(device, in.size());
  device.template launch<Kernel>({.blocks = {(rows + Kernel::rows_per_block - 1) / Kernel::rows_per_block}},
                                 {from.data(), to.data(), rows, columns});
  return to.to_host();
}

int main() {
  constexpr int rows = 5, columns = 20;
  std::vector<float> in(rows * columns);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i * i % 7);
  rf::Simulated device;

  const std::vector<float> out = softmax<true>(device, in, rows, columns);
  for (int r = 0; r < rows; ++r) {
    float sum = 0;
    for (int c = 0; c < columns; ++c) sum += out[static_cast<std::size_t>(r * columns + c)];
    std::printf("row %d sums to %.6f\n", r, static_cast<double>(sum));
    if (std::fabs(sum - 1) > 1e-5f) return 1;
  }

  // The same with a planted mistake: lanes without a column leave before the shuffles that need all lanes. On
  // a GPU the result would be undefined; here it is an error that names the place.
  try {
    softmax<false>(device, in, rows, columns);
  } catch (const rf::arch::SimulationError& error) {
    std::printf("the version with a mistake: %s\n", error.what());
    return 0;
  }
  return 1;  // it must not go unnoticed
}
