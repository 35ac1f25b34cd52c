#ifndef RECURFORMER_BENCHMARKS_CUDA_LOCALS_CUH
#define RECURFORMER_BENCHMARKS_CUDA_LOCALS_CUH

#include <cstddef>
#include <span>
#include <vector>

#include "harness.cuh"
#include "random_array.cuh"
#include "recurformer/core/random.hpp"
#include "recurformer/spec/mixer.hpp"

namespace rf::benchmarks {

/// Fills all slices of a local parameter, as many as there are.
inline void fill_slices(const ParameterSpec& parameter, const HeadShape& shape, std::span<float> values,
                        Random& random) {
  const auto slice = static_cast<std::size_t>(parameter.slice.size());
  for (std::size_t i = 0; i < values.size(); i += slice)
    parameter.initialise(values.subspan(i, slice), shape, random);
}

/// A mixer's local parameters for some groups as it initialises them, one array each in declared order.
template <class Mixer>
std::vector<DeviceArray<float>> local_parameters(const HeadShape& shape, int groups) {
  Random random(1);
  std::vector<DeviceArray<float>> out;
  for (const ParameterSpec& parameter : Mixer{}.parameters(shape)) {
    if (parameter.role != Role::local) continue;
    std::vector<float> values(static_cast<std::size_t>(groups * parameter.group_size(shape)));
    fill_slices(parameter, shape, values, random);
    out.push_back(on_device(values));
  }
  return out;
}

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CUDA_LOCALS_CUH
