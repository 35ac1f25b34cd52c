#ifndef RECURFORMER_TRAIN_CHECKPOINTING_HPP
#define RECURFORMER_TRAIN_CHECKPOINTING_HPP

// The state of a training run in one file, written atomically: a run that is killed at any moment leaves the
// state of its last save, resumes there, and ends with the bits of an uninterrupted run. Batches are
// functions of the step, so the state is the optimizer's: float weights, both moments, and the number of
// steps.

#include <cstdint>
#include <cstring>
#include <string>

#include "recurformer/checkpoint/safetensors.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/train/trainer.hpp"

namespace rf {

/// Writes the state. `run` describes everything the result depends on: settings, and what the start weights
/// and the data contain (core/fingerprint.hpp), since files can change under the same path; resuming demands
/// the same text.
template <class M>
void save_training_state(Trainer<M>& trainer, const std::string& run, const std::string& path) {
  SafetensorsWriter writer;
  for (const auto& tensor : trainer.optimizer().state()) {
    const float* values = tensor.values.data();
    writer.add(tensor.name, {static_cast<std::int64_t>(tensor.values.size())}, values);
  }
  writer.metadata("steps", text(trainer.steps()));
  writer.metadata("run", run);
  writer.write(path);
}

namespace detail {

/// FileError unless the file is the state of this run.
inline void check_run(const SafetensorsFile& file, const std::string& run) {
  const auto& metadata = file.metadata();
  check_file(metadata.contains("steps") && metadata.contains("run"), file.path(),
             "is not the state of a training run");
  check_file(metadata.at("run") == run, file.path(), "belongs to a run with other settings (",
             one_line(metadata.at("run"), 2000), "), not to this one (", run,
             "); use the same settings, or another output folder");
}

}  // namespace detail

/// FileError unless `path` holds a state of this run: for a program that wants to know before it starts.
inline void check_training_state(const std::string& run, const std::string& path) {
  detail::check_run(SafetensorsFile(path), run);
}

/// Continues the run whose state `path` holds. A state of another run, model or format is a FileError.
template <class M>
void load_training_state(Trainer<M>& trainer, const std::string& run, const std::string& path) {
  const SafetensorsFile file(path);
  detail::check_run(file, run);
  const auto state = trainer.optimizer().state();
  check_file(file.tensors().size() == state.size(), path, "has ", file.tensors().size(),
             " tensors; this run has ", state.size());
  for (const auto& tensor : state) {
    const std::int64_t shape[] = {static_cast<std::int64_t>(tensor.values.size())};
    read_tensor(file, tensor.name, shape, tensor.values.data());
  }
  std::int64_t steps = 0;
  const std::string& written = file.metadata().at("steps");
  const auto [end, code] = std::from_chars(written.data(), written.data() + written.size(), steps);
  check_file(code == std::errc{} && end == written.data() + written.size() && steps >= 0, path, "steps is ",
             detail::printable(written), "; expected a number");
  trainer.optimizer().resume(steps);
}

}  // namespace rf

#endif  // RECURFORMER_TRAIN_CHECKPOINTING_HPP
