// Scores as keys in order, and what is done with those that fall.
#pragma once
#include "weights.h"

// Order of scores as signed integers; -0 equals 0 in both.
inline I32x16 key_of(F32x16 score, bool absolute) {
  if (absolute) return magnitude_bits(score);
  const I32x16 b = bits(score + splat(0.0f));
  return b ^ (shift_right_signed<31>(b) & splat(0x7fffffff));
}

inline void store_mask(uint8_t* mask, Mask16 keep, All) { store_bytes(mask, select(keep, splat(1), splat(0))); }
inline void store_mask(uint8_t* mask, Mask16 keep, Some some) {
  store_bytes(mask, select(keep, splat(1), splat(0)), some.n);
}

APART inline bool mask_weights(Weights w, const uint8_t* mask, int64_t n, MutableWeights out, bool streamed) {
  return map_weights(w, n, out, streamed, [&](F32x16 x, int64_t i, auto part) {
    return select(load(mask + i, part) == splat(0), splat(0.0f), x);
  });
}
