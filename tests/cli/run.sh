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
  [[ " $* " = *" --help "* ]] || grep -qE '^peak memory: [0-9]+\.[0-9] MiB$' err.txt ||
    { cat err.txt; fail "recurformer $* does not say what memory it took"; }
}
# peak_of <results>: sets `peak`, the bytes that the last run took, which stderr and these results of it say.
peak_of() {
  local text
  peak=$(sed -n 's/^ *"peak_memory_bytes": \([0-9]*\),\{0,1\}$/\1/p' "$1")
  text=$(sed -n 's/^peak memory: \([0-9]*\)\..*/\1/p' err.txt)
  [ -n "$peak" ] && ((text - 1 <= peak >> 20 && peak >> 20 <= text)) || { cat err.txt; fail "$1 has another peak: $peak"; }
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
  [ "$(wc -l <err.txt)" = 1 ] || { cat err.txt; fail "recurformer $*: expected one line on stderr"; }
  grep -qF -- "$expected" err.txt || { cat err.txt; fail "recurformer $*: expected '$expected'"; }
}
# kill_in_between <state file> <arguments>...: starts a run and kills it once it has saved a state.
kill_in_between() {
  local state=$1 process status=0
  shift
  "$program" "$@" >out.txt 2>err.txt &
  process=$!
  for ((i = 0; i < 1000; ++i)); do
    [ ! -e "$state" ] || break
    sleep 0.01
  done
  kill -9 $process 2>/dev/null || true
  wait $process 2>/dev/null || status=$?
  [ -e "$state" ] || { cat err.txt; fail "recurformer $*: no $state after 10 s"; }
  [ $status = 137 ] || { cat err.txt; fail "recurformer $*: ended before it could be killed"; }
}
# resumed <stage>: the last run went on in the middle of this stage.
resumed() {
  local steps
  steps=$(sed -n "s/^$1: resumed at step \([0-9]*\) of \([0-9]*\)$/\1 < \2/p" err.txt)
  [ -n "$steps" ] && ((steps)) || { cat err.txt; fail "'$1' did not resume in between"; }
}

# byte_tokens <file>: its bytes as a .npy file of tokens.
byte_tokens() {
  printf '\x93NUMPY\x01\x00\x80\x00%-127s\n' "{'descr': '|u1', 'fortran_order': False, 'shape': ($(stat -c %s "$1"),), }"
  cat "$1"
}
# byte_tokenizer: a tokenizer.json without merges, in which the token of every byte is the byte.
byte_tokenizer() {
  local byte code next=256 one vocabulary=
  for ((byte = 0; byte < 256; ++byte)); do
    code=$byte
    (((byte > 32 && byte < 127) || (byte > 160 && byte != 173))) || code=$((next++))
    printf -v one '"\\u%04x": %d, ' "$code" "$byte"
    vocabulary+=$one
  done
  echo '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,'
  echo '"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},'
  echo '"post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},'
  echo '"model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,'
  echo "\"fuse_unk\": false, \"byte_fallback\": false, \"vocab\": {${vocabulary%, }}, \"merges\": []}}"
}
# with_biases <model> <out>: a model of two layers as a Qwen2 whose biases are zero, in a second file.
with_biases() {
  local layer matrix name size offset=0 header= map=
  mkdir "$2"
  LC_ALL=C sed 's/"recurformer_tensors"/"of_another_program_"/' "$1/model.safetensors" >"$2/weights.safetensors"
  sed 's/LlamaForCausalLM/Qwen2ForCausalLM/; s/"llama"/"qwen2"/; /_bias": false/d' "$1/config.json" >"$2/config.json"
  for layer in 0 1; do
    for matrix in q:64 k:32 v:32; do
      name="model.layers.$layer.self_attn.${matrix%:*}_proj.bias" size=${matrix#*:}
      header+="\"$name\": {\"dtype\": \"F32\", \"shape\": [$size], \"data_offsets\": [$offset, $((offset + 4 * size))]}, "
      map+="\"$name\": \"biases.safetensors\", "
      offset=$((offset + 4 * size))
    done
  done
  { printf '\x00\x04\0\0\0\0\0\0%-1024s' "{${header%, }}"; head -c $offset /dev/zero; } >"$2/biases.safetensors"
  map+=$(grep -ao '"model\.[a-z0-9._]*"' "$2/weights.safetensors" | sed 's/$/: "weights.safetensors"/' | paste -sd,)
  echo "{\"weight_map\": {$map}}" >"$2/model.safetensors.index.json"
}
# A text of the user's own: 300 kB of numbered lines.
seq 1 12000 | sed 's/.*/line & of a text that nobody has to like\n/' >text.txt
data=(--text text.txt --rows 4 --length 96 --copy-rows 1 --copy-lag 24)

new=(train "${data[@]}" --steps 60 --layers 2 --d-model 32 --d-head 16 --kv-groups 2 --d-ff 48)

run "${new[@]}" --out original
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
  peak_of eval.json
  ((peak > 1 << 20 && peak < 4 << 30)) || fail "eval took $peak bytes"
  run generate hybrid_$replacement --prompt "line 1" --tokens 20 --save-cache cache.safetensors
  run generate hybrid_$replacement --prompt " " --tokens 5 --load-cache cache.safetensors
  run inspect hybrid_$replacement --json inspect.json
  grep -q "$replacement:fp32" inspect.json || fail "inspect.json does not name $replacement"
done
# CUDA kernels, on the CPU: all mixers of a plan, prefill and decode.
run generate hybrid_mamba --prompt "line 1" --tokens 3 --device simulated --json device.json --save-cache device_cache.safetensors
grep -q '^backend: simulated' err.txt || fail "generate --device simulated does not name its backend"
grep -q '"device": "simulated"' device.json || fail "device.json does not name the device"
run generate hybrid_mamba --prompt " " --tokens 2 --device simulated --load-cache device_cache.safetensors
grep -q 'cache: 10 tokens' err.txt || fail "generate --device simulated did not go on after the saved prefix"
refuse "precision" generate hybrid_mamba --device cpu --load-cache device_cache.safetensors
# The same kernels compute heads with biases; without any they say the same.
with_biases original qwen2
for model in original qwen2; do
  run analyze $model --text text.txt --rows 1 --length 48 --copy-rows 0 --copy-lag 8 --batches 1 --window 8 --device simulated --out biased_analysis.json
  run plan $model --analysis biased_analysis.json --fraction 0.5 --replacement streaming --out biased_plan.json
  run convert $model --plan biased_plan.json --analysis biased_analysis.json --out ${model}_streaming
  run generate ${model}_streaming --prompt "line 1" --tokens 3 --device simulated
  mv out.txt $model.txt
done
grep -q 'attention_qkv_bias.*streaming_qkv_bias\|streaming_qkv_bias.*attention_qkv_bias' <(tr -d '\n' <biased_plan.json) || fail "the plan has no heads with biases"
cmp original.txt qwen2.txt || fail "biases of zero change what is generated"

# Without --device the CPU says why it, and not a GPU, computes.
run train "${data[@]}" --steps 1 --layers 1 --d-model 32 --d-head 32 --kv-groups 1 --d-ff 48 --out wide
run generate wide --tokens 2
grep -q '^backend: cpu (.*), since .*d_head is 32' err.txt || fail "generate does not say why d_head 32 is not for a GPU"
run generate original --tokens 2
if grep -q '^backend: cuda' err.txt; then
  echo "there is a GPU: not checked what is said without one"
else
  grep -q '^backend: cpu (.*), since .' err.txt || fail "generate does not say why there is no GPU"
  refuse "CUDA" generate original --device cuda
fi

# The same text as lines of JSON and as tokens: the same tokens.
measure=(eval original --rows 4 --length 96 --copy-lag 24 --text-rows 8 --task-rows 2 --json eval.json)
# same_results <message>: eval measured what it did before, in whatever memory.
same_results() {
  cmp <(grep -v peak_memory_bytes eval.json) <(grep -v peak_memory_bytes expected.json) || fail "$1"
}
run "${measure[@]}" --text text.txt
cp eval.json expected.json
grep -q '"bits_per_byte"' expected.json && grep -q '"perplexity"' expected.json || fail "eval.json lacks a loss"
sed 's/.*/{"body": "&\\n"}/' text.txt >text.jsonl
byte_tokens text.txt >tokens.npy
run "${measure[@]}" --text text.jsonl --text-field body
same_results "lines of JSON are other text"
run "${measure[@]}" --text tokens.npy
same_results "a file of tokens is other text"
refuse "the field 'text' is missing" "${measure[@]}" --text text.jsonl

# What weights in integers cost, beside what is measured anyway.
run "${measure[@]}" --text text.txt --int8-weights
grep -q '"int8_weights"' eval.json && grep -q '^difference:' out.txt || fail "eval does not say what integers cost"
[ "$(grep -m 1 bits_per_byte eval.json)" = "$(grep bits_per_byte expected.json)" ] || fail "--int8-weights changes the model's own loss"
[ "$(grep -o 'bits_per_byte": .*[0-9]' eval.json | sort -u | wc -l)" = 3 ] || fail "--int8-weights rounds nothing"

# A model with a tokenizer, whose tokens here are bytes, too; one without can use files of tokens only.
cp -r original with_tokenizer
sed -i '/"recurformer"/d' with_tokenizer/config.json
sed -i 's/"eos_token_id": null/"eos_token_id": 10/' with_tokenizer/config.json
measure[1]=with_tokenizer
refuse "put its tokenizer.json there" "${measure[@]}" --text text.txt
refuse "put its tokenizer.json there" generate with_tokenizer --prompt "line"
run "${measure[@]}" --text tokens.npy
grep -q '"loss_per_token"' eval.json || fail "eval.json has no loss of tokens"
if grep -q '"bits_per_byte"' eval.json; then fail "eval.json has bits per byte of unknown text"; fi
byte_tokenizer >with_tokenizer/tokenizer.json
run "${measure[@]}" --text tokens.npy
[ "$(grep bits_per_byte eval.json)" = "$(grep bits_per_byte expected.json)" ] || fail "the tokenizer's text has other bytes"
# Greedy: both go on from the prompt with the same tokens, the one until the end of the line.
run generate original --prompt "line 1" --temperature 0 --tokens 60 --json bytes.json
head -n 1 out.txt >first_line.txt
run generate with_tokenizer --prompt "line 1" --temperature 0 --tokens 60
cmp out.txt first_line.txt || fail "generate does not stop at the end token, or draws other tokens"
run generate with_tokenizer --prompt "line 1" --temperature 0 --tokens 60 --ignore-eos --json ignored.json
[ "$(sed -n '/text_bytes/,/]/p' ignored.json)" = "$(sed -n '/text_bytes/,/]/p' bytes.json)" ] || fail "--ignore-eos stops"
# The tokenizer goes with the model.
run analyze with_tokenizer --text text.txt --rows 2 --length 96 --batches 1 --window 8 --out with_tokenizer.json
run plan with_tokenizer --analysis with_tokenizer.json --fraction 0.5 --out with_tokenizer_plan.json
run convert with_tokenizer --plan with_tokenizer_plan.json --analysis with_tokenizer.json --out with_tokenizer_converted
grep -q "^memory: " out.txt || fail "convert does not state its memory"
run train --from with_tokenizer_converted "${data[@]}" --steps 1 --out with_tokenizer_hybrid
grep -q "^memory: .*optimizer" out.txt || fail "train does not state its memory"
for model in with_tokenizer_converted with_tokenizer_hybrid; do
  cmp with_tokenizer/tokenizer.json $model/tokenizer.json || fail "$model lacks its tokenizer"
  grep -q '"eos_token_id": 10' $model/config.json || fail "$model/config.json lacks its end token"
done
refuse "training needs" train --text text.txt --rows 10000 --length 100000 --steps 1 --out x

# Activations computed again: the same weights in less memory.
deep=(train --text text.txt --rows 64 --length 96 --copy-lag 24 --steps 1 --layers 8 --d-model 64 --d-head 16 --kv-groups 2 --d-ff 192)
run "${deep[@]}" --out kept --json train.json
peak_of train.json
kept=$peak
run "${deep[@]}" --recompute --out recomputed --json train.json
peak_of train.json
((peak + (64 << 20) < kept)) || fail "train --recompute took $peak bytes, without it $kept"
cmp kept/model.safetensors recomputed/model.safetensors || fail "train --recompute ended with other weights"

for score in sink-free random reverse; do run plan original --analysis analysis.json --score $score --out plan.json; done
run plan original --analysis analysis.json --score swap --replacement streaming --out plan.json
run plan original --analysis analysis.json --cache-bytes 300000 --context 1024 --out plan.json

# A run that is killed resumes by itself and ends with the same bits, whatever the number of threads.
for threads in 1 2; do
  rm -rf killed
  kill_in_between killed/training.safetensors "${new[@]}" --save-every 1 --threads $threads --out killed
  run "${new[@]}" --save-every 1 --threads $threads --out killed
  resumed train
  cmp -s killed/model.safetensors original/model.safetensors || fail "the resumed run ended with other weights ($threads threads)"
done
# The same in both stages of continual training.
run plan original --analysis analysis.json --fraction 0.5 --per-layer --out plan.json
run convert original --plan plan.json --analysis analysis.json --out converted
hybrid=(train --from converted --original original "${data[@]}" --steps 40 --stage1-steps 40)
run "${hybrid[@]}" --out whole
kill_in_between killed_hybrid/stage1.safetensors "${hybrid[@]}" --save-every 1 --out killed_hybrid
kill_in_between killed_hybrid/training.safetensors "${hybrid[@]}" --save-every 1 --out killed_hybrid
resumed "stage 1"
run "${hybrid[@]}" --save-every 1 --out killed_hybrid
resumed train
cmp -s killed_hybrid/model.safetensors whole/model.safetensors || fail "the resumed continual training ended with other weights"
# Another conversion at the same path, with as many groups of each kind, is another run; so is other text.
run plan original --analysis analysis.json --fraction 0.5 --per-layer --score reverse --out plan.json
run convert original --plan plan.json --analysis analysis.json --out converted
refuse "other settings" "${hybrid[@]}" --out whole
sed -i 's/line 77 /line 78 /' text.txt
refuse "other settings" "${new[@]}" --out original

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
refuse "temperature" generate original --temperature -1
refuse "other settings" "${new[@]}" --seed 1 --out original
for command in demo train analyze plan convert eval generate inspect; do
  run $command --help
  grep -q "Example" out.txt || fail "$command --help has no example"
done
echo "command line: all passed"
