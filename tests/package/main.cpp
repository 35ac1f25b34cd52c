// A user's program: the same text in every way of getting the library.
#include <cstdio>

#include "recurformer/core/parallel.hpp"
#include "recurformer/version.hpp"

#ifdef CONSUMER_HAS_LIBRARIES  // those of recurformer::checkpoint and recurformer::tokenizer
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include <nlohmann/json.hpp>
#endif

int main() {
  double squares[100];
  rf::parallel_for(100, [&](std::int64_t i) { squares[i] = static_cast<double>(i * i); });
  double sum = 0;
  for (double square : squares) sum += square;
#ifdef CONSUMER_HAS_LIBRARIES
  if (pcre2_config(PCRE2_CONFIG_UNICODE, nullptr) < 0 || utf8proc_version() == nullptr) return 1;
  sum += nlohmann::json::parse("[0]")[0].get<double>();
#endif
  std::printf("recurformer %d.%d: the sum is %g\n", RECURFORMER_VERSION_MAJOR, RECURFORMER_VERSION_MINOR,
              sum);
  return sum == 328350 ? 0 : 1;
}
