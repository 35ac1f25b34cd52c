// A user's program: the same text in every way of getting the library.
#include <cstdio>

#include "recurformer/core/parallel.hpp"
#include "recurformer/version.hpp"

#ifdef CONSUMER_HAS_CHECKPOINT
#include <nlohmann/json.hpp>
#endif

int main() {
  double squares[100];
  rf::parallel_for(100, [&](std::int64_t i) { squares[i] = static_cast<double>(i * i); });
  double sum = 0;
  for (double square : squares) sum += square;
#ifdef CONSUMER_HAS_CHECKPOINT
  sum += nlohmann::json::parse("[0]")[0].get<double>();
#endif
  std::printf("recurformer %d.%d: the sum is %g\n", RECURFORMER_VERSION_MAJOR, RECURFORMER_VERSION_MINOR,
              sum);
  return sum == 328350 ? 0 : 1;
}
