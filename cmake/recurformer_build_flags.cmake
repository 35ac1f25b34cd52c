# recurformer_build_flags: the warnings and the instruction set of our own tests, examples and benchmarks.
# It is not exported: users of the library choose their own flags.
add_library(recurformer_build_flags INTERFACE)
target_compile_options(
  recurformer_build_flags
  INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall
            -Wextra
            -Wpedantic
            -Wconversion
            -Wshadow
            $<$<BOOL:${RECURFORMER_WERROR}>:-Werror>>)

if(RECURFORMER_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native RECURFORMER_HAS_MARCH_NATIVE)
  if(RECURFORMER_HAS_MARCH_NATIVE)
    target_compile_options(recurformer_build_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
  endif()
endif()
