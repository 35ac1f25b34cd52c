// read_analysis.

#include <string_view>

#include "recurformer/plan/analysis_file.hpp"
#include "small_shape.hpp"
#include "target.hpp"

namespace {

void read_analysis(std::string_view bytes) {
  rf::read_analysis(rf::test::scratch_file("analysis.json", bytes), rf::test::small_shape);
}

const rf::test::RegisteredTarget analysis_target{{"analysis", rf::test::json_memory, 1 << 14, read_analysis}};

}  // namespace
