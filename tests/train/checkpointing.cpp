#include "recurformer/train/checkpointing.hpp"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "support/small_model.hpp"
#include "support/temporary_folder.hpp"

namespace {

rf::Batch batch(std::int64_t step) {
  rf::Batch out;
  const auto tokens = small::tokens(31, static_cast<std::uint64_t>(step));
  out.append(std::span(tokens).first(30), std::span(tokens).subspan(1));
  return out;
}

constexpr rf::TrainOptions options{.steps = 30, .rate = 1e-3};

std::vector<float> all_parameters(small::Model& model) {
  std::vector<float> out;
  for (const auto& parameter : rf::parameter_refs(model.weights())) {
    const auto* values = static_cast<const float*>(parameter.data);
    out.insert(out.end(), values, values + parameter.size);
  }
  return out;
}

/// Trains to the end, saving after every step, from the state at `path` if there is one.
std::vector<float> train(const std::string& path, std::chrono::milliseconds pause = {}) {
  auto model = small::model();
  rf::Trainer<small::Model> trainer(model, options);
  if (std::filesystem::exists(path)) rf::load_training_state(trainer, "run", path);
  while (!trainer.done()) {
    trainer.step(batch);
    rf::save_training_state(trainer, "run", path);
    std::this_thread::sleep_for(pause);
  }
  return all_parameters(model);
}

}  // namespace

TEST_CASE("a run that is killed again and again ends with the bits of one that was not") {
  const rf::test::TemporaryFolder folder;
  rf::set_threads(1);  // a forked child has only the calling thread
  const auto expected = train(folder / "plain.safetensors");
  const std::string path = folder / "killed.safetensors";
  int kills = 0;
  for (;; ++kills) {
    REQUIRE(kills < 100);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      train(path, std::chrono::milliseconds(5));
      _exit(0);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 7 * kills));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) break;
  }
  CHECK(kills > 0);
  CHECK(train(path) == expected);
  rf::set_threads(2);
}

TEST_CASE("states of other runs, and files that are none, are refused") {
  const rf::test::TemporaryFolder folder;
  const std::string path = folder / "state.safetensors";
  auto model = small::model();
  rf::Trainer<small::Model> trainer(model, options);
  trainer.step(batch);
  rf::save_training_state(trainer, "seed=1", path);
  CHECK_THROWS_AS(rf::load_training_state(trainer, "seed=2", path), rf::FileError);
  CHECK_THROWS_AS(rf::check_training_state("seed=2", path), rf::FileError);
  CHECK_NOTHROW(rf::check_training_state("seed=1", path));
  auto other = small::model(small::attention_plan());
  rf::Trainer<small::Model> other_trainer(other, options);
  CHECK_THROWS_AS(rf::load_training_state(other_trainer, "seed=1", path), rf::FileError);
  rf::SafetensorsWriter writer;
  writer.write(folder / "none.safetensors");
  CHECK_THROWS_AS(rf::load_training_state(trainer, "seed=1", folder / "none.safetensors"), rf::FileError);
  CHECK_THROWS_AS(rf::load_training_state(trainer, "seed=1", folder / "missing.safetensors"), rf::FileError);
}
