// Two libraries with the same kernels in one program: neither's kernels replace the other's. That can be seen
// without a GPU, by their addresses; with one, each library also runs its own kernel.
#include <cstdio>

extern "C" {
const void* first_own_kernel();
const void* first_shared_kernel();
float first_scaled(float x);
bool first_has_gpu();
const void* second_own_kernel();
const void* second_shared_kernel();
float second_scaled(float x);
}

namespace {

int failures = 0;

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  ++failures;
}

}  // namespace

int main() {
  check(first_own_kernel() != second_own_kernel(), "kernels of one name in two libraries are two kernels");
  check(first_shared_kernel() != second_shared_kernel(),
        "each library has its own copy of recurformer's kernels");
  if (first_has_gpu()) {
    check(first_scaled(5) == 10, "the first library runs its own kernel");
    check(second_scaled(5) == 15, "the second library runs its own kernel");
  } else {
    std::printf("no GPU: the addresses of the kernels were compared, nothing was run\n");
  }
  return failures == 0 ? 0 : 1;
}
