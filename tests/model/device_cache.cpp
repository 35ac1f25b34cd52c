#include <doctest/doctest.h>

#include "model/device_cache_cases.hpp"
#include "recurformer/cuda/simulated.hpp"

TEST_CASE("device cache, simulated: a loaded cache continues with the same bits") {
  rf::Simulated device;
  device_cache::check_file(device, 0);
}
