#include <cstdio>
#include <filesystem>

#include "commands.hpp"
#include "data_options.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/tokenizer_files.hpp"
#include "recurformer/core/fingerprint.hpp"
#include "recurformer/train/checkpointing.hpp"
#include "recurformer/train/memory.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct TrainCommandOptions : CommonOptions {
  std::string from, original, out;
  DataOptions data;
  bool recompute = false;
  rf::ModelShape shape{
      .vocabulary = 256,
      .layers = 4,
      .layer = {.d_model = 128, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 320},
      .tied_embeddings = true};
  std::int64_t steps = 1200, stage1_steps = 75, save_every = 100, accumulate = 1, warmup = 30;
  double rate = 2e-3, new_rate = 3e-3, stage1_rate = 4e-3, divergence_weight = 1.0, weight_decay = 0.1,
         clip = 1.0;
};

/// Of a model's sizes, plan and weights.
std::string fingerprint_of(Model& model) {
  rf::Fingerprint out;
  out.add(rf::model_text(model.weights()));
  for (const rf::ParameterRef& parameter : rf::parameter_refs(model.weights()))
    out.add({static_cast<const std::byte*>(parameter.data),
             static_cast<std::size_t>(parameter.size) * rf::size_of(parameter.dtype)});
  return out.hex();
}

std::string fingerprint_of(const rf::TokenText& text) {
  rf::Fingerprint out;
  out.add(text.train().bytes());
  out.add(text.held_out().bytes());
  return out.hex();
}

/// Everything the run's weights depend on. Files count by their content: other text or another conversion at
/// the same path is another run. Threads and --recompute are not part of it: results do not depend on them.
std::string describe(const TrainCommandOptions& o, const rf::TokenText& text, Model& start, Model* original) {
  return rf::text(
      "steps=", o.steps, " stage1_steps=", o.stage1_steps, " rows=", o.data.rows, " length=", o.data.length,
      " copy_rows=", o.data.copy_rows, " copy_lag=", o.data.copy_lag, " accumulate=", o.accumulate,
      " warmup=", o.warmup, " rate=", o.rate, " new_rate=", o.new_rate, " stage1_rate=", o.stage1_rate,
      " divergence_weight=", o.divergence_weight, " weight_decay=", o.weight_decay, " clip=", o.clip,
      " seed=", o.seed, " text=", fingerprint_of(text), " start=", fingerprint_of(start),
      " original=", original ? fingerprint_of(*original) : "none",
      " model: ", rf::model_text(start.weights()));
}

/// A part of the run with a trainer of its own.
struct Stage {
  const char* label;   ///< in messages
  const char* result;  ///< in --json
  rf::TrainOptions options;
  rf::MixedData data;
  SavedRun saved;
};

bool has_own_parameters(const Model& model) {
  const auto own = rf::kinds_with_own_parameters(Model::Kinds{});
  for (const auto& layer : model.plan().kind_of_group)
    for (const int kind : layer)
      if (own[static_cast<std::size_t>(kind)]) return true;
  return false;
}

/// The config of the model to train.
rf::ModelConfig start_config(const TrainCommandOptions& options) {
  if (!options.from.empty()) return rf::read_model_config(options.from);
  rf::ModelConfig config = byte_config();
  config.shape = options.shape;
  config.plan =
      rf::uniform_plan({"attention", "fp32", {}}, options.shape.layers, options.shape.layer.kv_groups);
  return config;
}

rf::Activations activations_of(const TrainCommandOptions& options) {
  return options.recompute ? rf::Activations::recomputed : rf::Activations::kept;
}

/// States what the run takes in memory, or throws if the machine has less.
std::string check_training_memory(const TrainCommandOptions& options, const rf::ModelConfig& config) {
  rf::validate(config.shape);
  std::optional<rf::BoundPlan<Model::Kinds>> teacher;
  if (!options.original.empty()) teacher = program_plan(rf::read_model_config(options.original));
  const rf::TrainingMemory memory =
      rf::training_memory<Model>(config.shape, program_plan(config), options.data.rows, options.data.length,
                                 teacher ? &*teacher : nullptr, activations_of(options));
  std::string out = "memory: " + check_memory("training", memory.total()) + ": weights " +
                    bytes_text(memory.weights) + ", gradients " + bytes_text(memory.gradients) +
                    ", optimizer " + bytes_text(memory.optimizer) + ", activations " +
                    bytes_text(memory.activations);
  if (teacher) out += ", original " + bytes_text(memory.teacher);
  return out;
}

void train_command(const TrainCommandOptions& options) {
  const bool is_new = options.from.empty();
  const rf::ModelConfig config = start_config(options);
  const std::string memory = check_training_memory(options, config);
  const TextCodec codec = is_new ? TextCodec() : TextCodec(options.from, config);
  const rf::TokenText text = options.data.read(codec);
  Model model = is_new ? Model(config.shape, program_plan(config)) : load(options.from);
  if (is_new) rf::initialise(model.weights(), options.seed);
  std::optional<Model> original;
  if (!options.original.empty()) original.emplace(load(options.original));
  Model* teacher = original ? &*original : nullptr;

  // Every stage draws batches of its own: training on must not repeat what the original was trained on.
  const auto data = [&](std::uint64_t stage) {
    return options.data.mixed(text, rf::Random::stream(options.seed, stage).bits());
  };
  const std::string run = describe(options, text, model, teacher);
  const auto saved = [&](const std::string& name) {
    return SavedRun{.path = options.out + "/" + name + ".safetensors",
                    .run = name + " " + run,
                    .every = options.save_every};
  };
  const rf::TrainOptions train_options{.steps = options.steps,
                                       .rate = options.rate,
                                       .new_rate = options.new_rate,
                                       .warmup = options.warmup,
                                       .divergence_weight = original ? options.divergence_weight : 0.0,
                                       .accumulate = options.accumulate,
                                       .activations = activations_of(options),
                                       .adamw = {.weight_decay = options.weight_decay, .clip = options.clip}};
  std::vector<Stage> stages;
  if (original && options.stage1_steps > 0 && has_own_parameters(model)) {
    rf::TrainOptions matching = train_options;
    matching.objective = rf::Objective::match_heads;
    matching.steps = options.stage1_steps;
    matching.new_rate = options.stage1_rate;
    stages.push_back({"stage 1", "stage1", matching, data(1), saved("stage1")});
  }
  stages.push_back({"train", "train", train_options, data(is_new ? 0 : 2), saved("training")});
  for (const Stage& stage : stages)
    if (std::filesystem::exists(stage.saved.path))
      rf::check_training_state(stage.saved.run, stage.saved.path);

  nlohmann::json results;
  for (const Stage& stage : stages) {
    rf::Trainer<Model> trainer(model, stage.options, teacher);
    if (&stage == &stages.front()) {  // every input is there and fits
      use_cpu(options);
      std::printf("%s\n", memory.c_str());
      std::printf("%lld parameters, %lld training tokens, %lld held out\n",
                  static_cast<long long>(parameter_count(model)), static_cast<long long>(text.train().size()),
                  static_cast<long long>(text.held_out().size()));
      std::filesystem::create_directories(options.out);
    }
    for (const LossPoint& point : train(trainer, stage.data, stage.label, stage.saved))
      results[stage.result].push_back({point.tokens, point.loss});
  }
  save(model, options.out, config);
  if (!is_new) rf::copy_tokenizer_files(options.from, options.out);
  const Quality quality =
      evaluate(model, text, options.data.length, options.data.copy_lag, options.seed, 256, 64);
  std::printf("%s, copy recall %.4f\nwrote %s\n", score_text(quality.text, text, codec, results).c_str(),
              quality.copy_recall, options.out.c_str());
  results["copy_recall"] = quality.copy_recall;
  write_results(options, results);
}

}  // namespace

void add_train(CLI::App& program) {
  auto options = std::make_shared<TrainCommandOptions>();
  auto* command = program.add_subcommand(
      "train", "Train a model, or continue training a converted one; resumes by itself");
  command->footer(
      "Examples: recurformer train --text book.txt --out runs/original\n"
      "          recurformer train --from runs/converted --original runs/original --text book.txt --steps "
      "300 --rate 1e-3 --out runs/hybrid");
  command
      ->add_option("--out", options->out, "Folder for the model and for the state a killed run resumes from")
      ->required();
  command->add_option("--from", options->from, "Model folder to start from; without it a new model is made");
  command
      ->add_option("--original", options->original,
                   "Original model: head matching first, then KL to it beside cross entropy")
      ->needs("--from");
  add_data_options(*command, options->data);
  auto& layer = options->shape.layer;
  auto* sizes = command->add_option_group("sizes", "Of a new model");
  sizes->add_option("--layers", options->shape.layers)->check(CLI::PositiveNumber)->capture_default_str();
  sizes->add_option("--d-model", layer.d_model)->check(CLI::PositiveNumber)->capture_default_str();
  sizes->add_option("--d-head", layer.d_head)->check(CLI::PositiveNumber)->capture_default_str();
  sizes->add_option("--kv-groups", layer.kv_groups)->check(CLI::PositiveNumber)->capture_default_str();
  sizes->add_option("--queries-per-group", layer.queries_per_group)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sizes->add_option("--d-ff", layer.d_ff)->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--steps", options->steps, "Steps of training")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--stage1-steps", options->stage1_steps, "Steps of head matching before, with --original")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--accumulate", options->accumulate, "Batches per step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--rate", options->rate, "Peak learning rate")->capture_default_str();
  command->add_option("--new-rate", options->new_rate, "Peak learning rate of replaced heads")
      ->capture_default_str();
  command->add_option("--stage1-rate", options->stage1_rate, "Peak learning rate of head matching")
      ->capture_default_str();
  command->add_option("--warmup", options->warmup, "Steps of warm-up")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--kl", options->divergence_weight, "Weight of KL to the original")
      ->capture_default_str();
  command->add_option("--weight-decay", options->weight_decay, "Of matrices")->capture_default_str();
  command->add_option("--clip", options->clip, "Largest gradient norm; 0: off")->capture_default_str();
  command->add_flag("--recompute", options->recompute,
                    "Compute activations again for backward instead of keeping them: less memory, more time, "
                    "the same result");
  command->add_option("--save-every", options->save_every, "Steps between saves of the training state")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_common_options(*command, *options);
  command->callback([options] { train_command(*options); });
}

}  // namespace cli
