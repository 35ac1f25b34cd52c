#!/bin/bash
# A program with several instruction sets (examples/instruction_sets), where <program> may begin with an emulator.
#   check.sh run <program>              every set that the machine has computes the same, the others are refused
#   check.sh command_line <program>     the same of the command line (examples/recurformer)
#   check.sh symbols <nm> <object>...   no two of the objects have a function of one name: a linker would keep one
#   check.sh instructions <objdump> <object with AVX-512> <object without AVX>...
#   check.sh linker <compiler> <include directory>     files for two sets that were not isolated are refused
#   check.sh cross <include directory> <program> <compiler> <emulator>
#                                       compiled for another architecture, the program computes the same
set -euo pipefail
source=$(dirname "$0")/../../examples/instruction_sets
what=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset RECURFORMER_INSTRUCTION_SET

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}
same_results() { # <output> <output>: the name of a set, then numbers
  paste "$1" "$2" | awk '
    NR == 1 { sets = $1 " and " $2; next }
    { difference = $1 - $2; if (difference < 0) difference = -difference; if (difference > worst) worst = difference }
    END { print "largest difference between " sets ": " worst + 0; exit !(NR > 100 && worst < 1e-4) }'
}

# run_all <command>...: it prints the name of the set it takes, then numbers.
run_all() {
  local sets set usable=()
  read -r -a sets < <(RECURFORMER_INSTRUCTION_SET=none "$@" 2>&1 | sed -n 's/.*; this program was compiled for//p') || true
  [ ${#sets[@]} -gt 0 ] || fail "it does not say what it was compiled for: $*"
  for set in "${sets[@]}"; do
    if RECURFORMER_INSTRUCTION_SET=$set "$@" >"$work/$set" 2>"$work/error"; then
      [ "$(head -1 "$work/$set")" = "$set" ] || fail "asked for $set, it took $(head -1 "$work/$set")"
      usable+=("$set")
    else
      grep "$set, which this machine lacks" "$work/error" || fail "with $set it failed:" "$(cat "$work/error")"
    fi
  done
  "$@" >"$work/best"
  [ "$(head -1 "$work/best")" = "${usable[0]}" ] || fail "of ${usable[*]} it takes $(head -1 "$work/best")"
  for set in "${usable[@]}"; do
    same_results "$work/best" "$work/$set"
  done
}
# A model of the command line, measured: the set, and how far every head looks back.
text=(--text "$0" --rows 2 --length 64 --copy-lag 16 --threads 2)
analyse() {
  "${recurformer[@]}" analyze "$work/model" "${text[@]}" --batches 1 --window 8 --device cpu --out "$work/analysis" \
    >"$work/messages" 2>&1 || { cat "$work/messages" >&2; return 1; }
  sed -n 's/^backend: cpu (\([a-z0-9_]*\), .*/\1/p' "$work/messages"
  grep -oE '[0-9][-.e0-9]*' "$work/analysis"
}

case $what in
  run)
    run_all "$@"
    ;;
  command_line)
    recurformer=("$@")
    "$@" train "${text[@]}" --steps 1 --layers 2 --d-model 64 --d-head 16 --kv-groups 2 --d-ff 48 --out "$work/model" \
      >"$work/messages" 2>&1 || fail "train failed:" "$(cat "$work/messages")"
    run_all analyse
    ;;
  symbols)
    nm=$1
    shift
    [ $# -gt 1 ] || fail "these are too few objects to share anything: $*"
    for object; do
      "$nm" --defined-only --extern-only --format=posix "$object" | cut -d ' ' -f 1 | sort -u >"$work/of_one"
      [ -s "$work/of_one" ] || fail "nothing of $object is visible"
      cat "$work/of_one" >>"$work/of_all"
    done
    sort "$work/of_all" | uniq -d >"$work/shared"
    [ ! -s "$work/shared" ] || fail "visible in several objects:" "$(head -20 "$work/shared")"
    ;;
  instructions)
    objdump=$1 with=$2
    shift 2
    "$objdump" -d "$with" >"$work/code"
    grep -q '%zmm' "$work/code" || fail "$with uses no AVX-512"
    for object; do
      "$objdump" -d "$object" >"$work/code"
      grep -q '%xmm' "$work/code" || fail "$object computes nothing"
      ! grep -m 5 -P '%[yz]mm|\tv[a-z0-9]+ .*%xmm' "$work/code" || fail "$object has instructions of AVX"
    done
    ;;
  linker)
    compiler=$1 include=$2
    echo '#include "recurformer/tile/simd.hpp"' >"$work/one.cpp"
    (cat "$work/one.cpp" && echo 'int main() {}') >"$work/other.cpp"
    compile() {
      "$compiler" -std=c++20 -I "$include" "$@" -c "$work/$name.cpp" -o "$work/$name.o"
    }
    link() {
      "$compiler" -fuse-ld="$linker" "$work/one.o" "$work/other.o" -o "$work/program" 2>"$work/error"
    }
    name=one compile -msse4.2
    name=other compile -msse4.2 -mtune=native
    linkers=()
    for linker in bfd gold lld mold; do
      "$compiler" -fuse-ld=$linker -Wl,--version >"$work/version" 2>&1 || continue
      link || fail "files for one set are not linked by $linker:" "$(cat "$work/error")"
      linkers+=("$linker")
    done
    [ ${#linkers[@]} -gt 0 ] || fail "$compiler finds no linker"
    for options in -msse2 "-mavx2 -mfma"; do
      name=other compile $options
      for linker in "${linkers[@]}"; do
        ! link || fail "files for -msse4.2 and for $options are linked by $linker"
        grep recurformer_kernels_of_two_instruction_sets "$work/error" ||
          fail "$linker says something else:" "$(cat "$work/error")"
      done
    done
    ;;
  cross)
    include=$1 program=$2 compiler=$3
    shift 3
    "$compiler" -std=c++20 -O2 -static -pthread -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I "$include" \
      "$source"/*.cpp -o "$work/program"
    "$@" "$work/program" >"$work/there"
    "$program" >"$work/here"
    same_results "$work/here" "$work/there"
    ;;
esac
