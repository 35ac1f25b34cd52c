#ifndef RECURFORMER_CHECKPOINT_CACHE_FILE_HPP
#define RECURFORMER_CHECKPOINT_CACHE_FILE_HPP

// A cache as a safetensors file, so that a long prefix is paid for once. Continuing from a loaded cache gives
// the same bits as continuing from the saved one, rollback included.
//
// One tensor per sequence, layer, run and field, e.g. "sequence.0.layer.3.attention:fp32.1.key", where the 1
// is the first KV group of the run:
//   rows    (units, length, width)            the tokens there are, gathered from the pages
//   ring    (units, sink + capacity, width)
//   state   (units, rows, columns)
// and, for recurrent runs of a cache that can be rolled back,
//   checkpoint.0.<field>, checkpoint.1.<field>, recorded (2 · max_rollback, projected width)
//
// The metadata has lengths and positions, and says in words what every run looks like. The file knows nothing
// of weights: that the model is the same one is for the caller to see to.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/safetensors.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/model/cache.hpp"

namespace rf {

namespace detail {

/// Positions that a recurrent run of a cache with rollback keeps, see RunMemory.
struct RunPositions {
  std::int64_t replay_from = -1;
  std::array<std::int64_t, 2> checkpoints = {-1, -1};

  friend bool operator==(const RunPositions&, const RunPositions&) = default;
};

/// Everything of a sequence that is not a tensor. Runs by their names; absent: nothing kept for rollback.
struct SequencePositions {
  std::int64_t length = 0;
  std::int64_t furthest = 0;
  std::map<std::string, RunPositions> runs;
};

/// A tensor of a cache file, and what of a sequence's memory it is.
struct CacheTensor {
  enum class Part { field, checkpoint, recorded };

  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::size_t layer = 0, run = 0;
  Part part = Part::field;
  std::size_t index = 0;       ///< field: which field; checkpoint: which state
  std::size_t checkpoint = 0;  ///< checkpoint: which one
};

inline std::vector<std::int64_t> field_shape(const FieldLayout& layout, std::int64_t length,
                                             std::int64_t max_rollback) {
  const CacheField& field = layout.field;
  switch (field.kind) {
    case FieldKind::rows:
      return {layout.units, length, field.slice.size()};
    case FieldKind::ring:
      return {layout.units, field.sink + layout.ring_capacity(max_rollback), field.slice.size()};
    case FieldKind::state:
      break;
  }
  return {layout.units, field.slice.rows, field.slice.columns};
}

/// Every tensor of one sequence.
inline std::vector<CacheTensor> cache_tensors(const CacheLayout& layout, std::int64_t max_rollback,
                                              std::int64_t sequence, const SequencePositions& positions) {
  using Part = CacheTensor::Part;
  std::vector<CacheTensor> out;
  for_each_cached_run(layout, [&](std::size_t layer, std::size_t run, const RunLayout& of_run) {
    const std::string name = run_name(layer, of_run), prefix = text("sequence.", sequence, ".", name, ".");
    const auto kept = positions.runs.find(name);
    std::size_t state = 0;
    for (std::size_t i = 0; i < of_run.fields.size(); ++i) {
      const FieldLayout& field = of_run.fields[i];
      const auto shape = field_shape(field, positions.length, max_rollback);
      const std::string called(field.field.name);
      out.push_back({prefix + called, field.dtype, shape, layer, run, Part::field, i, 0});
      if (field.field.kind != FieldKind::state) continue;
      for (std::size_t c = 0; c < 2 && kept != positions.runs.end(); ++c)
        if (kept->second.checkpoints[c] >= 0)
          out.push_back({text(prefix, "checkpoint.", c, ".", called), field.dtype, shape, layer, run,
                         Part::checkpoint, state, c});
      ++state;
    }
    if (kept != positions.runs.end())
      out.push_back({prefix + "recorded",
                     DType::F32,
                     {2 * max_rollback, of_run.projected_width},
                     layer,
                     run,
                     Part::recorded,
                     0,
                     0});
  });
  return out;
}

/// The memory of a tensor, in the order of its elements.
inline std::vector<std::span<std::byte>> memory_of(const CacheTensor& tensor,
                                                   const SequenceMemory& sequence) {
  const RunMemory& run = sequence.layers[tensor.layer][tensor.run];
  if (tensor.part == CacheTensor::Part::recorded) return {run.recorded.span()};
  if (tensor.part == CacheTensor::Part::checkpoint)
    return {run.checkpoints[tensor.checkpoint].states[tensor.index].span()};
  const FieldMemory& field = run.fields[tensor.index];
  if (field.layout.field.kind != FieldKind::rows) return {field.block.span()};

  std::vector<std::span<std::byte>> out;
  const std::int64_t length = tensor.shape[1];
  const std::int64_t row = tensor.shape[2] * static_cast<std::int64_t>(size_of(tensor.dtype));
  for (std::int64_t unit = 0; unit < tensor.shape[0]; ++unit)
    for (std::int64_t first = 0; first < length; first += cache_page_rows) {
      const auto& page = field.pages[static_cast<std::size_t>(first / cache_page_rows)];
      const std::int64_t rows = std::min(length - first, cache_page_rows);
      out.push_back(page.span().subspan(static_cast<std::size_t>(unit * cache_page_rows * row),
                                        static_cast<std::size_t>(rows * row)));
    }
  return out;
}

/// Positions of a sequence in memory.
inline SequencePositions positions_of(const CacheLayout& layout, const SequenceMemory& sequence) {
  SequencePositions out{sequence.length, sequence.furthest, {}};
  for_each_cached_run(layout, [&](std::size_t layer, std::size_t run, const RunLayout& of_run) {
    const RunMemory& memory = sequence.layers[layer][run];
    if (memory.recorded.bytes() > 0)
      out.runs[run_name(layer, of_run)] = {memory.replay_from,
                                           {memory.checkpoints[0].position, memory.checkpoints[1].position}};
  });
  return out;
}

inline nlohmann::json positions_json(const SequencePositions& positions) {
  nlohmann::json out = {{"length", positions.length}, {"furthest", positions.furthest}};
  for (const auto& [name, run] : positions.runs)
    out["runs"][name] = {{"replay_from", run.replay_from}, {"checkpoints", run.checkpoints}};
  return out;
}

/// FileError unless every rollback that the cache allows finds a checkpoint to start from, and the inputs
/// from there on among those that are kept.
inline void check_checkpoints(const JsonReader& reader, const std::array<std::int64_t, 2>& checkpoints,
                              const SequencePositions& sequence, std::int64_t max_rollback) {
  const std::int64_t first = std::max<std::int64_t>(sequence.length - 2 * max_rollback, 0);
  const std::int64_t last = std::max<std::int64_t>(sequence.furthest - max_rollback, 0);
  bool covers = false;
  for (const std::int64_t position : checkpoints) {
    covers = covers || (position >= first && position <= last);
    if (position >= 0 && position < first)
      reader.fail("found a position of ", position, "; the inputs since ", first, " are kept");
  }
  if (!covers)
    reader.fail("found ", checkpoints[0], " and ", checkpoints[1], "; one is expected from ", first, " to ",
                last);
}

/// The same from a file, for a cache of this layout.
inline SequencePositions read_positions(const JsonReader& reader, const CacheLayout& layout,
                                        std::int64_t max_rollback) {
  constexpr std::int64_t longest = std::int64_t{1} << 30;  // kernels count positions in 32 bits
  SequencePositions out;
  out.length = reader.at("length").integer(0, longest);
  out.furthest = reader.at("furthest").integer(out.length, out.length + max_rollback);
  if (max_rollback == 0) return out;
  for_each_cached_run(layout, [&](std::size_t layer, std::size_t, const RunLayout& of_run) {
    if (!of_run.is_recurrent()) return;
    const std::string name = run_name(layer, of_run);
    const JsonReader run = reader.at("runs").at(name);
    RunPositions& positions = out.runs[name];
    const JsonReader replay_from = run.at("replay_from");
    positions.replay_from = replay_from.integer(-1, out.length);
    if (positions.replay_from >= 0 && out.length - positions.replay_from > 2 * max_rollback)
      replay_from.fail("found ", positions.replay_from, "; only the last ", 2 * max_rollback, " of ",
                       out.length, " inputs are kept");
    const JsonReader checkpoints = run.at("checkpoints");
    const JsonArray pair = checkpoints.array();
    if (pair.size() != 2) checkpoints.fail("has ", pair.size(), " positions; expected 2");
    for (std::size_t c = 0; c < 2; ++c) positions.checkpoints[c] = pair[c].integer(-1, out.furthest);
    check_checkpoints(checkpoints, positions.checkpoints, out, max_rollback);
    for (const auto& [other, expected] : out.runs)
      if (positions != expected)
        run.fail("is at other positions than ", other, "; all runs of a sequence go in step");
  });
  return out;
}

/// True if these names of runs, "layer.0.attention:fp32.1", differ in nothing but the precision.
inline bool differs_in_precision(const std::string& a, const std::string& b) {
  const auto mixer = [](const std::string& name) { return name.substr(0, name.find(':')); };
  const auto first_group = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  return a != b && mixer(a) == mixer(b) && first_group(a) == first_group(b);
}

/// FileError, saying what differs, unless the file was saved from a cache of this layout.
inline void check_layout(const JsonReader& reader, const Cache& cache) {
  const JsonReader rollback = reader.at("max_rollback");
  if (rollback.integer() != cache.max_rollback())
    rollback.fail("the file's cache can be rolled back by ", rollback.integer(), " tokens, this one by ",
                  cache.max_rollback());
  const JsonReader sequences = reader.at("sequences");
  if (const auto found = sequences.array().size(); found != static_cast<std::size_t>(cache.sequences()))
    sequences.fail("the file has ", found, " sequences, this cache ", cache.sequences());

  const JsonReader runs = reader.at("runs");
  std::vector<std::string> unknown = runs.object_keys();
  for_each_cached_run(cache.layout(), [&](std::size_t layer, std::size_t, const RunLayout& run) {
    const std::string name = run_name(layer, run);
    const auto found = runs.optional(name);
    if (!found) {
      for (const std::string& other : unknown)
        if (differs_in_precision(other, name))
          runs.fail("the file has ", printable(other), ", this cache ", name,
                    ": a cache is loaded in the precision that it was saved in");
      runs.fail("the file has no ", name, "; this cache has one, of ", run_text(run));
    }
    if (found->string() != run_text(run))
      found->fail("the file has ", one_line(found->string(), 500), "; this cache has ", run_text(run));
    std::erase(unknown, name);
  });
  if (!unknown.empty()) runs.fail("the file has ", printable(unknown.front()), "; this cache has none");
}

}  // namespace detail

/// Writes what the cache remembers. FileError if writing fails.
inline void save_cache(const Cache& cache, const std::string& path) {
  nlohmann::json document = {{"format", 1}, {"max_rollback", cache.max_rollback()}};
  detail::for_each_cached_run(cache.layout(), [&](std::size_t layer, std::size_t, const RunLayout& run) {
    document["runs"][detail::run_name(layer, run)] = detail::run_text(run);
  });
  SafetensorsWriter writer;
  std::vector<std::vector<std::byte>> gathered;
  for (std::int64_t s = 0; s < cache.sequences(); ++s) {
    const detail::SequenceMemory& sequence = cache.sequence(s);
    const auto positions = detail::positions_of(cache.layout(), sequence);
    document["sequences"].push_back(detail::positions_json(positions));
    for (auto& tensor : detail::cache_tensors(cache.layout(), cache.max_rollback(), s, positions)) {
      const auto pieces = detail::memory_of(tensor, sequence);
      std::span<const std::byte> bytes = pieces.size() == 1 ? pieces[0] : std::span<std::byte>();
      if (pieces.size() > 1) {
        auto& all = gathered.emplace_back();
        for (const auto piece : pieces) all.insert(all.end(), piece.begin(), piece.end());
        bytes = all;
      }
      writer.add(tensor.name, tensor.dtype, std::move(tensor.shape), bytes);
    }
  }
  writer.metadata("recurformer_cache", document.dump());
  writer.write(path);
}

/// Replaces what the cache remembers by a file's content. FileError, saying what differs, if the file is
/// damaged or was saved from a cache of another layout: other model sizes, plan, options of a mixer, number
/// of sequences or max_rollback. The cache is then as before.
inline void load_cache(Cache& cache, const std::string& path) {
  const SafetensorsFile file(path);
  const auto metadata = file.metadata().find("recurformer_cache");
  check_file(metadata != file.metadata().end(), path,
             "is not a cache: its metadata has no recurformer_cache");
  const nlohmann::json document = parse_json(metadata->second, text(path, ": recurformer_cache"));
  const JsonReader reader(path, document, "recurformer_cache");
  if (const JsonReader format = reader.at("format"); format.integer() != 1)
    format.fail("found format ", format.integer(), "; supported: 1");
  detail::check_layout(reader, cache);

  std::vector<detail::SequencePositions> positions;
  std::vector<std::vector<detail::CacheTensor>> tensors;
  std::size_t count = 0;
  for (const JsonReader& sequence : reader.at("sequences").array()) {
    positions.push_back(detail::read_positions(sequence, cache.layout(), cache.max_rollback()));
    tensors.push_back(detail::cache_tensors(cache.layout(), cache.max_rollback(),
                                            static_cast<std::int64_t>(tensors.size()), positions.back()));
    count += tensors.back().size();
    for (const detail::CacheTensor& tensor : tensors.back()) {
      const TensorEntry& found = file.tensor(tensor.name);
      check_file(found.dtype == tensor.dtype && found.shape == tensor.shape, path, "tensor ",
                 detail::printable(tensor.name), " is ", name_of(found.dtype), " of shape ",
                 shape_text(found.shape), "; expected ", name_of(tensor.dtype), " of shape ",
                 shape_text(tensor.shape));
    }
  }
  check_file(file.tensors().size() == count, path, "has ", file.tensors().size(), " tensors; expected ",
             count);

  for (std::size_t s = 0; s < positions.size(); ++s) {
    const auto index = static_cast<std::int64_t>(s);
    cache.reset(index);
    cache.reserve(index, positions[s].length);
    detail::SequenceMemory& sequence = cache.sequence(index);
    sequence.length = positions[s].length;
    sequence.furthest = positions[s].furthest;
    for (const detail::CacheTensor& tensor : tensors[s]) {
      const std::byte* from = file.tensor(tensor.name).bytes.data();
      for (const auto piece : detail::memory_of(tensor, sequence)) {
        std::memcpy(piece.data(), from, piece.size());
        from += piece.size();
      }
    }
    detail::for_each_cached_run(cache.layout(),
                                [&](std::size_t layer, std::size_t run, const RunLayout& of_run) {
                                  const auto kept = positions[s].runs.find(detail::run_name(layer, of_run));
                                  if (kept == positions[s].runs.end()) return;
                                  detail::RunMemory& memory = sequence.layers[layer][run];
                                  memory.replay_from = kept->second.replay_from;
                                  for (std::size_t c = 0; c < 2; ++c)
                                    memory.checkpoints[c].position = kept->second.checkpoints[c];
                                });
  }
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_CACHE_FILE_HPP
