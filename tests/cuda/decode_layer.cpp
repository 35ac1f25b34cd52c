// A decode step of a layer in one launch against the same steps launched one after the other: bits must
// agree, under every schedule, and with them what the step leaves in rings and states. The separate launches
// are held to the reference elsewhere; what is left for this launch to get wrong is who waits for whom.

#include "recurformer/cuda/decode_layer.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "cuda/gemm_harness.hpp"
#include "recurformer/cuda/attention_mixer.hpp"
#include "recurformer/cuda/mamba2_mixer.hpp"
#include "recurformer/cuda/mamba_mixer.hpp"
#include "support/test_device.hpp"

namespace {

using rf::bf16;
using rf::SequenceRows;
using rf::cuda::GemmOperands;
using rf::test::GuardedArray;
using rf::test::random_values;
using rf::test::TestDevice;

constexpr int d_head = 16, queries = 2, d_model = 40, d_ff = 24;
constexpr rf::LayerShape layer{
    .d_model = d_model, .d_head = d_head, .kv_groups = 4, .queries_per_group = queries, .d_ff = d_ff};
constexpr rf::HeadShape head = layer.head_shape();
constexpr int threads = rf::cuda::decode_threads;
/// So many blocks that the streaming heads' keys are worth splitting.
constexpr int blocks = 64;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Two sequences, stored in the other order, with a past; the first is the longer one.
const std::vector<SequenceRows> sequences = {{.first_row = 0, .rows = 1, .position = 400},
                                             {.first_row = 1, .rows = 3, .position = 5}};
const std::vector<int> slots = {1, 0};
constexpr int rows = 4;

/// One mixer's groups in the layer: its weights' rows, matrices, cache and parameters.
template <class M, int First, int Groups>
struct Run {
  using Kernel = rf::cuda::MixerKernel<M>;
  using Decode = typename Kernel::template Decode<d_head, bf16, threads>;

  M mixer{};
  int first_target;
  GuardedArray<int, TestDevice> group_index;
  std::vector<GuardedArray<bf16, TestDevice>> matrices;
  std::vector<rf::cuda::ProjectionTarget<bf16>> targets;
  std::vector<GuardedArray<float, TestDevice>> local, states;
  std::vector<GuardedArray<bf16, TestDevice>> rings;
  GuardedArray<float, TestDevice> prepared;
  rf::cuda::DeviceRun<bf16> run;
  typename Decode::Plan plan;

  Run(TestDevice& device, rf::Random& random, int first)
      : first_target(first),
        group_index(device, indices()),
        prepared(device, Kernel::template prepared_size<d_head>(head, Groups)) {
    if constexpr (requires { mixer.window; }) mixer.window = 330;
    for (int t = 0; t < Kernel::targets; ++t) {
      const std::int64_t width = Kernel::target_width(mixer, head, Groups, t);
      matrices.emplace_back(device, at(rows * width));
      targets.push_back({matrices.back().data(), width, 0});
    }
    run = {.shape = head, .groups = Groups, .group_index = group_index.data()};
    for (const rf::ParameterSpec& spec : mixer.parameters(head)) {
      if (spec.role != rf::Role::local) continue;
      local.emplace_back(device, random_values<float>(random, at(Groups * queries * spec.slice.size()), 0.5));
      run.local.push_back(local.back().data());
    }
    for (const rf::CacheField& field : mixer.cache_fields(head)) {
      const bool ring = field.kind == rf::FieldKind::ring;
      const std::int64_t units = field.unit == rf::Unit::head ? Groups * queries : Groups;
      const std::int64_t size =
          units * field.slice.size() * (ring ? field.sink + field.window : std::int64_t{1});
      const std::size_t all = at(size) * slots.size();
      if (ring)
        add_field(rings, {device, random_values<bf16>(random, all)}, size, field.window);
      else
        add_field(states, {device, random_values<float>(random, all)}, size, 0);
    }
    Kernel::template prepare<d_head>(device, head, Groups, run.local, prepared.data());
    run.prepared = prepared.data();
  }

  void add_projection(rf::cuda::ProjectionLayout& layout, int first_row) const {
    Kernel::add_projection(mixer, head, Groups, first_target, first_row, layout);
  }
  void make_plan(rf::cuda::WorkPlanner<TestDevice>& planner, int index) {
    planner.list.begin_run(index);
    plan = Decode::plan(planner, mixer, head, Groups);
  }
  auto bind(rf::cuda::WorkBinder<TestDevice>& binder, bf16* out) {
    run.targets = targets;
    run.out = {out, layer.heads_width()};
    return Decode::bind(binder, mixer, run, plan);
  }
  /// What it remembers, as bits.
  void collect(std::vector<float>& to) const {
    for (const auto& state : states) append(to, state.to_host());
    for (const auto& ring : rings) append(to, ring.to_host());
  }

  template <class T>
  static void append(std::vector<float>& to, const std::vector<T>& values) {
    for (const T& value : values) to.push_back(static_cast<float>(value));
  }

 private:
  static std::vector<int> indices() {
    std::vector<int> out;
    for (int group = 0; group < Groups; ++group) out.push_back(First + group);
    return out;
  }
  template <class T>
  void add_field(std::vector<GuardedArray<T, TestDevice>>& to, GuardedArray<T, TestDevice> field,
                 std::int64_t size, std::int64_t capacity) {
    to.push_back(std::move(field));
    run.fields.push_back({.data = reinterpret_cast<std::byte*>(to.back().data()),
                          .block_bytes = size * static_cast<std::int64_t>(sizeof(T)),
                          .capacity = capacity});
  }
};

/// A layer before a decode step, the same every time it is made, and how to launch the step.
class DecodeStep {
 public:
  explicit DecodeStep(TestDevice& device)
      : device_(device),
        random_(5),
        streaming_(device, random_, 0),
        mamba_(device, random_, 3),
        mamba2_(device, random_, 4),
        memory_(device),
        uploads_(device),
        x_(device, random_values<bf16>(random_, at(rows * d_model))),
        u_(device, at(rows * layer.heads_width())),
        h_(device, at(rows * d_ff)),
        sums_(device, rf::test::row_sums(rf::test::to_double(x_.to_host()), d_model, at(parts))),
        table_(device, random_values<float>(random_, 512 * d_head)),
        counters_(device, 0) {
    add_linear_steps();
    plan_heads();
  }

  /// Every step in one launch.
  void at_once() {
    rf::cuda::decode_layer<2>(device_, steps_, list_, works_, counters_.data(), work_counters_);
    CHECK(counters_.to_host() == zeros_);  // as the next launch wants them
  }
  /// A launch per step.
  void step_by_step() {
    using Tile = rf::cuda::FewRowsTile<bf16, 1>;
    rf::cuda::launch_linear_tiles<Tile>(device_, steps_.projection, steps_.norm, steps_.project);
    rf::cuda::launch_heads<HeadsKernel>(device_, list_, works_, counters_.data(), work_counters_);
    rf::cuda::launch_linear_tiles<Tile>(device_, steps_.output, rf::cuda::NoNorm{}, steps_.residual);
    rf::cuda::launch_linear_tiles<Tile>(device_, steps_.gate_up, steps_.norm, steps_.swiglu);
    rf::cuda::launch_linear_tiles<Tile>(device_, steps_.down, rf::cuda::NoNorm{}, steps_.residual);
  }
  /// All that the step leaves: x and the sums of its squares, then rings and states.
  std::vector<float> result() const {
    std::vector<float> out = sums_.to_host();
    Streaming::append(out, x_.to_host());
    streaming_.collect(out);
    mamba_.collect(out);
    mamba2_.collect(out);
    return out;
  }
  std::vector<float> x() const {
    std::vector<float> out;
    Streaming::append(out, x_.to_host());
    return out;
  }

 private:
  using Streaming = Run<rf::StreamingAttention<>, 0, 2>;
  using Mamba = Run<rf::Mamba<>, 2, 1>;
  using Mamba2 = Run<rf::Mamba2<>, 3, 1>;
  using HeadsKernel =
      rf::cuda::HeadsKernel<threads, Streaming::Decode::Work, Mamba::Decode::Work, Mamba2::Decode::Work>;
  static constexpr int parts = rf::cuda::row_parts(rows, d_model);

  GemmOperands<rf::cuda::DenseRows<bf16>> operands(const GuardedArray<bf16, TestDevice>& matrix, int inner,
                                                   int columns) {
    weights_.emplace_back(device_, random_values<bf16>(random_, at(columns * inner), 0.2));
    return {.rows = {{matrix.data(), inner}, rows},
            .weights = weights_.back().data(),
            .columns = columns,
            .inner = inner};
  }

  void add_linear_steps() {
    rf::cuda::ProjectionLayout layout;
    streaming_.add_projection(layout, 0);  // of weights already packed: no two columns share one
    mamba_.add_projection(layout, 1000);
    mamba2_.add_projection(layout, 2000);
    std::vector<rf::cuda::ProjectionTarget<bf16>> targets = streaming_.targets;
    targets.insert(targets.end(), mamba_.targets.begin(), mamba_.targets.end());
    targets.insert(targets.end(), mamba2_.targets.begin(), mamba2_.targets.end());
    std::vector<rf::cuda::RowPlace> places;
    for (int s = 0; s < 2; ++s)
      for (std::int64_t r = 0; r < sequences[at(s)].rows; ++r)
        places.push_back({.sequence = s, .position = static_cast<int>(sequences[at(s)].position + r)});
    steps_ = {.projection = operands(x_, d_model, layout.columns()),
              .output = operands(u_, layer.heads_width(), d_model),
              .gate_up = operands(x_, d_model, rf::cuda::gate_up_columns(d_ff)),
              .down = operands(h_, d_ff, d_model),
              .norm = {.sums = {sums_.data(), parts}, .epsilon = 1e-5f},
              .project = {.units = uploads_.add(layout.units()),
                          .targets = uploads_.add(targets),
                          .places = uploads_.add(places),
                          .rope = rope()},
              .swiglu = {.out = {h_.data(), d_ff}, .columns = d_ff},
              .residual = {.x = {x_.data(), d_model}, .columns = d_model, .sums = {sums_.data(), parts}}};
  }

  void plan_heads() {
    rf::cuda::DeviceBatch batch{.sequences = sequences,
                                .device_sequences = uploads_.add(sequences),
                                .rows = rows,
                                .longest = 3,
                                .slots = slots,
                                .device_slots = uploads_.add(slots),
                                .rope = rope()};
    rf::cuda::WorkList list;
    rf::cuda::WorkPlanner<TestDevice> planner{batch, list, memory_, uploads_, device_, blocks};
    streaming_.make_plan(planner, 0);
    mamba_.make_plan(planner, 1);
    mamba2_.make_plan(planner, 2);
    const int shared_bytes =
        std::max({streaming_.plan.shared_bytes, mamba_.plan.shared_bytes, mamba2_.plan.shared_bytes});
    work_counters_ = list.counters();
    list_ = {.items = uploads_.add(list.ordered(blocks)),
             .count = list.size(),
             .shared_bytes = (shared_bytes + 15) / 16 * 16};
    REQUIRE(list_.count > 2 * 2 + 2 * 2 + 2);  // the long sequence's keys are split

    zeros_.assign(at(rf::cuda::decode_layer_counters + work_counters_), 0u);
    counters_ = GuardedArray<unsigned, TestDevice>(device_, zeros_);
    rf::cuda::WorkBinder<TestDevice> binder{batch, uploads_,
                                            counters_.data() + rf::cuda::decode_layer_counters};
    works_.first = streaming_.bind(binder, u_.data());
    works_.rest.first = mamba_.bind(binder, u_.data());
    works_.rest.rest.first = mamba2_.bind(binder, u_.data());
    uploads_.send();
  }

  rf::cuda::RotaryTable rope() const { return {table_.data(), table_.data() + d_head / 2, d_head}; }

  TestDevice& device_;
  rf::Random random_;
  Streaming streaming_;
  Mamba mamba_;
  Mamba2 mamba2_;
  rf::cuda::CallMemory<TestDevice> memory_;
  rf::cuda::UploadMemory<TestDevice> uploads_;
  GuardedArray<bf16, TestDevice> x_, u_, h_;
  GuardedArray<float, TestDevice> sums_, table_;
  GuardedArray<unsigned, TestDevice> counters_;
  std::vector<GuardedArray<bf16, TestDevice>> weights_;
  std::vector<unsigned> zeros_;
  int work_counters_ = 0;
  rf::cuda::DecodeLayerSteps<bf16> steps_;
  rf::cuda::ItemList list_;
  rf::cuda::WorkParameters<Streaming::Decode::Work, Mamba::Decode::Work, Mamba2::Decode::Work> works_;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("decode layer: one launch does what a launch per step does, under every schedule") {
  TestDevice in_order;
  DecodeStep separate(in_order);
  const std::vector<float> before = separate.x();
  separate.step_by_step();
  const std::vector<float> expected = separate.result();
  CHECK(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
  CHECK(!same_bits(before, separate.x()));
  for (const auto& schedule : rf::test::schedules()) {
    CAPTURE(schedule.seed);
    TestDevice device(schedule);
    DecodeStep step(device);
    step.at_once();
    CHECK(same_bits(step.result(), expected));
  }
}
