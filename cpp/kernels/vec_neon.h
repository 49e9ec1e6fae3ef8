// Four 128-bit registers hold sixteen lanes. Masks are registers of all ones or all zeros per lane.
#include "vec_moves.h"

// Bytes, and the cache: L1.
constexpr int64_t kAhead = 8192;
constexpr int kAheadCache = 3;
constexpr int kLanes = 4;
using FloatReg = float32x4_t;
using IntReg = int32x4_t;
using MaskReg = uint32x4_t;

inline FloatReg load_float(const float* p) { return vld1q_f32(p); }
inline void store_float(float* p, FloatReg a) { vst1q_f32(p, a); }
inline void stream_float(float* p, FloatReg a) { vst1q_f32(p, a); }
inline FloatReg splat_float(float x) { return vdupq_n_f32(x); }
inline FloatReg add_float(FloatReg a, FloatReg b) { return vaddq_f32(a, b); }
inline FloatReg sub_float(FloatReg a, FloatReg b) { return vsubq_f32(a, b); }
inline FloatReg mul_float(FloatReg a, FloatReg b) { return vmulq_f32(a, b); }
inline FloatReg div_float(FloatReg a, FloatReg b) { return vdivq_f32(a, b); }
// As x86 has it: the second operand where the comparison is false.
inline FloatReg min_float(FloatReg a, FloatReg b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline FloatReg max_float(FloatReg a, FloatReg b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
// The sum of lanes in the one order: j and j + 2, then the two.
inline float folded(FloatReg a) {
  const float32x2_t two = vadd_f32(vget_low_f32(a), vget_high_f32(a));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline FloatReg floor_float(FloatReg a) { return vrndmq_f32(a); }
inline FloatReg trunc_float(FloatReg a) { return vrndq_f32(a); }
inline MaskReg less_float(FloatReg a, FloatReg b) { return vcltq_f32(a, b); }
inline MaskReg less_equal_float(FloatReg a, FloatReg b) { return vcleq_f32(a, b); }
inline IntReg nearest_int(FloatReg a) { return vcvtnq_s32_f32(a); }
inline FloatReg float_of_int(IntReg a) { return vcvtq_f32_s32(a); }
inline IntReg bits_of(FloatReg a) { return vreinterpretq_s32_f32(a); }
inline FloatReg float_of_bits(IntReg a) { return vreinterpretq_f32_s32(a); }

inline IntReg load_int(const uint32_t* p) { return vreinterpretq_s32_u32(vld1q_u32(p)); }
inline void store_int(uint32_t* p, IntReg a) { vst1q_u32(p, vreinterpretq_u32_s32(a)); }
inline IntReg splat_int(int32_t x) { return vdupq_n_s32(x); }
inline IntReg add_int(IntReg a, IntReg b) { return vaddq_s32(a, b); }
inline IntReg sub_int(IntReg a, IntReg b) { return vsubq_s32(a, b); }
inline IntReg and_int(IntReg a, IntReg b) { return vandq_s32(a, b); }
inline IntReg or_int(IntReg a, IntReg b) { return vorrq_s32(a, b); }
inline IntReg xor_int(IntReg a, IntReg b) { return veorq_s32(a, b); }
inline IntReg max_int(IntReg a, IntReg b) { return vmaxq_s32(a, b); }
inline IntReg min_int(IntReg a, IntReg b) { return vminq_s32(a, b); }
template <int n>
inline IntReg shift_left(IntReg a) {
  return vshlq_n_s32(a, n);
}
template <int n>
inline IntReg shift_right(IntReg a) {
  return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), n));
}
template <int n>
inline IntReg shift_right_signed(IntReg a) {
  return vshrq_n_s32(a, n);
}
inline MaskReg less_int(IntReg a, IntReg b) { return vcltq_s32(a, b); }
inline MaskReg less_equal_int(IntReg a, IntReg b) { return vcleq_s32(a, b); }
inline MaskReg equal_int(IntReg a, IntReg b) { return vceqq_s32(a, b); }
inline int32_t largest_lane(IntReg a) { return vmaxvq_s32(a); }
// lane 4i + j receives lane 4i + (j + n) % 4
template <int n>
inline IntReg rotate_quads(IntReg a) {
  return vextq_s32(a, a, n);
}
inline IntReg swap_pairs(IntReg a) { return vrev64q_s32(a); }  // lane 2i receives lane 2i + 1 and the other way round

inline IntReg int_of_mask(MaskReg m) { return vreinterpretq_s32_u32(m); }
inline MaskReg and_mask(MaskReg a, MaskReg b) { return vandq_u32(a, b); }
inline MaskReg or_mask(MaskReg a, MaskReg b) { return vorrq_u32(a, b); }
inline IntReg select_int(MaskReg m, IntReg a, IntReg b) { return vbslq_s32(m, a, b); }
inline uint32_t bits_of_mask(MaskReg m) {
  const uint32x4_t lane = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, lane));
}
inline MaskReg mask_of_bits(uint32_t bits) {
  const uint32x4_t lane = {1, 2, 4, 8};
  return vtstq_u32(vdupq_n_u32(bits), lane);
}

// Lanes under the mask receive the first lanes, in order, the others zero; and the other way round.
inline IntReg shuffled_by(const uint8_t* bytes, IntReg a) {
  return vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(a), vld1q_u8(bytes)));
}
inline IntReg expand_int(IntReg a, uint32_t mask) {
  static constexpr ByteTable table(true);
  return shuffled_by(table.row[mask], a);
}
inline IntReg compress_int(IntReg a, uint32_t mask) {
  static constexpr ByteTable table(false);
  return shuffled_by(table.row[mask], a);
}

inline IntReg load_u16(const uint16_t* p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p))); }
inline IntReg load_u8(const uint8_t* p) {
  uint32_t four;
  __builtin_memcpy(&four, p, 4);
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}
inline void store_low16(uint16_t* p, IntReg a) { vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(a))); }
inline void store_low8(uint8_t* p, IntReg a) {
  const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(a));
  const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))), 0);
  __builtin_memcpy(p, &four, 4);
}
using BytesReg = uint8x16_t;  // sixteen of them
inline BytesReg low_bytes(const IntReg* a) {
  const auto words = [&](int k) { return vmovn_u32(vreinterpretq_u32_s32(a[k])); };
  return vcombine_u8(vmovn_u16(vcombine_u16(words(0), words(1))), vmovn_u16(vcombine_u16(words(2), words(3))));
}
// Lane k: the largest lane of register k.
inline IntReg largest_of_each(const IntReg* a) { return vpmaxq_s32(vpmaxq_s32(a[0], a[1]), vpmaxq_s32(a[2], a[3])); }
inline void store_sixteen(uint8_t* p, BytesReg a) { vst1q_u8(p, a); }
inline FloatReg load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline void store_half(uint16_t* p, FloatReg a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
