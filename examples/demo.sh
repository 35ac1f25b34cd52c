#!/bin/bash
# Sets up a Debian machine, builds the command line and runs the demo: a Transformer is trained on real text, its
# recency-aware heads are replaced by recurrent ones, and both are compared. Options go to `recurformer demo`
# (--quick, --all-arms, --text, --out, ...).
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/packages.sh
require_packages g++ cmake ninja-build nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev

cmake --preset release -DRECURFORMER_TESTS=OFF -DRECURFORMER_BENCHMARKS=OFF -B build/demo
cmake --build build/demo --target example_recurformer
build/demo/examples/recurformer demo "$@"
