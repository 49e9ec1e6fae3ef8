// Words of 16 bits, in an order of each instruction set's own, and sums of their products, exact in any order.
#pragma once

#if defined(__AVX512BW__)
using Words = __m512i;
using Products = __m512i;  // sixteen sums of 32 bits
constexpr int kWords = 32;

inline void store_rounded(int16_t* p, F32x16 x) {  // sixteen, half to even; saturates
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(nearest_int(x.r[0])));
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
#elif defined(__AVX2__)
using Words = __m256i;
using Products = __m256i;  // eight sums of 32 bits
constexpr int kWords = 16;

inline void store_rounded(int16_t* p, F32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_packs_epi32(nearest_int(x.r[0]), nearest_int(x.r[1])));
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
#elif defined(__SSE4_2__)
struct Words {
  __m128i r[2];
};
using Products = __m128i;  // four sums of 32 bits
constexpr int kWords = 16;

inline void store_rounded(int16_t* p, F32x16 x) {
  auto* to = reinterpret_cast<__m128i*>(p);
  _mm_store_si128(to, _mm_packs_epi32(nearest_int(x.r[0]), nearest_int(x.r[1])));
  _mm_store_si128(to + 1, _mm_packs_epi32(nearest_int(x.r[2]), nearest_int(x.r[3])));
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
#else
struct Words {
  int16x8_t r[2];
};
using Products = int32x4_t;
constexpr int kWords = 16;

inline void store_rounded(int16_t* p, F32x16 x) {
  for (int k = 0; k < 4; ++k) vst1_s16(p + 4 * k, vqmovn_s32(nearest_int(x.r[k])));
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
#endif
