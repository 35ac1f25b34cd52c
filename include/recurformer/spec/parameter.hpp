#ifndef RECURFORMER_SPEC_PARAMETER_HPP
#define RECURFORMER_SPEC_PARAMETER_HPP

// How a mixer declares its parameters. Weights, checkpoints, conversion, the optimizer and the CLI iterate
// over these declarations and know no mixer by name.

#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>

#include "recurformer/core/random.hpp"
#include "recurformer/spec/layer_shape.hpp"

namespace rf {

/// A parameter has one slice per KV group or one per query head.
enum class Unit { group, head };

/// What is done with a parameter.
enum class Role {
  projection,       ///< slice (rows, d_model): a block of rows of the run's fused input projection
  projection_bias,  ///< slice (rows): added to the rows of the projection declared just before it
  local             ///< anything else, always float, read by the mixer's kernel
};

/// The shape of a slice: up to two dimensions.
struct SliceShape {
  std::int64_t rows = 1;
  std::int64_t columns = 1;
  int rank = 1;  ///< 1: (rows), 2: (rows, columns)

  constexpr std::int64_t size() const { return rows * columns; }
  friend constexpr bool operator==(const SliceShape&, const SliceShape&) = default;
};
constexpr SliceShape slice_of(std::int64_t rows) { return {.rows = rows}; }
constexpr SliceShape slice_of(std::int64_t rows, std::int64_t columns) {
  return {.rows = rows, .columns = columns, .rank = 2};
}

/// Fills one slice of a fresh parameter.
using Initialiser = void (*)(std::span<float> slice, const HeadShape& shape, Random& random);

struct ParameterSpec {
  std::string_view name;  ///< on disk: model.layers.<layer>.<mixer's module>.<name>
  Role role = Role::local;
  Unit unit = Unit::group;
  SliceShape slice;
  Initialiser initialise = nullptr;
  bool weight_decay = true;  ///< false for decays, biases, gains

  /// Slices that one KV group owns.
  constexpr int units_per_group(const HeadShape& shape) const {
    return unit == Unit::head ? shape.queries_per_group : 1;
  }
  /// Elements that one KV group owns.
  constexpr std::int64_t group_size(const HeadShape& shape) const {
    return units_per_group(shape) * slice.size();
  }
  /// Rows of the fused projection that one KV group owns (role projection and projection_bias).
  constexpr std::int64_t group_rows(const HeadShape& shape) const {
    return units_per_group(shape) * slice.rows;
  }
};

namespace initial {
/// Normal with standard deviation 1/√fan_in, the usual start of a projection from d_model.
inline void projection(std::span<float> slice, const HeadShape& shape, Random& random) {
  const double deviation = 1.0 / std::sqrt(static_cast<double>(shape.d_model));
  for (float& value : slice) value = static_cast<float>(deviation * random.normal());
}
inline void zeros(std::span<float> slice, const HeadShape&, Random&) {
  for (float& value : slice) value = 0.0f;
}
inline void ones(std::span<float> slice, const HeadShape&, Random&) {
  for (float& value : slice) value = 1.0f;
}
}  // namespace initial

}  // namespace rf

#endif  // RECURFORMER_SPEC_PARAMETER_HPP
