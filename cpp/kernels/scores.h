// Scores as keys in order, and masks of them.
#pragma once
#include "weights.h"

namespace ISA {
namespace {

// Order of scores as signed integers; -0 equals 0 in both.
inline I32x16 key_of(F32x16 score, bool absolute) {
  if (absolute) return magnitude_bits(score);
  const I32x16 b = float_bits(score + splat(0.0f));
  return b ^ (shift_right_signed<31>(b) & splat(0x7fffffff));
}

inline void store_mask(uint8_t* mask, Mask16 keep, Full) { store_bytes(mask, select(keep, splat(1), splat(0))); }
inline void store_mask(uint8_t* mask, Mask16 keep, Tail tail) {
  store_bytes(mask, select(keep, splat(1), splat(0)), tail.n);
}

NOINLINE inline bool mask_weights(Weights w, const uint8_t* mask, int64_t n, MutableWeights out, bool nontemporal) {
  return map_weights(w, n, out, nontemporal, [&](F32x16 x, int64_t i, auto tail) {
    return select(load(mask + i, tail) == splat(0), splat(0.0f), x);
  });
}

}  // namespace
}  // namespace ISA
