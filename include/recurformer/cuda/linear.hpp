#ifndef RECURFORMER_CUDA_LINEAR_HPP
#define RECURFORMER_CUDA_LINEAR_HPP

// Linear layers, C (rows, columns) = s ∘ A (rows, inner) Wᵀ with an epilogue, in one launch:
//
//   launch_linear(device, operands, NoNorm{} or RmsNorm{…}, epilogue)
//
// A is dense or gathered, of bf16 or fp16 like W, of any number of rows (a packed batch has no padding). The
// number of rows chooses the tile: up to 32 rows the weights are read at the speed of memory
// (few_rows_tile.hpp), beyond that the tensor cores are fed through shared memory (tensor_tile.hpp).
//
// Tiles are numbered in bands of `band_rows` row tiles; within a band the row tiles of one column tile follow
// each other, so that blocks running together share weights, and the band's rows stay in the L2 cache.

#include <cstdint>

#include "recurformer/arch/kernel.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/cuda/few_rows_tile.hpp"
#include "recurformer/cuda/gemm_epilogue.hpp"
#include "recurformer/cuda/gemm_operands.hpp"
#include "recurformer/cuda/tensor_tile.hpp"

namespace rf::cuda {

/// From this many rows on, tensor tiles; below, few-rows tiles.
inline constexpr int tensor_tile_rows = 33;

/// Row tiles that a band has, the last one perhaps fewer.
inline constexpr int band_rows = 8;

struct TilePosition {
  int row = 0;
  int column = 0;
};

/// Position of tile `index` of a band of `rows` row tiles, the first of which is `first_row`.
RECURFORMER_HOST_DEVICE constexpr TilePosition tile_in_band(int index, int first_row, int rows) {
  return {.row = first_row + index % rows, .column = index / rows};
}

/// Position of tile `index` of a grid of row_tiles x column_tiles.
RECURFORMER_HOST_DEVICE constexpr TilePosition tile_at(int index, int row_tiles, int column_tiles) {
  const int first_row = index / (band_rows * column_tiles) * band_rows;
  const int left = row_tiles - first_row;
  return tile_in_band(index - first_row * column_tiles, first_row, left < band_rows ? left : band_rows);
}

template <class Tile>
constexpr int row_tiles(int rows) {
  return (rows + Tile::rows - 1) / Tile::rows;
}
/// Tiles across `columns` columns, which are taken in whole blocks of partners.
template <class Tile>
constexpr int column_tiles(int columns) {
  constexpr int granule = Tile::columns < partner_block ? partner_block : Tile::columns;
  return (columns + granule - 1) / granule * (granule / Tile::columns);
}

/// Parts per row that an epilogue is handed by tiles of one kind.
template <class Tile>
constexpr int part_count(int columns) {
  return (columns + partner_block - 1) / partner_block * (partner_block / Tile::part_columns);
}

inline namespace RECURFORMER_ARCH {

/// One tile per block.
template <class Tile, class Rows, class Norm, class Epilogue>
struct LinearKernel {
  struct Parameters {
    GemmOperands<Rows> operands;
    Norm norm;
    Epilogue epilogue;
    int row_tiles = 0;
    int column_tiles = 0;
  };
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_multiprocessor = Tile::blocks_per_multiprocessor;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const TilePosition at = tile_at(arch::block_index().x, p.row_tiles, p.column_tiles);
    Tile::run(p.operands, p.norm, at.row, at.column, NoWait{}, p.epilogue);
  }
};

}  // namespace RECURFORMER_ARCH

/// Throws ArgumentError unless tiles can be made of the operands.
template <class Rows>
void check_operands(const GemmOperands<Rows>& operands) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
  };
  check(operands.inner >= 8 && operands.inner % 8 == 0 && operands.columns % 8 == 0,
        "a linear layer on the GPU got W (", operands.columns, ", ", operands.inner,
        "); both must be multiples of 8");
  check(
      aligned(operands.weights) && aligned(operands.rows.matrix.data) && operands.rows.matrix.stride % 8 == 0,
      "a linear layer on the GPU needs rows and weights at multiples of 16 bytes; the stride is ",
      operands.rows.matrix.stride, " elements");
}

/// The tiles linear layers choose from. Registers of two blocks of the largest fill a multiprocessor.
template <class T>
using LargeTile = TensorTile<T, 128, 128, 64, 2>;
template <class T>
using MediumTile = TensorTile<T, 64, 128, 32, 3>;

/// Parts per row that launch_linear hands an epilogue: how many a RowSums, or the largest logits, must have.
constexpr int row_parts(int rows, int columns) {
  return rows < tensor_tile_rows ? part_count<FewRowsTile<bf16, 1>>(columns)
                                 : part_count<LargeTile<bf16>>(columns);
}

/// Calls f(Tile{}) with the tile for a product of `rows` x `columns` on a device of `multiprocessors`. Where
/// there are always at least `LeastRows` rows, tiles for fewer need not be compiled.
template <class T, int LeastRows = 0, class F>
void with_tile(int rows, int columns, int multiprocessors, F&& f) {
  check(rows >= LeastRows, "a product of ", rows, " rows was compiled for ", LeastRows, " and more");
  if constexpr (LeastRows <= 8)
    if (rows <= 8) return f(FewRowsTile<T, 1>{});
  if (rows <= 16)
    f(FewRowsTile<T, 2>{});
  else if (rows < tensor_tile_rows)
    f(FewRowsTile<T, 4>{});
  else if (row_tiles<LargeTile<T>>(rows) * column_tiles<LargeTile<T>>(columns) < 2 * multiprocessors)
    f(MediumTile<T>{});
  else
    f(LargeTile<T>{});
}

/// Computes with tiles of one kind; launch_linear chooses.
template <class Tile, class Rows, class Norm, class Epilogue, class Device>
void launch_linear_tiles(Device& device, const GemmOperands<Rows>& operands, const Norm& norm,
                         const Epilogue& epilogue) {
  using Kernel = LinearKernel<Tile, Rows, Norm, Epilogue>;
  if (operands.rows.count == 0 || operands.columns == 0) return;
  check_operands(operands);
  if constexpr (Epilogue::Part::exists)
    check(epilogue.parts() == part_count<Tile>(operands.columns), "a linear layer of ", operands.rows.count,
          " rows and ", operands.columns, " columns leaves ", part_count<Tile>(operands.columns),
          " parts per row, but there is room for ", epilogue.parts(), "; see row_parts");
  const int down = row_tiles<Tile>(operands.rows.count), across = column_tiles<Tile>(operands.columns);
  device.template launch<Kernel>(
      {.blocks = {.x = down * across}, .shared_bytes = Tile::shared_bytes},
      {.operands = operands, .norm = norm, .epilogue = epilogue, .row_tiles = down, .column_tiles = across});
}

/// epilogue(norm(A) Wᵀ); see the top of this file. Device pointers throughout; 0 rows are nothing to do, and
/// LeastRows is with_tile's.
template <int LeastRows = 0, class Rows, class Norm, class Epilogue, class Device>
void launch_linear(Device& device, const GemmOperands<Rows>& operands, const Norm& norm,
                   const Epilogue& epilogue) {
  with_tile<typename Rows::Element, LeastRows>(
      operands.rows.count, operands.columns, device.multiprocessors(),
      [&]<class Tile>(Tile) { launch_linear_tiles<Tile>(device, operands, norm, epilogue); });
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_LINEAR_HPP
