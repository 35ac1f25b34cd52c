#ifndef RECURFORMER_TESTS_FUZZ_WORST_CASES_HPP
#define RECURFORMER_TESTS_FUZZ_WORST_CASES_HPP

// Inputs whose every byte costs a reader as much memory as it can: what shows that reading never takes more
// than a small multiple of a file's size. Chance finds these slowly, as only large ones stand out.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"

namespace rf::test {

struct WorstCase {
  std::string_view target;
  std::string what;
  std::string bytes;
};

/// `unit` again and again, separated by commas.
inline std::string list_of(std::string_view unit, std::size_t size) {
  std::string out(unit);
  while (out.size() < size) out.append(",").append(unit);
  return out;
}

/// JSON values that take many times their size once they are parsed.
inline std::vector<std::pair<std::string, std::string>> large_json(std::size_t size) {
  constexpr int depth = 60;
  std::string arrays(depth, '['), objects, keys;
  arrays.append(depth, ']');
  for (int i = 0; i < depth; ++i) objects += "{\"\":";
  objects.append("0").append(depth, '}');
  for (std::size_t i = 0; keys.size() < size; ++i) keys += text(i > 0 ? "," : "", "\"", i, "\":0");
  return {{"numbers", "[" + list_of("0", size) + "]"},
          {"empty arrays", "[" + list_of("[]", size) + "]"},
          {"empty objects", "[" + list_of("{}", size) + "]"},
          {"empty strings", "[" + list_of("\"\"", size) + "]"},
          {"strings", "[" + list_of("\"sixteen bytes...\"", size) + "]"},
          {"deep arrays", "[" + list_of(arrays, size) + "]"},
          {"deep objects", "[" + list_of(objects, size) + "]"},
          {"keys", "{" + keys + "}"},
          {"a long string", "\"" + std::string(size, 'x') + "\""},
          {"a long number", std::string(size, '1')},
          {"lines before an error", std::string(size, '\n') + "x"}};
}

inline std::string safetensors_of(const std::string& header) {
  const std::uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header;
}

/// A cache file of this JSON, in which nothing needs an escape but quotes.
inline std::string cache_of(std::string_view json) {
  std::string quoted;
  for (const char c : json) quoted += c == '"' ? "\\\"" : c == '\n' ? "\\n" : std::string(1, c);
  return safetensors_of(R"({"__metadata__":{"recurformer_cache":")" + quoted + "\"}}");
}

/// A header with as many tensors, of no bytes, as fit.
inline std::string many_tensors(std::size_t size) {
  std::string header;
  for (std::size_t i = 0; header.size() < size; ++i)
    header += text(i > 0 ? "," : "{", "\"", i, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  return header + "}";
}

/// A tokenizer whose template names a list of tokens again and again.
inline std::string long_template(std::size_t size) {
  return R"({"model":{"vocab":{"a":0},"merges":[]},"post_processor":{"type":"TemplateProcessing","single":[
      {"Sequence":{"id":"A"}},)" +
         list_of(R"({"SpecialToken":{"id":"s"}})", size / 2) + R"(],"special_tokens":{"s":{"ids":[)" +
         list_of("0", size / 2) + "]}}}}";
}

/// A tokenizer.json with as many tokens and merges as fit: numbers, which are merged from their digits.
inline std::string tokenizer_of(std::size_t size) {
  std::string vocabulary, merges;
  for (std::size_t i = 0; vocabulary.size() + merges.size() < size; ++i) {
    vocabulary += text(i > 0 ? "," : "", "\"", i, "\":", i);
    if (i >= 10) merges += text(i > 10 ? "," : "", "\"", i / 10, " ", i % 10, "\"");
  }
  return R"({"model":{"vocab":{)" + vocabulary + R"(},"merges":[)" + merges + "]}}";
}

inline std::vector<WorstCase> worst_cases(std::size_t size) {
  std::vector<WorstCase> out;
  for (const auto& [what, value] : large_json(size)) {
    out.push_back(
        {"plan", what, R"({"recurformer_plan":1,"model":{"layers":1,"kv_groups":1},"kinds":)" + value + "}"});
    out.push_back({"plan", what + " of a layer",
                   R"({"recurformer_plan":1,"model":{"layers":1,"kv_groups":1},
                     "kinds":[{"mixer":"m","precision":"p"}],"layers":[)" +
                       value + "]}"});
    out.push_back({"analysis", what + " of a profile",
                   R"({"recurformer_analysis":1,"window":1,"sink":1,"sequences":1,
                     "short_sequences":0,"tokens":1,"queries_per_group":2,"layers":[{"heads":[{"recency":1,
                     "recency_error":0,"sink_free_recency":0,"sink_free_recency_error":0,"sink_mass":0,
                     "sink_mass_error":0,"queries":0,"skipped_queries":0,"profile":{"lag":)" +
                       value + "}}]}]}"});
    out.push_back({"config", what + " in a field of no meaning",
                   R"({"model_type":"llama","hidden_size":16,
                     "intermediate_size":1,"num_hidden_layers":1,"num_attention_heads":1,"vocab_size":1,"x":)" +
                       value + "}"});
    out.push_back({"safetensors", what + " as a shape",
                   safetensors_of(R"({"t":{"dtype":"U8","data_offsets":[0,0],"shape":)" + value + "}}")});
    out.push_back({"cache", what, cache_of(value)});
    out.push_back({"config", what + " in a Mamba model",
                   R"({"model_type":"mamba","hidden_size":16,"num_hidden_layers":1,"vocab_size":1,"x":)" +
                       value + "}"});
    out.push_back({"text", what, R"({"text":)" + value + "}"});
    out.push_back(
        {"tokenizer", what + " as vocabulary", R"({"model":{"vocab":)" + value + R"(,"merges":[]}})"});
    out.push_back({"tokenizer", what + " as merges", R"({"model":{"vocab":{},"merges":)" + value + "}}"});
    out.push_back({"index", what, R"({"weight_map":)" + value + "}"});
    out.push_back(
        {"safetensors", what + " as metadata", safetensors_of(R"({"__metadata__":)" + value + "}")});
  }
  out.push_back({"config", "most heads", R"({"model_type":"llama","hidden_size":16,"intermediate_size":1,
                   "num_hidden_layers":4096,"num_attention_heads":16,"head_dim":16,"vocab_size":1})"});
  out.push_back({"tokenizer", "a template", long_template(size)});
  out.push_back({"tokenizer", "a vocabulary", tokenizer_of(size)});
  out.push_back({"safetensors", "tensors", safetensors_of(many_tensors(size))});
  out.push_back(
      {"npy", "sizes",
       "\x93NUMPY" + std::string("\1\0\0\xff", 4) + "{'descr':'<f4','shape':(" + list_of("1", size)});
  return out;
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_FUZZ_WORST_CASES_HPP
