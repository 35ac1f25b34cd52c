#!/bin/bash
# tests/gpu/run.sh [--binaries FOLDER] [--out FOLDER]
#
# What to run where there is a GPU, in this order: the conformance of the simulated machine, all tests that need a
# GPU, and the small ones of these under the tools of compute-sanitizer (COMPUTE_SANITIZER names another). Nothing
# is compiled: the binaries may come from another machine. FOLDER of --binaries has test_gpu and perhaps
# two_libraries in it, or one level below; by default it is this script's, or that of the release build. All tests
# are in a test_gpu that was built with RECURFORMER_FULL_TESTS, the conformance suite is in any.
#
# Every step is one line, also in summary.txt of the folder of --out (gpu-tests-<date>), with its output beside.
# Ends with 1 if one of them failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folders=("$here" "$here/../../build/release/tests/gpu")
out=gpu-tests-$(date -u +%F-%H%M%S)
while [ $# -gt 0 ]; do
  case $1 in
    --binaries) folders=("${2:?}") && shift 2 ;;
    --out) out=${2:?} && shift 2 ;;
    *) echo "usage: tests/gpu/run.sh [--binaries FOLDER] [--out FOLDER]" >&2 && exit 2 ;;
  esac
done

# find_binary NAME: its path, or nothing.
find_binary() {
  local folder file
  for folder in "${folders[@]}"; do
    for file in "$folder/$1" "$folder/$1/$1"; do
      if [ -f "$file" ] && [ -x "$file" ]; then
        realpath "$file"
        return
      fi
    done
  done
}

tests=$(find_binary test_gpu)
if [ -z "$tests" ]; then
  echo "there is no test_gpu in ${folders[*]}. Build that target with -DRECURFORMER_CUDA=ON, or name its folder" \
    "with --binaries." >&2
  exit 2
fi
mkdir -p "$out" || exit 2
: >"$out/summary.txt"
failed=0

say() { echo "$*" | tee -a "$out/summary.txt"; }

# step NAME COMMAND...: runs it, at most ten minutes.
step() {
  local name=$1 start=$SECONDS outcome=passed status
  shift
  timeout 600 "$@" >"$out/$name.log" 2>&1
  status=$?
  if [ $status -eq 124 ]; then
    outcome="failed: more than ten minutes"
  elif [ $status -ne 0 ]; then
    outcome="failed: exit status $status, see $out/$name.log"
  fi
  [ $status -eq 0 ] || failed=1
  say "$name: $outcome ($((SECONDS - start)) s)"
}

nvidia-smi >"$out/nvidia-smi.log" 2>&1
say "GPU: $(nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader 2>/dev/null || echo "none found")"
export RECURFORMER_REQUIRE_GPU=1
step conformance "$tests" --test-case='conformance*'
step all "$tests"
libraries=$(find_binary two_libraries)
if [ -n "$libraries" ]; then
  step two_libraries "$libraries"
else
  say "two_libraries: not run, there is no such binary"
fi

sanitizer=${COMPUTE_SANITIZER-$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer)}
if [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck initcheck synccheck; do
    step $tool "$sanitizer" --tool $tool --error-exitcode 1 "$tests" \
      --test-case='conformance*,fragments*,copy rows*,bulk copies*,boxes*,a ring of*,*every schedule*'
  done
else
  say "memcheck, racecheck, initcheck, synccheck: not run, there is no compute-sanitizer"
fi
grep -ho 'skipped: .*' "$out"/all.log | sort -u | while read -r line; do say "$line"; done
exit $failed
