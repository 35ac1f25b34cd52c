#include "recurformer/train/memory.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "support/small_model.hpp"

namespace {

std::int64_t floats(const rf::FloatBuffer& buffer) { return static_cast<std::int64_t>(buffer.size()); }

/// What a tape holds after a forward pass.
std::int64_t floats(const rf::ModelTape& tape) {
  std::int64_t total = floats(tape.x) + floats(tape.scale) + floats(tape.hidden);
  for (const rf::LayerTape& layer : tape.layers) {
    for (const auto* buffer : {&layer.x, &layer.scale, &layer.h, &layer.x_mid, &layer.mid_scale, &layer.h_mid,
                               &layer.gate_up, &layer.act, &layer.heads.out})
      total += floats(*buffer);
    for (const auto& buffer : layer.heads.projected) total += floats(buffer);
    for (const auto& buffer : layer.heads.saved) total += floats(buffer);
  }
  return total;
}

}  // namespace

TEST_CASE("training's memory is what weights, gradients, optimizer and tape take") {
  for (const rf::Plan& plan : {small::hybrid_plan(), small::attention_plan()}) {
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
    rf::ModelTape tape;
    model.forward(small::tokens(60), sequences, tape);
    CHECK(rf::detail::tape_floats(small::shape(), bound, sequences) == floats(tape));
    CHECK(memory.activations > 4 * floats(tape));
  }
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
