// Generates from a small hybrid model with random weights on a GPU, if there is one.
#include <cstdio>
#include <exception>
#include <vector>

#include "hybrid.cuh"

namespace {

HybridWeights random_weights() {
  const rf::ModelShape shape{
      .vocabulary = 256,
      .layers = 2,
      .layer = {.d_model = 128, .d_head = 64, .kv_groups = 2, .queries_per_group = 1, .d_ff = 256},
      .tied_embeddings = true};
  const rf::Plan plan{.kinds = {{"attention", "bf16", {}}, {"mamba", "bf16", {}}},
                      .kind_of_group = {{0, 1}, {1, 0}}};
  HybridWeights weights(shape, rf::bind_plan<Hybrid::Kinds>(plan));
  rf::initialise(weights, 1);
  return weights;
}

}  // namespace

int main() {
  try {
    rf::Cuda device;
    rf::Model<Hybrid, rf::Cuda> model(device, random_weights());
    auto cache = model.make_cache();
    const std::vector<rf::Token> prompt = {82, 101, 99, 117, 114};
    rf::generate(model, cache, prompt, 16, {}, [](rf::Token token) {
      std::printf("%d ", token);
      return true;
    });
    std::printf("\n");
  } catch (const rf::CudaError& error) {
    std::printf("%s\n", error.what());  // no GPU: what a program can do about it is its own affair
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
