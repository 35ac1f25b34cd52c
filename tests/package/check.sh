#!/bin/bash
# check.sh <way> <cmake> <compiler> <source directory> <build directory>: builds and runs a consumer that gets
# the library in this way: find_package, add_subdirectory, fetch_content or plain_include.
set -eu
way=$1 cmake=$2 compiler=$3 source=$4 build=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "$way" = plain_include ]; then
  "$compiler" -std=c++20 -pthread -I "$source/include" "$source/tests/package/main.cpp" -o "$work/consumer"
  "$work/consumer"
  exit
fi

if [ "$way" = find_package ]; then
  "$cmake" --install "$build" --prefix "$work/prefix" >"$work/install.log"
  location=-DCMAKE_PREFIX_PATH=$work/prefix
else
  location=-DRECURFORMER_SOURCE=$source
fi
"$cmake" -S "$source/tests/package/$way" -B "$work/build" -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_BUILD_TYPE=Release "$location"
"$cmake" --build "$work/build"
"$work/build/consumer"
