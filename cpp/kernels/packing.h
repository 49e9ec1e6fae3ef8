#pragma once
#include "bits.h"

namespace ISA {
namespace {

FLATTEN bool pack(const uint8_t* codes, int64_t rows, int64_t n, int bits, uint8_t* packed) {
  uint64_t seen = 0;
  uint8_t clean[kStretch];  // a code too large must not spill into its neighbours
  const uint64_t low = 0x0101010101010101u * ((1u << bits) - 1);
  for (int64_t r = 0; r < rows; ++r, codes += n, packed += (n * bits + 7) / 8)
    for (int64_t first = 0; first < n; first += kStretch) {
      const int64_t count = smaller(kStretch, n - first);
      for (int64_t i = 0; i < count; i += 8) {
        const uint64_t x = load_word(codes + first + i, smaller(8, count - i)), kept = x & low;
        seen |= x;
        __builtin_memcpy(clean + i, &kept, 8);
      }
      pack_row(clean, count, bits, packed + first / 8 * bits);
    }
  return (seen & ~low) == 0;
}

FLATTEN void unpack(const uint8_t* packed, int64_t rows, int64_t n, int bits, uint8_t* codes) {
  for (int64_t r = 0; r < rows; ++r, packed += (n * bits + 7) / 8, codes += n) unpack_row(packed, n, bits, codes);
}

}  // namespace
}  // namespace ISA
