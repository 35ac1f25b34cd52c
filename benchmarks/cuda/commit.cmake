# cmake -D SOURCE=<folder> -D OUTPUT=<header> -P commit.cmake: writes RECURFORMER_COMMIT, the commit that is checked
# out, with "-dirty" if files differ from it. The header is touched only when that changes.
set(commit "unknown")
find_package(Git QUIET)
if(GIT_FOUND)
  execute_process(COMMAND "${GIT_EXECUTABLE}" describe --always --dirty --abbrev=12 --exclude=*
                  WORKING_DIRECTORY "${SOURCE}" OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE
                  RESULT_VARIABLE result ERROR_QUIET)
  if(result EQUAL 0)
    set(commit "${described}")
  endif()
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT "#define RECURFORMER_COMMIT \"${commit}\"\n" @ONLY)
