#ifndef RECURFORMER_MODEL_DEVICE_HEADS_HPP
#define RECURFORMER_MODEL_DEVICE_HEADS_HPP

// The heads of a layer as one launch on a device: the runs' mixers plan their work items
// (cuda/mixer_kernel.hpp), the list orders them, and one kernel for the whole set of kinds computes them
// (cuda/heads.hpp for prefill, cuda/sm90/heads.hpp on Hopper, cuda/decode_layer.hpp for decode). A plan
// depends on the batch, on how many groups each run has and on the mixers' options, so that layers of one
// make share it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/cuda/decode_layer.hpp"
#include "recurformer/cuda/heads.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"
#include "recurformer/cuda/sm90/heads.hpp"
#include "recurformer/spec/mixer.hpp"
#include "recurformer/spec/run.hpp"

namespace rf {

/// Many new tokens per sequence, the same on Hopper by what is written for its warpgroups, or at most
/// cuda::most_decode_rows.
enum class HeadsMode { prefill, prefill_sm90, decode };

namespace detail {

/// Whether mixer M plans otherwise on Hopper.
template <class M, int D, class T>
inline constexpr bool has_prefill_sm90 = (D == 64 || D == 128) && requires {
  typename cuda::MixerKernel<M>::template PrefillSm90<D, T>;
};

/// How mixer M cuts its heads into items in a mode.
template <class M, int D, class T, int Threads, HeadsMode Mode>
struct HeadPlannerOf {
  using type = typename cuda::MixerKernel<M>::template Prefill<D, T, Threads>;
};
template <class M, int D, class T, int Threads>
requires has_prefill_sm90<M, D, T>
struct HeadPlannerOf<M, D, T, Threads, HeadsMode::prefill_sm90> {
  using type = typename cuda::MixerKernel<M>::template PrefillSm90<D, T>;
};
template <class M, int D, class T, int Threads>
struct HeadPlannerOf<M, D, T, Threads, HeadsMode::decode> {
  using type = typename cuda::MixerKernel<M>::template Decode<D, T, Threads>;
};

/// What a planner plans for the launch of its own that layers without other heads get; nothing if it has
/// none.
template <class Planner>
struct PlanAlone {
  static constexpr bool exists = false;
};
template <class Planner>
requires requires { typename Planner::ItemsAlone; }
struct PlanAlone<Planner> {
  static constexpr bool exists = true;
  bool chosen = false;
  typename Planner::ItemsAlone items = {};
};

}  // namespace detail

/// The tokens of a launch: of runs with states, which rollback cuts and replays (model/device_rollback.hpp),
/// and of all others. Null: these runs are not in the launch.
struct HeadBatches {
  const cuda::DeviceBatch* recurrent = nullptr;
  const cuda::DeviceBatch* others = nullptr;

  const cuda::DeviceBatch& any() const { return recurrent ? *recurrent : *others; }
  /// That of a run; null also for one without groups.
  template <class Run>
  const cuda::DeviceBatch* of(const Run& run, const HeadShape& shape) const {
    if (run.groups == 0) return nullptr;
    for (const CacheField& field : run.mixer.cache_fields(shape))
      if (field.kind == FieldKind::state) return recurrent;
    return others;
  }
};

/// The heads of layers with a set of kinds, of width D and element type T.
template <class Set, int D, class T, HeadsMode Mode>
class DeviceHeads;

template <class... K, int D, class T, HeadsMode Mode>
class DeviceHeads<Kinds<K...>, D, T, Mode> {
 public:
  static constexpr HeadsMode mode = Mode;
  /// Threads of a block that compute.
  static constexpr int threads =
      Mode == HeadsMode::decode ? cuda::decode_threads
      : Mode == HeadsMode::prefill_sm90
          ? cuda::sm90::consumer_threads
          : std::max({cuda::MixerKernel<typename K::Mixer>::template prefill_threads<D>...});
  static constexpr int blocks_per_multiprocessor =
      Mode == HeadsMode::decode ? (D <= 64 ? 2 : 1) : cuda::heads_blocks(threads);

  /// Counters of the launch before those of the works.
  static constexpr int own_counters =
      Mode == HeadsMode::decode ? cuda::decode_layer_counters : cuda::heads_counters;

  template <class Kind>
  using Planner = typename detail::HeadPlannerOf<typename Kind::Mixer, D, T, threads, Mode>::type;

 private:
  template <std::size_t Index>
  using PlannerAt = std::tuple_element_t<Index, std::tuple<Planner<K>...>>;

  /// Which of the works computes kind `Index`: that of the first kind that has the same. Kinds that differ
  /// only in what linear layers do for them, such as biases, share a branch of the kernel.
  template <std::size_t Index>
  static constexpr std::size_t work_of() {
    return []<std::size_t... Other>(std::index_sequence<Other...>) {
      using Work = typename PlannerAt<Index>::Work;
      return std::min({(std::is_same_v<typename PlannerAt<Other>::Work, Work> ? Other : Index)...});
    }
    (std::index_sequence_for<K...>{});
  }
  template <std::size_t Index>
  using WorkAt = std::conditional_t<work_of<Index>() == Index, typename PlannerAt<Index>::Work, cuda::NoWork>;

  template <std::size_t... Index>
  static cuda::WorkParameters<WorkAt<Index>...> parameters_at(std::index_sequence<Index...>);

 public:
  using Parameters = decltype(parameters_at(std::index_sequence_for<K...>{}));
  /// Whether some work is written for Hopper's warpgroups.
  static constexpr bool has_warpgroups = (... || cuda::sm90::has_warpgroups<typename Planner<K>::Work>);

  struct Plan {
    std::vector<std::int64_t> key;  // of the layers it is for
    cuda::ItemList list;
    int counters = 0;  // that the works use
    std::tuple<typename Planner<K>::Plan...> runs;
    std::tuple<detail::PlanAlone<Planner<K>>...> alone;
  };

  /// ArgumentError for a layer with two kinds of heads of which the kernel can compute only one at a time.
  template <class Layer>
  static void check_kinds(const Layer& layer) {
    std::array<std::string_view, sizeof...(K)> users = {};  // of the works
    layer.for_each_run([&]<class Run>(auto index, const Run& run) {
      if (run.groups == 0) return;
      std::string_view& user = users[work_of<index>()];
      check(user.empty(), "a layer has heads of the kinds ", user, " and ", Run::Mixer::name,
            "; on a device it can have only one of these, as the same part of a kernel computes them");
      user = Run::Mixer::name;
    });
  }

  /// The index among `plans` of the one for a layer; makes it if there is none.
  template <class Device, class Layer>
  static std::size_t plan(std::vector<Plan>& plans, Device& device, const HeadBatches& batches,
                          cuda::CallMemory<Device>& memory, cuda::UploadMemory<Device>& uploads,
                          const HeadShape& shape, const Layer& layer) {
    const std::vector<std::int64_t> key = key_of(layer);
    for (std::size_t i = 0; i < plans.size(); ++i)
      if (plans[i].key == key) return i;
    cuda::WorkList list;
    const int blocks = device.multiprocessors() * blocks_per_multiprocessor;
    const cuda::WorkPlanner<Device> planner{batches.any(), list, memory, uploads, device, blocks};
    plans.push_back(make_plan(planner, batches, shape, layer));
    plans.back().key = key;
    return plans.size() - 1;
  }

  /// What a launch for a layer gets. describe(index, run) is the DeviceRun<T> of a run; `counters` are the
  /// launch's.
  template <class Device, class Layer, class Describe>
  static Parameters bind(const Plan& plan, const HeadBatches& batches, cuda::UploadMemory<Device>& uploads,
                         unsigned* counters, const HeadShape& shape, const Layer& layer,
                         Describe&& describe) {
    Parameters out;
    layer.for_each_run([&](auto index, const auto& run) {
      using P = PlannerAt<index>;
      const cuda::DeviceBatch* batch = batches.of(run, shape);
      if (!batch) return;
      cuda::WorkBinder<Device> binder{*batch, uploads, counters + own_counters};
      parameters_of<work_of<index>()>(out) =
          P::bind(binder, run.mixer, describe(index, run), std::get<index>(plan.runs));
    });
    return out;
  }

  /// Computes the heads of a layer, by the launch of its own that its only run has or by one for all; a
  /// decode without its linear steps.
  template <class Device>
  static void launch(Device& device, const Plan& plan, const Parameters& parameters, unsigned* counters) {
    if constexpr (Mode == HeadsMode::decode)
      cuda::decode_layer<blocks_per_multiprocessor>(device, cuda::DecodeLayerSteps<T>{}, plan.list,
                                                    parameters, counters, plan.counters);
    else if (!launch_alone(device, plan, parameters))
      launch_together(device, plan, parameters, counters);
  }

 private:
  template <class Device, class... Work>
  static void launch_together(Device& device, const Plan& plan, const cuda::WorkParameters<Work...>& works,
                              unsigned* counters) {
    using Kernel = std::conditional_t<Mode == HeadsMode::prefill_sm90, cuda::sm90::HeadsKernel<Work...>,
                                      cuda::HeadsKernel<threads, Work...>>;
    cuda::launch_heads<Kernel>(device, plan.list, works, counters, plan.counters);
  }

  template <class Device>
  static bool launch_alone(Device& device, const Plan& plan, const Parameters& parameters) {
    return [&]<std::size_t... Index>(std::index_sequence<Index...>) {
      return (... || launch_alone_run<Index>(device, plan, parameters));
    }
    (std::index_sequence_for<K...>{});
  }

  /// The same for a run with a batch of its own.
  template <class Device>
  static cuda::WorkPlanner<Device> with_batch(const cuda::WorkPlanner<Device>& planner,
                                              const cuda::DeviceBatch& batch) {
    return {batch, planner.list, planner.memory, planner.uploads, planner.device, planner.blocks};
  }

  template <class Device, class Layer>
  static Plan make_plan(const cuda::WorkPlanner<Device>& planner, const HeadBatches& batches,
                        const HeadShape& shape, const Layer& layer) {
    Plan plan;
    if (plan_alone(planner, batches, shape, layer, plan)) return plan;
    for (const bool fills_gaps : {false, true})
      layer.for_each_run([&](auto index, const auto& run) {
        using P = PlannerAt<index>;
        const cuda::DeviceBatch* batch = batches.of(run, shape);
        if (!batch || P::fills_gaps != fills_gaps) return;
        planner.list.begin_run(static_cast<int>(work_of<index>()));
        auto own = with_batch(planner, *batch);
        std::get<index>(plan.runs) = P::plan(own, run.mixer, shape, run.groups);
        plan.list.shared_bytes = std::max(plan.list.shared_bytes, std::get<index>(plan.runs).shared_bytes);
      });
    plan.list.items = planner.uploads.add(planner.list.ordered(planner.blocks));
    plan.list.count = planner.list.size();
    plan.list.shared_bytes = (plan.list.shared_bytes + 15) / 16 * 16;
    plan.counters = planner.list.counters();
    return plan;
  }

  /// Plans the launch of its own that the layer's only run may have; whether it has one, and needs no list.
  template <class Device, class Layer>
  static bool plan_alone(const cuda::WorkPlanner<Device>& planner, const HeadBatches& batches,
                         const HeadShape& shape, const Layer& layer, Plan& plan) {
    int runs = 0;
    layer.for_each_run([&](auto, const auto& run) { runs += run.groups > 0; });
    if (runs != 1) return false;
    bool chosen = false;
    layer.for_each_run([&](auto index, const auto& run) {
      using P = PlannerAt<index>;
      if constexpr (detail::PlanAlone<P>::exists) {
        const cuda::DeviceBatch* batch = batches.of(run, shape);
        if (!batch) return;
        auto own = with_batch(planner, *batch);
        std::get<index>(plan.alone) = {true, P::plan_alone(own, run.mixer, shape, run.groups)};
        chosen = true;
      }
    });
    return chosen;
  }

  template <std::size_t Index, class Device>
  static bool launch_alone_run(Device& device, const Plan& plan, const Parameters& parameters) {
    using P = PlannerAt<Index>;
    if constexpr (detail::PlanAlone<P>::exists) {
      const auto& alone = std::get<Index>(plan.alone);
      if (alone.chosen) P::launch_alone(device, parameters_of<work_of<Index>()>(parameters), alone.items);
      return alone.chosen;
    } else {
      return false;
    }
  }

  /// What of a layer a plan depends on.
  template <class Layer>
  static std::vector<std::int64_t> key_of(const Layer& layer) {
    std::vector<std::int64_t> key;
    layer.for_each_run([&]<class Run>(auto, const Run& run) {
      key.push_back(run.groups);
      if constexpr (MixerWithOptions<typename Run::Mixer>)
        for (std::size_t i = 0; i < Run::Mixer::option_names.size(); ++i) key.push_back(run.mixer.option(i));
    });
    return key;
  }

  template <std::size_t Index, class Works>
  static auto& parameters_of(Works& all) {
    if constexpr (Index == 0)
      return all.first;
    else
      return parameters_of<Index - 1>(all.rest);
  }
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_HEADS_HPP
