#!/bin/bash
# Runs the commands of the command line one after the other, each on the files of the one before, and checks what they
# refuse. Usage: run.sh <recurformer>
set -euo pipefail
program=$(readlink -f "$1")
include=$(readlink -f "$(dirname "$0")/../../include")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

fail() {
  echo "FAILED: $*"
  exit 1
}
run() {
  "$program" "$@" >out.txt 2>err.txt || { cat out.txt err.txt; fail "recurformer $*"; }
}
# compile_header <header>: it is C++ with a model spec.
compile_header() {
  printf '#include "%s"\nstatic_assert(rf::ModelSpec<emitted::Model>);\n' "$1" >header.cpp
  ${CXX:-g++} -std=c++20 -fsyntax-only -I "$include" header.cpp || { cat "$1"; fail "$1 does not compile"; }
}
# refuse <expected text> <arguments>...: one line on stderr that contains the text, and a non-zero exit status.
refuse() {
  local expected=$1
  shift
  if "$program" "$@" >out.txt 2>err.txt; then fail "recurformer $* succeeded"; fi
  grep -v '^backend: ' err.txt >line.txt || true
  [ "$(wc -l <line.txt)" = 1 ] || { cat line.txt; fail "recurformer $*: expected one line on stderr"; }
  grep -qF -- "$expected" line.txt || { cat line.txt; fail "recurformer $*: expected '$expected'"; }
}

# A text of the user's own: 300 kB of numbered lines.
seq 1 12000 | sed 's/.*/line & of a text that nobody has to like\n/' >text.txt
data=(--text text.txt --rows 4 --length 96 --copy-rows 1 --copy-lag 24)

run train "${data[@]}" --steps 12 --layers 2 --d-model 32 --d-head 16 --kv-groups 2 --d-ff 48 --save-every 5 --out original
cp original/model.safetensors whole.safetensors
run analyze original "${data[@]}" --batches 2 --window 8 --swap streaming --out analysis.json
run analyze original --text text.txt --rows 1 --length 48 --copy-rows 0 --copy-lag 8 --batches 1 --window 8 --device simulated --out device_analysis.json
grep -q "^backend: simulated" err.txt || fail "analyze --device simulated does not name its backend"
for replacement in mamba mamba2 streaming; do
  run plan original --analysis analysis.json --fraction 0.5 --replacement $replacement --out plan.json --header plan.hpp
  compile_header plan.hpp
  run convert original --plan plan.json --analysis analysis.json --out converted
  run train --from converted --original original "${data[@]}" --steps 6 --stage1-steps 3 --out hybrid_$replacement
  run eval hybrid_$replacement "${data[@]}" --text-rows 8 --task-rows 4 --json eval.json
  grep -q bits_per_byte eval.json || fail "eval.json has no bits_per_byte"
  run generate hybrid_$replacement --prompt "line 1" --tokens 20 --save-cache cache.safetensors
  run generate hybrid_$replacement --prompt " " --tokens 5 --load-cache cache.safetensors
  run inspect hybrid_$replacement --json inspect.json
  grep -q "$replacement:fp32" inspect.json || fail "inspect.json does not name $replacement"
done
# CUDA kernels, on the CPU: all mixers of a plan, prefill and decode.
run generate hybrid_mamba --prompt "line 1" --tokens 3 --device simulated --json device.json
grep -q '^backend: simulated' err.txt || fail "generate --device simulated does not name its backend"
grep -q '"device": "simulated"' device.json || fail "device.json does not name the device"

for score in sink-free random reverse; do run plan original --analysis analysis.json --score $score --out plan.json; done
run plan original --analysis analysis.json --score swap --replacement streaming --out plan.json
run plan original --analysis analysis.json --cache-bytes 300000 --context 1024 --out plan.json

# A run that is stopped resumes by itself and ends with the same bits, whatever the number of threads.
for threads in 1 2; do
  rm -rf resumed
  "$program" train "${data[@]}" --steps 12 --layers 2 --d-model 32 --d-head 16 --kv-groups 2 --d-ff 48 --save-every 1 --threads $threads --out resumed \
    >/dev/null 2>&1 &
  sleep 0.3
  kill -9 $! 2>/dev/null || true
  wait $! 2>/dev/null || true
  run train "${data[@]}" --steps 12 --layers 2 --d-model 32 --d-head 16 --kv-groups 2 --d-ff 48 --save-every 1 --threads $threads --out resumed
  cmp -s resumed/model.safetensors whole.safetensors || fail "the resumed run ended with other weights ($threads threads)"
done

refuse "no-such-folder" inspect no-such-folder
refuse "--wrong" inspect original --wrong
refuse "subcommand is required" nonsense
refuse "--text" train --text missing.txt --out x
refuse "d_head is 48" train "${data[@]}" --d-head 48 --steps 1 --out x
echo '{"recurformer_plan": 1, "kinds": []}' >broken.json
refuse "broken.json" convert original --plan broken.json --out x
refuse "analysis" plan original --out plan.json
refuse "has swap scores of streaming:fp32; --replacement mamba needs those of its own" plan original --analysis analysis.json --score swap --replacement mamba --out plan.json
refuse "distance profiles" convert original --plan plan.json --out x
head -c 1000 original/model.safetensors >converted/model.safetensors
refuse "model.safetensors" generate converted
refuse "--device cpu only" generate hybrid_mamba --device simulated --save-cache cache.safetensors
refuse "temperature" generate original --temperature -1
refuse "other settings" train "${data[@]}" --steps 13 --layers 2 --d-model 32 --d-head 16 --kv-groups 2 --d-ff 48 --out original
for command in demo train analyze plan convert eval generate inspect; do
  run $command --help
  grep -q "Example" out.txt || fail "$command --help has no example"
done
echo "command line: all passed"
