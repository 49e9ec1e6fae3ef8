// Two 256-bit registers hold sixteen lanes. Masks are registers of all ones or all zeros per lane.
#pragma once
#include "vec_edges.h"
#include "vec_moves.h"
#include "vec_x86.h"

namespace ISA {
namespace {
// Bytes, and the cache: L1.
constexpr int64_t kAhead = 8192;
constexpr int kAheadCache = 3;
constexpr int kLanes = 8, kRegs = 2;
using FloatReg = __m256;
using IntReg = __m256i;
using MaskReg = __m256i;

inline FloatReg load_float(const float* p) {
  FloatReg a = _mm256_loadu_ps(p);
  asm("" : "+x"(a));  // or gcc loads once for each use, and a load across two cache lines counts double
  return a;
}
inline void store_float(float* p, FloatReg a) { _mm256_storeu_ps(p, a); }
inline void nontemporal_float(float* p, FloatReg a) {  // p: a multiple of 16 bytes; whole lines combine on their way
  _mm_stream_ps(p, _mm256_castps256_ps128(a));
  _mm_stream_ps(p + 4, _mm256_extractf128_ps(a, 1));
}
inline FloatReg splat_float(float x) { return _mm256_set1_ps(x); }
inline FloatReg add_float(FloatReg a, FloatReg b) { return _mm256_add_ps(a, b); }
inline FloatReg sub_float(FloatReg a, FloatReg b) { return _mm256_sub_ps(a, b); }
inline FloatReg mul_float(FloatReg a, FloatReg b) { return _mm256_mul_ps(a, b); }
inline FloatReg div_float(FloatReg a, FloatReg b) { return _mm256_div_ps(a, b); }
inline FloatReg min_float(FloatReg a, FloatReg b) { return _mm256_min_ps(a, b); }
inline FloatReg max_float(FloatReg a, FloatReg b) { return _mm256_max_ps(a, b); }
// The sum of lanes in the one order: j and j + 4, j and j + 2, then the two.
inline float folded(FloatReg a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline FloatReg floor_float(FloatReg a) { return _mm256_floor_ps(a); }
inline FloatReg trunc_float(FloatReg a) { return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
inline MaskReg less_float(FloatReg a, FloatReg b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline MaskReg less_equal_float(FloatReg a, FloatReg b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LE_OQ)); }
inline IntReg nearest_int(FloatReg a) { return _mm256_cvtps_epi32(a); }
inline FloatReg float_of_int(IntReg a) { return _mm256_cvtepi32_ps(a); }
inline IntReg bits_of(FloatReg a) { return _mm256_castps_si256(a); }
inline FloatReg float_of_bits(IntReg a) { return _mm256_castsi256_ps(a); }

inline IntReg load_int(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_int(uint32_t* p, IntReg a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
inline IntReg splat_int(int32_t x) { return _mm256_set1_epi32(x); }
inline IntReg add_int(IntReg a, IntReg b) { return _mm256_add_epi32(a, b); }
inline IntReg sub_int(IntReg a, IntReg b) { return _mm256_sub_epi32(a, b); }
inline IntReg and_int(IntReg a, IntReg b) { return _mm256_and_si256(a, b); }
inline IntReg or_int(IntReg a, IntReg b) { return _mm256_or_si256(a, b); }
inline IntReg xor_int(IntReg a, IntReg b) { return _mm256_xor_si256(a, b); }
inline IntReg max_int(IntReg a, IntReg b) { return _mm256_max_epi32(a, b); }
inline IntReg min_int(IntReg a, IntReg b) { return _mm256_min_epi32(a, b); }
template <int n>
inline IntReg shift_left(IntReg a) {
  return _mm256_slli_epi32(a, n);
}
template <int n>
inline IntReg shift_right(IntReg a) {
  return _mm256_srli_epi32(a, n);
}
template <int n>
inline IntReg shift_right_signed(IntReg a) {
  return _mm256_srai_epi32(a, n);
}
inline MaskReg less_int(IntReg a, IntReg b) { return _mm256_cmpgt_epi32(b, a); }
inline MaskReg less_equal_int(IntReg a, IntReg b) {
  return _mm256_xor_si256(_mm256_cmpgt_epi32(a, b), _mm256_set1_epi32(-1));
}
inline MaskReg equal_int(IntReg a, IntReg b) { return _mm256_cmpeq_epi32(a, b); }
inline int32_t largest_lane(IntReg a) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0x39)));
}
// lane 4i + j receives lane 4i + (j + n) % 4
template <int n>
inline IntReg rotate_quads(IntReg a) {
  return _mm256_shuffle_epi32(a, n == 1 ? 0x39 : n == 2 ? 0x4e : 0x93);
}
inline IntReg swap_pairs(IntReg a) {
  return _mm256_shuffle_epi32(a, 0xb1);
}  // lane 2i receives lane 2i + 1 and the other way round

inline IntReg int_of_mask(MaskReg m) { return m; }
inline MaskReg and_mask(MaskReg a, MaskReg b) { return _mm256_and_si256(a, b); }
inline MaskReg or_mask(MaskReg a, MaskReg b) { return _mm256_or_si256(a, b); }
inline IntReg select_int(MaskReg m, IntReg a, IntReg b) { return _mm256_blendv_epi8(b, a, m); }
inline uint32_t bits_of_mask(MaskReg m) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m))); }
inline MaskReg mask_of_bits(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane), lane);
}

// Lanes under the mask receive the first lanes, in order, the others zero; and the other way round.
inline IntReg permuted_by(const uint8_t* lanes, IntReg a) {
  const __m256i from = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(lanes)));
  return _mm256_andnot_si256(_mm256_srai_epi32(from, 31), _mm256_permutevar8x32_epi32(a, from));
}
inline IntReg expand_int(IntReg a, uint32_t mask) {
  static constexpr LaneTable<8> table(true);
  return permuted_by(table.row[mask], a);
}
inline IntReg compress_int(IntReg a, uint32_t mask) {
  static constexpr LaneTable<8> table(false);
  return permuted_by(table.row[mask], a);
}

inline IntReg load_u16(const uint16_t* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline IntReg load_u8(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline void store_low16(uint16_t* p, IntReg a) {
  const __m256i low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
  // packus works within halves: a0..a3 a0..a3 | a4..a7 a4..a7, so quarters 0 and 2 are the result
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void store_low8(uint8_t* p, IntReg a) {
  const __m256i low = _mm256_and_si256(a, _mm256_set1_epi32(0xff));
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
  const __m128i w = _mm256_castsi256_si128(words);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(w, w));
}
inline BytesReg low_bytes(const IntReg* a) {
  const __m256i low = _mm256_set1_epi32(0xff);
  // packus works within halves: a0..a3 b0..b3 | a4..a7 b4..b7
  const __m256i words = _mm256_packus_epi32(_mm256_and_si256(a[0], low), _mm256_and_si256(a[1], low));
  const __m256i bytes = _mm256_packus_epi16(words, words);
  return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
}
// Lane k: the largest lane of register k.
inline IntReg largest_of_each(const IntReg* a) {
  const auto pair = [](IntReg x, IntReg y) {
    return max_int(_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y));
  };
  const auto four = [&](const IntReg* b) {  // of the halves of registers: b0 b1 b2 b3 | b0 b1 b2 b3
    const IntReg x = pair(b[0], b[1]), y = pair(b[2], b[3]);
    return max_int(_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y));
  };
  const IntReg x = four(a), y = four(a + 4);
  return max_int(_mm256_permute2x128_si256(x, y, 0x20), _mm256_permute2x128_si256(x, y, 0x31));
}
inline FloatReg load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void load_halves(const uint16_t* p, FloatReg* to) {  // sixteen
  for (int k = 0; k < kRegs; ++k) to[k] = load_half(p + k * kLanes);
}
inline void store_half(uint16_t* p, FloatReg a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

// clip(nearest(x), lowest, highest) + zero as bytes; vec.h says more.
template <bool bounded>
struct CodeClip {
  FloatReg most;
  __m256i lowest, highest, zero;     // words
  __m256i lowest8, highest8, zero8;  // bytes
  CodeClip(int low, int high, int zero_point)
      : most(_mm256_set1_ps(static_cast<float>(high))),
        lowest(_mm256_set1_epi16(static_cast<int16_t>(low))),
        highest(_mm256_set1_epi16(static_cast<int16_t>(high))),
        zero(_mm256_set1_epi16(static_cast<int16_t>(zero_point))),
        lowest8(_mm256_set1_epi8(static_cast<char>(low))),
        highest8(_mm256_set1_epi8(static_cast<char>(high))),
        zero8(_mm256_set1_epi8(static_cast<char>(zero_point))) {}
  __m256i rounded(const FloatReg* x) const {  // x0..x3 y0..y3 | x4..x7 y4..y7
    if constexpr (bounded) return _mm256_packs_epi32(nearest_int(x[0]), nearest_int(x[1]));
    return _mm256_packs_epi32(nearest_int(min_float(x[0], most)), nearest_int(min_float(x[1], most)));
  }
  __m256i words(const FloatReg* x) const {
    __m256i w = _mm256_max_epi16(rounded(x), lowest);
    if constexpr (bounded) w = _mm256_min_epi16(w, highest);
    return _mm256_add_epi16(w, zero);
  }
  BytesReg sixteen(const FloatReg* x) const {
    const __m256i w = words(x), bytes = _mm256_packus_epi16(w, w);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    const __m256i quads = _mm256_packus_epi16(words(x), words(y));  // x0..x3 x8..x11 y0..y3 y8..y11 | x4..x7 ...
    const __m128i low = _mm256_castsi256_si128(quads), high = _mm256_extracti128_si256(quads, 1);
    to[0] = _mm_unpacklo_epi32(low, high);
    to[1] = _mm_unpackhi_epi32(low, high);
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const {  // joined while they are quads, two bytes each then
    __m256i quads = _mm256_max_epi8(_mm256_packs_epi16(rounded(x), rounded(y)), lowest8);
    if constexpr (bounded) quads = _mm256_min_epi8(quads, highest8);
    const __m256i joined = _mm256_maddubs_epi16(_mm256_add_epi8(quads, zero8), _mm256_set1_epi16(0x1001));
    const __m256i pairs = _mm256_packus_epi16(joined, joined);
    return _mm_unpacklo_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  }
};

// Words of 16 bits, in an order of this file's own, and sums of their products, exact in any order.
using Words = __m256i;
using Products = __m256i;  // eight sums of 32 bits
constexpr int kWords = 16;

// Sixteen floats as words, half to even; saturates.
inline void store_rounded(int16_t* p, const FloatReg* x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_packs_epi32(nearest_int(x[0]), nearest_int(x[1])));
}
inline Words splat_words(int x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
inline Words load_words(const int16_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
inline Words scaled(Words a, Words b) { return _mm256_mulhrs_epi16(a, b); }
inline Words clipped(Words a, Words low, Words high) { return _mm256_min_epi16(_mm256_max_epi16(a, low), high); }
inline Products no_products() { return _mm256_setzero_si256(); }
inline Products add_products(Products to, Words a, Words b) { return _mm256_add_epi32(to, _mm256_madd_epi16(a, b)); }
inline void totals_of_sixteen(const Products* a, int32_t* to) {
  for (int k = 0; k < 16; k += 8, a += 8) {
    const __m256i x = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
    const __m256i y = _mm256_hadd_epi32(_mm256_hadd_epi32(a[4], a[5]), _mm256_hadd_epi32(a[6], a[7]));
    const __m256i halves = _mm256_permute2x128_si256(x, y, 0x31);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + k),
                       _mm256_add_epi32(_mm256_permute2x128_si256(x, y, 0x20), halves));
  }
}
inline int64_t total(Products a) {
  alignas(32) int32_t lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), a);
  int64_t all = 0;
  for (const int32_t x : lane) all += x;
  return all;
}

inline FloatReg pick(FloatReg table, IntReg index) { return _mm256_permutevar8x32_ps(table, index); }
inline FloatReg gather(const float* table, IntReg index) { return _mm256_i32gather_ps(table, index, 4); }
// The place below p in the next level of a tree: 2p, or 2p + 1 where x is above its edge.
inline IntReg child(IntReg p, MaskReg above) { return sub_int(add_int(p, p), int_of_mask(above)); }

constexpr int kPickedLevels = 3;  // from so many on, permutations are faster than comparing with edge after edge
template <int levels>
class PickedEdges {  // the first levels of a tree
 public:
  explicit PickedEdges(const EdgeTree& tree) {
    for (int d = 0; d < levels; ++d) level_[d] = load_float(tree.node + (1 << d));
  }
  void operator()(const FloatReg* x, IntReg* rank) const {
    for (int k = 0; k < kRegs; ++k) {
      IntReg p = splat_int(0);
      for (int d = 0; d < levels; ++d) p = child(p, less_float(pick(level_[d], p), x[k]));
      rank[k] = p;
    }
  }

 private:
  FloatReg level_[levels];
};

// The floats that sixteen codes below 16 name.
struct Values16 {
  FloatReg low, high;
  explicit Values16(const float* p) : low(load_float(p)), high(load_float(p + 8)) {}
  void operator()(const uint8_t* codes, FloatReg* to) const {
    for (int k = 0; k < 2; ++k) {
      const IntReg c = load_u8(codes + 8 * k);
      to[k] = _mm256_blendv_ps(pick(low, c), pick(high, c), float_of_bits(shift_left<28>(c)));
    }
  }
};
}  // namespace
}  // namespace ISA

// What needs the registers above.
#include "vec_gather.h"
