#!/bin/bash
# check.sh <way> <cmake> <compiler> <source directory> <build directory>: builds and runs a consumer that gets
# the library in this way: find_package, add_subdirectory, fetch_content, cuda, pkg_config or plain_include; or
# looks at what is installed (installed).
set -eu
way=$1 cmake=$2 compiler=$3 source=$4 build=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
program=$source/tests/package/main.cpp

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}
install_library() {
  "$cmake" --install "$build" --prefix "$work/prefix" >"$work/install.log"
}
build_and_run() { # <where the library is, for CMake>
  "$cmake" -S "$source/tests/package/$way" -B "$work/build" -DCMAKE_CXX_COMPILER="$compiler" \
    -DCMAKE_BUILD_TYPE=Release "$1"
  "$cmake" --build "$work/build"
  "$work/build/consumer"
}
# Every header is installed as it is, and nothing else but what finds them.
check_installed_files() {
  local other unknown
  diff -r "$source/include/recurformer" "$work/prefix/include/recurformer" ||
    fail "the installed headers are not those of $source/include"
  other=$(cd "$work/prefix" && find . -type f ! -path './include/recurformer/*' ! -path './share/cmake/recurformer/*.cmake' \
    ! -path './share/pkgconfig/*.pc' ! -path './share/doc/recurformer/LICENSE')
  [ -z "$other" ] || fail "installed, but not part of the library:" "$other"
  # Other libraries that a header may need, by the name of their headers; all else is the system's.
  unknown=$(grep -rnE '^ *# *include <[^>]*[./]' "$work/prefix/include" |
    grep -vE '<(nlohmann/json\.hpp|dlpack/dlpack\.h|pcre2\.h|utf8proc\.h|cuda\.h|cuda_runtime_api\.h|cub/[a-z_/]+\.cuh|immintrin\.h)>' |
    grep -vE '<(sys/(mman|stat)|fcntl|ucontext|unistd|sanitizer/[a-z_]+)\.h>' || true)
  [ -z "$unknown" ] || fail "installed headers include what their users may not have:" "$unknown"
}

case $way in
  plain_include)
    "$compiler" -std=c++20 -pthread -I "$source/include" "$program" -o "$work/consumer"
    "$work/consumer"
    ;;
  pkg_config)
    install_library
    mv "$work/prefix" "$work/moved" # its files must not remember where they were installed
    PKG_CONFIG_PATH=$(dirname "$(find "$work/moved" -name recurformer.pc)")
    export PKG_CONFIG_PATH
    [ "$(pkg-config --libs recurformer | xargs)" = -pthread ] ||
      fail "recurformer.pc links more than threads: $(pkg-config --libs recurformer)"
    read -r -a flags < <(pkg-config --cflags --libs recurformer-checkpoint)
    "$compiler" -std=c++20 -DCONSUMER_HAS_CHECKPOINT "-DPACKAGE_VERSION=\"$(pkg-config --modversion recurformer)\"" \
      "$program" "${flags[@]}" -o "$work/consumer"
    "$work/consumer"
    ;;
  installed)
    install_library
    check_installed_files
    ;;
  find_package | cuda)
    install_library
    build_and_run "-DCMAKE_PREFIX_PATH=$work/prefix"
    ;;
  *)
    build_and_run "-DRECURFORMER_SOURCE=$source"
    ;;
esac
