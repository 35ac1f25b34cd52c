#include "recurformer/model/device_layer.hpp"

#include <doctest/doctest.h>

#include "model/device_model_cases.hpp"
#include "support/simulated_model.hpp"

TEST_CASE("device layer, simulated: a layer of a user's own program computes its definition") {
  rf::Simulated device({.seed = 8});
  device_model::check_layer(device);
}
