#include "recurformer/plan/emit_header.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "../golden/emitted_plan.hpp"
#include "../support/error_message.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba2_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/model.hpp"

namespace {

using rf::test::contains;
using rf::test::message_of;

const rf::ModelShape shape{.vocabulary = 13,
                           .layers = 4,
                           .layer = {.d_model = 24,
                                     .d_head = 16,
                                     .kv_groups = 4,
                                     .queries_per_group = 2,
                                     .d_ff = 20,
                                     .norm_epsilon = 1e-6,
                                     .rope_base = 500000.0},
                           .tied_embeddings = true};

/// Contiguous groups, scattered ones, a layer twice, every mixer, and a kind that no group has.
const rf::Plan plan{.kinds = {{"attention", "fp32", {}},
                              {"mamba2", "bf16", {}},
                              {"streaming", "fp32", {{"window", 3}, {"sink", 1}}},
                              {"mamba", "fp32", {}},
                              {"mamba", "bf16", {}}},
                    .kind_of_group = {{0, 0, 3, 3}, {2, 0, 3, 0}, {0, 0, 3, 3}, {3, 1, 3, 1}}};

/// The same shape with the kinds as data.
struct Dynamic {
  using Kinds = rf::Kinds<rf::Kind<rf::Mamba<>, rf::Fp32>, rf::Kind<rf::StreamingAttention<>, rf::Fp32>,
                          rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::Mamba2<>, rf::Bf16>,
                          rf::Kind<rf::Mamba<>, rf::Bf16>>;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};

/// A mixer that does not say what C++ calls it.
struct Nameless {
  static constexpr std::string_view name = "nameless";
  static constexpr std::string_view module = "nameless";
  static std::array<rf::ParameterSpec, 1> parameters(const rf::HeadShape&) { return {}; }
  static std::array<rf::CacheField, 1> cache_fields(const rf::HeadShape&) { return {}; }
};

std::string error(const rf::Plan& of_plan, const rf::EmitOptions& options = {}) {
  return message_of<rf::ArgumentError>([&] { rf::emit_header<Dynamic::Kinds>(shape, of_plan, options); });
}

}  // namespace

TEST_CASE("emitted header: the text is the golden file's") {
  // To renew the file after a change of the text: RECURFORMER_WRITE_GOLDEN=1 test_plan
  const std::string path = RECURFORMER_TEST_DATA "/emitted_plan.hpp";
  const std::string emitted =
      rf::emit_header<Dynamic::Kinds>(shape, plan, {.namespace_name = "emitted::test"});
  if (std::getenv("RECURFORMER_WRITE_GOLDEN")) std::ofstream(path) << emitted;
  std::stringstream golden;
  golden << std::ifstream(path).rdbuf();
  CHECK(emitted == golden.str());
}

TEST_CASE("emitted header: compiled, it is the same shape and plan") {
  const rf::Model<emitted::test::Model> fixed;
  CHECK(fixed.shape() == shape);
  const rf::Plan named = fixed.named_plan();
  REQUIRE(named.kind_of_group.size() == 4);
  for (std::size_t layer = 0; layer < 4; ++layer)
    for (std::size_t group = 0; group < 4; ++group) {
      const auto kind_in = [&](const rf::Plan& of) {
        return of.kinds[static_cast<std::size_t>(of.kind_of_group[layer][group])];
      };
      INFO("layer ", layer, " group ", group);
      CHECK(kind_in(named).name() == kind_in(plan).name());
      if (kind_in(named).mixer == "streaming")
        CHECK(kind_in(named).options == rf::KindChoice{"", "", {{"sink", 1}, {"window", 3}}}.options);
    }
}

TEST_CASE("emitted header: compiled, it computes the same bits") {
  rf::Model<emitted::test::Model> fixed;
  rf::Model<Dynamic> dynamic(shape, plan);
  rf::initialise(dynamic.weights(), 5);
  // File tensors are in the order of groups, whatever the order of kinds in memory.
  const auto from = rf::file_tensors(dynamic.weights()), to = rf::file_tensors(fixed.weights());
  REQUIRE(from.size() == to.size());
  for (const rf::FileTensor& tensor : from) {
    const auto same =
        std::find_if(to.begin(), to.end(), [&](const auto& t) { return t.name == tensor.name; });
    REQUIRE(same != to.end());
    REQUIRE(same->pieces.size() == tensor.pieces.size());
    for (std::size_t i = 0; i < tensor.pieces.size(); ++i) {
      REQUIRE(same->pieces[i].size == tensor.pieces[i].size);
      REQUIRE(same->pieces[i].dtype == tensor.pieces[i].dtype);
      std::memcpy(same->pieces[i].data, tensor.pieces[i].data,
                  static_cast<std::size_t>(tensor.pieces[i].size) * rf::size_of(tensor.pieces[i].dtype));
    }
  }
  rf::Cache fixed_cache = fixed.make_cache(), dynamic_cache = dynamic.make_cache();
  const std::vector<rf::Token> tokens = {1, 7, 3, 12, 0, 5, 5, 9};
  for (std::size_t first = 0; first < tokens.size(); first += 3) {  // a ring that wraps, chunks, one token
    const std::span next = std::span(tokens).subspan(first, std::min<std::size_t>(3, tokens.size() - first));
    const auto a = fixed.next_logits(next, fixed_cache), b = dynamic.next_logits(next, dynamic_cache);
    CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end()));
    CHECK(std::any_of(a.begin(), a.end(), [](float logit) { return logit != 0.0f; }));
  }
}

TEST_CASE("emitted header: mixers are named with their policies") {
  constexpr rf::AttentionPolicy bias{.qkv_bias = true};
  CHECK(rf::Attention<>::type_name() == "rf::Attention<>");
  CHECK(rf::Attention<bias>::type_name() == "rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>");
  CHECK(rf::StreamingAttention<rf::StreamingWindow{.sink = 2, .window = 9}, bias>{}.type_name() ==
        "rf::StreamingAttention<rf::StreamingWindow{.sink = 2, .window = 9}, "
        "rf::AttentionPolicy{.qkv_bias = true}>");
  CHECK(rf::Mamba<rf::ScanShape{.d_state = 8}, rf::standard_mamba>::type_name() ==
        "rf::Mamba<rf::ScanShape{.d_state = 8, .d_conv = 4, .dt_rank = 0}, rf::MambaPolicy{.activation = "
        "rf::Activation::silu, .gate = rf::Gate::silu, .bias = false}>");
  CHECK(rf::Mamba2<rf::SsdPolicy{.rope = true}>::type_name() ==
        "rf::Mamba2<rf::SsdPolicy{.rope = true, .norm = false, .gate = rf::Gate::two_sigmoid}>");

  using Kinds = rf::Kinds<rf::Kind<rf::Attention<bias>, rf::Fp32>, rf::Kind<rf::Attention<>, rf::Fp32>>;
  const auto emitted = [](const char* mixer) {
    return rf::emit_header<Kinds>(shape, rf::uniform_plan({mixer, "fp32", {}}, 4, 4));
  };
  CHECK(contains(emitted("attention"), "rf::Run<4, rf::Attention<>, rf::Fp32>"));
  CHECK(contains(emitted("attention_qkv_bias"),
                 "rf::Run<4, rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, rf::Fp32>"));
}

TEST_CASE("emitted header: what only layers of Mamba-2 have") {
  rf::ModelShape other = shape;
  other.layer.heads_norm = true;
  other.layer.step_limits.least = 0.25;
  const std::string unlimited = rf::emit_header<Dynamic::Kinds>(other, plan);
  CHECK(contains(unlimited, ".heads_norm = true"));
  CHECK(contains(unlimited, ".step_limits = {.least = 0.25, .most = rf::StepLimits{}.most}"));
  other.layer.step_limits.most = 0.5;
  CHECK(
      contains(rf::emit_header<Dynamic::Kinds>(other, plan), ".step_limits = {.least = 0.25, .most = 0.5}"));
}

TEST_CASE("emitted header: what has no C++ name is refused") {
  CHECK(error(plan) == "no error");
  rf::Plan other = plan;
  other.kind_of_group[2].pop_back();
  CHECK(contains(error(other), "3 KV groups in layer 2; the model has 4"));
  other = plan;
  other.kinds[3].mixer = "rwkv";
  CHECK(contains(error(other), "no kernels for \"rwkv:fp32\"; it has mamba:fp32, streaming:fp32"));
  other = plan;
  other.kinds[3].options = {{"width", 2}};
  CHECK(contains(error(other), "the mixer mamba has no option \"width\""));
  other = plan;
  other.kinds[2].options = {{"width", 2}};
  CHECK(contains(error(other), "the mixer streaming has no option \"width\""));
  CHECK(contains(message_of<rf::ArgumentError>([&] {
                   rf::emit_header<rf::Kinds<rf::Kind<Nameless, rf::Fp32>>>(
                       shape, rf::uniform_plan({"nameless", "fp32", {}}, 4, 4));
                 }),
                 "the mixer nameless does not say what C++ calls it; declare `header` and `type_name()`"));
  CHECK(contains(error(plan, {.precision = "fp8"}),
                 "unknown precision \"fp8\"; known: fp32, bf16, fp16, int8_weights, int8_cache, int8"));
  CHECK(contains(error(plan, {.include_guard = "MY PLAN"}), "\"MY PLAN\" is not an identifier"));
  for (const std::string name : {"", "a::", "a:b", "::a", "1a", "a::2", "a b"})
    CHECK(contains(error(plan, {.namespace_name = name}), "is not the name of a namespace"));
}
