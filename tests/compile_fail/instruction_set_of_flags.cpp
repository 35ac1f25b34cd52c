// flags: -DRECURFORMER_COMPILE_FOR=avx512
// expect: recurformer: recurformer_add_instruction_sets\(\) compiles this file for one set and the -m options
#include "recurformer/core/instruction_set.hpp"
