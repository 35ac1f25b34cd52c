#include "recurformer/train/text_files.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

namespace {

using rf::Token;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;
using Tokens = std::vector<Token>;

/// A vocabulary of 300 in which a document's words are tokens: their lengths. 299 ends a document.
rf::DocumentEncoder word_lengths() {
  const auto append = [](std::string_view document, rf::PackedTokens& tokens) {
    for (std::size_t first = 0; first < document.size();) {
      const std::size_t end = std::min(document.find(' ', first), document.size());
      tokens.append(static_cast<Token>(end - first));
      first = end + 1;
    }
  };
  return {.vocabulary = 300, .append = append, .end_of_text = 299};
}

Tokens tokens_of(const std::string& path, const rf::DocumentEncoder& encoder,
                 const rf::TextFileOptions& options = {}) {
  const rf::PackedTokens packed = rf::read_tokens(path, encoder, options);
  return packed.copy(0, packed.size());
}

Tokens bytes_of(const std::string& text) {
  Tokens out;
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

/// What reading says, without the path in front.
std::string error_of(const std::string& path, const rf::DocumentEncoder& encoder) {
  const std::string message = message_of<rf::FileError>([&] { rf::read_tokens(path, encoder); });
  return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
}

template <class T>
std::string write_npy(const TemporaryFolder& folder, const std::string& name, const std::vector<T>& values) {
  rf::save_npy(folder / name, rf::dtype_of<T>, {static_cast<std::int64_t>(values.size())},
               std::as_bytes(std::span(values)));
  return folder / name;
}

}  // namespace

TEST_CASE("plain text: a file or a folder of them in the order of their paths, without what is not text") {
  const TemporaryFolder folder;
  CHECK(tokens_of(folder.write("b.txt", "be\xff"), rf::byte_encoder()) == bytes_of("be\xff"));
  std::filesystem::create_directory(folder / "a");
  folder.write("a/z", "last of a ");
  folder.write("binary", std::string("\0\1", 2));
  CHECK(tokens_of(folder.path().string(), rf::byte_encoder()) == bytes_of("last of a be\xff"));
  CHECK(tokens_of(folder.path().string(), rf::byte_encoder(1000)) == bytes_of("last of a be\xff"));
  CHECK(tokens_of(folder.path().string(), word_lengths()) == Tokens{4, 2, 1, 299, 3, 299});
  CHECK(error_of(folder / "binary", rf::byte_encoder()) == "contains no text");
  CHECK(contains(error_of(folder / "none", rf::byte_encoder()), "No such file"));
}

TEST_CASE("JSON lines: a document in one field of every line") {
  const TemporaryFolder folder;
  const std::string path = folder.write(
      "d.jsonl", "{\"text\": \"two words\", \"id\": 1}\n\n \r\n{\"text\": \"\\u00e9\\n\", \"other\": \"x\"}");
  CHECK(tokens_of(path, rf::byte_encoder()) == bytes_of("two words\xc3\xa9\n"));
  CHECK(tokens_of(path, word_lengths()) == Tokens{3, 5, 299, 3, 299});
  CHECK(tokens_of(folder.write("other.jsonl", "{\"body\": \"a bc\"}\n"), word_lengths(),
                  {.text_field = "body", .progress = {}}) == Tokens{1, 2, 299});

  CHECK(contains(error_of(folder.write("e.jsonl", "{\"text\": \"a\"}\n{\"text\": }\n"), rf::byte_encoder()),
                 "document in line 2: line 1, column 10"));
  CHECK(error_of(folder.write("e.jsonl", "{\"text\": \"a\"}\n{\"body\": \"b\"}"), rf::byte_encoder()) ==
        "document in line 2: the field 'text' is missing");
  CHECK(error_of(folder.write("e.jsonl", "\n{\"text\": 7}"), rf::byte_encoder()) ==
        "document in line 2: text: expected a string, found 7");
  CHECK(error_of(folder.write("e.jsonl", "[1]"), rf::byte_encoder()) ==
        "document in line 1: expected an object, found an array of 1");
  CHECK(error_of(folder.write("e.jsonl", "\n\n"), rf::byte_encoder()) == "contains no text");
}

TEST_CASE("tokens in .npy files are taken as they are, and those outside the vocabulary refused") {
  const TemporaryFolder folder;
  const rf::DocumentEncoder only_tokens{.vocabulary = 70000, .append = {}};
  CHECK(tokens_of(write_npy<std::uint8_t>(folder, "u1.npy", {0, 255}), only_tokens) == Tokens{0, 255});
  CHECK(tokens_of(write_npy<std::uint16_t>(folder, "u2.npy", {0, 65535}), only_tokens) == Tokens{0, 65535});
  CHECK(tokens_of(write_npy<std::uint32_t>(folder, "u4.npy", {1, 69999}), only_tokens) == Tokens{1, 69999});
  CHECK(tokens_of(write_npy<std::int32_t>(folder, "i4.npy", {2, 69999}), only_tokens) == Tokens{2, 69999});
  CHECK(tokens_of(write_npy<std::int64_t>(folder, "i8.npy", {3, 69999}), only_tokens) == Tokens{3, 69999});
  CHECK(tokens_of(folder.path().string(), only_tokens) ==
        Tokens{2, 69999, 3, 69999, 0, 255, 0, 65535, 1, 69999});

  CHECK(error_of(folder / "i8.npy", word_lengths()) ==
        "token 69999 at position 1 is outside the model's vocabulary; expected 0 to 299");
  CHECK(error_of(write_npy<std::int32_t>(folder, "n.npy", {-1}), only_tokens) ==
        "token -1 at position 0 is outside the model's vocabulary; expected 0 to 69999");
  const std::int64_t far = (std::int64_t{1} << 32) + 5;
  CHECK(contains(error_of(write_npy<std::int64_t>(folder, "n.npy", {far}), only_tokens), "token 4294967301"));
  CHECK(contains(error_of(write_npy<std::uint32_t>(folder, "n.npy", {4294967295u}), only_tokens),
                 "token 4294967295"));
  CHECK(error_of(write_npy<float>(folder, "n.npy", {1.0f}), only_tokens) ==
        "has dtype F32; expected tokens as U8, U16, U32, I32 or I64");
  const std::array<std::int32_t, 4> square = {};
  rf::save_npy(folder / "n.npy", rf::DType::I32, {2, 2}, std::as_bytes(std::span(square)));
  CHECK(error_of(folder / "n.npy", only_tokens) == "has shape (2, 2); expected one dimension of tokens");
  CHECK(error_of(write_npy<std::int32_t>(folder, "n.npy", {}), only_tokens) == "contains no text");
}

TEST_CASE("text for a model whose tokens nobody knows is an error that says what to do") {
  const TemporaryFolder folder;
  const rf::DocumentEncoder only_tokens{.vocabulary = 300, .append = {}};
  for (const std::string name : {"a.txt", "a.jsonl"}) {
    const std::string error = error_of(folder.write(name, "{\"text\": \"a\"}"), only_tokens);
    CHECK(contains(error, "put its tokenizer.json there, or use .npy files of tokens"));
  }
}

TEST_CASE("progress counts the bytes of all files") {
  const TemporaryFolder folder;
  folder.write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
  folder.write("b.txt", "text");
  std::vector<std::pair<std::int64_t, std::int64_t>> calls;
  tokens_of(folder.path().string(), rf::byte_encoder(),
            {.progress = [&](std::int64_t done, std::int64_t total) { calls.emplace_back(done, total); }});
  CHECK(calls == std::vector<std::pair<std::int64_t, std::int64_t>>{{13, 32}, {27, 32}, {28, 32}, {32, 32}});
}
