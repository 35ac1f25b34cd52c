#!/bin/bash
# Builds the fuzz targets with Clang and runs each for a while, as many at a time as there are processors:
#
#   tests/fuzz/run.sh [seconds per target, 60 unless given] [target...]
#
# Prints a line per target and fails if there is a finding. The inputs of findings, the logs and the inputs that
# were worth keeping stay in build/fuzz/runs; the next run starts from those and the seeds.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-60}
[ $# -eq 0 ] || shift
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: tests/fuzz/run.sh [seconds per target] [target...]" >&2
  exit 2
fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=($(ls tests/fuzz/corpus))

. cmake/packages.sh
require_packages clang libclang-rt-dev cmake ninja-build doctest-dev nlohmann-json3-dev \
  libpcre2-dev libutf8proc-dev
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz

# Inputs are files; in memory if possible.
scratch=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)/recurformer-fuzz-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# run_target <target> <seconds>: the target's line.
run_target() {
  local target=$1 runs=build/fuzz/runs log
  log=$runs/$target.log
  mkdir -p "$runs/$target"
  rm -f "$runs/$target"-*
  if "build/fuzz/tests/fuzz/fuzz_$target" -max_total_time="$2" -dict=tests/fuzz/dictionary.txt -timeout=10 \
    -rss_limit_mb=2048 -malloc_limit_mb=64 -artifact_prefix="$runs/$target-" "$runs/$target" \
    "tests/fuzz/corpus/$target" >"$log" 2>&1; then
    # "#30827  DONE  cov: 2292 ft: 5588 corp: 563/194Kb …"
    awk -v target="$target" '$2 == "DONE" {
      printf "%s: %d executions, %d edges, %d inputs kept, no finding\n", target, substr($1, 2), $4, $8 }' "$log"
  else
    echo "$target: FINDING: $(grep -a -m 1 -E '^finding: |ERROR: |runtime error: ' "$log" || tail -1 "$log")"
    echo "  input: $(ls "$runs/$target"-* | head -1), log: $log"
    return 1
  fi
}
export -f run_target
export TMPDIR=$scratch

printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run_target {} '"$seconds"
