// Four 128-bit registers hold sixteen lanes. Masks are registers of all ones or all zeros per lane.
#include "vec_moves.h"

// Bytes, and the cache: L1.
constexpr int64_t kAhead = 8192;
constexpr int kAheadCache = 3;
constexpr int kLanes = 4;
using FloatReg = __m128;
using IntReg = __m128i;
using MaskReg = __m128i;

inline FloatReg load_float(const float* p) {
  FloatReg a = _mm_loadu_ps(p);
  asm("" : "+x"(a));  // or gcc loads once for each use, and a load across two cache lines counts double
  return a;
}
inline void store_float(float* p, FloatReg a) { _mm_storeu_ps(p, a); }
inline void stream_float(float* p, FloatReg a) { _mm_stream_ps(p, a); }  // p: a multiple of 16 bytes
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
using BytesReg = __m128i;  // sixteen of them
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
inline void store_sixteen(uint8_t* p, BytesReg a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
#include "half_in_integers.h"
