#include "recurformer/train/memory.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "support/memory.hpp"
#include "support/small_model.hpp"

namespace {

std::int64_t floats(const rf::FloatBuffer& buffer) { return static_cast<std::int64_t>(buffer.size()); }

/// What a tape holds after a forward pass.
std::int64_t floats(const rf::ModelTape& tape) {
  std::int64_t total = floats(tape.x) + floats(tape.scale) + floats(tape.hidden);
  for (const rf::FloatBuffer& input : tape.inputs) total += floats(input);
  for (const rf::LayerTape& layer : tape.layers) {
    for (const auto* buffer : {&layer.scale, &layer.h, &layer.x_mid, &layer.mid_scale, &layer.h_mid,
                               &layer.gate_up, &layer.act, &layer.heads.out})
      total += floats(*buffer);
    for (const auto& buffer : layer.heads.projected) total += floats(buffer);
    for (const auto& buffer : layer.heads.saved) total += floats(buffer);
  }
  return total;
}

/// Kinds that one layer has more of than another, or alone.
rf::Plan uneven_plan() {
  rf::Plan plan = small::hybrid_plan();
  plan.kind_of_group = {{0, 2, 2, 3}, {3, 3, 0, 1}};
  return plan;
}

rf::ModelShape demo_shape() {
  return {.vocabulary = 256,
          .layers = 4,
          .layer = {.d_model = 128, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 320},
          .tied_embeddings = true};
}

constexpr rf::Activations both_activations[] = {rf::Activations::kept, rf::Activations::recomputed};

}  // namespace

TEST_CASE("training's memory is what weights, gradients, optimizer and tape take") {
  for (const rf::Plan& plan : {small::hybrid_plan(), small::attention_plan(), uneven_plan()}) {
    auto model = small::model(plan);
    const auto bound = rf::bind_plan<small::Spec::Kinds>(plan);
    const auto memory = rf::training_memory<small::Model>(small::shape(), bound, 3, 20);
    std::int64_t bytes = 0;
    for (const auto& parameter : rf::parameter_refs(model.weights()))
      bytes += parameter.size * static_cast<std::int64_t>(sizeof(float));
    CHECK(memory.weights == bytes);
    CHECK(memory.gradients == bytes);
    CHECK(memory.optimizer == 2 * bytes);
    CHECK(memory.teacher == 0);
    CHECK(memory.total() == 4 * bytes + memory.activations);

    const rf::SequenceRows sequences[] = {
        {.first_row = 0, .rows = 20}, {.first_row = 20, .rows = 20}, {.first_row = 40, .rows = 20}};
    for (const rf::Activations activations : both_activations) {
      rf::ModelTape tape;
      tape.activations = activations;
      model.forward(small::tokens(60), sequences, tape);
      for (const std::size_t layer : {0u, 1u}) model.layer_tape(tape, layer);
      CHECK(rf::detail::tape_floats(small::shape(), bound, sequences, activations) == floats(tape));
      CHECK(
          rf::training_memory<small::Model>(small::shape(), bound, 3, 20, nullptr, activations).activations >
          4 * floats(tape));
    }
  }
}

TEST_CASE("a training step takes the memory that is stated for its activations") {
  rf::set_threads(2);  // each has scratch memory, which is not stated
  const rf::ModelShape shape = demo_shape();
  rf::Plan plan = small::hybrid_plan();
  plan.kind_of_group = {{0, 2, 2, 3}, {3, 3, 0, 1}, {0, 0, 0, 0}, {1, 2, 3, 0}};
  const auto bound = rf::bind_plan<small::Spec::Kinds>(plan);
  rf::Batch batch;  // so small that no buffer is rounded up to huge pages
  for (int row = 0; row < 4; ++row) batch.append(small::tokens(128), small::tokens(128, 8));
  for (const rf::Activations activations : both_activations) {
    CAPTURE(static_cast<int>(activations));
    small::Model model(shape, plan);
    rf::initialise(model.weights(), 1);
    rf::Trainer<small::Model> trainer(model, {.activations = activations});
    const std::size_t before = rf::test::memory_in_use();
    rf::test::reset_peak_memory();
    trainer.step([&](std::int64_t) { return batch; });
    const auto taken = static_cast<double>(rf::test::peak_memory() - before);
    const rf::TrainingMemory memory =
        rf::training_memory<small::Model>(shape, bound, 4, 128, nullptr, activations);
    CHECK(taken < 1.1 * static_cast<double>(memory.activations));
    CHECK(taken > 0.9 * static_cast<double>(memory.activations));
  }
}

TEST_CASE("activations computed again take less than half the memory") {
  const rf::ModelShape qwen2_500m{
      .vocabulary = 151936,
      .layers = 24,
      .layer = {.d_model = 896, .d_head = 64, .kv_groups = 2, .queries_per_group = 7, .d_ff = 4864},
      .tied_embeddings = true};
  const auto share = [](const rf::ModelShape& shape, std::int64_t rows, std::int64_t length) {
    const auto plan = rf::bind_plan<small::Spec::Kinds>(
        rf::uniform_plan({"attention", "fp32", {}}, shape.layers, shape.layer.kv_groups));
    const auto activations = [&](rf::Activations how) {
      return static_cast<double>(
          rf::training_memory<small::Model>(shape, plan, rows, length, nullptr, how).activations);
    };
    return activations(rf::Activations::recomputed) / activations(rf::Activations::kept);
  };
  CHECK(share(demo_shape(), 8, 256) < 0.5);
  CHECK(share(qwen2_500m, 1, 2048) < 0.2);
}

TEST_CASE("a teacher is another model, and longer rows take more") {
  const auto hybrid = rf::bind_plan<small::Spec::Kinds>(small::hybrid_plan()),
             attention = rf::bind_plan<small::Spec::Kinds>(small::attention_plan());
  const auto alone = rf::training_memory<small::Model>(small::shape(), hybrid, 2, 16),
             with_teacher = rf::training_memory<small::Model>(small::shape(), hybrid, 2, 16, &attention),
             longer = rf::training_memory<small::Model>(small::shape(), hybrid, 2, 64);
  CHECK(with_teacher.teacher > 4 * rf::parameter_count(small::shape(), attention));
  CHECK(with_teacher.activations == alone.activations);
  CHECK(longer.weights == alone.weights);
  CHECK(longer.activations > 2 * alone.activations);
  CHECK_THROWS_AS(rf::training_memory<small::Model>(small::shape(), hybrid, 1 << 20, 1 << 20),
                  rf::ArgumentError);
  CHECK_THROWS_AS(rf::training_memory<small::Model>(small::shape(), hybrid, 0, 16), rf::ArgumentError);
}
