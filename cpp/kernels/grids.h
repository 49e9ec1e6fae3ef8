// The grids of sixteen groups at a time: scales, zero points, and what quantizes weights with them.
#pragma once
#include "vec.h"

namespace ISA {
namespace {

// Scales below 1 / kLift are lifted by it, so that their inverse is finite. Of scale = 2^-130, say, 1 / scale is beyond
// float32: x / scale = (x * 2^100) * (1 / 2^-30). Multiplying with a power of two rounds nothing.
constexpr float kLift = 0x1p100f;

// The scales of sixteen groups, and what weights are multiplied with instead of dividing them: x * lift * inverse.
struct Inverses {
  alignas(64) float scale[16], lift[16], inverse[16];
  bool lifted;  // any of them

  void set(F32x16 of) {  // of scales of any sign; 0 of 0
    const F32x16 size = abs(of);
    const F32x16 by = select(size < splat(1 / kLift), splat(kLift), splat(1.0f));
    store(scale, of);
    store(lift, by);
    store(inverse, select(splat(0.0f) < size, splat(1.0f) / (of * by), splat(0.0f)));
    lifted = lane_bits(size < splat(1 / kLift)) != 0;
  }
};

// What quantizes sixteen groups: q = clip(round(x / scale), lowest, highest), counted from the zero point.
struct Quantizers : Inverses {
  alignas(64) uint32_t lowest[16], highest[16], zero[16];
};

// Scales and zero points of sixteen groups.
struct Grids {
  alignas(64) float scale[16], zero[16];
};

// That of one group, in registers: the compiler must assume that stores of bytes change memory. x / scale is `bounded`
// where the scale was found from these weights: by 255, or a few times as much where the scale was rounded or clips.
template <bool bounded>
struct GroupQuantizer {
  F32x16 lift, inverse;
  bool lifted;
  CodeClip<bounded> clip;
  GroupQuantizer(const Quantizers& all, int k)
      : lift(splat(all.lift[k])),
        inverse(splat(all.inverse[k])),
        lifted(all.lifted),
        clip(static_cast<int>(all.lowest[k]), static_cast<int>(all.highest[k]), static_cast<int>(all.zero[k])) {}

  F32x16 scaled(F32x16 x) const { return (lifted ? x * lift : x) * inverse; }  // x / scale, not rounded
};

// Whether symmetric codes begin at 0, not at 1.
inline bool full(const Grid& grid) { return grid.rule == ScaleRule::kMse || grid.rule == ScaleRule::kGivenFullRange; }

// The codes that absmax spreads the range of weights over, less one.
inline int code_span(const Grid& grid) { return (1 << (grid.bits - grid.symmetric)) - 1; }

// The least positive scale of a dtype, and the least with all its digits.
inline double least_scale(Dtype dtype) {
  return dtype == Dtype::kFloat32 ? 0x1p-149 : dtype == Dtype::kFloat16 ? 0x1p-24 : 0x1p-133;
}
inline double least_normal(Dtype dtype) { return dtype == Dtype::kFloat16 ? 0x1p-14 : 0x1p-126; }

inline F32x16 through(F32x16 scale, Dtype dtype) {
  alignas(64) uint16_t some[16];
  if (dtype == Dtype::kFloat32) return scale;
  if (dtype == Dtype::kFloat16) {
    store(reinterpret_cast<Float16*>(some), scale);
    return load(reinterpret_cast<const Float16*>(some));
  }
  store(reinterpret_cast<BFloat16*>(some), scale);
  return load(reinterpret_cast<const BFloat16*>(some));
}

// Rounding the mantissa up carries into the exponent. The bits of a subnormal are its value: as a float they round
// alike.
inline F32x16 next_power_of_two(F32x16 scale) {  // scale >= 0; at most 2^127
  const auto up = [](I32x16 b) { return (b + splat(0x007fffff)) & splat(0x7f800000); };
  const I32x16 b = float_bits(scale), small = nearest(from_bits(up(float_bits(to_float(b & splat(0x007fffff))))));
  return from_bits(select(b < splat(0x00800000), small, min(up(b), splat(0x7f000000))));
}

// The number before this positive one in a dtype. Its bits as an integer are one less; where they are those of a
// float32, too, except for the subnormals of float16, which are 2^-24 apart.
inline F32x16 previous(F32x16 x, Dtype dtype) {
  const int32_t unit = dtype == Dtype::kFloat32 ? 1 : dtype == Dtype::kFloat16 ? 1 << 13 : 1 << 16;
  const F32x16 before = from_bits(float_bits(x) - splat(unit));
  if (dtype != Dtype::kFloat16) return before;
  return select(x <= splat(0x1p-14f), x - splat(0x1p-24f), before);
}

// absmax, or high - low, over the span of codes, before any rounding to the dtype of scales. low <= 0 <= high.
inline double ideal_scale(float low, float high, const Grid& grid) {
  const double from = static_cast<double>(low), to = static_cast<double>(high);
  return (grid.symmetric ? (-from < to ? to : -from) : __builtin_fabs(to - from)) / code_span(grid);
}

// The scales of absmax for values of low..high, low <= 0 <= high. Doubles, since high - low can exceed float.
inline F32x16 scales_for(F32x16 low, F32x16 high, const Grid& grid) {
  F32x16 scale;
  const F32x16 span = splat(static_cast<float>(code_span(grid)));
  if (grid.symmetric) {
    scale = max(abs(low), abs(high)) / span;
  } else {
    alignas(64) float from[16], to[16];
    store(from, low);
    store(to, high);
    for (int k = 0; k < 16; ++k) to[k] = static_cast<float>(ideal_scale(from[k], to[k], grid));
    scale = load(to);
  }
  if (grid.rule == ScaleRule::kPowerOfTwo) {  // at least the least scale, where it is nearer to a weight than 0 is
    const F32x16 least = splat(static_cast<float>(least_scale(grid.scale_dtype)));
    const F32x16 power = next_power_of_two(scale), most = max(abs(low), abs(high));
    const F32x16 some = select(least < most + most, least, splat(0.0f));
    return select(power < least, some, through(power, grid.scale_dtype));
  }
  scale = through(scale, grid.scale_dtype);
  if (!grid.symmetric) return scale;
  const Mask16 rounded_too_far = (splat(grid.limit) < scale * span) & (scale < splat(__builtin_inff()));
  return select(rounded_too_far, previous(scale, grid.scale_dtype), scale);
}

// The codes of 0 where `low` are the lowest values.
inline F32x16 zeros_for(F32x16 low, const Quantizers& quantizers, const Grid& grid) {
  if (grid.symmetric) return splat(static_cast<float>(1 << (grid.bits - 1)));
  const F32x16 zero = (splat(0.0f) - low) * load(quantizers.lift) * load(quantizers.inverse);
  return to_float(nearest(min(max(zero, splat(0.0f)), splat(static_cast<float>((1 << grid.bits) - 1)))));
}

inline void set_zeros(Quantizers& quantizers, F32x16 zero, const Grid& grid) {
  F32x16 lowest = splat(static_cast<float>(grid.symmetric && !full(grid))) - zero;
  F32x16 highest = splat(static_cast<float>((1 << grid.bits) - 1)) - zero;
  const F32x16 scale = abs(load(quantizers.scale));
  if (lane_bits(splat(grid.limit / 256) < scale)) {  // 255 steps might exceed the limit
    const F32x16 reach = floor(splat(grid.limit) / scale);
    lowest = max(splat(0.0f) - reach, lowest);
    highest = min(reach, highest);
  }
  store(quantizers.zero, nearest(zero));
  store(quantizers.lowest, nearest(lowest));
  store(quantizers.highest, nearest(highest));
}

}  // namespace
}  // namespace ISA
