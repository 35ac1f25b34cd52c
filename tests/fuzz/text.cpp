// read_tokens of a .jsonl file, or of a .npy file where the bytes begin as one.

#include <string_view>

#include "recurformer/train/text_files.hpp"
#include "target.hpp"

namespace {

void read_text(std::string_view bytes) {
  const bool is_npy = bytes.starts_with(rf::detail::npy_magic);
  rf::read_tokens(rf::test::scratch_file(is_npy ? "text.npy" : "text.jsonl", bytes), rf::byte_encoder());
}

const rf::test::RegisteredTarget text_target{{"text", rf::test::json_memory, 1 << 15, read_text}};

}  // namespace
