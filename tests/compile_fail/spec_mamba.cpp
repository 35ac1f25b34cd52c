// expect: Mamba needs d_state >= 1; raise d_state in its rf::ScanShape
// expect: Mamba needs d_conv >= 2; raise d_conv in its rf::ScanShape
// expect: Mamba needs dt_rank >= 0; 0 means ceil.d_head / 16.
#include "recurformer/spec/mamba.hpp"

constexpr auto d_state = rf::Mamba<rf::ScanShape{.d_state = 0}>::scan;
constexpr auto d_conv = rf::Mamba<rf::ScanShape{.d_conv = 1}>::scan;
constexpr auto dt_rank = rf::Mamba<rf::ScanShape{.dt_rank = -1}>::scan;
