#ifndef RECURFORMER_EVAL_HASH_HOP_HPP
#define RECURFORMER_EVAL_HASH_HOP_HPP

// HashHop (Magic, 2024): chains of random hashes, cut into lines and shuffled; the model is asked for the end
// of a chain, given its start. With hash_length 4, two chains of two hops and one query:
//
//   vRLW = sVLd
//   KmsF = 'nRaq'
//   jJWl = KmsF
//   sVLd = 'zfJu'
//
//   jJWl = 'nRaq'
//
// The last link of a chain is quoted, as in the original; its heading, which repeats the number of hops, is
// left out. Scored are the characters between the quotes below the empty line. Hashes are letters (A-Z, a-z),
// tokens are bytes.

#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "recurformer/eval/task.hpp"

namespace rf {

struct HashHopTask {
  std::int64_t chains = 8;       ///< >= 1; the row has chains * hops lines of hash pairs
  std::int64_t hops = 1;         ///< links from the start of a chain to its end, >= 1
  std::int64_t hash_length = 4;  ///< characters of a hash, >= 1
  std::int64_t queries = 1;      ///< chains that are asked for, 1 to chains
  Split split = Split::train;

  /// Tokens of a row.
  std::int64_t length() const {
    const std::int64_t line = 2 * hash_length + 4;  // "a = b\n"
    return chains * hops * line + 2 * chains + 1 + queries * (line + 2);
  }

  /// A row of length() tokens, queries * hash_length of them scored.
  TaskRow row(Random& random) const {
    validate();
    const auto hashes = draw_hashes(random);
    std::vector<std::pair<std::size_t, bool>> lines;  // index of the left hash, is it the last link
    for (std::size_t chain = 0; chain < count(chains); ++chain)
      for (std::size_t hop = 0; hop < count(hops); ++hop)
        lines.emplace_back(chain * count(hops + 1) + hop, hop + 1 == count(hops));
    shuffle(lines, random);
    std::vector<std::size_t> asked(count(chains));
    for (std::size_t chain = 0; chain < asked.size(); ++chain) asked[chain] = chain;
    shuffle(asked, random);

    TaskRow row;
    for (const auto& [left, quoted] : lines) append_line(row, hashes[left], hashes[left + 1], quoted, false);
    append(row, "\n");
    for (std::size_t i = 0; i < count(queries); ++i) {
      const std::size_t start = asked[i] * count(hops + 1);
      append_line(row, hashes[start], hashes[start + count(hops)], true, true);
    }
    return row;
  }

 private:
  using Hash = std::vector<std::int32_t>;

  static std::size_t count(std::int64_t value) { return static_cast<std::size_t>(value); }

  void validate() const {
    check(chains >= 1 && hops >= 1 && hash_length >= 1, "HashHop: ", chains, " chains, ", hops, " hops, ",
          hash_length, " characters a hash; each must be at least 1");
    check(queries >= 1 && queries <= chains, "HashHop: ", queries, " queries; allowed: 1 to the ", chains,
          " chains");
  }

  /// chains * (hops + 1) distinct hashes of this split; those of one chain are neighbours.
  std::vector<Hash> draw_hashes(Random& random) const {
    std::set<Hash> seen;
    std::vector<Hash> hashes(count(chains * (hops + 1)), Hash(count(hash_length)));
    for (auto& hash : hashes)
      detail::draw_until(
          [&] {
            for (auto& token : hash) {
              const std::uint64_t letter = random.below(52);
              token = static_cast<std::int32_t>(letter < 26 ? 'A' + letter : 'a' + (letter - 26));
            }
            return split_of(hash) == split && seen.insert(hash).second;
          },
          "HashHop", "use longer hashes, fewer chains or fewer hops");
    return hashes;
  }

  template <class T>
  static void shuffle(std::vector<T>& items, Random& random) {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
  }

  static void append(TaskRow& row, const char* characters) {
    for (; *characters != '\0'; ++characters) {
      row.tokens.push_back(*characters);
      row.targets.push_back(-1);
    }
  }

  /// "left = right\n" or "left = 'right'\n". A scored right side is the target of the position before each of
  /// its characters.
  static void append_line(TaskRow& row, const Hash& left, const Hash& right, bool quoted, bool scored) {
    row.tokens.insert(row.tokens.end(), left.begin(), left.end());
    row.targets.resize(row.tokens.size(), -1);
    append(row, quoted ? " = '" : " = ");
    for (const std::int32_t token : right) {
      if (scored) row.targets.back() = token;
      row.tokens.push_back(token);
      row.targets.push_back(-1);
    }
    append(row, quoted ? "'\n" : "\n");
  }
};

}  // namespace rf

#endif  // RECURFORMER_EVAL_HASH_HOP_HPP
