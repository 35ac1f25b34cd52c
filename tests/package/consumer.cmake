# What every consumer does once it has the targets.
foreach(target recurformer::recurformer recurformer::checkpoint recurformer::tokenizer)
  get_target_property(options ${target} INTERFACE_COMPILE_OPTIONS)
  if(options)
    message(FATAL_ERROR "${target} forces compile options on its users: ${options}")
  endif()
endforeach()
if(TARGET unit_tests OR TARGET recurformer_build_flags)
  message(FATAL_ERROR "recurformer's tests, examples and benchmarks are not for its users to build")
endif()

add_executable(consumer ${CMAKE_CURRENT_LIST_DIR}/main.cpp)
target_link_libraries(consumer PRIVATE recurformer::tokenizer)
target_compile_definitions(consumer PRIVATE CONSUMER_HAS_LIBRARIES)
