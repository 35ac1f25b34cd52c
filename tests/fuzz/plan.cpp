// read_plan, for any model and for a given one.

#include <string>
#include <string_view>

#include "recurformer/checkpoint/plan_file.hpp"
#include "small_shape.hpp"
#include "target.hpp"

namespace {

void read_plan(std::string_view bytes) {
  const std::string path = rf::test::scratch_file("plan.json", bytes);
  rf::test::expect_success_or_error([&] { rf::read_plan(path); });
  rf::validate(rf::read_plan(path, rf::test::small_shape).plan, rf::test::small_shape);
}

const rf::test::RegisteredTarget plan_target{{"plan", rf::test::json_memory, 1 << 14, read_plan}};

}  // namespace
