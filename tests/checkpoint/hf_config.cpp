#include "recurformer/checkpoint/hf_config.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

namespace {

using rf::DType;
using rf::ModelConfig;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

// As `transformers` 4 writes a Llama model.
const std::string llama = R"({
  "_name_or_path": "somebody/a-model",
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "eos_token_id": [2, 3],
  "hidden_act": "silu",
  "hidden_size": 192,
  "initializer_range": 0.02,
  "intermediate_size": 500,
  "max_position_embeddings": 4096,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 6,
  "num_hidden_layers": 2,
  "num_key_value_heads": 3,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": null,
  "rope_theta": 500000.0,
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "use_cache": true,
  "vocab_size": 300
})";

/// Text with one piece replaced, which must be there.
std::string changed(std::string file, const std::string& from, const std::string& to) {
  const std::size_t at = file.find(from);
  REQUIRE(at != file.npos);
  return file.replace(at, from.size(), to);
}

ModelConfig read(const std::string& text) {
  const TemporaryFolder folder;
  rf::write_file_atomically(folder / "config.json", text);
  return rf::read_model_config(folder.path().string());
}

/// What reading exactly this text says, without the path.
std::string error(const std::string& text) {
  const std::string message = message_of<rf::FileError>([&] { read(text); });
  const std::string name = "/config.json: ";
  return contains(message, name) ? message.substr(message.find(name) + name.size()) : message;
}
std::string changed_error(const std::string& from, const std::string& to) {
  return error(changed(llama, from, to));
}

ModelConfig rewritten(const ModelConfig& config, std::string* text = nullptr) {
  const TemporaryFolder folder;
  rf::write_model_config(config, folder.path().string());
  if (text) *text = rf::read_text_file(folder / "config.json");
  return rf::read_model_config(folder.path().string());
}

void check_equal(const ModelConfig& a, const ModelConfig& b) {
  CHECK(a.shape == b.shape);
  CHECK(a.plan == b.plan);
  CHECK(a.dtype == b.dtype);
  CHECK(a.max_positions == b.max_positions);
  CHECK(a.byte_vocabulary == b.byte_vocabulary);
}

}  // namespace

TEST_CASE("config: a Llama model as transformers writes it") {
  const ModelConfig config = read(llama);
  CHECK(config.shape == rf::ModelShape{.vocabulary = 300,
                                       .layers = 2,
                                       .layer = {.d_model = 192,
                                                 .d_head = 32,
                                                 .kv_groups = 3,
                                                 .queries_per_group = 2,
                                                 .d_ff = 500,
                                                 .norm_epsilon = 1e-5,
                                                 .rope_base = 500000.0},
                                       .tied_embeddings = true});
  CHECK(config.plan == rf::uniform_plan({"attention", "bf16", {}}, 2, 3));
  CHECK(config.dtype == DType::BF16);
  CHECK(config.max_positions == 4096);
  CHECK(!config.byte_vocabulary);

  // Written again it is still one, with the fields that mean nothing here.
  std::string text;
  const ModelConfig again = rewritten(config, &text);
  check_equal(again, config);
  const nlohmann::json before = nlohmann::json::parse(llama), after = nlohmann::json::parse(text);
  for (const auto& [field, value] : before.items()) {
    const std::string name = field;  // doctest's lambdas cannot capture structured bindings
    INFO(name);
    CHECK(after.at(name) == value);
  }
  CHECK(!after.contains("recurformer"));
}

TEST_CASE("config: a model of one's own has every field that Llama's config has") {
  ModelConfig config;
  config.shape = {.vocabulary = 259,
                  .layers = 3,
                  .layer = {.d_model = 40, .d_head = 16, .kv_groups = 5, .d_ff = 0, .norm_epsilon = 0.1},
                  .tied_embeddings = false};
  config.plan = rf::uniform_plan({"attention", "fp32", {}}, 3, 5);
  std::string text;
  check_equal(rewritten(config, &text), config);
  CHECK(nlohmann::json::parse(text) == nlohmann::json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": null,
    "eos_token_id": null, "head_dim": 16, "hidden_act": "silu", "hidden_size": 40, "intermediate_size": 0,
    "max_position_embeddings": 2048, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 5,
    "num_hidden_layers": 3, "num_key_value_heads": 5, "rms_norm_eps": 0.1, "rope_scaling": null,
    "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "float32", "vocab_size": 259})"));
}

TEST_CASE("config: fields with defaults, and their newer spelling") {
  const ModelConfig minimal = read(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 5})");
  CHECK(minimal.shape.layer == rf::LayerShape{.d_model = 64,
                                              .d_head = 16,
                                              .kv_groups = 4,
                                              .queries_per_group = 1,
                                              .d_ff = 8,
                                              .norm_epsilon = 1e-6,
                                              .rope_base = 10000.0});
  CHECK(minimal.dtype == DType::F32);
  CHECK(!minimal.shape.tied_embeddings);

  CHECK(read(changed(llama, "\"hidden_act\"", "\"head_dim\": 64, \"hidden_act\"")).shape.layer.d_head == 64);
  CHECK(read(changed(llama, "torch_dtype\": \"bfloat16", "dtype\": \"float16")).dtype == DType::F16);
  const ModelConfig newer =
      read(changed(llama, "\"rope_theta\": 500000.0",
                   "\"rope_parameters\": {\"rope_theta\": 250000, \"rope_type\": \"default\"}"));
  CHECK(newer.shape.layer.rope_base == 250000.0);
  CHECK(rewritten(newer).shape == newer.shape);
}

TEST_CASE("config: a converted model") {
  ModelConfig config = read(llama);
  config.plan = {.kinds = {{"attention", "bf16", {}},
                           {"mamba", "bf16", {}},
                           {"streaming", "fp32", {{"sink", 2}, {"window", 99}}}},
                 .kind_of_group = {{0, 2, 2}, {2, 0, 2}}};
  config.byte_vocabulary = true;
  std::string text;
  ModelConfig again = rewritten(config, &text);
  CHECK(nlohmann::json::parse(text).at("recurformer") == nlohmann::json::parse(R"({"format": 1,
    "kinds": [{"mixer": "attention", "precision": "bf16"},
              {"mixer": "streaming", "precision": "fp32", "options": {"sink": 2, "window": 99}}],
    "layers": [[0, 1, 1], [1, 0, 1]], "vocabulary": "bytes"})"));
  config.plan = rf::without_unused_kinds(config.plan);
  check_equal(again, config);

  // Attention in another precision than torch_dtype's is a plan too; the same one is none.
  config.plan = rf::uniform_plan({"attention", "fp32", {}}, 2, 3);
  check_equal(rewritten(config), config);
  config.plan = rf::uniform_plan({"attention", "bf16", {}}, 2, 3);
  again = rewritten(config, &text);
  check_equal(again, config);
  CHECK(nlohmann::json::parse(text).at("recurformer") ==
        nlohmann::json::parse(R"({"format": 1, "vocabulary": "bytes"})"));
}

TEST_CASE("config: biases on queries, keys and values are Qwen2's") {
  // As `transformers` 4 writes a Qwen2 model, whose biases go without saying.
  std::string file = changed(llama, "\"LlamaForCausalLM\"", "\"Qwen2ForCausalLM\"");
  file = changed(file, "\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"");
  file = changed(file, "\"attention_bias\": false,",
                 "\"sliding_window\": 32768, \"use_sliding_window\": false,");
  ModelConfig config = read(file);
  CHECK(config.plan == rf::uniform_plan({"attention_qkv_bias", "bf16", {}}, 2, 3));
  std::string text;
  check_equal(rewritten(config, &text), config);
  const auto is_qwen2 = [&] {
    const nlohmann::json written = nlohmann::json::parse(text);
    return written.at("model_type") == "qwen2" &&
           written.at("architectures") == nlohmann::json::array({"Qwen2ForCausalLM"}) &&
           written.at("attention_bias") == true;
  };
  CHECK(is_qwen2());
  CHECK(!nlohmann::json::parse(text).contains("recurformer"));
  // So is a converted model in which such heads are left, and no other.
  config.plan = {.kinds = {{"streaming_qkv_bias", "bf16", {}}, {"mamba", "bf16", {}}},
                 .kind_of_group = {{0, 1, 0}, {1, 0, 0}}};
  check_equal(rewritten(config, &text), config);
  CHECK(is_qwen2());
  config.plan = rf::uniform_plan({"mamba", "bf16", {}}, 2, 3);
  check_equal(rewritten(config, &text), config);
  CHECK(!is_qwen2());

  CHECK(error(changed(file, "\"mlp_bias\"", "\"attention_bias\": false, \"mlp_bias\"")) ==
        "attention_bias: found false; supported: true");
  CHECK(error(changed(file, "Qwen2For", "LlamaFor")) ==
        "architectures[0]: found \"LlamaForCausalLM\"; supported: \"Qwen2ForCausalLM\"");
}

TEST_CASE("config: scaled rotary positions, in the older and the newer spelling") {
  const auto scaling = [](const std::string& json) {
    const ModelConfig config = read(changed(llama, "\"rope_scaling\": null", json));
    check_equal(rewritten(config), config);
    return config.shape.layer.rope_scaling;
  };
  CHECK(scaling(R"("rope_scaling": {"rope_type": "default"})") == rf::RopeScaling{});
  CHECK(scaling(R"("rope_scaling": {"type": "linear", "factor": 2.5})") ==
        rf::RopeScaling{.rule = rf::RopeRule::linear, .factor = 2.5});
  const std::string llama3 = R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 1024})";
  const rf::RopeScaling expected{
      .rule = rf::RopeRule::llama3, .factor = 8, .original_positions = 1024, .low_freq_factor = 1};
  CHECK(scaling("\"rope_scaling\": " + llama3) == expected);
  CHECK(scaling("\"rope_parameters\": " + llama3) == expected);
  // YaRN's context is the model's where it is not given, its magnitude 0.1 ln(factor) + 1.
  CHECK(scaling(R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16})") ==
        rf::RopeScaling{.rule = rf::RopeRule::yarn,
                        .factor = 4,
                        .original_positions = 4096,
                        .beta_fast = 16,
                        .magnitude = 0.1 * std::log(4.0) + 1});
  CHECK(scaling(R"("rope_scaling": {"rope_type": "yarn", "factor": 40, "mscale": 0.7,
                    "mscale_all_dim": 0.7, "truncate": false})") ==
        rf::RopeScaling{
            .rule = rf::RopeRule::yarn, .factor = 40, .original_positions = 4096, .whole_pairs = false});

  const auto scaling_error = [](const std::string& json) {
    return changed_error("\"rope_scaling\": null", "\"rope_scaling\": " + json);
  };
  CHECK(scaling_error(R"({"type": "dynamic", "factor": 2})") ==
        "rope_scaling.type: found \"dynamic\"; supported: \"default\", \"linear\", \"llama3\", \"yarn\"");
  CHECK(scaling_error(R"({"factor": 2})") ==
        "rope_scaling.factor: found 2; supported: no factor without a rope_type of \"linear\", \"llama3\" or "
        "\"yarn\"");
  CHECK(scaling_error(R"({"rope_type": "linear"})") == "rope_scaling: the field 'factor' is missing");
  CHECK(contains(scaling_error(R"({"rope_type": "linear", "factor": 0.5})"), "factor is 0.5; it must be at"));
  CHECK(contains(scaling_error(R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                                   "high_freq_factor": 1, "original_max_position_embeddings": 9})"),
                 "low_freq_factor is 4 and high_freq_factor 1"));
}

TEST_CASE("config: Mistral's window is that of heads that stream without sinks") {
  std::string file = changed(llama, "\"LlamaForCausalLM\"", "\"MistralForCausalLM\"");
  file = changed(file, "\"model_type\": \"llama\"", "\"model_type\": \"mistral\"");
  const ModelConfig usual = read(file);
  CHECK(usual.plan == rf::uniform_plan({"streaming", "bf16", {{"sink", 0}, {"window", 4096}}}, 2, 3));
  const ModelConfig narrow = read(changed(file, "\"mlp_bias\"", "\"sliding_window\": 64, \"mlp_bias\""));
  CHECK(narrow.plan == rf::uniform_plan({"streaming", "bf16", {{"sink", 0}, {"window", 64}}}, 2, 3));
  std::string text;
  check_equal(rewritten(narrow, &text), narrow);
  nlohmann::json written = nlohmann::json::parse(text);
  CHECK(written.at("model_type") == "mistral");
  CHECK(written.at("sliding_window") == 64);
  CHECK(!written.contains("recurformer"));

  // Without one it is a Llama model, and written as such.
  const ModelConfig none = read(changed(file, "\"mlp_bias\"", "\"sliding_window\": null, \"mlp_bias\""));
  CHECK(none.plan == rf::uniform_plan({"attention", "bf16", {}}, 2, 3));
  check_equal(rewritten(none, &text), none);
  CHECK(nlohmann::json::parse(text).at("model_type") == "llama");

  // Converted, what is left of its heads keeps the window.
  ModelConfig converted = narrow;
  converted.plan.kinds.push_back({"mamba", "bf16", {}});
  converted.plan.kind_of_group = {{0, 1, 1}, {1, 1, 0}};
  check_equal(rewritten(converted, &text), converted);
  written = nlohmann::json::parse(text);
  CHECK(written.at("model_type") == "mistral");
  CHECK(written.contains("recurformer"));
  CHECK(contains(error(changed(file, "\"mlp_bias\"", "\"sliding_window\": 0, \"mlp_bias\"")),
                 "sliding_window: expected an integer from 1 to 2147483647, found 0"));
}

TEST_CASE("config: Qwen's windows in some layers, and Qwen3's norms of queries and keys") {
  std::string file = changed(llama, "\"LlamaForCausalLM\"", "\"Qwen3ForCausalLM\"");
  file = changed(file, "\"model_type\": \"llama\"", "\"model_type\": \"qwen3\"");
  ModelConfig config = read(file);
  CHECK(config.shape.layer.qk_norm);
  CHECK(config.shape.layer.d_head == 128);  // what Qwen3 takes where head_dim is missing
  CHECK(config.plan == rf::uniform_plan({"attention", "bf16", {}}, 2, 3));
  std::string text;
  check_equal(rewritten(config, &text), config);
  CHECK(nlohmann::json::parse(text).at("model_type") == "qwen3");

  const std::string window = R"("use_sliding_window": true, "sliding_window": 32, )";
  const auto with = [&](const std::string& fields) {
    return changed(file, "\"mlp_bias\"", window + fields + "\"mlp_bias\"");
  };
  const rf::Plan second = {
      .kinds = {{"attention", "bf16", {}}, {"streaming", "bf16", {{"sink", 0}, {"window", 32}}}},
      .kind_of_group = {{0, 0, 0}, {1, 1, 1}}};
  config = read(with("\"max_window_layers\": 1, "));
  CHECK(config.plan == second);
  check_equal(rewritten(config, &text), config);
  const nlohmann::json written = nlohmann::json::parse(text);
  CHECK(written.at("layer_types") == nlohmann::json::array({"full_attention", "sliding_attention"}));
  CHECK(written.at("max_window_layers") == 1);
  CHECK(!written.contains("recurformer"));
  CHECK(read(with("")).plan == rf::uniform_plan({"attention", "bf16", {}}, 2, 3));  // from layer 28 on
  CHECK(read(with(R"("max_window_layers": 0, "layer_types": ["full_attention", "sliding_attention"], )"))
            .plan == second);
  CHECK(contains(error(with(R"("layer_types": ["full_attention"], )")),
                 "layer_types: names the attention of 1 layers; the model has 2"));
  CHECK(contains(error(with(R"("layer_types": ["full_attention", "chunked"], )")),
                 "layer_types[1]: found \"chunked\"; supported: \"full_attention\", \"sliding_attention\""));
  CHECK(contains(error(changed(file, "\"mlp_bias\"",
                               "\"layer_types\": [\"sliding_attention\", "
                               "\"full_attention\"], \"mlp_bias\"")),
                 "(this config has no sliding window)"));
}

TEST_CASE("config: what these kernels would compute differently is refused") {
  CHECK(
      changed_error("\"llama\"", "\"gemma\"") ==
      "model_type: found \"gemma\"; supported: \"falcon_h1\", \"llama\", \"mamba\", \"mamba2\", \"mistral\", "
      "\"qwen2\", \"qwen3\"");
  CHECK(changed_error("\"LlamaForCausalLM\"", "\"LlamaModel\"") ==
        "architectures[0]: found \"LlamaModel\"; supported: \"LlamaForCausalLM\"");
  CHECK(changed_error("\"silu\"", "\"gelu\"") == "hidden_act: found \"gelu\"; supported: \"silu\"");
  CHECK(changed_error("\"attention_bias\": false", "\"attention_bias\": true") ==
        "attention_bias: found true; supported: false");
  CHECK(changed_error("\"mlp_bias\": false", "\"mlp_bias\": true") ==
        "mlp_bias: found true; supported: false");
  CHECK(changed_error("\"rope_scaling\": null", "\"sliding_window\": 4096") ==
        "sliding_window: found 4096; supported: null");
  CHECK(changed_error("\"rope_scaling\": null", "\"use_sliding_window\": true") ==
        "use_sliding_window: found true; supported: false");
  CHECK(contains(changed_error("\"rope_scaling\": null", "\"quantization_config\": {\"bits\": 4}"),
                 "quantization_config: found {\"bits\":4}; supported: null"));
  CHECK(changed_error("\"rope_scaling\": null", "\"partial_rotary_factor\": 0.5") ==
        "partial_rotary_factor: found 0.5; supported: 1");
  CHECK(changed_error("\"bfloat16\"", "\"float8\"") ==
        "torch_dtype: found \"float8\"; supported: \"float32\", \"bfloat16\", \"float16\"");
}

TEST_CASE("config: sizes that do not fit together are refused") {
  CHECK(changed_error("\"num_key_value_heads\": 3", "\"num_key_value_heads\": 4") ==
        "num_attention_heads: found 6; supported: multiples of num_key_value_heads, 4");
  CHECK(changed_error("\"hidden_size\": 192", "\"hidden_size\": 193") ==
        "num_attention_heads: found 6; supported without head_dim: divisors of hidden_size, 193");
  CHECK(changed_error("\"hidden_size\": 192", "\"hidden_size\": 144") ==
        "hidden_size / num_attention_heads: found 24; supported: 16, 32, 64, 80, 96, 128, 256");
  CHECK(changed_error("\"hidden_act\"", "\"head_dim\": 100, \"hidden_act\"") ==
        "head_dim: found 100; supported: 16, 32, 64, 80, 96, 128, 256");
  CHECK(contains(changed_error("\"hidden_size\": 192", "\"hidden_size\": -1"), "hidden_size: expected"));
  CHECK(contains(changed_error("\"vocab_size\": 300", "\"vocab_size\": 1e9"), "vocab_size: expected"));
  CHECK(contains(changed_error("\"num_hidden_layers\": 2,", ""), "'num_hidden_layers' is missing"));
  CHECK(changed_error("1e-05", "0") == "rms_norm_eps: found 0; supported: a positive number");
  CHECK(changed_error("500000.0", "1") == "rope_theta: found 1; supported: a number above 1");
  // A few bytes that would make a plan of gigabytes.
  const std::string wide = changed(changed(llama, "\"hidden_size\": 192", "\"hidden_size\": 262144"),
                                   "\"num_attention_heads\": 6", "\"num_attention_heads\": 16384");
  CHECK(error(changed(changed(wide, "\"num_key_value_heads\": 3", "\"num_key_value_heads\": 16384"),
                      "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4096")) ==
        "num_hidden_layers: found 4096 layers of 16384 KV groups; supported: at most 65536 KV groups in all");
}

TEST_CASE("config: a wrong section of ours is refused") {
  const auto section_error = [](const std::string& section) {
    return changed_error("\"rope_scaling\": null", "\"recurformer\": " + section);
  };
  const std::string kinds = R"("kinds": [{"mixer": "attention", "precision": "bf16"}])";
  CHECK(section_error("{\"format\": 1}") == "no error");
  CHECK(section_error("{\"format\": 2}") == "recurformer.format: found 2; supported: 1");
  CHECK(section_error("{}") == "recurformer: the field 'format' is missing");
  CHECK(contains(section_error(R"({"format": 1, "kind": []})"), "recurformer: unknown field 'kind'"));
  CHECK(section_error("{\"format\": 1, " + kinds + "}") == "recurformer: the field 'layers' is missing");
  CHECK(section_error("{\"format\": 1, " + kinds + R"(, "layers": [[0, 0, 0]]})") ==
        "recurformer.layers: has 1 rows; the model has 2 layers");
  CHECK(section_error("{\"format\": 1, " + kinds + R"(, "layers": [[0, 0, 0], [0, 0]]})") ==
        "recurformer.layers[1]: names the kinds of 2 KV groups; the model has 3");
  CHECK(section_error(R"({"format": 1, "vocabulary": "words"})") ==
        "recurformer.vocabulary: found \"words\"; supported: \"bytes\"");
  CHECK(contains(error(changed(changed(llama, "300", "255"), "\"rope_scaling\": null",
                               R"("recurformer": {"format": 1, "vocabulary": "bytes"})")),
                 "recurformer.vocabulary: bytes need a vocab_size of at least 256; found 255"));
}

TEST_CASE("config: a config that contradicts itself is not written") {
  const TemporaryFolder folder;
  const auto write_error = [&](const ModelConfig& config) {
    return message_of<rf::ArgumentError>([&] { rf::write_model_config(config, folder.path().string()); });
  };
  ModelConfig config = read(llama);
  config.plan.kind_of_group.pop_back();
  CHECK(contains(write_error(config), "1 layers; the model has 2"));
  config = read(llama);
  config.dtype = DType::F64;
  CHECK(contains(write_error(config), "F32, BF16 or F16, not F64"));
  config = read(llama);
  config.shape.vocabulary = 100;
  config.byte_vocabulary = true;
  CHECK(contains(write_error(config), "at least 256 tokens; this one has 100"));
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("config: Mamba as transformers writes it") {
  const std::string mamba = R"({"architectures": ["MambaForCausalLM"], "model_type": "mamba",
    "hidden_size": 72, "intermediate_size": 144, "expand": 2, "num_hidden_layers": 3, "vocab_size": 50,
    "layer_norm_epsilon": 1e-4, "state_size": 16, "conv_kernel": 4, "use_bias": false, "use_conv_bias": true,
    "hidden_act": "silu", "torch_dtype": "float16", "time_step_rank": 5})";
  const ModelConfig config = read(mamba);
  CHECK(config.shape == rf::ModelShape{.vocabulary = 50,
                                       .layers = 3,
                                       .layer = {.d_model = 72,
                                                 .d_head = 144,
                                                 .kv_groups = 1,
                                                 .queries_per_group = 1,
                                                 .d_ff = 0,
                                                 .norm_epsilon = 1e-4},
                                       .tied_embeddings = true});
  CHECK(config.plan == rf::uniform_plan({"mamba_standard", "fp16", {}}, 3, 1));
  std::string text;
  check_equal(rewritten(config, &text), config);
  const nlohmann::json written = nlohmann::json::parse(text);
  CHECK(written.at("model_type") == "mamba");
  CHECK(written.at("expand") == 2);
  CHECK(written.at("time_step_rank") == 5);

  CHECK(error(changed(mamba, "\"use_bias\": false", "\"use_bias\": true")) ==
        "use_bias: found true; supported: false");
  CHECK(error(changed(mamba, "\"use_conv_bias\": true", "\"use_conv_bias\": false")) ==
        "use_conv_bias: found false; supported: true");
  CHECK(error(changed(mamba, "\"intermediate_size\": 144", "\"intermediate_size\": 150")) ==
        "intermediate_size: found 150; supported: multiples of 16 up to 65536");
  CHECK(error(changed(mamba, "silu", "gelu")) == "hidden_act: found \"gelu\"; supported: \"silu\"");
}

namespace {

const std::string mamba2 = R"({"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2",
    "hidden_size": 96, "expand": 2, "num_heads": 12, "head_dim": 16, "n_groups": 3, "num_hidden_layers": 2,
    "vocab_size": 50, "layer_norm_epsilon": 1e-4, "state_size": 128, "conv_kernel": 4, "use_bias": false,
    "use_conv_bias": true, "rms_norm": true, "hidden_act": "silu", "torch_dtype": "bfloat16",
    "tie_word_embeddings": true, "time_step_limit": [0.0, Infinity], "comment": "\"Infinity\\"})";

}  // namespace

TEST_CASE("config: Mamba-2 as transformers writes it, infinity included") {
  const ModelConfig config = read(mamba2);
  CHECK(config.shape == rf::ModelShape{.vocabulary = 50,
                                       .layers = 2,
                                       .layer = {.d_model = 96,
                                                 .d_head = 16,
                                                 .kv_groups = 3,
                                                 .queries_per_group = 4,
                                                 .d_ff = 0,
                                                 .norm_epsilon = 1e-4,
                                                 .heads_norm = true},
                                       .tied_embeddings = true});
  CHECK(config.plan == rf::uniform_plan({"mamba2_standard", "bf16", {}}, 2, 3));
  CHECK(config.other.at("comment") == "\"Infinity\\");
  std::string text;
  check_equal(rewritten(config, &text), config);
  nlohmann::json written = nlohmann::json::parse(text);
  CHECK(written.at("model_type") == "mamba2");
  CHECK(written.at("num_heads") == 12);
  CHECK(written.at("n_groups") == 3);
  CHECK(written.at("state_size") == 128);
  CHECK(!written.contains("time_step_limit"));

  // What is missing is what `transformers` takes.
  const ModelConfig large = read(R"({"model_type": "mamba2", "hidden_size": 4096, "num_hidden_layers": 64,
    "vocab_size": 32768})");
  CHECK(large.shape.layer.heads() == 128);
  CHECK(large.shape.layer.d_head == 64);
  CHECK(large.shape.layer.kv_groups == 8);
  CHECK_FALSE(large.shape.tied_embeddings);
}

TEST_CASE("config: limits of Mamba-2's step sizes") {
  const auto limits = [](const std::string& value) { return changed(mamba2, "[0.0, Infinity]", value); };
  const ModelConfig both = read(limits("[0.001, 0.5]")), least = read(limits("[0.25, Infinity]"));
  CHECK(both.shape.layer.step_limits == rf::StepLimits{.least = 0.001, .most = 0.5});
  CHECK(least.shape.layer.step_limits == rf::StepLimits{.least = 0.25});
  check_equal(rewritten(both), both);
  check_equal(rewritten(least), least);
  CHECK(read(limits("null")).shape.layer.step_limits == rf::StepLimits{});
  CHECK(error(limits("[0.5, 0.1]")) ==
        "time_step_limit: found [0.5,0.1]; supported: a number and a larger one");
  CHECK(error(limits("[0.5]")) == "time_step_limit: found [0.5]; supported: a number and a larger one");
  CHECK(contains(error(limits("[-Infinity, 1]")), "line 5, column "));
}

TEST_CASE("config: what standard Mamba-2's kernels would compute differently is refused") {
  CHECK(error(changed(mamba2, "\"use_bias\": false", "\"use_bias\": true")) ==
        "use_bias: found true; supported: false");
  CHECK(error(changed(mamba2, "\"use_conv_bias\": true", "\"use_conv_bias\": false")) ==
        "use_conv_bias: found false; supported: true");
  CHECK(error(changed(mamba2, "\"rms_norm\": true", "\"rms_norm\": false")) ==
        "rms_norm: found false; supported: true");
  CHECK(error(changed(mamba2, "silu", "gelu")) == "hidden_act: found \"gelu\"; supported: \"silu\"");
  CHECK(error(changed(mamba2, "\"head_dim\": 16", "\"head_dim\": 24")) ==
        "head_dim: found 24; supported: 16, 32, 64, 80, 96, 128, 256");
  CHECK(error(changed(mamba2, "\"n_groups\": 3", "\"n_groups\": 5")) ==
        "num_heads: found 12; supported: multiples of n_groups, 5");
  CHECK(error(changed(mamba2, "\"expand\": 2", "\"expand\": 3")) ==
        "num_heads: found 12 heads of 16; supported: as wide together as expand times hidden_size, 96");
}

TEST_CASE("config: a norm across heads is Mamba-2's alone") {
  ModelConfig config = read(mamba2);
  config.shape.layer.d_ff = 48;
  const rf::test::TemporaryFolder folder;
  const std::string message = rf::test::message_of<rf::ArgumentError>(
      [&] { rf::write_model_config(config, folder.path().string()); });
  CHECK(contains(message, "a norm across heads"));
  CHECK(std::filesystem::is_empty(folder.path()));
}

namespace {

// Falcon-H1-0.5B, as `transformers` writes it, with fewer layers and a smaller vocabulary.
const std::string falcon = R"({"architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1",
    "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 100, "hidden_act": "silu", "mlp_bias": false,
    "attention_bias": false, "attention_in_multiplier": 1.0, "attention_out_multiplier": 0.9375,
    "embedding_multiplier": 5.656854249492381, "key_multiplier": 0.39062499999999994,
    "lm_head_multiplier": 0.0390625, "mlp_multipliers": [0.8838834764831844, 0.5859375],
    "ssm_in_multiplier": 1.25, "ssm_multipliers": [0.35355339059327, 0.25, 0.35355339059327, 0.5, 0.3535],
    "ssm_out_multiplier": 0.23570226039551587, "mamba_conv_bias": true, "mamba_d_conv": 4, "mamba_d_head": 64,
    "mamba_d_ssm": 1536, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_n_heads": 24,
    "mamba_norm_before_gate": false, "mamba_proj_bias": false, "mamba_rms_norm": false,
    "projectors_bias": false, "max_position_embeddings": 16384, "rms_norm_eps": 1e-05, "rope_scaling": null,
    "rope_theta": 100000000000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16"})";

/// `attention` groups of attention, then `mamba` of standard Mamba-2, in each of 3 layers.
rf::Plan falcon_plan(std::size_t attention, std::size_t mamba) {
  std::vector<int> groups(attention, 0);
  groups.resize(attention + mamba, 1);
  return {.kinds = {{"attention", "bf16", {}}, {"mamba2_standard", "bf16", {}}},
          .kind_of_group = {3, groups}};
}

}  // namespace

TEST_CASE("config: Falcon-H1's heads of Mamba-2 are KV groups beside those of attention") {
  ModelConfig config = read(falcon);
  CHECK(config.shape == rf::ModelShape{.vocabulary = 100,
                                       .layers = 3,
                                       .layer = {.d_model = 1024,
                                                 .d_head = 64,
                                                 .kv_groups = 8,
                                                 .queries_per_group = 4,
                                                 .d_ff = 2048,
                                                 .norm_epsilon = 1e-5,
                                                 .rope_base = 1e11}});
  CHECK(config.plan == falcon_plan(2, 6));
  CHECK(config.max_positions == 16384);

  // It is written with a B and a C for each of ours, and without the numbers that are in the weights then.
  std::string text;
  check_equal(rewritten(config, &text), config);
  const nlohmann::json written = nlohmann::json::parse(text);
  CHECK(written.at("model_type") == "falcon_h1");
  CHECK(written.at("num_attention_heads") == 8);
  CHECK(written.at("num_key_value_heads") == 2);
  CHECK(written.at("mamba_n_heads") == 24);
  CHECK(written.at("mamba_n_groups") == 6);
  CHECK(written.at("mamba_d_ssm") == 1536);
  CHECK(written.at("mamba_d_state") == 128);
  CHECK(!written.contains("embedding_multiplier"));
  CHECK(!written.contains("ssm_multipliers"));
  CHECK(!written.contains("recurformer"));

  // A program's kinds may be in any order; a layer of another form makes the model one of ours.
  std::swap(config.plan.kinds[0], config.plan.kinds[1]);
  for (auto& groups : config.plan.kind_of_group)
    for (int& kind : groups) kind = 1 - kind;
  check_equal(rewritten(config, &text), config);
  CHECK(nlohmann::json::parse(text).at("model_type") == "falcon_h1");
  config.plan.kind_of_group[2][0] = 0;
  check_equal(rewritten(config, &text), config);
  CHECK(nlohmann::json::parse(text).at("model_type") == "llama");
  std::swap(config.plan.kind_of_group[2][0], config.plan.kind_of_group[2][7]);
  config.plan.kind_of_group[0] = config.plan.kind_of_group[1] = config.plan.kind_of_group[2];
  check_equal(rewritten(config, &text), config);
  CHECK(nlohmann::json::parse(text).at("model_type") == "llama");
}

TEST_CASE("config: what is missing in Falcon-H1's is what transformers takes") {
  const ModelConfig config = read(R"({"model_type": "falcon_h1", "hidden_size": 256, "intermediate_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 16, "vocab_size": 50, "mamba_d_head": "auto",
    "mamba_n_heads": 64, "dtype": "bfloat16"})");
  CHECK(config.plan == falcon_plan(8, 32));
  CHECK(config.shape.layer.norm_epsilon == 1e-5);
  CHECK(config.shape.layer.rope_base == 1e5);
  CHECK(config.max_positions == 8192);
  CHECK_FALSE(config.shape.tied_embeddings);
  const ModelConfig expanded = read(changed(changed(falcon, "\"mamba_d_ssm\": 1536", "\"mamba_d_ssm\": null"),
                                            "\"mamba_n_heads\": 24", "\"mamba_n_heads\": 32"));
  CHECK(expanded.plan == falcon_plan(2, 8));
}

TEST_CASE("config: what of Falcon-H1 cannot be a layer of KV groups is refused") {
  const auto falcon_error = [](const std::string& from, const std::string& to) {
    return error(changed(falcon, from, to));
  };
  CHECK(falcon_error("\"mamba_rms_norm\": false", "\"mamba_rms_norm\": true") ==
        "mamba_rms_norm: found true; supported: false");
  CHECK(falcon_error("\"mamba_conv_bias\": true", "\"mamba_conv_bias\": false") ==
        "mamba_conv_bias: found false; supported: true");
  CHECK(falcon_error("\"mamba_proj_bias\": false", "\"mamba_proj_bias\": true") ==
        "mamba_proj_bias: found true; supported: false");
  CHECK(falcon_error("\"projectors_bias\": false", "\"projectors_bias\": true") ==
        "projectors_bias: found true; supported: false");
  CHECK(falcon_error("\"attention_bias\": false", "\"attention_bias\": true") ==
        "attention_bias: found true; supported: false");
  CHECK(falcon_error("silu", "gelu") == "hidden_act: found \"gelu\"; supported: \"silu\"");
  // Widths as in Falcon-H1-1.5B, and numbers of heads that do not divide, as in 3B and 34B.
  CHECK(falcon_error("\"mamba_d_head\": 64", "\"mamba_d_head\": 32") ==
        "mamba_d_head: found 32; supported: the width of the attention heads, 64");
  CHECK(falcon_error("\"mamba_d_ssm\": 1536", "\"mamba_d_ssm\": 768") ==
        "mamba_d_ssm: found 768; supported: 1536, that is mamba_n_heads as wide as the attention heads");
  const std::string more = changed(changed(falcon, "\"mamba_n_heads\": 24", "\"mamba_n_heads\": 32"),
                                   "\"mamba_d_ssm\": 1536", "\"mamba_d_ssm\": 2048");
  CHECK(error(changed(more, "\"mamba_n_groups\": 1", "\"mamba_n_groups\": 16")) ==
        "mamba_n_heads: found 32 in 16 groups; supported: in each a multiple of 4, the attention heads that "
        "share a key/value head");
  CHECK(falcon_error("\"mamba_n_groups\": 1", "\"mamba_n_groups\": 5") ==
        "mamba_n_heads: found 24 in 5 groups; supported: in each a multiple of 4, the attention heads that "
        "share a key/value head");
  CHECK(falcon_error("0.0390625", "0") ==
        "lm_head_multiplier: expected a number from 1e-06 to 1e+06, found 0");
  CHECK(falcon_error("[0.8838834764831844, 0.5859375]", "[1, 2, 3]") ==
        "mlp_multipliers: found [1,2,3]; supported: 2 numbers");
  CHECK(falcon_error("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4096") == "no error");
  CHECK(error(changed(changed(changed(falcon, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4096"),
                              "\"mamba_n_heads\": 24", "\"mamba_n_heads\": 16384"),
                      "\"mamba_d_ssm\": 1536", "\"mamba_d_ssm\": 1048576")) ==
        "num_hidden_layers: found 4096 layers of 4098 KV groups; supported: at most 65536 KV groups in all");
}
