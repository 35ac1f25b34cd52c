#ifndef RECURFORMER_TOKENIZER_SPLIT_HPP
#define RECURFORMER_TOKENIZER_SPLIT_HPP

// What becomes of a text's parts when it is split at the matches of a pattern.

#include <algorithm>
#include <vector>

#include "recurformer/tokenizer/regex.hpp"

namespace rf::detail {

/// With the matches of "-" in "a--b": removed: a b; isolated: a - - b; merged_with_previous: a- - b;
/// merged_with_next: a - -b; contiguous: a -- b.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Joins every part to the one before it, in the order of `parts`, where `joins(part matches, the one before
/// does)`.
template <class Joins>
std::vector<TextPart> join_parts(const std::vector<TextPart>& parts, Joins joins) {
  std::vector<TextPart> out;
  bool previous = false;
  for (const TextPart& part : parts) {
    if (!out.empty() && joins(part.match, previous)) {
      out.back().begin = std::min(out.back().begin, part.begin);
      out.back().end = std::max(out.back().end, part.end);
    } else {
      out.push_back(part);
    }
    previous = part.match;
  }
  return out;
}

/// The parts that are left, from left to right.
inline std::vector<TextPart> split_parts(std::vector<TextPart> parts, SplitBehavior behavior) {
  const auto lone_match = [](bool match, bool previous) { return match && !previous; };
  switch (behavior) {
    case SplitBehavior::removed:
      std::erase_if(parts, [](const TextPart& part) { return part.match; });
      return parts;
    case SplitBehavior::isolated:
      return parts;
    case SplitBehavior::contiguous:
      return join_parts(parts, [](bool match, bool previous) { return match == previous; });
    case SplitBehavior::merged_with_previous:
      return join_parts(parts, lone_match);
    case SplitBehavior::merged_with_next:
      std::reverse(parts.begin(), parts.end());
      parts = join_parts(parts, lone_match);
      std::reverse(parts.begin(), parts.end());
      return parts;
  }
  return parts;
}

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_SPLIT_HPP
