// main of the tests that need a GPU. Without one it ends with 77, which CTest reports as skipped, or fails
// where RECURFORMER_REQUIRE_GPU is set.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "recurformer/cuda/device.cuh"

int main(int count, char** arguments) {
  std::string reason;
  if (rf::cuda::device_count(&reason) == 0) {
    const char* required = std::getenv("RECURFORMER_REQUIRE_GPU");
    const bool fails = required && *required != '\0' && std::string(required) != "0";
    std::fprintf(stderr, "%s: no GPU: %s\n", fails ? "failed" : "skipped", reason.c_str());
    return fails ? 1 : 77;
  }
  return doctest::Context(count, arguments).run();
}
