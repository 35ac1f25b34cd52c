# recurformer_add_instruction_sets(<target> <source>...): compiles the sources once for each instruction set that
# core/instruction_set.hpp lists, and adds the results to the target. Nothing of them is visible outside their set
# but functions that are instantiated for it. Call it where the target was made, once its libraries are linked
# (target_link_libraries): the sources see these, and the target's own options, definitions and directories.
#
# Each set is compiled for no more than the features that rf::machine_has() asks for. An x86-64 machine needs GNU ld
# and an objcopy; elsewhere there is one set, and the sources are simply the target's.
function(recurformer_add_instruction_sets target)
  include(CheckCXXSymbolExists)
  check_cxx_symbol_exists(__x86_64__ cstddef RECURFORMER_X86_64)
  if(NOT RECURFORMER_X86_64)
    target_sources(${target} PRIVATE ${ARGN})
    return()
  endif()

  # Other linkers (lld before 18, gold) leave the groups in which inline functions come, of which the last link would
  # take one set's for all.
  if(NOT RECURFORMER_GNU_LD)
    foreach(linker "${CMAKE_LINKER}" ld.bfd ld)
      execute_process(COMMAND "${linker}" --help OUTPUT_VARIABLE help ERROR_QUIET)
      if(help MATCHES "--force-group-allocation")
        set(RECURFORMER_GNU_LD "${linker}" CACHE STRING "A linker with --force-group-allocation")
        break()
      endif()
    endforeach()
  endif()
  if(NOT RECURFORMER_GNU_LD OR NOT CMAKE_NM OR NOT CMAKE_OBJCOPY)
    message(FATAL_ERROR "recurformer_add_instruction_sets(${target}) needs GNU ld, nm and objcopy: apt-get install "
                        "binutils")
  endif()

  set(options_sse4_2 -march=x86-64-v2)
  set(options_avx2 ${options_sse4_2} -mavx2 -mfma)
  set(options_avx512 ${options_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
  get_target_property(libraries ${target} LINK_LIBRARIES)
  if(NOT libraries)
    message(FATAL_ERROR "recurformer_add_instruction_sets(${target}): link ${target} to recurformer::recurformer first")
  endif()
  get_target_property(position_independent ${target} POSITION_INDEPENDENT_CODE)
  get_property(multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  set(script "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/recurformer_isolate_set.cmake")
  foreach(set sse4_2 avx2 avx512)
    set(library ${target}_${set})
    add_library(${library} OBJECT EXCLUDE_FROM_ALL ${ARGN})
    target_link_libraries(${library} PRIVATE ${libraries})
    target_include_directories(${library} PRIVATE $<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>)
    target_compile_definitions(${library} PRIVATE $<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS>
                                                  RECURFORMER_COMPILE_FOR=${set})
    # Objects of -flto hold no code yet, and what GCC makes unique stays so through any linking.
    target_compile_options(${library} PRIVATE $<TARGET_PROPERTY:${target},COMPILE_OPTIONS> ${options_${set}} -fno-lto
                                              $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
    if(position_independent)
      set_target_properties(${library} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    endif()

    set(object "${CMAKE_CURRENT_BINARY_DIR}/${library}")
    if(multi_config)
      string(APPEND object "_$<CONFIG>")
    endif()
    string(APPEND object "${CMAKE_CXX_OUTPUT_EXTENSION}")
    add_custom_command(
      OUTPUT "${object}"
      COMMAND "${CMAKE_COMMAND}" "-DLINKER=${RECURFORMER_GNU_LD}" "-DNM=${CMAKE_NM}" "-DOBJCOPY=${CMAKE_OBJCOPY}"
              "-DSET=${set}" "-DOBJECTS=$<TARGET_OBJECTS:${library}>" "-DRESULT=${object}" -P "${script}"
      DEPENDS $<TARGET_OBJECTS:${library}> "${script}"
      COMMENT "Isolating ${library}"
      VERBATIM)
    target_sources(${target} PRIVATE "${object}")
    add_dependencies(${target} ${library}) # for make, which knows no other target's objects
  endforeach()
endfunction()
