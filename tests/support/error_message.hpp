#ifndef RECURFORMER_TESTS_SUPPORT_ERROR_MESSAGE_HPP
#define RECURFORMER_TESTS_SUPPORT_ERROR_MESSAGE_HPP

#include <string>

namespace rf::test {

/// what() of the `Error` that `action` throws; "no error" if it throws none. Anything else passes through and
/// fails the test.
template <class Error, class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// Whether `part` occurs in `whole`.
inline bool contains(const std::string& whole, const std::string& part) {
  return whole.find(part) != std::string::npos;
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_ERROR_MESSAGE_HPP
