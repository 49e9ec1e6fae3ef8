// One 512-bit register holds sixteen lanes. Masks are mask registers.
#pragma once
#include "vec_edges.h"
#include "vec_x86.h"

namespace ISA {
namespace {
// Bytes, and the cache: L2, from where the processor fetches by itself. Into L1 or further on, line buffers that stores
// need would wait for the memory.
constexpr int64_t kAhead = 2048;
constexpr int kAheadCache = 2;
constexpr int kLanes = 16, kRegs = 1;
using FloatReg = __m512;
using IntReg = __m512i;
using MaskReg = __mmask16;

inline FloatReg load_float(const float* p) {
  FloatReg a = _mm512_loadu_ps(p);
  asm("" : "+v"(a));  // or gcc loads once for each use, and a load across two cache lines counts double
  return a;
}
inline void store_float(float* p, FloatReg a) { _mm512_storeu_ps(p, a); }
inline void nontemporal_float(float* p, FloatReg a) {  // p: a multiple of 16 bytes; parts of lines combine on their way
  if (reinterpret_cast<uintptr_t>(p) % 64 == 0) return _mm512_stream_ps(p, a);
  _mm_stream_ps(p, _mm512_castps512_ps128(a));
  _mm_stream_ps(p + 4, _mm512_extractf32x4_ps(a, 1));
  _mm_stream_ps(p + 8, _mm512_extractf32x4_ps(a, 2));
  _mm_stream_ps(p + 12, _mm512_extractf32x4_ps(a, 3));
}
inline FloatReg splat_float(float x) { return _mm512_set1_ps(x); }
inline FloatReg add_float(FloatReg a, FloatReg b) { return _mm512_add_ps(a, b); }
inline FloatReg sub_float(FloatReg a, FloatReg b) { return _mm512_sub_ps(a, b); }
inline FloatReg mul_float(FloatReg a, FloatReg b) { return _mm512_mul_ps(a, b); }
inline FloatReg div_float(FloatReg a, FloatReg b) { return _mm512_div_ps(a, b); }
inline FloatReg min_float(FloatReg a, FloatReg b) { return _mm512_min_ps(a, b); }
inline FloatReg max_float(FloatReg a, FloatReg b) { return _mm512_max_ps(a, b); }
// The sum of lanes in the one order: j and j + 8, j and j + 4, j and j + 2, then the two.
inline float folded(FloatReg a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline FloatReg floor_float(FloatReg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline FloatReg trunc_float(FloatReg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
inline MaskReg less_float(FloatReg a, FloatReg b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline MaskReg less_equal_float(FloatReg a, FloatReg b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline IntReg nearest_int(FloatReg a) { return _mm512_cvtps_epi32(a); }
inline FloatReg float_of_int(IntReg a) { return _mm512_cvtepi32_ps(a); }
inline IntReg bits_of(FloatReg a) { return _mm512_castps_si512(a); }
inline FloatReg float_of_bits(IntReg a) { return _mm512_castsi512_ps(a); }

inline IntReg load_int(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_int(uint32_t* p, IntReg a) { _mm512_storeu_si512(p, a); }
inline IntReg splat_int(int32_t x) { return _mm512_set1_epi32(x); }
inline IntReg add_int(IntReg a, IntReg b) { return _mm512_add_epi32(a, b); }
inline IntReg sub_int(IntReg a, IntReg b) { return _mm512_sub_epi32(a, b); }
inline IntReg and_int(IntReg a, IntReg b) { return _mm512_and_si512(a, b); }
inline IntReg or_int(IntReg a, IntReg b) { return _mm512_or_si512(a, b); }
inline IntReg xor_int(IntReg a, IntReg b) { return _mm512_xor_si512(a, b); }
inline IntReg max_int(IntReg a, IntReg b) { return _mm512_max_epi32(a, b); }
inline IntReg min_int(IntReg a, IntReg b) { return _mm512_min_epi32(a, b); }
template <int n>
inline IntReg shift_left(IntReg a) {
  return _mm512_slli_epi32(a, n);
}
template <int n>
inline IntReg shift_right(IntReg a) {
  return _mm512_srli_epi32(a, n);
}
template <int n>
inline IntReg shift_right_signed(IntReg a) {
  return _mm512_srai_epi32(a, n);
}
inline MaskReg less_int(IntReg a, IntReg b) { return _mm512_cmplt_epi32_mask(a, b); }
inline MaskReg less_equal_int(IntReg a, IntReg b) { return _mm512_cmple_epi32_mask(a, b); }
inline MaskReg equal_int(IntReg a, IntReg b) { return _mm512_cmpeq_epi32_mask(a, b); }
inline int32_t largest_lane(IntReg a) { return _mm512_reduce_max_epi32(a); }
// lane 4i + j receives lane 4i + (j + n) % 4
template <int n>
inline IntReg rotate_quads(IntReg a) {
  return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(n == 1 ? 0x39 : n == 2 ? 0x4e : 0x93));
}
inline IntReg swap_pairs(IntReg a) {
  return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0xb1));
}  // lane 2i receives lane 2i + 1 and the other way round

inline IntReg int_of_mask(MaskReg m) { return _mm512_movm_epi32(m); }
inline MaskReg and_mask(MaskReg a, MaskReg b) { return a & b; }
inline MaskReg or_mask(MaskReg a, MaskReg b) { return a | b; }
inline IntReg select_int(MaskReg m, IntReg a, IntReg b) { return _mm512_mask_blend_epi32(m, b, a); }
inline uint32_t bits_of_mask(MaskReg m) { return m; }
inline MaskReg mask_of_bits(uint32_t bits) { return static_cast<MaskReg>(bits); }
// Lanes under the mask receive the first lanes, in order, the others zero; and the other way round.
inline IntReg expand_int(IntReg a, uint32_t mask) { return _mm512_maskz_expand_epi32(static_cast<__mmask16>(mask), a); }
inline IntReg compress_int(IntReg a, uint32_t mask) {  // straight to memory it is microcode on Zen
  return _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), a);
}

inline IntReg load_u16(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline IntReg load_u8(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_low16(uint16_t* p, IntReg a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a));
}
inline void store_low8(uint8_t* p, IntReg a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
inline BytesReg low_bytes(const IntReg* a) { return _mm512_cvtepi32_epi8(a[0]); }
// Lane k: the largest lane of register k. Registers shrink in pairs, to halves of both.
inline IntReg largest_of_each(const IntReg* a) {
  const auto pair = [](IntReg x, IntReg y) {
    return max_int(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
  };
  const auto four = [&](const IntReg* b) {  // of the quarters of registers: b0 b1 b2 b3 | b0 b1 b2 b3 | ...
    const IntReg x = pair(b[0], b[1]), y = pair(b[2], b[3]);
    return max_int(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
  };
  const auto quarters = [](IntReg x, IntReg y) {  // x x y y, of neighbours
    return max_int(_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(x, y, 0xdd));
  };
  return quarters(quarters(four(a), four(a + 4)), quarters(four(a + 8), four(a + 12)));
}
inline FloatReg load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void load_halves(const uint16_t* p, FloatReg* to) {  // sixteen
  for (int k = 0; k < kRegs; ++k) to[k] = load_half(p + k * kLanes);
}
inline void store_half(uint16_t* p, FloatReg a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

// clip(nearest(x), lowest, highest) + zero as bytes; vec.h says more.
template <bool bounded>
struct CodeClip {
  FloatReg most;
  __m512i lowest, highest, zero;  // words
  CodeClip(int low, int high, int zero_point)
      : most(splat_float(static_cast<float>(high))),
        lowest(_mm512_set1_epi16(static_cast<int16_t>(low))),
        highest(_mm512_set1_epi16(static_cast<int16_t>(high))),
        zero(_mm512_set1_epi16(static_cast<int16_t>(zero_point))) {}
  __m512i words(FloatReg x, FloatReg y) const {  // x0..x3 y0..y3 | x4..x7 y4..y7 | ...
    if constexpr (!bounded) {
      x = min_float(x, most);
      y = min_float(y, most);
    }
    const __m512i rounded = _mm512_max_epi16(_mm512_packs_epi32(nearest_int(x), nearest_int(y)), lowest);
    return _mm512_add_epi16(bounded ? _mm512_min_epi16(rounded, highest) : rounded, zero);
  }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    const __m256i quads = _mm512_cvtepi16_epi8(words(x[0], y[0]));
    const __m256i whole = _mm256_permutevar8x32_epi32(quads, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
    to[0] = _mm256_castsi256_si128(whole);
    to[1] = _mm256_extracti128_si256(whole, 1);
  }
  BytesReg sixteen(const FloatReg* x) const {
    BytesReg twice[2];
    thirty_two(x, x, twice);
    return twice[0];
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const {  // joined while they are quads, two bytes each then
    const __m512i joined = _mm512_madd_epi16(words(x[0], y[0]), _mm512_set1_epi32(0x00100001));
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm_shuffle_epi8(_mm512_cvtepi32_epi8(joined), order);
  }
};

// Words of 16 bits, in an order of this file's own, and sums of their products, exact in any order.
using Words = __m512i;
using Products = __m512i;  // sixteen sums of 32 bits
constexpr int kWords = 32;

// Sixteen floats as words, half to even; saturates.
inline void store_rounded(int16_t* p, const FloatReg* x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(nearest_int(x[0])));
}
inline Words splat_words(int x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
inline Words load_words(const int16_t* p) { return _mm512_loadu_si512(p); }
inline Words scaled(Words a, Words b) { return _mm512_mulhrs_epi16(a, b); }  // a b / 2^15, half up
inline Words clipped(Words a, Words low, Words high) { return _mm512_min_epi16(_mm512_max_epi16(a, low), high); }
inline Products no_products() { return splat_int(0); }
inline Products add_products(Products to, Words a, Words b) { return add_int(to, _mm512_madd_epi16(a, b)); }
inline void totals_of_sixteen(const Products* a, int32_t* to) {  // registers shrink in pairs, to halves of both
  const auto four = [](const Products* b) {
    const auto pair = [](Products x, Products y) {
      return add_int(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
    };
    const Products x = pair(b[0], b[1]), y = pair(b[2], b[3]);
    return add_int(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
  };
  const auto quarters = [](Products x, Products y) {
    return add_int(_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(x, y, 0xdd));
  };
  _mm512_storeu_si512(to, quarters(quarters(four(a), four(a + 4)), quarters(four(a + 8), four(a + 12))));
}
inline int64_t total(Products a) {
  alignas(64) int32_t lane[16];
  _mm512_storeu_si512(lane, a);
  int64_t all = 0;
  for (const int32_t x : lane) all += x;
  return all;
}

inline FloatReg pick(FloatReg table, IntReg index) { return _mm512_permutexvar_ps(index, table); }
// The place below p in the next level of a tree: 2p, or 2p + 1 where x is above its edge.
inline IntReg child(IntReg p, MaskReg above) {
  const IntReg left = add_int(p, p);
  return _mm512_mask_add_epi32(left, above, left, splat_int(1));
}
// One of 16 * regs floats: permutations choose within one or two registers, further bits of the index between them.
template <int regs>
inline FloatReg pick_of(const FloatReg* table, IntReg index) {
  if constexpr (regs == 1) return pick(table[0], index);
  if constexpr (regs == 2) return _mm512_permutex2var_ps(table[0], index, table[1]);
  if constexpr (regs > 2) {
    const MaskReg upper = _mm512_test_epi32_mask(index, splat_int(8 * regs));
    return _mm512_mask_blend_ps(upper, pick_of<regs / 2>(table, index), pick_of<regs / 2>(table + regs / 2, index));
  }
}

constexpr int kLevels = 8;  // of a tree of edges: all that there can be wait in registers

// How many of `count` ascending edges are below each lane of x; levels: of their tree, at most kLevels.
template <int levels>
class Search {
 public:
  Search(const float* edges, int64_t count) {
    if constexpr (levels <= 4) {  // in order, then permuted: edge p of depth d is number (2p + 1) 2^(levels-1-d) - 1
      const FloatReg sorted =
          _mm512_mask_loadu_ps(splat_float(__builtin_inff()), static_cast<__mmask16>((1u << count) - 1), edges);
      const IntReg p = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const IntReg odd = add_int(add_int(p, p), splat_int(1));
      for (int d = 0; d < levels; ++d)
        level_[d] = pick(sorted, sub_int(_mm512_slli_epi32(odd, levels - 1 - d), splat_int(1)));
    } else {
      const EdgeTree tree(edges, count);
      for (int d = 0; d < 4; ++d) level_[d] = load_float(tree.node + (1 << d));
      for (int k = 0; k < kMore; ++k) level_[4 + k] = load_float(tree.node + 16 + 16 * k);
    }
  }
  void operator()(const FloatReg* x, IntReg* rank) const {
    IntReg p = splat_int(0);
    for (int d = 0; d < (levels < 4 ? levels : 4); ++d) p = child(p, less_float(pick(level_[d], p), x[0]));
    if constexpr (levels > 4) p = child(p, less_float(pick_of<1>(level_ + 4, p), x[0]));
    if constexpr (levels > 5) p = child(p, less_float(pick_of<2>(level_ + 5, p), x[0]));
    if constexpr (levels > 6) p = child(p, less_float(pick_of<4>(level_ + 7, p), x[0]));
    if constexpr (levels > 7) p = child(p, less_float(pick_of<8>(level_ + 11, p), x[0]));
    rank[0] = p;
  }

 private:
  static constexpr int kMore = levels > 4 ? (1 << (levels - 4)) - 1 : 0;  // registers below the first four levels
  FloatReg level_[(levels < 4 ? levels : 4) + kMore];
};

// The floats that sixteen codes name, of 2^bits with bits 5..8.
template <int bits>
struct ManyValues {
  FloatReg all[1 << (bits - 4)];
  explicit ManyValues(const float* p) {
    for (int k = 0; k < 1 << (bits - 4); ++k) all[k] = load_float(p + 16 * k);
  }
  void operator()(const uint8_t* codes, FloatReg* to) const { to[0] = pick_of<1 << (bits - 4)>(all, load_u8(codes)); }
};

// The floats that sixteen codes below 16 name.
struct Values16 {
  FloatReg all;
  explicit Values16(const float* p) : all(load_float(p)) {}
  void operator()(const uint8_t* codes, FloatReg* to) const { to[0] = pick(all, load_u8(codes)); }
};
}  // namespace
}  // namespace ISA
