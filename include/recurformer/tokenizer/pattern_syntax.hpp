#ifndef RECURFORMER_TOKENIZER_PATTERN_SYNTAX_HPP
#define RECURFORMER_TOKENIZER_PATTERN_SYNTAX_HPP

// Patterns in tokenizer.json are written for Oniguruma's Ruby syntax; PCRE2 runs them here. Both read most of
// it alike. What they read differently is either rewritten (\s is Unicode's White_Space, \v one character) or
// refused by name, so that a pattern that is accepted means the same here as there:
//
//   literals . ^ $ |   * + ? and their lazy and possessive forms   {n} {n,} {n,m}
//   (…) (?:…) (?i:…) (?>…) (?=…) (?!…) (?<=…) (?<!…)
//   [a-z] [^…]   \s \S \d \D   \p{L} \p{^Lu} \P{…} (general categories)   \r \n \t \f \v \x41 \x{41} \u0041
//   \ before anything that is not a letter or a digit
//
// Inside (?i:…) there are no ranges and no sets of characters: Oniguruma matches more with some than PCRE2,
// which in turn takes long to compile them.
//
// One difference stays: inside (?i:…) Oniguruma also matches a character whose case folding is several
// characters (ß and "ss").

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/tokenizer/utf8.hpp"

namespace rf::detail {

/// Rewrites one pattern for PCRE2 (PCRE2_UTF, PCRE2_UCP, PCRE2_MULTILINE).
class PatternTranslator {
 public:
  /// `pattern`: valid UTF-8.
  explicit PatternTranslator(std::string_view pattern) : pattern_(pattern) {}

  /// ArgumentError, naming byte (from 1) and construct, if something is not in the list above.
  std::string translate() {
    while (!at_end()) item();
    return std::move(out_);
  }

 private:
  /// Inside a class, what the last item was: it decides whether - makes a range.
  enum class Item { none, character, set, dash };

  static constexpr std::string_view white_space =
      R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  static constexpr std::string_view not_white_space =
      R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
      R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

  bool at_end() const { return at_ == pattern_.size(); }
  std::string_view rest() const { return pattern_.substr(at_); }
  bool next_is_one_of(std::string_view characters) const {
    return !at_end() && characters.find(pattern_[at_]) != characters.npos;
  }
  bool take(std::string_view expected) {
    if (!rest().starts_with(expected)) return false;
    at_ += expected.size();
    return true;
  }
  /// The next code point, copied.
  void copy() {
    const std::size_t bytes = first_utf8_sequence(rest()).bytes;
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }
  [[noreturn]] void fail(std::size_t at, std::string_view reason) const {
    throw ArgumentError(text("byte ", at + 1, " of the pattern, ",
                             printable(pattern_.substr(at).substr(0, 12)), ": ", reason));
  }

  void item() {
    if (next_is_one_of("\\")) {
      escape();
    } else if (next_is_one_of("[")) {
      character_class();
    } else if (next_is_one_of("(")) {
      open_group();
    } else if (next_is_one_of(")")) {
      if (caseless_.size() > 1) caseless_.pop_back();  // a bracket too many is the compiler's to report
      copy();
    } else if (next_is_one_of("{")) {
      interval();
    } else if (next_is_one_of("*+?")) {
      copy();
      if (next_is_one_of("?+")) copy();
      end_quantifier();
    } else {
      copy();
    }
  }

  void open_group() {
    const std::size_t begin = at_++;
    bool caseless = caseless_.back();
    if (next_is_one_of("*")) fail(begin, "verbs are not supported");
    if (next_is_one_of("?")) {
      static constexpr std::array<std::string_view, 7> kinds = {"?:", "?i:", "?>", "?=", "?!", "?<=", "?<!"};
      const auto kind =
          std::find_if(kinds.begin(), kinds.end(), [this](auto k) { return rest().starts_with(k); });
      if (kind == kinds.end())
        fail(begin,
             "this kind of group is not supported; supported: (?:, (?i:, (?>, (?=, (?!, (?<= and (?<!");
      caseless = caseless || *kind == "?i:";
      at_ += kind->size();
    }
    out_ += pattern_.substr(begin, at_ - begin);
    caseless_.push_back(caseless);
  }

  /// {n}, {n,} or {n,m}.
  void interval() {
    const std::size_t begin = at_++;
    const auto digits = [this] {
      const std::size_t first = at_;
      while (next_is_one_of("0123456789")) ++at_;
      return at_ > first;
    };
    bool right = digits();
    if (right && take(",")) digits();
    right = right && take("}");
    if (!right) fail(begin, "expected {n}, {n,} or {n,m}; the character itself is written \\{");
    out_ += pattern_.substr(begin, at_ - begin);
    end_quantifier();
  }
  void end_quantifier() const {
    if (next_is_one_of("*+?{")) fail(at_, "this combination of quantifiers is not supported");
  }

  void escape() {
    if (const std::string_view set = set_escape(); !set.empty()) {
      out_ += set.starts_with("\\x") ? text("[", set, "]") : std::string(set);
    } else {
      character_escape();
    }
  }

  /// \s, \S, \d, \D, \p or \P as a part of a class; empty, and nothing taken, if something else is next.
  std::string_view set_escape() {
    if (rest().size() < 2 || std::string_view("sSdDpP").find(rest()[1]) == std::string_view::npos) return {};
    if (caseless_.back()) fail(at_, "a set of characters inside (?i: is not supported");
    if (take("\\s")) return white_space;
    if (take("\\S")) return not_white_space;
    if (take("\\d")) return R"(\p{Nd})";
    if (take("\\D")) return R"(\P{Nd})";
    return property();
  }

  std::string_view property() {
    static constexpr std::string_view categories =
        "C Cc Cf Cn Co Cs L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl "
        "Zp Zs ";
    const std::size_t begin = at_;
    at_ += 2;
    const std::size_t end = pattern_.find('}', at_);
    std::string_view name =
        next_is_one_of("{") && end != pattern_.npos ? pattern_.substr(at_ + 1, end - at_ - 1) : "";
    if (name.starts_with("^")) name.remove_prefix(1);
    if (name.empty() || name.find(' ') != name.npos || categories.find(text(name, " ")) == categories.npos ||
        !('A' <= name[0] && name[0] <= 'Z'))
      fail(begin, "this property is not supported; supported: general categories, as in \\p{L} or \\p{^Lu}");
    at_ = end + 1;
    return pattern_.substr(begin, at_ - begin);
  }

  void character_escape() {
    const std::size_t begin = at_++;
    if (at_end()) fail(begin, "nothing follows the backslash");
    const char c = pattern_[at_];
    if (take("x{")) return hexadecimal(begin, 1, 6, "}");
    if (take("x")) return hexadecimal(begin, 2, 2, "");
    if (take("u")) return hexadecimal(begin, 4, 4, "");
    if (take("v")) {
      out_ += R"(\x{b})";
      return;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter && !next_is_one_of("rntf")) fail(begin, "this escape is not supported");
    out_ += '\\';
    copy();
  }
  void hexadecimal(std::size_t begin, std::size_t least, std::size_t most, std::string_view close) {
    const std::size_t first = at_;
    while (at_ - first < most && next_is_one_of("0123456789abcdefABCDEF")) ++at_;
    const std::string_view digits = pattern_.substr(first, at_ - first);
    // \x80 and above is a byte for Oniguruma, not a character.
    const bool byte = close.empty() && most == 2 && !digits.empty() && digits[0] > '7';
    if (digits.size() < least || !take(close) || byte)
      fail(begin, "expected \\x{…}, \\x00 to \\x7f or \\uHHHH");
    out_ += text("\\x{", digits, "}");
  }

  void character_class() {
    const std::size_t begin = at_;
    copy();
    if (next_is_one_of("^")) copy();
    if (next_is_one_of("]"))
      fail(begin, "an empty class is not supported; the character itself is written \\]");
    Item last = Item::none;
    while (!next_is_one_of("]")) {
      if (at_end()) fail(begin, "the class has no end");
      last = class_item(last);
    }
    copy();
  }

  /// One item of a class, in which `last` is the one before; what it was.
  Item class_item(Item last) {
    if (next_is_one_of("["))
      fail(at_, "a class within a class is not supported; the character is written \\[");
    if (rest().starts_with("&&")) fail(at_, "intersections of classes are not supported");
    if (next_is_one_of("-")) return dash(last);
    if (const std::size_t begin = at_; next_is_one_of("\\")) {
      if (const std::string_view set = set_escape(); !set.empty()) {
        if (last == Item::dash) fail(begin, "a range ends in a set of characters");
        out_ += set;
        return Item::set;
      }
      character_escape();
    } else {
      copy();
    }
    return last == Item::dash ? Item::set : Item::character;  // after a range, - makes no other
  }

  /// A - in a class: the character itself at its start and end, a range between two characters.
  Item dash(Item last) {
    const std::size_t begin = at_++;
    if (last == Item::none || next_is_one_of("]")) {
      out_ += "\\-";
      return Item::character;
    }
    if (caseless_.back()) fail(begin, "a range inside (?i: is not supported");
    if (last != Item::character)
      fail(begin, "not a range of characters; the character itself is written \\-");
    out_ += '-';
    return Item::dash;
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::string out_;
  std::vector<bool> caseless_ = {false};  // of the groups that are open
};

}  // namespace rf::detail

#endif  // RECURFORMER_TOKENIZER_PATTERN_SYNTAX_HPP
