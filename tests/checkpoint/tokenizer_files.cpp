#include "recurformer/checkpoint/tokenizer_files.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

using rf::test::message_of;
using rf::test::TemporaryFolder;
using Tokens = std::vector<std::int32_t>;

TEST_CASE("the files of a tokenizer go where the model goes, those that are there") {
  const TemporaryFolder from, to;
  CHECK(!rf::find_tokenizer(from.path().string()).has_value());
  from.write("tokenizer.json", "{\"a\": 1}");
  from.write("generation_config.json", "");
  from.write("other.json", "{}");
  rf::copy_tokenizer_files(from.path().string(), to.path().string());
  REQUIRE(rf::find_tokenizer(to.path().string()) == to / "tokenizer.json");
  CHECK(rf::read_text_file(to / "tokenizer.json") == "{\"a\": 1}");
  CHECK(rf::read_text_file(to / "generation_config.json").empty());
  CHECK(!std::filesystem::exists(to.path() / "other.json"));
  CHECK(!std::filesystem::exists(to.path() / "tokenizer_config.json"));
  rf::copy_tokenizer_files(to.path().string(), to.path().string());
  CHECK(rf::read_text_file(to / "tokenizer.json") == "{\"a\": 1}");
}

TEST_CASE("the tokens that end a text are those of both configs, each once") {
  const TemporaryFolder folder;
  const std::string path = folder.path().string();
  CHECK(rf::read_end_tokens(path).empty());
  folder.write("config.json", "{\"eos_token_id\": null}");
  CHECK(rf::read_end_tokens(path).empty());
  folder.write("config.json", "{\"eos_token_id\": 7}");
  CHECK(rf::read_end_tokens(path) == Tokens{7});
  folder.write("generation_config.json", "{\"eos_token_id\": [9, 7, 8]}");
  CHECK(rf::read_end_tokens(path) == Tokens{7, 9, 8});
  folder.write("generation_config.json", "{\"eos_token_id\": [9, \"x\"]}");
  CHECK(message_of<rf::FileError>([&] { rf::read_end_tokens(path); }) ==
        folder / "generation_config.json" +
            std::string(": eos_token_id[1]: expected an integer from 0 to 2147483647, found the string 'x'"));
  std::string many = "{\"eos_token_id\": [0";
  for (int i = 0; i < 1024; ++i) many += ",0";
  folder.write("generation_config.json", many + "]}");
  CHECK(message_of<rf::FileError>([&] { rf::read_end_tokens(path); }) ==
        folder / "generation_config.json" +
            std::string(": eos_token_id: names 1025 tokens; allowed: at most 1024"));
}
