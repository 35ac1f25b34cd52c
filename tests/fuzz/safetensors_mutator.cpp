// Changes safetensors files without breaking their frame: a file whose header has another length than its
// first eight bytes say is refused before anything of interest happens. Header and data are changed by
// themselves and the length is corrected; one time in sixteen anything may change.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed) {
  constexpr std::size_t frame = 8;
  std::uint64_t length = 0;
  if (size > frame) std::memcpy(&length, data, frame);
  if (seed % 16 == 0 || size <= frame || max_size <= size + frame || length > size - frame)
    return LLVMFuzzerMutate(data, size, max_size);

  const auto header_size = static_cast<std::size_t>(length);
  const bool in_header = seed % 8 != 1;
  const std::uint8_t* const first = data + frame + (in_header ? 0 : header_size);
  std::vector<std::uint8_t> part(first, in_header ? first + header_size : data + size);
  const std::size_t other = size - frame - part.size();
  part.resize(max_size - frame - other);
  part.resize(
      LLVMFuzzerMutate(part.data(), in_header ? header_size : size - frame - header_size, part.size()));

  if (in_header) {
    std::memmove(data + frame + part.size(), data + frame + header_size, other);
    std::copy(part.begin(), part.end(), data + frame);
    length = part.size();
    std::memcpy(data, &length, frame);
  } else {
    std::copy(part.begin(), part.end(), data + frame + header_size);
  }
  return frame + other + part.size();
}
