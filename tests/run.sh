#!/bin/bash
# Sets up a Debian machine and passes all tests: the release build with everything (and where nvcc is found, every
# CUDA kernel), then the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer, and the simulated CUDA
# kernels under ThreadSanitizer. With --full also the slower tests of those, the others as compiled by Clang, and the
# command line for other machines.
set -euo pipefail
cd "$(dirname "$0")/.."

full=false
full_tests=OFF
case "${1-}" in
  "") ;;
  --full) full=true full_tests=ON ;;
  *)
    echo "usage: tests/run.sh [--full]" >&2
    exit 2
    ;;
esac

. cmake/packages.sh
require_packages g++ clang cmake ninja-build doctest-dev nlohmann-json3-dev libcli11-dev libbenchmark-dev \
  libpcre2-dev libutf8proc-dev libdlpack-dev pkgconf
if $full; then
  require_packages g++-aarch64-linux-gnu qemu-user # other machines
fi

options=(-DRECURFORMER_WERROR=ON -DRECURFORMER_FULL_TESTS=$full_tests)
cmake --preset release "${options[@]}" -DRECURFORMER_CUDA=AUTO
cmake --build --preset release
ctest --preset release --parallel "$(nproc)"

cmake --preset asan "${options[@]}"
cmake --build --preset asan --target unit_tests
ctest --preset asan --label-regex unit --parallel "$(nproc)"

cmake --preset tsan "${options[@]}"
cmake --build --preset tsan --target simulator_tests
ctest --preset tsan --label-regex simulator --parallel "$(nproc)"

if $full; then
  # What is compiled by default: the slower instantiations have passed above.
  cmake --preset clang -DRECURFORMER_WERROR=ON -DRECURFORMER_FULL_TESTS=OFF
  cmake --build --preset clang
  ctest --preset clang --parallel "$(nproc)"

  cmake --preset portable -DRECURFORMER_WERROR=ON
  cmake --build --preset portable
  ctest --preset portable
fi
