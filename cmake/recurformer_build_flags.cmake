# recurformer_build_flags: the warnings and the instruction set of our own tests, examples and benchmarks;
# recurformer_warnings: only the former, for programs that must run on another machine than the one that built them.
# Neither is exported: users of the library choose their own flags.
add_library(recurformer_warnings INTERFACE)
add_library(recurformer_build_flags INTERFACE)
target_link_libraries(recurformer_build_flags INTERFACE recurformer_warnings)
target_compile_options(
  recurformer_warnings
  INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall
            -Wextra
            -Wpedantic
            -Wconversion
            -Wshadow
            $<$<BOOL:${RECURFORMER_WERROR}>:-Werror>>)
# nvcc's standard by name: CMake 3.25 does not know how to ask it for C++20. -Wpedantic is left out, as the code
# nvcc hands to the host compiler is not pedantic.
target_compile_options(
  recurformer_warnings
  INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20
            -Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow
            $<$<BOOL:${RECURFORMER_WERROR}>:-Werror=all-warnings>>)

if(RECURFORMER_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native RECURFORMER_HAS_MARCH_NATIVE)
  if(RECURFORMER_HAS_MARCH_NATIVE)
    target_compile_options(recurformer_build_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
  endif()
endif()
