// Where lanes go that are expanded or compressed by a mask, for registers without an instruction for it.
#pragma once
#include "isa.h"

namespace ISA {
namespace {

constexpr uint8_t kNoLane = 0x80;

// Row `mask`, entry j. expanding: which of the packed lanes lane j receives. Otherwise: which lane comes j-th.
// kNoLane where there is none.
template <int kLaneCount>
struct LaneTable {
  uint8_t row[1 << kLaneCount][kLaneCount];
  constexpr LaneTable(bool expanding) : row() {
    for (int mask = 0; mask < 1 << kLaneCount; ++mask) {
      int found = 0;
      for (uint8_t& entry : row[mask]) entry = kNoLane;
      for (int j = 0; j < kLaneCount; ++j)
        if (mask >> j & 1) {
          row[mask][expanding ? j : found] = static_cast<uint8_t>(expanding ? found : j);
          ++found;
        }
    }
  }
};

// The same for four lanes as the sixteen bytes of a byte shuffle.
struct ByteTable {
  alignas(16) uint8_t row[16][16];
  constexpr ByteTable(bool expanding) : row() {
    const LaneTable<4> lanes(expanding);
    for (int mask = 0; mask < 16; ++mask)
      for (int k = 0; k < 16; ++k) {
        const int lane = lanes.row[mask][k / 4];
        row[mask][k] = lane == kNoLane ? kNoLane : static_cast<uint8_t>(4 * lane + k % 4);
      }
  }
};

}  // namespace
}  // namespace ISA
