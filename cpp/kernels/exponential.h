// exp and log in float32 lanes: the steps of reference/exponential.py, in its order. Products and sums alone, so that
// every instruction set agrees; the reference says how near they come.
#pragma once
#include "vec.h"

namespace ISA {
namespace {

constexpr float kLn2High = 0.693145752f;   // 17 bits: its product with an exponent is exact
constexpr float kLn2Low = 1.42860677e-6f;  // ln 2 = high + low
constexpr float kLowestExponent = -87.0f;  // below it e^x counts as 0
constexpr int32_t kRootHalf = 0x3f3504f3;  // the bits of sqrt(1/2)

// e^x for x <= 0.
inline F32x16 exp_nonpositive(F32x16 x) {
  const F32x16 lowest = splat(kLowestExponent);
  const I32x16 n = nearest(max(x, lowest) * splat(1.44269502f));
  const F32x16 whole = to_float(n);
  const F32x16 r = (max(x, lowest) - whole * splat(kLn2High)) - whole * splat(kLn2Low);
  F32x16 p = r * splat(1.38208899e-3f) + splat(8.36868212e-3f);
  p = p * r + splat(4.16682661e-2f);
  p = p * r + splat(0.166665211f);
  p = p * r + splat(0.49999994f);
  const F32x16 near_one = (p * (r * r) + r) + splat(1.0f);
  return select(x < lowest, splat(0.0f), from_bits(float_bits(near_one) + shift_left<23>(n)));
}

// ln x for normal x > 0; something finite for 0.
inline F32x16 log(F32x16 x) {
  const I32x16 above = float_bits(x) - splat(kRootHalf);
  const F32x16 n = to_float(shift_right_signed<23>(above));
  const F32x16 m = from_bits((above & splat(0x7fffff)) + splat(kRootHalf));  // x = m * 2^n, m near 1
  const F32x16 s = (m - splat(1.0f)) / (m + splat(1.0f)), twice = s + s, z = s * s;
  F32x16 p = z * splat(0.149362639f) + splat(0.199887723f);
  p = p * z + splat(0.33333388f);
  return n * splat(kLn2High) + (twice + (p * z * twice + n * splat(kLn2Low)));
}

inline float log(float x) { return first_lane(log(splat(x))); }

}  // namespace
}  // namespace ISA
