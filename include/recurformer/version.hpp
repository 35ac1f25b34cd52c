#ifndef RECURFORMER_VERSION_HPP
#define RECURFORMER_VERSION_HPP

// The version of these headers. CMakeLists.txt reads it from here, so it is written once.
#define RECURFORMER_VERSION_MAJOR 0
#define RECURFORMER_VERSION_MINOR 1
#define RECURFORMER_VERSION_PATCH 0

#endif  // RECURFORMER_VERSION_HPP
