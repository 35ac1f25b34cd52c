# cmake -DLINKER=... -DNM=... -DOBJCOPY=... -DSET=<name> -DOBJECTS=<objects> -DRESULT=<object> -P: makes one object of
# several in which nothing is visible from outside but what is a template's instance for an rf::InstructionSet.

list(FILTER OBJECTS EXCLUDE REGEX "\\.(gch|pch)$") # a precompiled header is among a target's objects
# Without groups: the next link would throw away those it has met in another set.
execute_process(COMMAND "${LINKER}" -r --force-group-allocation -o "${RESULT}" ${OBJECTS} COMMAND_ERROR_IS_FATAL ANY)

execute_process(COMMAND "${NM}" --defined-only --extern-only --format=posix "${RESULT}" OUTPUT_VARIABLE symbols
                                                                                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^ \n]*L[^ \n]*14InstructionSetE[0-9]+E[^ \n]*" visible "${symbols}")
if(NOT visible)
  file(REMOVE "${RESULT}")
  message(FATAL_ERROR "recurformer_add_instruction_sets(): no source has a function for the set ${SET}. One looks so: "
                      "template <rf::InstructionSet> void f() { … } template void f<rf::compiled_instruction_set>();")
endif()
list(JOIN visible "\n" lines)
file(WRITE "${RESULT}.visible" "${lines}\n")
execute_process(COMMAND "${OBJCOPY}" "--keep-global-symbols=${RESULT}.visible" "${RESULT}" COMMAND_ERROR_IS_FATAL ANY)
