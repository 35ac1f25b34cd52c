#ifndef RECURFORMER_TESTS_SUPPORT_MEMORY_HPP
#define RECURFORMER_TESTS_SUPPORT_MEMORY_HPP

// How much memory a program has allocated, with what memory.cpp counts.

#include <cstddef>

namespace rf::test {

/// Bytes in use now.
std::size_t memory_in_use();
/// The most bytes in use at any moment since the last reset.
std::size_t peak_memory();
void reset_peak_memory();

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_MEMORY_HPP
