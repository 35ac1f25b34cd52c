# recurformer_kernel_report(<target> <folder>): compiling the target's only .cu file leaves in the folder what ptxas reports
# of its kernels (ptxas.log) and their PTX, which tests/gpu holds to written budgets.
function(recurformer_kernel_report target folder)
  file(MAKE_DIRECTORY "${folder}")
  set_target_properties(${target} PROPERTIES CUDA_COMPILER_LAUNCHER
                                             "${PROJECT_SOURCE_DIR}/tests/gpu/keep_report.sh;${folder}/ptxas.log")
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xptxas -v --keep --keep-dir ${folder}>")
endfunction()
