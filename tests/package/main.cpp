// A user's program: the same text in every way of getting the library.
// CONSUMER_HAS_CHECKPOINT, CONSUMER_HAS_TOKENIZER: with recurformer::checkpoint, with recurformer::tokenizer.
// CONSUMER_HAS_SETS: with vector_sum.cpp. PACKAGE_VERSION: the version that the package claims to be.
#include <cstdio>
#include <string>

#include "recurformer/core/parallel.hpp"
#include "recurformer/version.hpp"

#ifdef CONSUMER_HAS_CHECKPOINT
#include <nlohmann/json.hpp>
#endif
#ifdef CONSUMER_HAS_TOKENIZER
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>
#endif
#ifdef CONSUMER_HAS_SETS
#include "vector_sum.hpp"
#endif

int main() {
  double squares[100];
  rf::parallel_for(100, [&](std::int64_t i) { squares[i] = static_cast<double>(i * i); });
  double sum = 0;
  for (double square : squares) sum += square;
#ifdef CONSUMER_HAS_CHECKPOINT
  sum += nlohmann::json::parse("[0]")[0].get<double>();
#endif
#ifdef CONSUMER_HAS_TOKENIZER
  if (pcre2_config(PCRE2_CONFIG_UNICODE, nullptr) < 0 || utf8proc_version() == nullptr) return 1;
#endif
#ifdef CONSUMER_HAS_SETS
  const float values[] = {1, 2, 3, 4, -10};
  sum += rf::with_instruction_set(rf::best_instruction_set(),
                                  [&](auto set) { return vector_sum<set>(values, 5); });
#endif
  const std::string version = std::to_string(RECURFORMER_VERSION_MAJOR) + "." +
                              std::to_string(RECURFORMER_VERSION_MINOR) + "." +
                              std::to_string(RECURFORMER_VERSION_PATCH);
  std::printf("recurformer %s: the sum is %g\n", version.c_str(), sum);
#ifdef PACKAGE_VERSION
  if (version != PACKAGE_VERSION) {
    std::printf("the package says that it is version %s\n", PACKAGE_VERSION);
    return 1;
  }
#endif
  return sum == 328350 ? 0 : 1;
}
