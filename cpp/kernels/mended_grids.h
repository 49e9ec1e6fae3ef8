// Grids at the ends of the number range: scales that are subnormal, and codes that would decode beyond the limit.
#pragma once
#include "least_squares.h"

namespace ISA {
namespace {

// A sum of n terms, sixteen at a time; stretches of 4096 are added in the same way, so that no sum grows too large.
template <class Term>
inline float sum_stretches(int64_t n, const Term& term) {
  alignas(64) float lane[16] = {};
  for (int64_t first = 0, s = 0; first < n; first += kStretch, ++s) {
    F32x16 total = splat(0.0f);
    for_each_vector(smaller(kStretch, n - first), [&](int64_t i, auto tail) { total = total + term(first + i, tail); });
    lane[s & 15] += sum(total);
  }
  return fold(lane);
}

// The sum of squared errors of a group on grid k of sixteen, each error times `lift`.
template <class T>
NOINLINE float error_of(const T* x, int64_t n, const Quantizers& quantizers, int k, float lift) {
  const GroupQuantizer<true> quantizer(quantizers, k);
  const F32x16 lowest = splat(static_cast<float>(static_cast<int32_t>(quantizers.lowest[k])));
  const F32x16 highest = splat(static_cast<float>(static_cast<int32_t>(quantizers.highest[k])));
  const F32x16 scale = splat(quantizers.scale[k]), by = splat(lift);
  return sum_stretches(n, [&](int64_t i, auto tail) {
    const F32x16 v = load(x + i, tail), q = min(max(to_float(nearest(quantizer.scaled(v))), lowest), highest);
    const F32x16 miss = (v - q * scale) * by;
    return miss * miss;
  });
}

// A power of two near 1 / scale, scale >= 0: errors of such steps times it have squares that float holds.
inline float power_near_inverse(float scale) {
  int32_t of;
  __builtin_memcpy(&of, &scale, sizeof of);
  of = within(254 - (of >> 23), 1, 254) << 23;
  __builtin_memcpy(&scale, &of, sizeof of);
  return scale;
}

// One group's, as reference/grids.py says.
struct OneGrid {
  float scale, zero;
};

inline Quantizers quantizers_of(F32x16 scale, F32x16 zero, const Grid& grid) {
  Quantizers quantizers;
  quantizers.set(scale);
  set_zeros(quantizers, zero, grid);
  return quantizers;
}

inline float zero_of(float low, float scale, const Grid& grid) {
  Quantizers one;
  one.set(splat(scale));
  return first_lane(zeros_for(splat(low), one, grid));
}

inline float in_dtype(float scale, Dtype dtype) { return first_lane(through(splat(scale), dtype)); }
inline float before(float scale, Dtype dtype) { return first_lane(previous(splat(scale), dtype)); }

// The steps from the zero point to the farther end of the codes.
inline float longer_side(float zero, const Grid& grid) {
  const float last = static_cast<float>((1 << grid.bits) - 1);
  return larger(zero, last - zero);
}

// An asymmetric grid where no code within reach of the ends decodes to more than the limit.
NOINLINE OneGrid within_limit(float low, float high, float scale, float zero, const Grid& grid) {
  const float last = static_cast<float>(code_span(grid)), most = longer_side(zero, grid);
  if (!(__builtin_floorf(ieee_quotient(grid.limit, scale)) < most) || !(scale < __builtin_inff())) return {scale, zero};
  const float nearly = before(scale, grid.scale_dtype);
  if (__builtin_floorf(grid.limit / nearly) >= most) return {nearly, zero};
  const float kept = most - 1;
  const float longer = in_dtype((-low < high ? high : -low) / kept, grid.scale_dtype);
  return {longer * kept > grid.limit ? before(longer, grid.scale_dtype) : longer,
          zero > last - zero ? kept : last - kept};
}

// Of the subnormal scales around `ideal` the one with the least error, the smaller among equals.
template <class T, class ZeroOf>
inline OneGrid subnormal_grid(const T* x, int64_t n, double ideal, const Grid& grid, const ZeroOf& zero_of) {
  const double unit = least_scale(grid.scale_dtype), units = __builtin_fabs(ideal) / unit;
  const auto scale = [&](double whole) {
    return static_cast<float>(whole == 0 ? 0 : __builtin_copysign(whole * unit, ideal));
  };
  const float below = scale(__builtin_floor(units)), above = scale(__builtin_ceil(units));
  const float lift = power_near_inverse(__builtin_fabsf(above));
  const auto error = [&](const OneGrid& of) {
    return error_of(x, n, quantizers_of(splat(of.scale), splat(of.zero), grid), 0, lift);
  };
  const OneGrid lower{below, zero_of(below)}, upper{above, zero_of(above)};
  return error(upper) < error(lower) ? upper : lower;
}

template <class T, class Size>
NOINLINE void mend_each_absmax(const T* x, int64_t n, int count, Size size, const float* low, const float* high,
                               const Grid& grid, Grids& found) {
  each_group(n, count, size, [&](int k, int64_t at, auto some) {
    OneGrid now{found.scale[k], found.zero[k]};
    const double ideal = ideal_scale(low[k], high[k], grid);
    if (!grid.symmetric) now = within_limit(low[k], high[k], now.scale, now.zero, grid);
    if (ideal < least_normal(grid.scale_dtype))
      now = subnormal_grid(x + at, some, ideal, grid, [&](float s) { return zero_of(low[k], s, grid); });
    found.scale[k] = now.scale;
    found.zero[k] = now.zero;
  });
}

inline Mask16 any_weights(const float* low, const float* high) {
  return splat(0.0f) < max(splat(0.0f) - load(low), load(high));
}
inline Mask16 may_be_subnormal(const Grids& found, const Grid& grid) {
  return abs(load(found.scale)) <= splat(static_cast<float>(least_normal(grid.scale_dtype)));
}
inline uint32_t may_exceed(const Grids& found, const Grid& grid) {
  return grid.symmetric ? 0 : lane_bits(splat(grid.limit / 256) < load(found.scale));
}

// The grids of absmax for groups of low..high, and what codes them but for its ends.
template <class T, class Size>
inline void absmax_grids(const T* x, int64_t n, int count, Size size, const float* low, const float* high,
                         const Grid& grid, Quantizers& quantizers, Grids& found) {
  const F32x16 scale = scales_for(load(low), load(high), grid);
  quantizers.set(scale);
  store(found.scale, scale);
  store(found.zero, zeros_for(load(low), quantizers, grid));
  if (!(lane_bits(any_weights(low, high) & may_be_subnormal(found, grid)) | may_exceed(found, grid))) return;
  mend_each_absmax(x, n, count, size, low, high, grid, found);
  quantizers.set(load(found.scale));
}

// Doubtful grids that are worse than those of absmax, or whose codes decode beyond the limit, become those.
template <class T, class Size>
NOINLINE void no_worse_than_absmax(const T* x, int64_t n, int count, Size size, const float* low, const float* high,
                                   const Grid& grid, uint32_t doubtful, Grids& found) {
  Grids plain;
  Quantizers other;
  absmax_grids(x, n, count, size, low, high, grid, other, plain);
  set_zeros(other, load(plain.zero), grid);
  const Quantizers now = quantizers_of(load(found.scale), load(found.zero), grid);
  each_group(n, count, size, [&](int k, int64_t at, auto some) {
    if (!(doubtful >> k & 1)) return;
    const float lift = power_near_inverse(larger(__builtin_fabsf(found.scale[k]), plain.scale[k]));
    bool worse = error_of(x + at, some, other, k, lift) < error_of(x + at, some, now, k, lift);
    worse |= !grid.symmetric && found.scale[k] * longer_side(found.zero[k], grid) > grid.limit;
    found.scale[k] = worse ? plain.scale[k] : found.scale[k];
    found.zero[k] = worse ? plain.zero[k] : found.zero[k];
  });
}

// The grids of least squares for groups of low..high.
template <class T, class Size>
inline void least_squares_grids(const T* x, int64_t n, int count, Size size, const float* low, const float* high,
                                const Grid& grid, Grids& found) {
  const Ideals ideal = fit_squares(x, n, count, size, low, high, grid, found);
  const Mask16 some = any_weights(low, high);
  if (lane_bits(some & may_be_subnormal(found, grid)))
    each_group(n, count, size, [&](int k, int64_t at, auto weights) {
      if (!(__builtin_fabs(ideal.scale[k]) < least_normal(grid.scale_dtype))) return;
      const float zero = found.zero[k];
      found.scale[k] = subnormal_grid(x + at, weights, ideal.scale[k], grid, [&](float) { return zero; }).scale;
    });
  const uint32_t doubtful = (ideal.doubtful | may_exceed(found, grid)) & lane_bits(some);
  if (doubtful) no_worse_than_absmax(x, n, count, size, low, high, grid, doubtful, found);
}

}  // namespace
}  // namespace ISA
