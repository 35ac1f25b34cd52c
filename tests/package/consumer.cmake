# What every consumer does once it has the targets.

# The library forces nothing on its users, and asks for nothing that only its own programs need.
set(allowed_links Threads::Threads recurformer recurformer::recurformer nlohmann_json::nlohmann_json
                  recurformer_checkpoint recurformer::checkpoint PCRE2::8BIT utf8proc::utf8proc)
foreach(target recurformer::recurformer recurformer::checkpoint recurformer::tokenizer)
  foreach(property COMPILE_OPTIONS COMPILE_DEFINITIONS LINK_OPTIONS)
    get_target_property(forced ${target} INTERFACE_${property})
    if(forced)
      message(FATAL_ERROR "${target} forces ${property} on its users: ${forced}")
    endif()
  endforeach()
  get_target_property(links ${target} INTERFACE_LINK_LIBRARIES)
  list(REMOVE_ITEM links ${allowed_links})
  if(links)
    message(FATAL_ERROR "${target} links ${links}, which its users would need; expected none but ${allowed_links}")
  endif()
endforeach()
foreach(target unit_tests recurformer_build_flags doctest::doctest CLI11::CLI11 benchmark::benchmark)
  if(TARGET ${target})
    message(FATAL_ERROR "${target}: recurformer's tests, examples and benchmarks are not for its users to build")
  endif()
endforeach()

add_executable(consumer ${CMAKE_CURRENT_LIST_DIR}/main.cpp)
target_link_libraries(consumer PRIVATE recurformer::tokenizer)
target_compile_definitions(consumer PRIVATE CONSUMER_HAS_CHECKPOINT CONSUMER_HAS_TOKENIZER CONSUMER_HAS_SETS)
recurformer_add_instruction_sets(consumer ${CMAKE_CURRENT_LIST_DIR}/vector_sum.cpp)
