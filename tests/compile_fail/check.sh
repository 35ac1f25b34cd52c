#!/bin/bash
# check.sh <compiler> <flag>... <case.cpp>: succeeds if the compiler refuses the case with the messages that
# the case expects. See CMakeLists.txt for what a case contains.
set -u
source=${!#}
command=("${@:1:$#-1}")
read -r -a flags < <(sed -n 's|^// flags: ||p' "$source")

expected=$(sed -n 's|^// expect: ||p' "$source")
if [ -z "$expected" ]; then
  echo "$source has no '// expect:' line"
  exit 1
fi
if output=$("${command[@]}" "${flags[@]}" "$source" 2>&1); then
  echo "$source must be refused, but it compiles"
  exit 1
fi
status=0
while IFS= read -r pattern; do
  if ! grep -qE -- "$pattern" <<<"$output"; then
    echo "$source was refused, but this was not printed: $pattern"
    status=1
  fi
done <<<"$expected"
[ $status -eq 0 ] || printf '%s\n' "--- the compiler's output:" "$output"
exit $status
