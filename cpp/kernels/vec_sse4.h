// Four 128-bit registers hold sixteen lanes. Masks are registers of all ones or all zeros per lane.
#pragma once
#include "vec_edges.h"
#include "vec_moves.h"
#include "vec_x86.h"

namespace ISA {
namespace {
// Bytes, and the cache: L1.
constexpr int64_t kAhead = 8192;
constexpr int kAheadCache = 3;
constexpr int kLanes = 4, kRegs = 4;
using FloatReg = __m128;
using IntReg = __m128i;
using MaskReg = __m128i;

inline FloatReg load_float(const float* p) {
  FloatReg a = _mm_loadu_ps(p);
  asm("" : "+x"(a));  // or gcc loads once for each use, and a load across two cache lines counts double
  return a;
}
inline void store_float(float* p, FloatReg a) { _mm_storeu_ps(p, a); }
inline void nontemporal_float(float* p, FloatReg a) { _mm_stream_ps(p, a); }  // p: a multiple of 16 bytes
inline FloatReg splat_float(float x) { return _mm_set1_ps(x); }
inline FloatReg add_float(FloatReg a, FloatReg b) { return _mm_add_ps(a, b); }
inline FloatReg sub_float(FloatReg a, FloatReg b) { return _mm_sub_ps(a, b); }
inline FloatReg mul_float(FloatReg a, FloatReg b) { return _mm_mul_ps(a, b); }
inline FloatReg div_float(FloatReg a, FloatReg b) { return _mm_div_ps(a, b); }
inline FloatReg min_float(FloatReg a, FloatReg b) { return _mm_min_ps(a, b); }
inline FloatReg max_float(FloatReg a, FloatReg b) { return _mm_max_ps(a, b); }
// The sum of lanes in the one order: j and j + 2, then the two.
inline float folded(FloatReg a) {
  const __m128 two = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline FloatReg floor_float(FloatReg a) { return _mm_floor_ps(a); }
inline FloatReg trunc_float(FloatReg a) { return _mm_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
inline MaskReg less_float(FloatReg a, FloatReg b) { return _mm_castps_si128(_mm_cmplt_ps(a, b)); }
inline MaskReg less_equal_float(FloatReg a, FloatReg b) { return _mm_castps_si128(_mm_cmple_ps(a, b)); }
inline IntReg nearest_int(FloatReg a) { return _mm_cvtps_epi32(a); }
inline FloatReg float_of_int(IntReg a) { return _mm_cvtepi32_ps(a); }
inline IntReg bits_of(FloatReg a) { return _mm_castps_si128(a); }
inline FloatReg float_of_bits(IntReg a) { return _mm_castsi128_ps(a); }

inline IntReg load_int(const uint32_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline void store_int(uint32_t* p, IntReg a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
inline IntReg splat_int(int32_t x) { return _mm_set1_epi32(x); }
inline IntReg add_int(IntReg a, IntReg b) { return _mm_add_epi32(a, b); }
inline IntReg sub_int(IntReg a, IntReg b) { return _mm_sub_epi32(a, b); }
inline IntReg and_int(IntReg a, IntReg b) { return _mm_and_si128(a, b); }
inline IntReg or_int(IntReg a, IntReg b) { return _mm_or_si128(a, b); }
inline IntReg xor_int(IntReg a, IntReg b) { return _mm_xor_si128(a, b); }
inline IntReg max_int(IntReg a, IntReg b) { return _mm_max_epi32(a, b); }
inline IntReg min_int(IntReg a, IntReg b) { return _mm_min_epi32(a, b); }
template <int n>
inline IntReg shift_left(IntReg a) {
  return _mm_slli_epi32(a, n);
}
template <int n>
inline IntReg shift_right(IntReg a) {
  return _mm_srli_epi32(a, n);
}
template <int n>
inline IntReg shift_right_signed(IntReg a) {
  return _mm_srai_epi32(a, n);
}
inline MaskReg less_int(IntReg a, IntReg b) { return _mm_cmplt_epi32(a, b); }
inline MaskReg less_equal_int(IntReg a, IntReg b) { return _mm_xor_si128(_mm_cmpgt_epi32(a, b), _mm_set1_epi32(-1)); }
inline MaskReg equal_int(IntReg a, IntReg b) { return _mm_cmpeq_epi32(a, b); }
inline int32_t largest_lane(IntReg a) {
  const __m128i m = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0x39)));
}
// lane 4i + j receives lane 4i + (j + n) % 4
template <int n>
inline IntReg rotate_quads(IntReg a) {
  return _mm_shuffle_epi32(a, n == 1 ? 0x39 : n == 2 ? 0x4e : 0x93);
}
inline IntReg swap_pairs(IntReg a) {
  return _mm_shuffle_epi32(a, 0xb1);
}  // lane 2i receives lane 2i + 1 and the other way round

inline IntReg int_of_mask(MaskReg m) { return m; }
inline MaskReg and_mask(MaskReg a, MaskReg b) { return _mm_and_si128(a, b); }
inline MaskReg or_mask(MaskReg a, MaskReg b) { return _mm_or_si128(a, b); }
inline IntReg select_int(MaskReg m, IntReg a, IntReg b) { return _mm_blendv_epi8(b, a, m); }
inline uint32_t bits_of_mask(MaskReg m) { return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(m))); }
inline MaskReg mask_of_bits(uint32_t bits) {
  const __m128i lane = _mm_setr_epi32(1, 2, 4, 8);
  return _mm_cmpeq_epi32(_mm_and_si128(_mm_set1_epi32(static_cast<int>(bits)), lane), lane);
}

// Lanes under the mask receive the first lanes, in order, the others zero; and the other way round.
inline IntReg expand_int(IntReg a, uint32_t mask) {
  static constexpr ByteTable table(true);
  return _mm_shuffle_epi8(a, _mm_load_si128(reinterpret_cast<const __m128i*>(table.row[mask])));
}
inline IntReg compress_int(IntReg a, uint32_t mask) {
  static constexpr ByteTable table(false);
  return _mm_shuffle_epi8(a, _mm_load_si128(reinterpret_cast<const __m128i*>(table.row[mask])));
}

inline IntReg load_u16(const uint16_t* p) {
  return _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline IntReg load_u8(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm_cvtepu8_epi32(_mm_cvtsi32_si128(four));
}
inline void store_low16(uint16_t* p, IntReg a) {
  const __m128i low = _mm_and_si128(a, _mm_set1_epi32(0xffff));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, low));
}
inline void store_low8(uint8_t* p, IntReg a) {
  const __m128i low = _mm_and_si128(a, _mm_set1_epi32(0xff));
  const __m128i words = _mm_packus_epi32(low, low);
  const int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  __builtin_memcpy(p, &four, 4);
}
inline BytesReg low_bytes(const IntReg* a) {
  const __m128i low = _mm_set1_epi32(0xff);
  const __m128i first = _mm_packus_epi32(_mm_and_si128(a[0], low), _mm_and_si128(a[1], low));
  const __m128i second = _mm_packus_epi32(_mm_and_si128(a[2], low), _mm_and_si128(a[3], low));
  return _mm_packus_epi16(first, second);
}
// Lane k: the largest lane of register k.
inline IntReg largest_of_each(const IntReg* a) {
  const auto pair = [](IntReg x, IntReg y) { return max_int(_mm_unpacklo_epi32(x, y), _mm_unpackhi_epi32(x, y)); };
  const IntReg x = pair(a[0], a[1]), y = pair(a[2], a[3]);
  return max_int(_mm_unpacklo_epi64(x, y), _mm_unpackhi_epi64(x, y));
}

// float16 to float32 and back without instructions for it, which x86-64-v2 has none of.
// sign eeeee mmmmmmmmmm: the 15 bits below the sign, moved up by 13, are the value times 2^-112, subnormals included.
inline FloatReg load_half(const uint16_t* p) {
  const IntReg h = load_u16(p), below_sign = and_int(h, splat_int(0x7fff));
  const FloatReg value = mul_float(float_of_bits(shift_left<13>(below_sign)), splat_float(0x1p112f));
  const IntReg infinite = select_int(less_int(splat_int(0x7bff), below_sign), splat_int(0x7f800000), splat_int(0));
  const IntReg sign = shift_left<16>(sub_int(h, below_sign));
  return float_of_bits(or_int(or_int(bits_of(value), infinite), sign));
}

// Sixteen; not inlined, since everywhere they would double the time to compile.
NOINLINE inline void load_halves(const uint16_t* p, FloatReg* to) {
  for (int k = 0; k < kRegs; ++k) to[k] = load_half(p + k * kLanes);
}
inline void store_half(uint16_t* p, FloatReg x) {
  const IntReg bits = bits_of(x), magnitude = and_int(bits, splat_int(0x7fffffff));
  // Normal results: half to even at bit 13, then the exponent bias falls from 127 to 15.
  const IntReg odd = and_int(shift_right<13>(magnitude), splat_int(1));
  const IntReg normal =
      sub_int(shift_right<13>(add_int(add_int(magnitude, splat_int(0xfff)), odd)), splat_int(112 << 10));
  // Subnormal results: adding 0.5 leaves the value in units of 2^-24, rounded half to even by the addition.
  const IntReg half = splat_int(0x3f000000);
  const IntReg subnormal = sub_int(bits_of(add_float(float_of_bits(magnitude), float_of_bits(half))), half);
  IntReg h = select_int(less_int(magnitude, splat_int(0x38800000)), subnormal, normal);
  h = select_int(less_int(magnitude, splat_int(0x477ff000)), h, splat_int(0x7c00));  // 65520 and above
  h = select_int(less_int(splat_int(0x7f800000), magnitude), splat_int(0x7e00), h);  // NaN
  store_low16(p, or_int(h, shift_right<16>(sub_int(bits, magnitude))));
}

// clip(nearest(x), lowest, highest) + zero as bytes; vec.h says more.
template <bool bounded>
struct CodeClip {
  FloatReg most;
  __m128i lowest, highest, zero;  // words
  CodeClip(int low, int high, int zero_point)
      : most(_mm_set1_ps(static_cast<float>(high))),
        lowest(_mm_set1_epi16(static_cast<int16_t>(low))),
        highest(_mm_set1_epi16(static_cast<int16_t>(high))),
        zero(_mm_set1_epi16(static_cast<int16_t>(zero_point))) {}
  __m128i rounded(FloatReg a, FloatReg b) const {
    if constexpr (bounded) return _mm_packs_epi32(nearest_int(a), nearest_int(b));
    return _mm_packs_epi32(nearest_int(min_float(a, most)), nearest_int(min_float(b, most)));
  }
  __m128i words(FloatReg a, FloatReg b) const {
    __m128i w = _mm_max_epi16(rounded(a, b), lowest);
    if constexpr (bounded) w = _mm_min_epi16(w, highest);
    return _mm_add_epi16(w, zero);
  }
  BytesReg sixteen(const FloatReg* x) const { return _mm_packus_epi16(words(x[0], x[1]), words(x[2], x[3])); }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    to[0] = sixteen(x);
    to[1] = sixteen(y);
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const { return join_nibbles(sixteen(x), sixteen(y)); }
};

// Words of 16 bits, in an order of this file's own, and sums of their products, exact in any order.
struct Words {
  __m128i r[2];
};
using Products = __m128i;  // four sums of 32 bits
constexpr int kWords = 16;

// Sixteen floats as words, half to even; saturates.
inline void store_rounded(int16_t* p, const FloatReg* x) {
  auto* to = reinterpret_cast<__m128i*>(p);
  _mm_store_si128(to, _mm_packs_epi32(nearest_int(x[0]), nearest_int(x[1])));
  _mm_store_si128(to + 1, _mm_packs_epi32(nearest_int(x[2]), nearest_int(x[3])));
}
inline Words splat_words(int x) {
  const __m128i all = _mm_set1_epi16(static_cast<int16_t>(x));
  return {{all, all}};
}
inline Words load_words(const int16_t* p) {
  const auto* from = reinterpret_cast<const __m128i*>(p);
  return {{_mm_load_si128(from), _mm_load_si128(from + 1)}};
}
inline Words scaled(Words a, Words b) { return {{_mm_mulhrs_epi16(a.r[0], b.r[0]), _mm_mulhrs_epi16(a.r[1], b.r[1])}}; }
inline Words clipped(Words a, Words low, Words high) {
  return {{_mm_min_epi16(_mm_max_epi16(a.r[0], low.r[0]), high.r[0]),
           _mm_min_epi16(_mm_max_epi16(a.r[1], low.r[1]), high.r[1])}};
}
inline Products no_products() { return _mm_setzero_si128(); }
inline Products add_products(Products to, Words a, Words b) {
  return _mm_add_epi32(to, _mm_add_epi32(_mm_madd_epi16(a.r[0], b.r[0]), _mm_madd_epi16(a.r[1], b.r[1])));
}
inline void totals_of_sixteen(const Products* a, int32_t* to) {
  for (int k = 0; k < 16; k += 4, a += 4)
    _mm_store_si128(reinterpret_cast<__m128i*>(to + k),
                    _mm_hadd_epi32(_mm_hadd_epi32(a[0], a[1]), _mm_hadd_epi32(a[2], a[3])));
}
inline int64_t total(Products a) {
  alignas(16) int32_t lane[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(lane), a);
  return int64_t{lane[0]} + lane[1] + lane[2] + lane[3];
}

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

// The floats that sixteen codes below 16 name. Byte k of each float is plane k; planes are looked up and join in pairs:
// b0 b1 and b2 b3, then b0 b1 b2 b3.
struct Values16 {
  __m128i plane[4];
  explicit Values16(const float* p) {
    alignas(16) uint8_t bytes[4][16];
    for (int i = 0; i < 64; ++i) bytes[i % 4][i / 4] = reinterpret_cast<const uint8_t*>(p)[i];
    for (int k = 0; k < 4; ++k) plane[k] = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes[k]));
  }
  void operator()(const uint8_t* codes, FloatReg* to) const {
    const __m128i c = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), _mm_set1_epi8(15));
    __m128i b[4];
    for (int k = 0; k < 4; ++k) b[k] = _mm_shuffle_epi8(plane[k], c);
    const __m128i low01 = _mm_unpacklo_epi8(b[0], b[1]), low23 = _mm_unpacklo_epi8(b[2], b[3]);
    const __m128i high01 = _mm_unpackhi_epi8(b[0], b[1]), high23 = _mm_unpackhi_epi8(b[2], b[3]);
    to[0] = float_of_bits(_mm_unpacklo_epi16(low01, low23));
    to[1] = float_of_bits(_mm_unpackhi_epi16(low01, low23));
    to[2] = float_of_bits(_mm_unpacklo_epi16(high01, high23));
    to[3] = float_of_bits(_mm_unpackhi_epi16(high01, high23));
  }
};
}  // namespace
}  // namespace ISA

// What needs the registers above.
#include "vec_gather.h"
