#!/bin/bash
# benchmarks/run.sh [--out FOLDER] [Google Benchmark's options]
#
# Builds the CPU benchmarks (preset release) and runs all of them, each into FOLDER/<name>.json (FOLDER:
# benchmarks/results/<host>-<date>). benchmarks/report.py plots such a folder and compares two; a quick look:
# --benchmark_filter=... --benchmark_min_time=0.05. On a GPU: benchmarks/cuda/run.sh.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/benchmarks/results/$(uname -n)-$(date -u +%F)
if [ "${1-}" = --out ]; then
  out=$2
  shift 2
fi

cd "$root"
[ -f build/release/CMakeCache.txt ] || cmake --preset release
cmake --build --preset release --target benchmarks
mkdir -p "$out"
for source in benchmarks/*.cpp; do
  name=$(basename "$source" .cpp)
  build/release/benchmarks/"$name" --benchmark_out="$out/$name.json" --benchmark_out_format=json "$@"
  # One that the filter leaves nothing of writes nothing.
  [ -s "$out/$name.json" ] || rm -f "$out/$name.json"
done
echo "$out"
