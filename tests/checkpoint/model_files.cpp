#include "recurformer/checkpoint/model_files.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace {

using rf::DType;
using rf::FileTensor;
using rf::SafetensorsFile;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

// Runs of one layer share tensors (attention, streaming) in different precisions, and have tensors of their
// own.
using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::StreamingAttention<>, rf::Bf16>,
                        rf::Kind<rf::Mamba<>, rf::Fp16>>;
struct Spec {
  using Kinds = ::Kinds;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};
using Model = rf::Model<Spec>;

/// What a bf16 checkpoint is loaded into to be packed as integers.
struct Int8Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Int8>>;
  using Precision = rf::Int8Weights;
};

struct NarrowSpec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Bf16>>;
  using Precision = rf::Fp16;
};

const rf::ModelShape shape{
    .vocabulary = 7,
    .layers = 2,
    .layer = {.d_model = 20, .d_head = 16, .kv_groups = 3, .queries_per_group = 2, .d_ff = 12},
    .tied_embeddings = false};
const rf::Plan mixed{.kinds = {{"attention", "fp32", {}},
                               {"streaming", "bf16", {{"sink", 1}, {"window", 5}}},
                               {"mamba", "fp16", {}}},
                     .kind_of_group = {{1, 0, 2}, {2, 1, 2}}};

rf::Plan attention(const std::string& precision) {
  return rf::uniform_plan({"attention", precision, {}}, shape.layers, shape.layer.kv_groups);
}

/// A model with fresh weights.
template <class M = Model>
M made(const rf::Plan& plan, const rf::ModelShape& of_shape = shape) {
  M model(of_shape, plan);
  rf::initialise(model.weights(), 3);
  return model;
}

template <class M>
void save(M& model, const std::string& folder) {
  rf::save_model(model.weights(), rf::model_config(model), folder);
}

/// All parameters, as bytes.
template <class M>
std::string parameter_bytes(M& model) {
  std::string out;
  for (const rf::ParameterRef& ref : rf::parameter_refs(model.weights()))
    out.append(static_cast<const char*>(ref.data),
               static_cast<std::size_t>(ref.size) * rf::size_of(ref.dtype));
  return out;
}

/// Values of a floating-point tensor of a file.
std::vector<float> values(const SafetensorsFile& file, const std::string& name) {
  const auto& tensor = file.tensor(name);
  std::vector<float> out(tensor.bytes.size() / rf::size_of(tensor.dtype));
  rf::read_tensor(file, name, tensor.shape, out.data());
  return out;
}

/// A plain F32 weights file of an attention model in which element i of the n-th tensor is n + i / 1024,
/// changed by `change` before it is written.
struct Written {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};
void write_weights(const std::string& folder, const rf::ModelShape& of_shape = shape,
                   const std::function<void(std::map<std::string, Written>&)>& change = {}) {
  Model model(of_shape, attention("fp32"));
  std::map<std::string, Written> all;
  for (const FileTensor& tensor : rf::file_tensors(model.weights())) {
    Written& one = all[tensor.name];
    one.shape = tensor.shape;
    std::int64_t size = 1;
    for (const std::int64_t n : tensor.shape) size *= n;
    for (std::int64_t i = 0; i < size; ++i)
      one.values.push_back(static_cast<float>(all.size()) + static_cast<float>(i) / 1024);
  }
  if (change) change(all);
  rf::SafetensorsWriter writer;
  for (const auto& [name, one] : all) writer.add(name, one.shape, one.values.data());
  writer.write(folder + "/model.safetensors");
}

}  // namespace

TEST_CASE("model files: a mixed model comes back bit for bit, and is written the same again") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    rf::ModelShape of_shape = shape;
    of_shape.tied_embeddings = tied;
    const TemporaryFolder folder;
    Model model = made(mixed, of_shape);
    save(model, folder / "nested/a");
    Model loaded = rf::load_model<Model>(folder / "nested/a");
    CHECK(loaded.shape() == of_shape);
    CHECK(loaded.named_plan() == model.named_plan());
    CHECK((parameter_bytes(loaded) == parameter_bytes(model)));
    save(loaded, folder / "b");
    for (const std::string file : {"/model.safetensors", "/config.json"})
      CHECK((rf::read_text_file(folder / "nested/a" + file) == rf::read_text_file(folder / "b" + file)));
  }
}

TEST_CASE("model files: a new model uses matrices where they are in the file, and leaves the file as it is") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  save(model, folder / "m");
  const std::string path = folder / "m/model.safetensors", before = rf::read_text_file(path);
  const auto mapped = [&](const rf::ModelTensors& file) {
    Model out(shape, mixed);
    rf::map_weights(out.weights(), file);
    CHECK((parameter_bytes(out) == parameter_bytes(model)));
    return out;
  };
  const auto is_in_place = [](const auto& matrix, const rf::ModelTensors& file, const std::string& name) {
    return static_cast<const void*>(matrix.data()) == static_cast<const void*>(file.find(name)->bytes.data());
  };
  Model loaded = [&] {
    const rf::ModelTensors file(folder / "m");
    Model out = mapped(file);
    CHECK(is_in_place(out.weights().embedding, file, "model.embed_tokens.weight"));
    CHECK(is_in_place(out.weights().head, file, "lm_head.weight"));
    CHECK(is_in_place(out.weights().layers[1].output, file, "model.layers.1.self_attn.o_proj.weight"));
    CHECK(is_in_place(out.weights().layers[1].gate_up, file, "model.layers.1.mlp.gate_proj.weight"));
    CHECK(is_in_place(out.weights().layers[1].down, file, "model.layers.1.mlp.down_proj.weight"));
    return out;
  }();
  // The file is closed; its memory lives on in the model, whose changes are its own.
  for (const rf::ParameterRef& ref : rf::parameter_refs(loaded.weights()))
    rf::with_elements(ref.dtype, ref.data, [&](auto* elements) { elements[ref.size - 1] = {}; });
  CHECK((rf::read_text_file(path) == before));
  CHECK((parameter_bytes(loaded) != parameter_bytes(model)));
  save(loaded, folder / "m");  // over the file that it is mapped from
  Model again = rf::load_model<Model>(folder / "m");
  CHECK((parameter_bytes(again) == parameter_bytes(loaded)));

  // An odd header leaves no element aligned, and another type has other elements: both are copied.
  std::string odd = before;
  std::uint64_t length = 0;
  std::memcpy(&length, odd.data(), sizeof length);
  odd.insert(8 + length, " ");
  length += 1;
  std::memcpy(odd.data(), &length, sizeof length);
  rf::write_file_atomically(path, odd);
  const rf::ModelTensors file(folder / "m");
  CHECK(!is_in_place(mapped(file).weights().embedding, file, "model.embed_tokens.weight"));
  auto narrow = made<rf::Model<NarrowSpec>>(attention("bf16"));
  save(narrow, folder / "narrow");
  const rf::ModelTensors narrow_file(folder / "narrow");
  Model converted(shape, attention("fp32"));
  rf::map_weights(converted.weights(), narrow_file);
  CHECK(!is_in_place(converted.weights().embedding, narrow_file, "model.embed_tokens.weight"));
}

TEST_CASE("model files: a matrix whose halves are apart, or in two files, is copied") {
  const TemporaryFolder folder;
  Model model = made(attention("fp32"));
  save(model, folder / "whole");
  const rf::SafetensorsFile whole(folder / "whole/model.safetensors");
  const auto write = [&](const std::string& name, auto&& has) {
    rf::SafetensorsWriter writer;
    for (const rf::TensorEntry& tensor : whole.tensors())
      if (has(tensor.name)) writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
    writer.write(folder / name);
  };
  const auto is_up = [](const std::string& name) { return name.find("up_proj") != name.npos; };
  write("a.safetensors", [&](const std::string& name) { return !is_up(name); });
  write("b.safetensors", is_up);
  nlohmann::json map;
  for (const rf::TensorEntry& tensor : whole.tensors())
    map[tensor.name] = is_up(tensor.name) ? "b.safetensors" : "a.safetensors";
  rf::write_file_atomically(folder / "model.safetensors.index.json",
                            nlohmann::json({{"weight_map", map}}).dump());
  const rf::ModelTensors file(folder.path().string());
  Model loaded(shape, attention("fp32"));
  rf::map_weights(loaded.weights(), file);
  CHECK((parameter_bytes(loaded) == parameter_bytes(model)));
  const void* const gate = file.find("model.layers.0.mlp.gate_proj.weight")->bytes.data();
  CHECK(static_cast<const void*>(loaded.weights().layers[0].gate_up.data()) != gate);
}

TEST_CASE("model files: tensors are Llama's, in the order of groups, in the type they have in memory") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  save(model, folder / "m");
  const SafetensorsFile file(folder / "m/model.safetensors");
  CHECK(file.metadata().at("format") == "pt");
  const auto is = [&](const std::string& name, DType dtype, std::vector<std::int64_t> size) {
    INFO(name);
    REQUIRE(file.contains(name));
    CHECK(file.tensor(name).dtype == dtype);
    CHECK(file.tensor(name).shape == size);
  };
  is("model.embed_tokens.weight", DType::F32, {7, 20});
  is("lm_head.weight", DType::F32, {7, 20});
  is("model.norm.weight", DType::F32, {20});
  is("model.layers.0.input_layernorm.weight", DType::F32, {20});
  is("model.layers.0.mlp.gate_proj.weight", DType::F32, {12, 20});
  is("model.layers.0.mlp.down_proj.weight", DType::F32, {20, 12});
  is("model.layers.1.self_attn.o_proj.weight", DType::F32, {20, 96});
  // Layer 0 has one group in bf16 and one in fp32, layer 1 one in bf16.
  is("model.layers.0.self_attn.q_proj.weight", DType::F32, {64, 20});
  is("model.layers.0.self_attn.k_proj.weight", DType::F32, {32, 20});
  is("model.layers.1.self_attn.q_proj.weight", DType::BF16, {32, 20});
  is("model.layers.0.mamba.in_proj_x.weight", DType::F16, {32, 20});
  is("model.layers.1.mamba.in_proj_x.weight", DType::F16, {64, 20});
  is("model.layers.1.mamba.A_log", DType::F32, {64, 16});
}

TEST_CASE("model files: every group gets its rows of a pretrained tensor") {
  const TemporaryFolder folder;
  write_weights(folder.path().string());
  const rf::Plan plan{.kinds = mixed.kinds, .kind_of_group = {{1, 0, 1}, {0, 0, 0}}};
  Model model(shape, plan);
  rf::load_weights(model.weights(), folder.path().string());
  const SafetensorsFile file(folder / "model.safetensors");
  const auto q = values(file, "model.layers.0.self_attn.q_proj.weight");
  const auto k = values(file, "model.layers.0.self_attn.k_proj.weight");
  const auto v = values(file, "model.layers.0.self_attn.v_proj.weight");
  model.weights().layers[0].for_each_run([&](std::size_t, auto& run) {
    for (std::size_t g = 0; g < run.groups.size(); ++g) {
      using T = std::remove_cvref_t<decltype(*run.projection.data())>;
      const auto group = static_cast<std::size_t>(run.groups[g]);
      const T* row = run.projection.data() + g * 64 * 20;  // 2 · 16 rows of q, 16 of k, 16 of v
      bool equal = true;
      for (std::size_t i = 0; i < 32 * 20; ++i) equal &= row[i] == T(q[group * 32 * 20 + i]);
      for (std::size_t i = 0; i < 16 * 20; ++i) equal &= row[32 * 20 + i] == T(k[group * 16 * 20 + i]);
      for (std::size_t i = 0; i < 16 * 20; ++i) equal &= row[48 * 20 + i] == T(v[group * 16 * 20 + i]);
      INFO("group ", group);
      CHECK(equal);
    }
  });
  const auto up = values(file, "model.layers.1.mlp.up_proj.weight");
  CHECK(std::memcmp(model.weights().layers[1].gate_up.row(12), up.data(), up.size() * sizeof(float)) == 0);
}

TEST_CASE("model files: weights convert between the types, rounding once") {
  const TemporaryFolder folder;
  Model model = made(attention("fp32"));
  save(model, folder / "wide");
  rf::Model<NarrowSpec> narrow(shape, attention("bf16"));
  rf::load_weights(narrow.weights(), folder / "wide");
  const auto from = rf::parameter_refs(model.weights()), to = rf::parameter_refs(narrow.weights());
  REQUIRE(from.size() == to.size());
  int types[3] = {};
  for (std::size_t i = 0; i < from.size(); ++i) {
    INFO(to[i].name);
    bool equal = true;
    for (std::int64_t k = 0; k < from[i].size; ++k) {
      const float exact = static_cast<const float*>(from[i].data)[k];
      if (to[i].dtype == DType::F32) equal &= static_cast<const float*>(to[i].data)[k] == exact;
      if (to[i].dtype == DType::BF16)
        equal &= static_cast<const rf::bf16*>(to[i].data)[k].bits == rf::bf16(exact).bits;
      if (to[i].dtype == DType::F16)
        equal &= static_cast<const rf::fp16*>(to[i].data)[k].bits == rf::fp16(exact).bits;
    }
    CHECK(equal);
    ++types[to[i].dtype == DType::F32 ? 0 : to[i].dtype == DType::BF16 ? 1 : 2];
  }
  CHECK(types[0] == 5);  // norms
  CHECK(types[1] == 2);  // fused projections
  CHECK(types[2] == 8);

  save(narrow, folder / "narrow");
  const SafetensorsFile file(folder / "narrow/model.safetensors");
  CHECK(file.tensor("lm_head.weight").dtype == DType::F16);
  CHECK(file.tensor("model.norm.weight").dtype == DType::F32);
  CHECK(file.tensor("model.layers.0.self_attn.q_proj.weight").dtype == DType::BF16);
  auto again = rf::load_model<rf::Model<NarrowSpec>>(folder / "narrow");
  CHECK((parameter_bytes(again) == parameter_bytes(narrow)));
  rf::load_weights(model.weights(), folder / "narrow");
  CHECK(model.weights().embedding.data()[5] == float(narrow.weights().embedding.data()[5]));
}

TEST_CASE("model files: what is missing, unknown or of another shape is named; nothing is loaded then") {
  const TemporaryFolder folder;
  Model model = made(attention("fp32"));
  const std::string before = parameter_bytes(model);
  const auto error = [&](const std::function<void(std::map<std::string, Written>&)>& change) {
    write_weights(folder.path().string(), shape, change);
    const std::string message =
        message_of<rf::FileError>([&] { rf::load_weights(model.weights(), folder.path().string()); });
    CHECK((parameter_bytes(model) == before));
    CHECK(message.starts_with(folder / "model.safetensors: "));
    return message;
  };
  CHECK(contains(error([](auto& all) { all.erase("model.norm.weight"); }),
                 "lacks 1 of the 21 tensors that the model asks for: 'model.norm.weight'"));
  CHECK(contains(error([](auto& all) {
                   all["norm.weight"] = all["model.norm.weight"];
                   all.erase("model.norm.weight");
                 }),
                 "'model.norm.weight'; it has, beyond what is expected, 'norm.weight'"));
  CHECK(contains(error([](auto& all) {
                   all["model.layers.2.x"] = {{1}, {0}};
                 }),
                 "has 1 tensors that the model does not have: 'model.layers.2.x'"));
  CHECK(contains(error([](auto& all) {
                   all["model.layers.0.self_attn.k_proj.weight"].shape = {24, 40};
                 }),
                 "tensor 'model.layers.0.self_attn.k_proj.weight' has shape " +
                     rf::shape_text(std::vector<std::int64_t>{24, 40}) + "; expected " +
                     rf::shape_text(std::vector<std::int64_t>{48, 20})));
  CHECK(contains(error([](auto& all) {
                   for (int i = 0; i < 10; ++i) all[rf::text("x", i)] = {{1}, {0}};
                 }),
                 "'x0', 'x1', 'x2', 'x3', 'x4', 'x5', 'x6', 'x7' and 2 more"));

  rf::SafetensorsWriter writer;
  std::vector<double> norm(20);
  const SafetensorsFile whole(folder / "model.safetensors");
  for (const auto& tensor : whole.tensors())
    if (tensor.name == "model.norm.weight")
      writer.add(tensor.name, {20}, norm.data());
    else if (!tensor.name.starts_with("x"))
      writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
  std::filesystem::create_directory(folder / "f64");
  writer.write(folder / "f64/model.safetensors");
  CHECK(contains(message_of<rf::FileError>([&] { rf::load_weights(model.weights(), folder / "f64"); }),
                 "tensor 'model.norm.weight' has dtype F64; expected F32, BF16 or F16"));

  std::filesystem::remove(folder / "model.safetensors");
  CHECK(
      contains(message_of<rf::FileError>([&] { rf::load_weights(model.weights(), folder.path().string()); }),
               "model.safetensors: cannot be opened"));
}

TEST_CASE("model files: a model in several files") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  save(model, folder / "whole");
  const rf::SafetensorsFile whole(folder / "whole/model.safetensors");
  nlohmann::json map = nlohmann::json::object();
  const auto put_shard = [&](const std::string& name, auto&& has) {
    rf::SafetensorsWriter writer;
    for (const rf::TensorEntry& tensor : whole.tensors())
      if (has(tensor.name)) {
        writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
        map[tensor.name] = name;
      }
    writer.write(folder / name);
  };
  const auto put_index = [&](const nlohmann::json& weight_map) {
    rf::write_file_atomically(folder / "model.safetensors.index.json",
                              nlohmann::json({{"weight_map", weight_map}}).dump());
  };
  const auto in_first = [](const std::string& name) { return name.find("layers.0") == name.npos; };
  put_shard("a.safetensors", in_first);
  put_shard("b.safetensors", [&](const std::string& name) { return !in_first(name); });
  put_index(map);
  Model loaded(shape, mixed);
  rf::load_weights(loaded.weights(), folder.path().string());
  save(loaded, folder / "again");
  CHECK(rf::read_text_file(folder / "again/model.safetensors") ==
        rf::read_text_file(folder / "whole/model.safetensors"));

  const auto index_error = [&](const nlohmann::json& weight_map) {
    put_index(weight_map);
    return message_of<rf::FileError>([&] { rf::load_weights(loaded.weights(), folder.path().string()); });
  };
  nlohmann::json wrong = map;
  wrong["model.norm.weight"] = "../a.safetensors";
  CHECK(contains(index_error(wrong), "expected the name of a .safetensors file beside it"));
  wrong["model.norm.weight"] = "a\n.safetensors";
  CHECK(contains(index_error(wrong), "found 'a\\x0a.safetensors'; expected the name of a .safetensors file"));
  wrong["model.norm.weight"] = "b.safetensors";
  CHECK(contains(index_error(wrong), "b.safetensors: lacks tensor 'model.norm.weight', which "));
  wrong = map;
  wrong.erase("model.norm.weight");
  CHECK(contains(index_error(wrong), "a.safetensors: has tensor 'model.norm.weight', which "));
  wrong["model.norm.weight"] = "c.safetensors";
  CHECK(contains(index_error(wrong), "c.safetensors: cannot be opened"));
  CHECK(contains(index_error(nlohmann::json::object()), "its weight_map names no tensors"));
  wrong = map;
  put_shard("a.safetensors",
            [&](const std::string& name) { return in_first(name) && name != "model.norm.weight"; });
  wrong.erase("model.norm.weight");
  CHECK(contains(index_error(wrong), "index.json: lacks 1 of the "));
}

TEST_CASE(
    "model files: a config of sizes that its weights cannot have is refused before they are allocated") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  std::int64_t parameters = 0;
  for (const rf::ParameterRef& ref : rf::parameter_refs(model.weights())) parameters += ref.size;
  CHECK(rf::parameter_count(shape, rf::bind_plan<Kinds>(mixed)) == parameters);
  rf::ModelShape with_norms = shape;
  with_norms.layer.qk_norm = true;
  CHECK(rf::parameter_count(with_norms, rf::bind_plan<Kinds>(mixed)) == parameters + 2 * 2 * 16);

  save(model, folder / "m");
  std::string config = rf::read_text_file(folder / "m/config.json");
  const std::string size = "\"vocab_size\": 7";
  config.replace(config.find(size), size.size(), "\"vocab_size\": 16777216");
  rf::write_file_atomically(folder / "m/config.json", config);
  const std::string message = message_of<rf::FileError>([&] { rf::load_model<Model>(folder / "m"); });
  CHECK(contains(message, "m/model.safetensors: has "));
  CHECK(contains(message, " bytes of tensors; the config asks for a model of "));
}

TEST_CASE("model files: weights of another plan than the config's are refused, not misread") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  rf::Plan moved = mixed, widened = mixed;
  moved.kind_of_group[1] = {2, 2, 1};  // tensors of the same names and shapes
  widened.kinds[1].options = {{"sink", 1}, {"window", 6}};
  rf::ModelShape turned = shape;
  turned.layer.rope_base = 500.0;
  const auto put_config_of = [&](Model& other) {
    save(other, folder / "m");
    const std::string config = rf::read_text_file(folder / "m/config.json");
    save(model, folder / "m");
    rf::write_file_atomically(folder / "m/config.json", config);
  };

  // What a save that was killed between its two files leaves behind.
  Model older = made(moved);
  put_config_of(older);
  const std::string before = parameter_bytes(older);
  const std::string message =
      message_of<rf::FileError>([&] { rf::load_weights(older.weights(), folder / "m"); });
  CHECK(message.starts_with(folder / "m/model.safetensors: was saved with another config.json"));
  CHECK(contains(message, "[mamba streaming mamba]; the config asks for "));
  CHECK((parameter_bytes(older) == before));
  CHECK_THROWS_AS(rf::load_model<Model>(folder / "m"), rf::FileError);

  // A config may be edited by hand where it does not say what tensors are.
  for (Model& edited : std::array{made(widened), made(mixed, turned)}) {
    put_config_of(edited);
    Model loaded = rf::load_model<Model>(folder / "m");
    CHECK((parameter_bytes(loaded) == parameter_bytes(model)));
  }
}

TEST_CASE("model files: buffers that transformers saves at times are ignored") {
  const TemporaryFolder folder;
  const auto add_buffers = [](auto& all) {
    all["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{8}, std::vector<float>(8)};
    all["lm_head.weight"] = all["model.embed_tokens.weight"];
  };
  rf::ModelShape tied = shape;
  tied.tied_embeddings = true;
  write_weights(folder.path().string(), tied, add_buffers);
  Model model(tied, attention("fp32"));
  rf::load_weights(model.weights(), folder.path().string());
  CHECK(model.weights().embedding.data()[1] == doctest::Approx(1 + 1.0 / 1024));
}

TEST_CASE("model files: a config that is not that of the weights is not written") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  const auto error = [&](const std::function<void(rf::ModelConfig&)>& change) {
    rf::ModelConfig config = rf::model_config(model);
    change(config);
    return message_of<rf::ArgumentError>([&] { rf::save_model(model.weights(), config, folder / "m"); });
  };
  CHECK(contains(error([](auto& config) { config.shape.vocabulary = 8; }), "sizes are not those"));
  CHECK(contains(error([](auto& config) { config.dtype = DType::BF16; }),
                 "dtype is BF16; the weights are F32"));
  CHECK(contains(error([](auto& config) {
                   config.plan.kind_of_group[1] = {2, 2, 2};
                 }),
                 "KV group 1 of layer 1 is mamba:fp16, not streaming:bf16"));
  CHECK(contains(error([](auto& config) {
                   config.plan.kinds[1].options = {{"window", 6}};
                 }),
                 "the options of streaming:bf16 are others"));
  CHECK(contains(error([](auto& config) { config.plan.kinds[1].mixer = "rwkv"; }), "rwkv:bf16"));
  CHECK(!std::filesystem::exists(folder / "m"));

  rf::write_file_atomically(folder / "m", "a file");
  CHECK(contains(message_of<rf::FileError>([&] { save(model, folder / "m"); }), "cannot be made a folder"));
  model.weights().layers[0].output.pack();
  CHECK(contains(message_of<rf::ArgumentError>([&] { save(model, folder / "n"); }), "packed for inference"));
}

TEST_CASE("model files: heads in another precision than the config's, by its name") {
  const TemporaryFolder folder;
  auto narrow = made<rf::Model<NarrowSpec>>(attention("bf16"));
  save(narrow, folder / "m");
  auto loaded = rf::load_model<rf::Model<Int8Spec>>(folder / "m", rf::Int8::name);
  CHECK(loaded.named_plan().kinds[0].name() == "attention:int8");
  const auto& projection = std::get<0>(loaded.weights().layers[1].runs).projection;
  CHECK(projection.data()[7].bits == std::get<0>(narrow.weights().layers[1].runs).projection.data()[7].bits);
  CHECK(loaded.weights().layers[0].down.data()[3] ==
        rf::bf16(float(narrow.weights().layers[0].down.data()[3])));

  save(loaded, folder / "n");  // in bf16, and for programs that have int8 kinds
  auto again = rf::load_model<rf::Model<Int8Spec>>(folder / "n");
  CHECK((parameter_bytes(again) == parameter_bytes(loaded)));
  CHECK(SafetensorsFile(folder / "n/model.safetensors").tensor("lm_head.weight").dtype == DType::BF16);
  loaded.pack();
  CHECK(contains(message_of<rf::ArgumentError>([&] { save(loaded, folder / "o"); }), "packed for inference"));
}

TEST_CASE("model files: a plan that the program has no kernels for") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  save(model, folder / "m");
  const std::string message =
      message_of<rf::FileError>([&] { rf::load_model<rf::Model<NarrowSpec>>(folder / "m"); });
  CHECK(message.starts_with(folder / "m/config.json: "));
  CHECK(contains(message, "no kernels for \"attention:fp32\"; it has attention:bf16"));
}

namespace {

constexpr rf::LayerShape static_shape{
    .d_model = 20, .d_head = 16, .kv_groups = 3, .queries_per_group = 2, .d_ff = 12};
struct Layer0 {
  static constexpr rf::LayerShape shape = static_shape;
  using Precision = rf::Fp32;
  using Runs =
      rf::Runs<rf::Run<1, rf::Attention<>, rf::Fp32>,
               rf::Run<1, rf::StreamingAttention<rf::StreamingWindow{.sink = 1, .window = 5}>, rf::Bf16>,
               rf::Run<1, rf::Mamba<>, rf::Fp16>>;
  static constexpr std::array order{1, 0, 2};
};
struct Layer1 {
  static constexpr rf::LayerShape shape = static_shape;
  using Precision = rf::Fp32;
  using Runs =
      rf::Runs<rf::Run<2, rf::Mamba<>, rf::Fp16>,
               rf::Run<1, rf::StreamingAttention<rf::StreamingWindow{.sink = 1, .window = 5}>, rf::Bf16>>;
  static constexpr std::array order{0, 2, 1};
};
template <class... L>
struct StaticSpec {
  static constexpr rf::ModelShape shape{
      .vocabulary = 7, .layers = 2, .layer = static_shape, .tied_embeddings = false};
  using Layers = rf::Layers<L...>;
};

}  // namespace

TEST_CASE("model files: a model that was compiled for one plan loads that plan only") {
  const TemporaryFolder folder;
  Model model = made(mixed);
  save(model, folder / "m");
  using Static = rf::Model<StaticSpec<Layer0, Layer1>>;
  Static loaded = rf::load_model<Static>(folder / "m");
  save(loaded, folder / "again");
  CHECK((rf::read_text_file(folder / "again/model.safetensors") ==
         rf::read_text_file(folder / "m/model.safetensors")));

  const auto error = [&]<class M>(M*) {
    return message_of<rf::FileError>([&] { rf::load_model<M>(folder / "m"); });
  };
  CHECK(contains(error(static_cast<rf::Model<StaticSpec<Layer0, Layer0>>*>(nullptr)),
                 "KV group 1 of layer 1 is streaming:bf16, not attention:fp32"));
  CHECK(contains(error(static_cast<rf::Model<StaticSpec<Layer0>>*>(nullptr)),
                 "the sizes are not those this program was compiled for"));
  rf::Plan other_window = mixed;
  other_window.kinds[1].options = {{"sink", 1}, {"window", 6}};
  Model other = made(other_window);
  save(other, folder / "m");
  CHECK(contains(error(static_cast<Static*>(nullptr)), "the options of streaming:bf16 are others"));
}
