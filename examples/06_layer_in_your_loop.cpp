// 06  A layer inside a loop that is not ours: your buffers, your threads, your allocator.
//
//   g++ -std=c++20 -O2 -march=native -pthread -I include examples/06_layer_in_your_loop.cpp -o
//   06_layer_in_your_loop
//   ./06_layer_in_your_loop
//
// An inference engine has two layers, each on a thread of its own, and passes chunks of tokens from one to
// the other: a pipeline. Its residual stream is a plain float array whose rows are wider than d_model. The
// library takes pointers and strides, starts no thread, and allocates caches where it is told to. (On a GPU:
// rf::Cuda device(0, stream) works on a stream of yours, and rf::Layer<MyLayer, rf::Cuda> puts its launches
// onto it.) Next: 07_convert_a_model.cpp.

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory_resource>
#include <thread>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/layer.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"

struct MyLayer {
  static constexpr rf::LayerShape shape{
      .d_model = 64, .d_head = 16, .kv_groups = 4, .queries_per_group = 1, .d_ff = 128};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<2, rf::Attention<>, rf::Fp32>, rf::Run<2, rf::Mamba<>, rf::Fp32>>;
};

// --- The engine: it knows nothing of the library ----------------------------------------------------------

constexpr int chunks = 12, chunk_rows = 10, row_stride = 80, layers = 2;

/// Residual stream of all tokens, (chunks · chunk_rows, row_stride): 64 floats of a row are the layers', the
/// rest is the engine's.
std::vector<float> residual_stream() {
  std::vector<float> out(chunks * chunk_rows * row_stride);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<float>((i * i + 3 * i) % 17) / 8.0f - 1.0f;
  return out;
}

/// The engine's idea of a layer: something that works on rows in place.
struct EngineLayer {
  virtual void run(float* rows, int count, int stride) = 0;
  virtual ~EngineLayer() = default;
};

/// The plain version: chunk by chunk, layer by layer, on one thread.
void run_in_order(float* x, std::array<EngineLayer*, layers> all) {
  for (int c = 0; c < chunks; ++c)
    for (EngineLayer* layer : all) layer->run(x + c * chunk_rows * row_stride, chunk_rows, row_stride);
}

/// The pipeline: layer l takes a chunk as soon as layer l - 1 is done with it.
void run_pipelined(float* x, std::array<EngineLayer*, layers> all) {
  std::array<std::atomic<int>, layers + 1> done{};  // chunks that have passed l layers
  done[0] = chunks;
  std::vector<std::thread> threads;
  for (std::size_t l = 0; l < layers; ++l)
    threads.emplace_back([&, l] {
      for (int c = 0; c < chunks; ++c) {
        for (int ready; (ready = done[l].load()) <= c;) done[l].wait(ready);
        all[l]->run(x + c * chunk_rows * row_stride, chunk_rows, row_stride);
        done[l + 1] = c + 1;
        done[l + 1].notify_one();
      }
    });
  for (std::thread& thread : threads) thread.join();
}

// --- The adapter ------------------------------------------------------------------------------------------

class RecurFormerLayer final : public EngineLayer {
 public:
  RecurFormerLayer(std::uint64_t seed, std::pmr::memory_resource* memory)
      : layer_(weights(seed)), cache_(layer_.make_cache({}, memory)) {}

  void run(float* rows, int count, int stride) override {
    layer_.prefill({rows, {count, MyLayer::shape.d_model}, {stride, 1}}, cache_);
  }
  const rf::Cache& cache() const { return cache_; }

 private:
  static rf::Layer<MyLayer>::Weights weights(std::uint64_t seed) {
    auto out = rf::Layer<MyLayer>::make_weights();
    rf::initialise(out, MyLayer::shape, seed);  // here: copy the engine's
    return out;
  }

  rf::Layer<MyLayer> layer_;
  rf::Cache cache_;
};

int main() {
  rf::set_threads(1);  // the process-wide pool is the calling thread alone: threads are the engine's affair
  rf::CountingMemory memory;  // any std::pmr::memory_resource that several threads may use
  std::vector<float> expected = residual_stream(), x = residual_stream();
  {
    RecurFormerLayer first(1, &memory), second(2, &memory);
    run_in_order(expected.data(), {&first, &second});
  }
  RecurFormerLayer first(1, &memory), second(2, &memory);
  run_pipelined(x.data(), {&first, &second});

  // The same calls give the same bits, whichever thread makes them; and nothing beside the rows was touched.
  const bool same = std::memcmp(x.data(), expected.data(), x.size() * sizeof(float)) == 0;
  const std::vector<float> before = residual_stream();
  bool changed = false, untouched = true;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (i % row_stride < 64)
      changed = changed || x[i] != before[i];
    else
      untouched = untouched && x[i] == before[i];
  std::printf("the pipeline's bits are those of one thread: %s\n", same ? "yes" : "NO");
  std::printf("padding untouched: %s\n", untouched ? "yes" : "NO");
  std::printf("cache: %lld bytes, all from the engine's allocator: %lld\n",
              static_cast<long long>(first.cache().bytes() + second.cache().bytes()),
              static_cast<long long>(memory.live_bytes()));
  return same && changed && untouched && memory.live_bytes() == first.cache().bytes() + second.cache().bytes()
             ? 0
             : 1;
}
