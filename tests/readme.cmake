# The layer spec that README.md shows is, letter by letter, the one that examples/01_layer.cpp builds and runs.
#   cmake -DREADME=README.md -DEXAMPLE=examples/01_layer.cpp -P readme.cmake

file(READ "${README}" readme)
file(READ "${EXAMPLE}" example)
string(FIND "${readme}" "struct MyLayer {" begin)
if(begin EQUAL -1)
  message(FATAL_ERROR "${README} has no `struct MyLayer {`")
endif()
string(SUBSTRING "${readme}" ${begin} -1 rest)
string(FIND "${rest}" "\n};\n" end)
if(end EQUAL -1)
  message(FATAL_ERROR "${README}: `struct MyLayer {` has no end, a line `};`")
endif()
string(SUBSTRING "${rest}" 0 ${end} spec)
string(FIND "${example}" "${spec}\n};\n" found)
if(found EQUAL -1)
  message(FATAL_ERROR "${README} shows a spec that is not in ${EXAMPLE}; make them equal:\n${spec}\n};")
endif()
