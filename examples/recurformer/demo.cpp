// The whole method on real text: train a Transformer, find its recency-aware heads, replace them, train on,
// compare.

#include <cstdio>
#include <filesystem>

#include "commands.hpp"
#include "data_options.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/core/instruction_set.hpp"
#include "recurformer/plan/analysis_file.hpp"
#include "report.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct DemoOptions : CommonOptions {
  std::string out = "runs/demo";
  DataOptions data;
  bool quick = false, all_arms = false;
};

/// How much of everything: fixed token counts, so that runs compare.
struct DemoSizes {
  std::int64_t original_steps, arm_steps, stage1_steps, analysis_batches, text_rows, copy_rows, speed_context,
      decoded_tokens;
  std::vector<std::int64_t> contexts;
};

DemoSizes sizes(bool quick) {
  if (quick)
    return {.original_steps = 300,
            .arm_steps = 90,
            .stage1_steps = 20,
            .analysis_batches = 8,
            .text_rows = 64,
            .copy_rows = 32,
            .speed_context = 8192,
            .decoded_tokens = 64,
            .contexts = {1024, 4096, 8192}};
  return {.original_steps = 1220,
          .arm_steps = 366,
          .stage1_steps = 75,
          .analysis_batches = 16,
          .text_rows = 512,
          .copy_rows = 64,
          .speed_context = 8192,
          .decoded_tokens = 256,
          .contexts = {1024, 2048, 4096, 8192, 16384, 32768}};
}

class Demo {
 public:
  explicit Demo(const DemoOptions& options)
      : options_(options),
        sizes_(sizes(options.quick)),
        text_(options.data.read(TextCodec())),
        original_(shape(), attention_plan()) {
    std::filesystem::create_directories(options.out);
  }

  void run() {
    train_original();
    analysis_ = analyse(original_, data(1), sizes_.analysis_batches, {});
    recency_ = rf::group_scores(analysis_, rf::GroupScore::mean,
                                [](const auto& head_or_group) { return head_or_group.recency; });
    add_row("original", "original", original_, original_tokens());
    train_original_on();
    streaming_arm();
    recurrent_arm("mamba", "RecurFormer (Mamba)", plan_by(recency_, "mamba"), Rows::all_stages);
    untrained_arm("reverse", "reverse choice (Mamba)", plan_by(rf::reversed(recency_), "mamba"));
    if (options_.all_arms) {
      recurrent_arm("mamba2", "RecurFormer (Mamba2)", plan_by(recency_, "mamba2"), Rows::all_stages);
      const auto random = rf::random_scores(recency_.size(), recency_[0].size(), options_.seed + 1);
      recurrent_arm("random", "random choice (Mamba)", plan_by(random, "mamba"), Rows::untrained_and_end);
      recurrent_arm("all_groups", "all groups (Mamba)", plan_by(recency_, "mamba", 1.0),
                    Rows::untrained_and_end);
    }
    write();
  }

 private:
  enum class Rows { all_stages, untrained_and_end };

  static rf::ModelShape shape() {
    return {.vocabulary = rf::byte_vocabulary,
            .layers = 4,
            .layer = {.d_model = 128, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 320},
            .tied_embeddings = true};
  }
  static rf::Plan attention_plan() {
    return rf::uniform_plan({"attention", "fp32", {}}, shape().layers, shape().layer.kv_groups);
  }

  std::int64_t step_tokens() const { return options_.data.rows * options_.data.length; }
  std::int64_t original_tokens() const { return sizes_.original_steps * step_tokens(); }
  std::int64_t arm_tokens() const { return sizes_.arm_steps * step_tokens(); }

  /// Batches of phase `phase`: all arms train on the same ones.
  rf::MixedData data(std::uint64_t phase) const {
    return options_.data.mixed(text_, rf::Random::stream(options_.seed, phase).bits());
  }

  rf::Plan plan_by(const rf::GroupScores& scores, const std::string& replacement,
                   double fraction = 0.5) const {
    return rf::select_groups(attention_plan(), replacement_kind(replacement, attention_plan(), 4, 32), scores,
                             {.fraction = fraction});
  }
  Model converted(const rf::Plan& plan) {
    return rf::convert_model(original_, plan, rf::profiles_of(analysis_), options_.seed);
  }

  void train_original() {
    rf::initialise(original_.weights(), options_.seed);
    rf::Trainer<Model> trainer(original_, {.steps = sizes_.original_steps, .rate = 2e-3});
    add_curve("original", train(trainer, data(0), "original"), false);
    save(original_, options_.out + "/original", byte_config());
  }

  void train_original_on() {
    Model model = converted(attention_plan());
    rf::Trainer<Model> trainer(model, {.steps = sizes_.arm_steps, .rate = 1e-3});
    add_curve("original, trained on", train(trainer, data(2), "original, trained on"), false);
    add_row("original_continued", "original, trained on", model, original_tokens() + arm_tokens());
  }

  void streaming_arm() {
    Model model = converted(plan_by(recency_, "streaming"));
    add_row("streaming_untrained", "streaming heads, untrained", model, original_tokens());
    rf::Trainer<Model> trainer(model, stage2(sizes_.arm_steps), &original_);
    add_curve("streaming heads", train(trainer, data(2), "streaming heads"), false);
    add_row("streaming", "streaming heads, trained on", model, original_tokens() + arm_tokens());
  }

  void untrained_arm(const std::string& key, const std::string& name, const rf::Plan& plan) {
    Model model = converted(plan);
    add_row(key + "_untrained", name + ", untrained", model, original_tokens());
  }

  void recurrent_arm(const std::string& key, const std::string& name, const rf::Plan& plan, Rows rows) {
    Model model = converted(plan);
    add_row(key + "_untrained", name + ", untrained", model, original_tokens());
    rf::TrainOptions stage1{.objective = rf::Objective::match_heads,
                            .steps = sizes_.stage1_steps,
                            .new_rate = plan.kinds.back().mixer == "mamba2" ? 1e-2 : 4e-3,
                            .warmup = 10};
    rf::Trainer<Model> matching(model, stage1, &original_);
    add_curve(name + ", stage 1", train(matching, data(3), name + ", stage 1"), true);
    if (rows == Rows::all_stages)
      add_row(key + "_stage1", name + ", stage 1", model,
              original_tokens() + sizes_.stage1_steps * step_tokens());
    rf::Trainer<Model> trainer(model, stage2(sizes_.arm_steps - sizes_.stage1_steps), &original_);
    add_curve(name, train(trainer, data(2), name), false);
    add_row(key, name, model, original_tokens() + arm_tokens());
    if (key == "mamba") finish_main_arm(model, plan);
  }

  rf::TrainOptions stage2(std::int64_t steps) const {
    return {.steps = steps, .rate = 1e-3, .new_rate = 3e-3, .divergence_weight = 1.0};
  }

  /// What the report shows of the arm it is about: its plan, files, a sample, and growth with the context.
  void finish_main_arm(Model& model, const rf::Plan& plan) {
    save(model, options_.out + "/recurformer", byte_config());
    rf::write_analysis({.analysis = analysis_, .swap = {}, .swap_replacement = {}},
                       options_.out + "/analysis.json");
    rf::write_plan(
        {.plan = plan, .method = "recency", .parameters = {}, .scores = recency_, .cache_bytes = {}}, shape(),
        options_.out + "/plan.json");
    nlohmann::json replaced = nlohmann::json::array();
    for (const auto& layer : plan.kind_of_group) {
      nlohmann::json groups = nlohmann::json::array();
      for (const int kind : layer) groups.push_back(kind != 0);
      replaced.push_back(groups);
    }
    report_["recency"]["replaced"] = replaced;
    measure_contexts(model);

    const std::string prompt = "template <typename _Tp>\n";
    std::vector<rf::Token> tokens;
    for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
    rf::Cache cache = model.make_cache();
    std::string sample;
    rf::generate(model, cache, tokens, 400, {.temperature = 0.7, .top_p = 0.95, .seed = options_.seed},
                 [&](rf::Token token) { return sample.push_back(static_cast<char>(token)), true; });
    report_["sample"] = {{"prompt", prompt}, {"text", printable(sample)}, {"model", "RecurFormer (Mamba)"}};
  }

  /// Bytes above 126 or below a space are shown as '?': the models speak bytes, JSON speaks UTF-8.
  static std::string printable(std::string text) {
    for (char& c : text)
      if (static_cast<unsigned char>(c) > 126 ||
          (static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\t'))
        c = '?';
    return text;
  }

  void measure_contexts(Model& model) {
    nlohmann::json rows = nlohmann::json::array();
    const auto measure = [&](const std::string& name, Model& of) {
      nlohmann::json bytes = nlohmann::json::array(), speeds = nlohmann::json::array();
      for (const std::int64_t context : sizes_.contexts) {
        bytes.push_back(of.cache_layout().bytes(context));
        speeds.push_back(measure_speed(of, text_, context, 64).decode);
      }
      rows.push_back({{"name", name}, {"cache_bytes", bytes}, {"decode_tokens_per_second", speeds}});
    };
    std::fprintf(stderr, "decode speed at %lld to %lld tokens\n",
                 static_cast<long long>(sizes_.contexts.front()),
                 static_cast<long long>(sizes_.contexts.back()));
    measure("original", original_);
    measure("RecurFormer (Mamba)", model);
    report_["context"] = {{"lengths", sizes_.contexts}, {"rows", rows}};
  }

  void add_row(const std::string& key, const std::string& name, Model& model, std::int64_t tokens) {
    const Quality quality = evaluate(model, text_, options_.data.length, options_.data.copy_lag,
                                     options_.seed, sizes_.text_rows, sizes_.copy_rows);
    const double bits = quality.text.bits_per_byte(quality.text.tokens);
    const Speed speed = measure_speed(model, text_, sizes_.speed_context, sizes_.decoded_tokens);
    report_["rows"].push_back({{"name", name},
                               {"key", key},
                               {"bits_per_byte", bits},
                               {"copy_recall", quality.copy_recall},
                               {"cache_bytes", cache_json(model.cache_layout())},
                               {"prefill_tokens_per_second", speed.prefill},
                               {"decode_tokens_per_second", speed.decode},
                               {"tokens_trained", tokens}});
    std::fprintf(stderr, "%s: %.4f bits per byte, copy recall %.3f\n", name.c_str(), bits,
                 quality.copy_recall);
  }

  void add_curve(const std::string& name, const std::vector<LossPoint>& curve, bool relative_error) {
    // About 200 points per curve, each a mean of its neighbours: single steps are noise.
    const std::size_t stride = std::max<std::size_t>(1, curve.size() / 200);
    nlohmann::json points = nlohmann::json::array();
    for (std::size_t first = 0; first < curve.size(); first += stride) {
      const std::size_t end = std::min(curve.size(), first + stride);
      double sum = 0;
      for (std::size_t i = first; i < end; ++i) sum += curve[i].loss;
      const double mean = sum / static_cast<double>(end - first);
      points.push_back({curve[end - 1].tokens, relative_error ? mean : mean / std::numbers::ln2});
    }
    report_["loss_curves"].push_back(
        {{"name", name}, {"unit", relative_error ? "relative error" : "bits per token"}, {"points", points}});
  }

  void write() {
    const auto& layer = shape().layer;
    report_["settings"] = {{"quick", options_.quick},
                           {"seed", options_.seed},
                           {"threads", rf::default_pool().threads()},
                           {"text", options_.data.text},
                           {"text_bytes", text_.train().size() + text_.held_out().size()},
                           {"length", options_.data.length},
                           {"rows_per_step", options_.data.rows},
                           {"copy_lag", options_.data.copy_lag},
                           {"original_tokens", original_tokens()},
                           {"arm_tokens", arm_tokens()},
                           {"replacement", "mamba"},
                           {"fraction", 0.5},
                           {"seconds", watch_.seconds()}};
    report_["machine"] = {{"backend", "cpu"},
                          {"instruction_set", rf::name_of(rf::compiled_instruction_set)},
                          {"threads", rf::default_pool().threads()},
                          {"cpu", processor_name()}};
    report_["model"] = {{"layers", shape().layers},
                        {"d_model", layer.d_model},
                        {"heads", layer.heads()},
                        {"kv_groups", layer.kv_groups},
                        {"queries_per_group", layer.queries_per_group},
                        {"d_head", layer.d_head},
                        {"d_ff", layer.d_ff},
                        {"parameters", parameter_count(original_)}};
    report_["speed_context"] = sizes_.speed_context;
    add_analysis();
    report_["findings"] = findings(report_);
    std::printf("\n%s\n", text_table(report_).c_str());
    for (const auto& sentence : report_["findings"])
      std::printf("- %s\n", sentence.get<std::string>().c_str());
    rf::write_file_atomically(options_.out + "/report.json", report_.dump(1) + "\n");
    rf::write_file_atomically(options_.out + "/report.html", html_report(report_));
    std::printf("\nwrote %s/report.json and %s/report.html after %.0f s\n", options_.out.c_str(),
                options_.out.c_str(), watch_.seconds());
    write_results(options_, report_);
  }

  void add_analysis() {
    nlohmann::json heads = nlohmann::json::array(), errors = nlohmann::json::array(),
                   profiles = nlohmann::json::array();
    for (const auto& layer : analysis_.heads) {
      nlohmann::json ratios = nlohmann::json::array(), ratio_errors = nlohmann::json::array(),
                     of_layer = nlohmann::json::array();
      for (const auto& head : layer) {
        ratios.push_back(head.recency.mean);
        ratio_errors.push_back(head.recency.error);
        of_layer.push_back(head.profile.probability);
      }
      heads.push_back(ratios);
      errors.push_back(ratio_errors);
      profiles.push_back(of_layer);
    }
    auto& recency = report_["recency"];
    recency["window"] = analysis_.options.window;
    recency["sink"] = analysis_.options.sink;
    recency["sequences"] = analysis_.sequences;
    recency["heads"] = heads;
    recency["errors"] = errors;
    recency["groups"] = recency_;
    report_["profiles"] = {{"lag", analysis_.heads[0][0].profile.lag},
                           {"lags", analysis_.heads[0][0].profile.lags},
                           {"heads", profiles}};
  }

  const DemoOptions& options_;
  DemoSizes sizes_;
  Stopwatch watch_;
  rf::TokenText text_;
  Model original_;
  rf::ModelAnalysis analysis_;
  rf::GroupScores recency_;
  nlohmann::json report_;
};

}  // namespace

void add_demo(CLI::App& program) {
  auto options = std::make_shared<DemoOptions>();
  auto* command = program.add_subcommand("demo", "The whole method on real text, with a report");
  command->footer("Example: recurformer demo --text book.txt --out runs/book");
  command->add_option("--out", options->out, "Folder for models, report.json and report.html")
      ->capture_default_str();
  command->add_option("--text", options->data.text, "Text file, or a folder of them")->capture_default_str();
  command->add_flag("--quick", options->quick,
                    "A quarter of the training: shows that everything works, not what it is worth");
  command->add_flag("--all-arms", options->all_arms, "Also Mamba2, a random choice, and all groups");
  add_common_options(*command, *options);
  command->callback([options] {
    Demo demo(*options);
    use_cpu(*options);
    demo.run();
  });
}

}  // namespace cli
