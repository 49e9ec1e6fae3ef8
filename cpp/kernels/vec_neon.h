// Four 128-bit registers hold sixteen lanes. Masks are registers of all ones or all zeros per lane.
#pragma once
#include <arm_neon.h>

#include "vec_edges.h"
#include "vec_moves.h"

namespace ISA {
namespace {
// Bytes, and the cache: L1.
constexpr int64_t kAhead = 8192;
constexpr int kAheadCache = 3;
constexpr int kLanes = 4, kRegs = 4;
using FloatReg = float32x4_t;
using IntReg = int32x4_t;
using MaskReg = uint32x4_t;

inline FloatReg load_float(const float* p) { return vld1q_f32(p); }
inline void store_float(float* p, FloatReg a) { vst1q_f32(p, a); }
inline void nontemporal_float(float* p, FloatReg a) { vst1q_f32(p, a); }
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
inline void load_halves(const uint16_t* p, FloatReg* to) {  // sixteen
  for (int k = 0; k < kRegs; ++k) to[k] = load_half(p + k * kLanes);
}
inline void store_half(uint16_t* p, FloatReg a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }

inline BytesReg load_sixteen(const uint8_t* p) { return vld1q_u8(p); }
inline BytesReg add_bytes(BytesReg a, int x) { return vaddq_u8(a, vdupq_n_u8(static_cast<uint8_t>(x))); }
// 32 codes of 4 bits, one a byte, in 16 bytes: the first of two in the low half.
inline BytesReg join_nibbles(BytesReg a, BytesReg b) {
  return vorrq_u8(vuzp1q_u8(a, b), vshlq_n_u8(vuzp2q_u8(a, b), 4));
}
inline void split_nibbles(uint8_t* codes, const uint8_t* packed) {
  const uint8x16_t p = vld1q_u8(packed);
  vst2q_u8(codes, uint8x16x2_t{{vandq_u8(p, vdupq_n_u8(15)), vshrq_n_u8(p, 4)}});
}

// Plain stores.
inline void nontemporal_16(void* p, const void* from) { __builtin_memcpy(p, from, 16); }
inline void nontemporal_sixteen(uint8_t* p, BytesReg a) { store_sixteen(p, a); }
inline void nontemporal_end() {}

// clip(nearest(x), lowest, highest) + zero as bytes; vec.h says more.
template <bool bounded>
struct CodeClip {
  FloatReg most;
  int16x8_t lowest, zero;
  CodeClip(int low, int high, int zero_point)
      : most(vdupq_n_f32(static_cast<float>(high))),
        lowest(vdupq_n_s16(static_cast<int16_t>(low))),
        zero(vdupq_n_s16(static_cast<int16_t>(zero_point))) {}
  uint8x8_t eight(FloatReg a, FloatReg b) const {
    const auto rounded = [&](FloatReg x) { return vqmovn_s32(nearest_int(min_float(x, most))); };
    return vqmovun_s16(vaddq_s16(vmaxq_s16(vcombine_s16(rounded(a), rounded(b)), lowest), zero));
  }
  BytesReg sixteen(const FloatReg* x) const { return vcombine_u8(eight(x[0], x[1]), eight(x[2], x[3])); }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    to[0] = sixteen(x);
    to[1] = sixteen(y);
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const { return join_nibbles(sixteen(x), sixteen(y)); }
};

// Words of 16 bits, in an order of this file's own, and sums of their products, exact in any order.
struct Words {
  int16x8_t r[2];
};
using Products = int32x4_t;
constexpr int kWords = 16;

// Sixteen floats as words, half to even; saturates.
inline void store_rounded(int16_t* p, const FloatReg* x) {
  for (int k = 0; k < 4; ++k) vst1_s16(p + 4 * k, vqmovn_s32(nearest_int(x[k])));
}
inline Words splat_words(int x) {
  const int16x8_t all = vdupq_n_s16(static_cast<int16_t>(x));
  return {{all, all}};
}
inline Words load_words(const int16_t* p) { return {{vld1q_s16(p), vld1q_s16(p + 8)}}; }
inline Words scaled(Words a, Words b) { return {{vqrdmulhq_s16(a.r[0], b.r[0]), vqrdmulhq_s16(a.r[1], b.r[1])}}; }
inline Words clipped(Words a, Words low, Words high) {
  return {{vminq_s16(vmaxq_s16(a.r[0], low.r[0]), high.r[0]), vminq_s16(vmaxq_s16(a.r[1], low.r[1]), high.r[1])}};
}
inline Products no_products() { return vdupq_n_s32(0); }
inline Products add_products(Products to, Words a, Words b) {
  for (int k = 0; k < 2; ++k) {
    to = vmlal_s16(to, vget_low_s16(a.r[k]), vget_low_s16(b.r[k]));
    to = vmlal_high_s16(to, a.r[k], b.r[k]);
  }
  return to;
}
inline void totals_of_sixteen(const Products* a, int32_t* to) {
  for (int k = 0; k < 16; k += 4, a += 4) vst1q_s32(to + k, vpaddq_s32(vpaddq_s32(a[0], a[1]), vpaddq_s32(a[2], a[3])));
}
inline int64_t total(Products a) { return vaddlvq_s32(a); }

inline FloatReg gather(const float* table, IntReg index) {
  alignas(16) uint32_t at[4];
  store_int(at, index);
  const float some[4] = {table[at[0]], table[at[1]], table[at[2]], table[at[3]]};
  return load_float(some);
}
// The place below p in the next level of a tree: 2p, or 2p + 1 where x is above its edge.
inline IntReg child(IntReg p, MaskReg above) { return sub_int(add_int(p, p), int_of_mask(above)); }

constexpr int kPickedLevels = INT32_MAX;  // there is no permutation of floats
template <int levels>
class PickedEdges;

// The floats that sixteen codes below 16 name. Byte k of each float is plane k; planes are looked up, and join in
// pairs: b0 b1 and b2 b3, then b0 b1 b2 b3.
struct Values16 {
  uint8x16_t plane[4];
  explicit Values16(const float* p) {
    const uint8x16x4_t planes = vld4q_u8(reinterpret_cast<const uint8_t*>(p));
    for (int k = 0; k < 4; ++k) plane[k] = planes.val[k];
  }
  void operator()(const uint8_t* codes, FloatReg* to) const {
    const uint8x16_t c = vandq_u8(vld1q_u8(codes), vdupq_n_u8(15));
    uint8x16x4_t planes;
    for (int k = 0; k < 4; ++k) planes.val[k] = vqtbl1q_u8(plane[k], c);
    alignas(16) uint8_t some[64];
    vst4q_u8(some, planes);
    for (int k = 0; k < kRegs; ++k) to[k] = load_float(reinterpret_cast<const float*>(some + 16 * k));
  }
};

// Sixteen codes below 16 become what a table of sixteen bytes says, in place.
inline void translate(uint8_t* codes, const uint8_t* table) {
  vst1q_u8(codes, vqtbl1q_u8(vld1q_u8(table), vld1q_u8(codes)));
}
}  // namespace
}  // namespace ISA

// What needs the registers above.
#include "vec_gather.h"
