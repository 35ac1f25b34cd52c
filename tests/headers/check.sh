#!/bin/sh
# check.sh <compiler> <include directory> <source>...: every source compiles without a warning.
set -eu
compiler=$1 include=$2
shift 2
printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" "$compiler" -std=c++20 -fsyntax-only -I "$include" \
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror
echo "$# headers compile alone"
