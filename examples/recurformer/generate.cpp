#include <cstdio>
#include <functional>

#include "commands.hpp"
#include "device_model.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/cache_file.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct GenerateOptions : CommonOptions {
  std::string model, prompt = "#include <", prompt_file, load_cache, save_cache, device = "auto";
  std::int64_t tokens = 200;
  rf::SamplingOptions sampling{.temperature = 0.8, .top_p = 0.95};
};

void check_bytes(int vocabulary) {
  rf::check(vocabulary == 256, "generate works on models of bytes (a vocabulary of 256); this one has ",
            vocabulary);
}

/// Prints the text as it is drawn, and keeps time.
class Output {
 public:
  explicit Output(std::string prompt) : prompt_(std::move(prompt)) {}

  /// The model is loaded: the prompt is about to be read.
  void start() {
    std::fwrite(prompt_.data(), 1, prompt_.size(), stdout);
    watch_ = {};
  }
  bool operator()(rf::Token token) {
    if (text_.empty()) first_token_ = watch_.seconds();
    text_.push_back(static_cast<char>(token));
    last_token_ = watch_.seconds();
    std::fputc(token, stdout);
    std::fflush(stdout);
    return true;
  }

  const std::string& text() const { return text_; }
  double first_token_seconds() const { return first_token_; }
  double tokens_per_second() const {
    const double rest = last_token_ - first_token_;
    return text_.size() > 1 ? static_cast<double>(text_.size() - 1) / rest : 0;
  }

 private:
  std::string prompt_, text_;
  Stopwatch watch_;
  double first_token_ = 0, last_token_ = 0;
};

/// The size of the cache afterwards.
struct CacheSize {
  std::int64_t tokens = 0;
  std::int64_t bytes = 0;
};

CacheSize generate_on_cpu(const GenerateOptions& options, const std::string& why,
                          std::span<const rf::Token> prompt, const rf::SamplingOptions& sampling,
                          Output& output) {
  Model model = load(options.model);
  check_bytes(model.shape().vocabulary);
  model.pack();
  rf::Cache cache = model.make_cache();
  if (!options.load_cache.empty()) rf::load_cache(cache, options.load_cache);
  use_cpu(options, why);
  output.start();
  rf::generate(model, cache, prompt, options.tokens, sampling, std::ref(output));
  if (!options.save_cache.empty()) rf::save_cache(cache, options.save_cache);
  return {cache.length(), cache.bytes()};
}

CacheSize generate_on_device(const GenerateOptions& options, const std::string& device,
                             std::span<const rf::Token> prompt, const rf::SamplingOptions& sampling,
                             Output& output) {
  const auto model = load_on_device(options.model, device);
  check_bytes(model->shape().vocabulary);
  if (!options.load_cache.empty()) model->load_cache(options.load_cache);
  use_device(*model);
  output.start();
  model->generate(prompt, options.tokens, sampling, std::ref(output));
  if (!options.save_cache.empty()) model->save_cache(options.save_cache);
  return {model->cache_tokens(), model->cache_bytes()};
}

void generate(const GenerateOptions& options) {
  const std::string prompt =
      options.prompt_file.empty() ? options.prompt : rf::read_text_file(options.prompt_file);
  std::vector<rf::Token> tokens;
  for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
  rf::SamplingOptions sampling = options.sampling;
  sampling.seed = options.seed;
  rf::check(!tokens.empty(), "the prompt is empty; generate needs at least one byte to go on from");
  (void)rf::Sampler(sampling);  // wrong options are errors before anything is loaded

  const auto [device, why] = choose_device(options.device, options.model);
  Output output(prompt);
  const CacheSize cache = device == "cpu" ? generate_on_cpu(options, why, tokens, sampling, output)
                                          : generate_on_device(options, device, tokens, sampling, output);
  std::printf("\n");
  std::fprintf(
      stderr,
      "prompt: %zu tokens, first token after %.3f s; %.0f tokens/s after that; cache: %lld tokens, %s\n",
      tokens.size(), output.first_token_seconds(), output.tokens_per_second(),
      static_cast<long long>(cache.tokens), bytes_text(cache.bytes).c_str());
  write_results(options,
                {{"device", device},
                 {"prompt_tokens", tokens.size()},
                 {"text_bytes", std::vector<unsigned char>(output.text().begin(), output.text().end())},
                 {"first_token_seconds", output.first_token_seconds()},
                 {"decode_tokens_per_second", output.tokens_per_second()},
                 {"cache_bytes", cache.bytes}});
}

}  // namespace

void add_generate(CLI::App& program) {
  auto options = std::make_shared<GenerateOptions>();
  auto* command = program.add_subcommand("generate", "Continue a prompt with the hybrid cache");
  command->footer(
      "Example: recurformer generate runs/hybrid --prompt 'template <class T>' --tokens 300 --temperature "
      "0.7");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("--prompt", options->prompt, "Text to continue")->capture_default_str();
  command->add_option("--prompt-file", options->prompt_file, "File with the text to continue")
      ->excludes("--prompt");
  command->add_option("--tokens", options->tokens, "Tokens to draw")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0 is greedy")->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "Draw among the k most likely tokens; 0: all")
      ->capture_default_str();
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "Draw among the most likely tokens of this total probability")
      ->capture_default_str();
  add_device_option(*command, options->device);
  command->add_option("--load-cache", options->load_cache,
                      "Go on after the prefix whose cache this file holds");
  command->add_option("--save-cache", options->save_cache, "Keep the cache for later");
  add_common_options(*command, *options);
  command->callback([options] { generate(*options); });
}

}  // namespace cli
