#include "recurformer/checkpoint/plan_file.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "../support/error_message.hpp"
#include "../support/temporary_folder.hpp"

namespace {

using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

const rf::ModelShape shape{
    .vocabulary = 11,
    .layers = 2,
    .layer = {.d_model = 48, .d_head = 16, .kv_groups = 3, .queries_per_group = 2, .d_ff = 8},
    .tied_embeddings = false};

rf::PlanDocument example() {
  return {.plan = {.kinds = {{"attention", "fp32", {}}, {"streaming", "bf16", {{"sink", 4}, {"window", 64}}}},
                   .kind_of_group = {{0, 1, 1}, {1, 0, 1}}},
          .method = "recency-ratio",
          .parameters = {{"window", "16"}, {"context", "4096"}},
          .scores = {{0.1, nan, 1.0 / 3}, {-2e-30, 0.5, 1.0}},
          .cache_bytes = 65536};
}

/// What reading exactly this text says, without the path.
std::string read_error(const std::string& text, const rf::ModelShape* of_shape = nullptr) {
  static const TemporaryFolder folder;
  const std::string path = folder / "p.json";
  rf::write_file_atomically(path, text);
  const std::string message =
      message_of<rf::FileError>([&] { of_shape ? rf::read_plan(path, *of_shape) : rf::read_plan(path); });
  return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
}

/// A correct file with one piece of its text replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string file =
      R"({"recurformer_plan": 1, "model": {"layers": 2, "kv_groups": 3, "queries_per_group": 2, "d_head": 16,
      "d_model": 48}, "kinds": [{"mixer": "attention", "precision": "fp32"}, {"mixer": "mamba",
      "precision": "fp32"}], "layers": [[0, 1, 1], [1, 0, 1]], "scores": [[0, 1, 1], [1, 0.5, null]]})";
  const std::size_t at = file.find(from);
  REQUIRE(at != file.npos);
  return file.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("plan file: everything comes back as it was written") {
  const TemporaryFolder folder;
  const rf::PlanDocument written = example();
  rf::write_plan(written, shape, folder / "plan.json");
  for (const rf::PlanDocument& read :
       {rf::read_plan(folder / "plan.json"), rf::read_plan(folder / "plan.json", shape)}) {
    CHECK(read.plan == written.plan);
    CHECK(read.method == written.method);
    CHECK(read.parameters == written.parameters);
    CHECK(read.cache_bytes == written.cache_bytes);
    REQUIRE(read.scores.size() == 2);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      REQUIRE(read.scores[layer].size() == 3);
      for (std::size_t group = 0; group < 3; ++group) {
        const double a = written.scores[layer][group], b = read.scores[layer][group];
        CHECK((a == b || (std::isnan(a) && std::isnan(b))));
      }
    }
  }
}

TEST_CASE("plan file: only the plan itself is needed; unused kinds are dropped; the text is for people") {
  const TemporaryFolder folder;
  rf::write_plan({.plan = {.kinds = {{"mamba2", "fp32", {}}, {"attention", "fp32", {}}},
                           .kind_of_group = {{1, 1, 1}, {1, 1, 1}}},
                  .method = {},
                  .parameters = {},
                  .scores = {},
                  .cache_bytes = {}},
                 shape, folder / "plan.json");
  const rf::PlanDocument read = rf::read_plan(folder / "plan.json", shape);
  CHECK(read.plan == rf::uniform_plan({"attention", "fp32", {}}, 2, 3));
  CHECK(read.method.empty());
  CHECK(read.parameters.empty());
  CHECK(read.scores.empty());
  CHECK(!read.cache_bytes);
  CHECK(rf::read_text_file(folder / "plan.json") == R"({
  "recurformer_plan": 1,
  "model": {"layers":2,"kv_groups":3,"queries_per_group":2,"d_head":16,"d_model":48},
  "kinds": [
    {"mixer":"attention","precision":"fp32"}
  ],
  "layers": [
    [0,0,0],
    [0,0,0]
  ]
}
)");
}

TEST_CASE("plan file: wrong files are refused by name of the field") {
  REQUIRE(read_error(changed("1", "1"), &shape) == "no error");
  CHECK(read_error("{}") == "the field 'recurformer_plan' is missing");
  CHECK(read_error(changed("\"recurformer_plan\": 1", "\"recurformer_plan\": 2")) ==
        "recurformer_plan: found format 2; supported: 1");
  CHECK(contains(read_error(changed("\"scores\"", "\"score\"")), "unknown field 'score'; known: "));
  CHECK(contains(read_error(changed("\"mixer\": \"mamba\",", "")), "kinds[1]: the field 'mixer' is missing"));
  CHECK(contains(read_error(changed("\"mamba\"", "\"attention\"")),
                 "kinds[1]: the kind 'attention:fp32' is listed twice"));
  CHECK(contains(read_error(changed("[0, 1, 1]", "[0, 2, 1]")),
                 "layers[0][1]: expected an integer from 0 to 1, found 2"));
  CHECK(contains(read_error(changed("[0, 1, 1]", "[0, 1]")),
                 "layers[0]: names the kinds of 2 KV groups; the model has 3"));
  CHECK(contains(read_error(changed("[0, 1, 1],", "")), "layers: has 1 rows; the model has 2 layers"));
  CHECK(contains(read_error(changed("\"layers\": 2", "\"layers\": 0")), "model.layers: expected"));
  CHECK(contains(read_error(changed("0.5, null", "0.5")), "scores[1]: has 2 scores; the model has 3"));
  CHECK(contains(read_error(changed("0.5, null", "0.5, \"high\"")), "scores[1][2]: expected a number"));
  CHECK(contains(read_error(R"({"recurformer_plan": 1, "model": {"layers": 1, "kv_groups": 1}, "kinds": [],
                                "layers": [[0]]})"),
                 "kinds: is empty"));
  CHECK(contains(read_error(changed("\"mamba\"", "\"mam\\nba\"")),
                 "kinds[1].mixer: found the name 'mam\\x0aba'; expected at most 100 bytes without control"));
  CHECK(
      contains(read_error(changed("\"mixer\": \"mamba\",", "\"mixer\": \"" + std::string(101, 'm') + "\",")),
               "kinds[1].mixer: found the name 'mmm"));
}

TEST_CASE("plan file: options of mixers have short names and sizes that fit 32 bits") {
  const auto error = [](const std::string& options) {
    return read_error(R"({"recurformer_plan": 1, "model": {"layers": 1, "kv_groups": 1}, "layers": [[0]],
        "kinds": [{"mixer": "streaming", "precision": "fp32", "options": )" +
                      options + "}]}");
  };
  CHECK(error(R"({"window": 2147483647, "sink": -2147483647})") == "no error");
  CHECK(contains(error(R"({"window": 2147483648})"), "kinds[0].options.window: expected an integer from"));
  CHECK(contains(error(R"({"win\u0000dow": 1})"), "kinds[0].options: found the name 'win\\x00dow'"));
}

TEST_CASE("plan file: a plan for another model is refused") {
  const std::string file = changed("1", "1");
  rf::ModelShape other = shape;
  other.layers = 3;
  CHECK(read_error(file, &other) == "model.layers: the plan was made for a model with 2; this model has 3");
  other = shape;
  other.layer.d_head = 32;
  CHECK(contains(read_error(file, &other), "model.d_head"));
  other = shape;
  other.layer.queries_per_group = 1;
  CHECK(contains(read_error(file, &other), "model.queries_per_group"));
}

TEST_CASE("plan file: what does not fit the model is not written") {
  const TemporaryFolder folder;
  const auto error = [&](const rf::PlanDocument& document) {
    return message_of<rf::ArgumentError>([&] { rf::write_plan(document, shape, folder / "plan.json"); });
  };
  rf::PlanDocument document = example();
  document.plan.kind_of_group[0].pop_back();
  CHECK(contains(error(document), "2 KV groups in layer 0; the model has 3"));
  document = example();
  document.scores.pop_back();
  CHECK(contains(error(document), "scores of 1 layers; the model has 2"));
  document = example();
  document.scores[1].pop_back();
  CHECK(contains(error(document), "2 scores; the model has 3 KV groups"));
  CHECK(std::filesystem::is_empty(folder.path()));
}
