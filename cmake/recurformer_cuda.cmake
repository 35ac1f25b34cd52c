# Enables the CUDA language if RECURFORMER_CUDA asks for it. Everything else builds without a CUDA compiler.
if(NOT RECURFORMER_CUDA)
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    # Code for the two architectures the kernels are written for; PTX of compute_80 serves newer devices.
    set(CMAKE_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "CUDA architectures")
  endif()
  enable_language(CUDA)
elseif(NOT RECURFORMER_CUDA STREQUAL "AUTO")
  message(FATAL_ERROR "RECURFORMER_CUDA is ${RECURFORMER_CUDA}, but no CUDA compiler was found. Put nvcc on the "
                      "PATH, name it with -DCMAKE_CUDA_COMPILER=..., or use -DRECURFORMER_CUDA=AUTO.")
endif()
