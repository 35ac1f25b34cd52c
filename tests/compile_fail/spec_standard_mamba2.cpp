// expect: StandardMamba2 needs a d_state that is a multiple of 16; change it in its rf::SsdShape
// expect: StandardMamba2 needs d_conv >= 2; raise d_conv in its rf::SsdShape
#include "recurformer/spec/standard_mamba2.hpp"

constexpr auto d_state = rf::StandardMamba2<rf::SsdShape{.d_state = 24}>::ssd;
constexpr auto d_conv = rf::StandardMamba2<rf::SsdShape{.d_conv = 1}>::ssd;
