#ifndef RECURFORMER_CHECKPOINT_JSON_HPP
#define RECURFORMER_CHECKPOINT_JSON_HPP

// JSON that may be wrong, by accident or on purpose: parsing that refuses what the parser below would accept
// in silence (duplicate keys, deep nesting, text behind a NUL), and typed access whose errors name the file,
// the field and what was found there:
//
//   const nlohmann::json document = parse_json_file("plan.json");
//   const JsonReader plan("plan.json", document);
//   for (const JsonReader& layer : plan.at("layers").array()) {
//     layer.reject_unknown({"groups", "kind"});
//     groups.push_back(layer.at("groups").integer(1, 64));
//   }
//
//   plan.json: layers[3].groups: expected an integer from 1 to 64, found the string 'many'

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"

namespace rf {

/// Arrays and objects within each other that a file may have.
inline constexpr std::size_t json_nesting_limit = 64;
/// Bytes of JSON a file may have; parsed they take about ten times as much memory, up to 48 times if the file
/// is made for it (tests/fuzz/worst_cases.hpp).
inline constexpr std::size_t json_size_limit = 100'000'000;

namespace detail {

/// Hands out the characters of a text and leaves behind how far it came, which the parser does not tell.
class TrackingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  TrackingIterator& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  TrackingIterator operator++(int) {
    const TrackingIterator old = *this;
    ++*this;
    return old;
  }
  friend bool operator==(const TrackingIterator& a, const TrackingIterator& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

/// Receives the parser's events (its SAX interface) and builds the document, checking on the way.
class JsonBuilder {
 public:
  using json = nlohmann::json;

  JsonBuilder(std::string_view text, std::string_view file) : text_(text), file_(file), at_(text.data()) {}

  json build() {
    const char* const end = text_.data() + text_.size();
    json::sax_parse(TrackingIterator(text_.data(), &at_), TrackingIterator(end, &at_), this);
    return std::move(document_);
  }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(json::number_integer_t value) { return add(value); }
  bool number_unsigned(json::number_unsigned_t value) { return add(value); }
  bool number_float(json::number_float_t value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(json::binary_t&) { return false; }  // never called: JSON text has no binary values
  bool start_object(std::size_t) { return open(json::object()); }
  bool end_object() { return close(); }
  bool start_array(std::size_t) { return open(json::array()); }
  bool end_array() { return close(); }
  bool key(std::string& key) {
    if (open_.back()->contains(key)) fail(rf::text("duplicate key ", printable(key)));
    key_ = std::move(key);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while ..."
    std::string_view reason = error.what();
    reason.remove_prefix(std::min(reason.size(), reason.find("] ") + 2));
    if (reason.starts_with("parse error"))
      reason.remove_prefix(std::min(reason.size(), reason.find(": ") + 2));
    fail(one_line(reason, 200));
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const {
    const std::string_view read(text_.data(), static_cast<std::size_t>(at_ - text_.data()));
    const auto earlier =
        read.substr(0, read.empty() ? 0 : read.size() - 1);  // without the offending character
    const auto line = std::count(earlier.begin(), earlier.end(), '\n') + 1;
    const std::size_t line_start = earlier.rfind('\n') + 1;  // 0 if there is none
    throw FileError(rf::text(file_, ": line ", line, ", column ", read.size() - line_start, " (byte ",
                             read.size(), "): ", reason));
  }

  template <class Value>
  bool add(Value&& value) {
    place(std::forward<Value>(value));
    return true;
  }
  json* place(json value) {
    if (open_.empty()) return &(document_ = std::move(value));
    json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool open(json value) {
    if (open_.size() == json_nesting_limit)
      fail(rf::text("more than ", json_nesting_limit, " arrays and objects within each other"));
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  std::string_view file_;
  const char* at_;
  json document_;
  std::vector<json*> open_;  // a parent does not grow while one of its children is open
  std::string key_;
};

/// "layers[3]" and "groups" -> "layers[3].groups"; names with odd characters -> "layers[3]['my groups']".
inline std::string field_path(std::string_view parent, std::string_view field) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  if (field.empty() || field.size() > 100 || !std::all_of(field.begin(), field.end(), plain))
    return rf::text(parent, "[", printable(field), "]");
  return parent.empty() ? std::string(field) : rf::text(parent, ".", field);
}

}  // namespace detail

/// Parses JSON text; `file` is for messages. FileError, with line, column and byte (all from 1), if it is not
/// JSON, has a duplicate key anywhere, or nests deeper than json_nesting_limit.
inline nlohmann::json parse_json(std::string_view text, std::string_view file) {
  check_file(text.size() <= json_size_limit, file, "has ", text.size(), " bytes of JSON; allowed: at most ",
             json_size_limit);
  const std::size_t nul = text.find('\0');  // where the parser would stop and be content
  check_file(nul == text.npos, file, "is not JSON text: byte ", nul + 1, " is NUL");
  return detail::JsonBuilder(text, file).build();
}

/// Reads and parses a JSON file. FileError as read_text_file and parse_json.
inline nlohmann::json parse_json_file(const std::string& path) {
  return parse_json(read_text_file(path), path);
}

class JsonArray;

/// One value of a document and where it stands; every getter throws FileError naming both. Refers to the
/// document, which must outlive it.
class JsonReader {
 public:
  /// `path` is what messages call the value, "" for a whole document.
  JsonReader(std::string file, const nlohmann::json& value, std::string path = {})
      : file_(std::move(file)), path_(std::move(path)), value_(&value) {}
  JsonReader(std::string, const nlohmann::json&&, std::string = {}) = delete;

  /// The field of an object; must exist.
  JsonReader at(std::string_view field) const {
    const nlohmann::json* const found = find(field);
    if (found == nullptr) fail("the field ", detail::printable(field), " is missing");
    return {file_, *found, detail::field_path(path_, field)};
  }
  /// The field of an object, nothing if it is absent or null.
  std::optional<JsonReader> optional(std::string_view field) const {
    const nlohmann::json* const found = find(field);
    if (found == nullptr || found->is_null()) return std::nullopt;
    return JsonReader(file_, *found, detail::field_path(path_, field));
  }
  /// The elements of an array.
  JsonArray array() const;
  /// The names of an object's fields, sorted.
  std::vector<std::string> object_keys() const {
    std::vector<std::string> out;
    for (const auto& [key, value] : object().items()) out.push_back(key);
    return out;
  }
  /// Refuses fields of an object that are not listed: most often a misspelt option.
  void reject_unknown(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : object().items()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      std::string list;
      for (const std::string_view name : known) list += text(list.empty() ? "" : ", ", name);
      fail("unknown field ", detail::printable(key), "; known: ", list);
    }
  }

  /// An integer in [min, max]. A number written with a fraction or an exponent is not one.
  std::int64_t integer(std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                       std::int64_t max = std::numeric_limits<std::int64_t>::max()) const {
    const bool fits =
        value_->is_number_integer() &&
        (!value_->is_number_unsigned() ||
         value_->get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()});
    const std::int64_t value = fits ? value_->get<std::int64_t>() : 0;
    if (!fits || value < min || value > max) fail_type(integer_text(min, max));
    return value;
  }
  /// A number in [min, max].
  double number(double min = std::numeric_limits<double>::lowest(),
                double max = std::numeric_limits<double>::max()) const {
    if (!value_->is_number()) fail_type("a number");
    const auto value = value_->get<double>();
    if (!(value >= min && value <= max)) fail_type(text("a number from ", min, " to ", max));
    return value;
  }
  const std::string& string() const {
    if (!value_->is_string()) fail_type("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) fail_type("true or false");
    return value_->get<bool>();
  }

  const nlohmann::json& value() const { return *value_; }
  const std::string& file() const { return file_; }
  /// E.g. "recurformer.layers[3].groups".
  const std::string& path() const { return path_; }
  /// Throws FileError "<file>: <path>: <parts>".
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw FileError(text(file_, ": ", path_, path_.empty() ? "" : ": ", parts...));
  }

 private:
  const nlohmann::json& object() const {
    if (!value_->is_object()) fail_type("an object");
    return *value_;
  }
  const nlohmann::json* find(std::string_view field) const {
    const auto found = object().find(field);
    return found == value_->end() ? nullptr : &*found;
  }
  static std::string integer_text(std::int64_t min, std::int64_t max) {
    using Limits = std::numeric_limits<std::int64_t>;
    if (min == Limits::min() && max == Limits::max()) return "an integer of at most 64 bits";
    if (max == Limits::max()) return text("an integer of at least ", min);
    return text("an integer from ", min, " to ", max);
  }
  std::string found_text() const {
    if (value_->is_object()) return "an object";
    if (value_->is_array()) return text("an array of ", value_->size());
    if (value_->is_string()) return text("the string ", detail::printable(string()));
    return value_->dump();
  }
  [[noreturn]] void fail_type(std::string_view expected) const {
    fail("expected ", expected, ", found ", found_text());
  }

  std::string file_;
  std::string path_;
  const nlohmann::json* value_;
};

/// The elements of an array. Their readers are made one at a time, as each takes many times the memory of the
/// number it reads.
class JsonArray {
 public:
  class Iterator {
   public:
    Iterator(const JsonArray& array, std::size_t index) : array_(&array), index_(index) {}
    JsonReader operator*() const { return (*array_)[index_]; }
    Iterator& operator++() {
      ++index_;
      return *this;
    }
    friend bool operator==(const Iterator& a, const Iterator& b) { return a.index_ == b.index_; }

   private:
    const JsonArray* array_;
    std::size_t index_;
  };

  std::size_t size() const { return array_.value().size(); }
  /// `index` must be less than size().
  JsonReader operator[](std::size_t index) const {
    return {array_.file(), array_.value()[index], text(array_.path(), "[", index, "]")};
  }
  Iterator begin() const { return {*this, 0}; }
  Iterator end() const { return {*this, size()}; }

 private:
  friend class JsonReader;
  explicit JsonArray(JsonReader array) : array_(std::move(array)) {}

  JsonReader array_;
};

inline JsonArray JsonReader::array() const {
  if (!value_->is_array()) fail_type("an array");
  return JsonArray(*this);
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_JSON_HPP
