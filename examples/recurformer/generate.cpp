#include <cstdio>

#include "commands.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/cache_file.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct GenerateOptions : CommonOptions {
  std::string model, prompt = "#include <", prompt_file, load_cache, save_cache;
  std::int64_t tokens = 200;
  rf::SamplingOptions sampling{.temperature = 0.8, .top_p = 0.95};
};

void generate(const GenerateOptions& options) {
  use_backend(options);
  Model model = load(options.model);
  rf::check(model.shape().vocabulary == 256,
            "generate works on models of bytes (a vocabulary of 256); this one has ",
            model.shape().vocabulary);
  model.pack();
  const std::string prompt =
      options.prompt_file.empty() ? options.prompt : rf::read_text_file(options.prompt_file);
  std::vector<rf::Token> tokens;
  for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
  rf::Cache cache = model.make_cache();
  if (!options.load_cache.empty()) rf::load_cache(cache, options.load_cache);
  rf::SamplingOptions sampling = options.sampling;
  sampling.seed = options.seed;

  std::fwrite(prompt.data(), 1, prompt.size(), stdout);
  std::string text;
  Stopwatch watch;
  double first_token = 0;
  rf::generate(model, cache, tokens, options.tokens, sampling, [&](rf::Token token) {
    if (text.empty()) first_token = watch.seconds();
    text.push_back(static_cast<char>(token));
    std::fputc(token, stdout);
    std::fflush(stdout);
    return true;
  });
  std::printf("\n");
  const double rest = watch.seconds() - first_token;
  const auto drawn = static_cast<double>(text.size());
  const double decode = text.size() > 1 ? (drawn - 1) / rest : 0;
  std::fprintf(
      stderr,
      "prompt: %zu tokens, first token after %.3f s; %.0f tokens/s after that; cache: %lld tokens, %s\n",
      tokens.size(), first_token, decode, static_cast<long long>(cache.length()),
      bytes_text(cache.bytes()).c_str());
  if (!options.save_cache.empty()) rf::save_cache(cache, options.save_cache);
  write_results(options, {{"prompt_tokens", tokens.size()},
                          {"text_bytes", std::vector<unsigned char>(text.begin(), text.end())},
                          {"first_token_seconds", first_token},
                          {"decode_tokens_per_second", decode},
                          {"cache_bytes", cache.bytes()}});
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
  command->add_option("--load-cache", options->load_cache,
                      "Go on after the prefix whose cache this file holds");
  command->add_option("--save-cache", options->save_cache, "Keep the cache for later");
  add_common_options(*command, *options);
  command->callback([options] { generate(*options); });
}

}  // namespace cli
