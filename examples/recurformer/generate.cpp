#include <algorithm>
#include <cstdio>
#include <functional>

#include "commands.hpp"
#include "device_model.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/cache_file.hpp"
#include "recurformer/model/text_stream.hpp"
#include "steps.hpp"
#include "text_codec.hpp"

namespace cli {

namespace {

struct GenerateOptions : CommonOptions {
  std::string model, prompt = "#include <", prompt_file, load_cache, save_cache, device = "auto";
  std::int64_t tokens = 200;
  bool ignore_eos = false;
  rf::SamplingOptions sampling{.temperature = 0.8, .top_p = 0.95};
};

/// Prints the text as it is drawn, whole characters only, and keeps time.
class Output {
 public:
  /// Generation stops after one of `ends`.
  Output(const TextCodec& codec, std::string prompt, std::vector<rf::Token> ends)
      : prompt_(std::move(prompt)),
        ends_(std::move(ends)),
        stream_([&](std::span<const rf::Token> tokens) { return codec.bytes(tokens); }) {}

  /// The model is loaded: the prompt is about to be read.
  void start(std::span<const rf::Token> prompt) {
    std::fwrite(prompt_.data(), 1, prompt_.size(), stdout);
    stream_.start_after(prompt);
    watch_ = {};
  }
  bool operator()(rf::Token token) {
    if (tokens_.empty()) first_token_ = watch_.seconds();
    tokens_.push_back(token);
    last_token_ = watch_.seconds();
    if (std::find(ends_.begin(), ends_.end(), token) != ends_.end()) return false;
    print(stream_.add(token));
    return true;
  }
  /// All tokens were drawn.
  void finish() { print(stream_.finish() + "\n"); }

  const std::vector<rf::Token>& tokens() const { return tokens_; }
  double first_token_seconds() const { return first_token_; }
  double tokens_per_second() const {
    const double rest = last_token_ - first_token_;
    return tokens_.size() > 1 ? static_cast<double>(tokens_.size() - 1) / rest : 0;
  }

 private:
  static void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  std::string prompt_;
  std::vector<rf::Token> ends_, tokens_;
  rf::TextStream stream_;
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
  model.pack();
  rf::Cache cache = model.make_cache();
  if (!options.load_cache.empty()) rf::load_cache(cache, options.load_cache);
  use_cpu(options, why);
  output.start(prompt);
  rf::generate(model, cache, prompt, options.tokens, sampling, std::ref(output));
  if (!options.save_cache.empty()) rf::save_cache(cache, options.save_cache);
  return {cache.length(), cache.bytes()};
}

CacheSize generate_on_device(const GenerateOptions& options, const std::string& device,
                             std::span<const rf::Token> prompt, const rf::SamplingOptions& sampling,
                             Output& output) {
  const auto model = load_on_device(options.model, device);
  if (!options.load_cache.empty()) model->load_cache(options.load_cache);
  use_device(*model);
  output.start(prompt);
  model->generate(prompt, options.tokens, sampling, std::ref(output));
  if (!options.save_cache.empty()) model->save_cache(options.save_cache);
  return {model->cache_tokens(), model->cache_bytes()};
}

void generate(const GenerateOptions& options) {
  const std::string prompt =
      options.prompt_file.empty() ? options.prompt : rf::read_text_file(options.prompt_file);
  rf::SamplingOptions sampling = options.sampling;
  sampling.seed = options.seed;
  (void)rf::Sampler(sampling);  // wrong options are errors before anything is loaded
  const TextCodec codec(options.model, rf::read_model_config(options.model));
  const std::vector<rf::Token> tokens = codec.encode_prompt(prompt, options.load_cache.empty());
  rf::check(!tokens.empty(), "the prompt is empty; generate needs at least one token to go on from");

  const auto [device, why] = choose_device(options.device, options.model);
  Output output(codec, prompt, options.ignore_eos ? std::vector<rf::Token>() : codec.end_tokens());
  const CacheSize cache = device == "cpu" ? generate_on_cpu(options, why, tokens, sampling, output)
                                          : generate_on_device(options, device, tokens, sampling, output);
  output.finish();
  std::fprintf(
      stderr,
      "prompt: %zu tokens, first token after %.3f s; %.0f tokens/s after that; cache: %lld tokens, %s\n",
      tokens.size(), output.first_token_seconds(), output.tokens_per_second(),
      static_cast<long long>(cache.tokens), bytes_text(cache.bytes).c_str());
  const std::string text = codec.bytes(output.tokens());
  write_results(options, {{"device", device},
                          {"prompt_tokens", tokens.size()},
                          {"tokens", output.tokens()},
                          {"text_bytes", std::vector<unsigned char>(text.begin(), text.end())},
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
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after a token that ends a text");
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
