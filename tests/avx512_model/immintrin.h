// What the AVX-512 instructions that cpp/kernels uses do, lane by lane, from Intel's description of them: for
// processors that have none. Found before the compiler's header, which it includes; in namespace ISA, where kernels are
// compiled, its names hide that header's. Needs AVX2 for vectors of 256 bits, and -O1: without it the compiler's are
// macros.
#pragma once
#include_next <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __AVX512BW__ 1  // or kernels/vec.h takes another register file
#undef _mm512_setr_epi32
#define asm(...)  // only hints to the compiler, on registers that there are none of

namespace ISA {

struct __m512 {
  float lane[16];
};
struct __m512i {
  int32_t lane[16];
};

template <class Result, class Lane>
static inline Result model_each(const Lane& lane) {
  Result y;
  for (int j = 0; j < 16; ++j) y.lane[j] = lane(j);
  return y;
}
template <class Truth>
static inline __mmask16 model_mask(const Truth& truth) {
  unsigned mask = 0;
  for (int j = 0; j < 16; ++j) mask |= static_cast<unsigned>(truth(j)) << j;
  return static_cast<__mmask16>(mask);
}
template <class To, class From>
static inline To model_bits(const From& from, int byte = 0) {  // sizeof(To) bytes of `from`
  To to;
  std::memcpy(&to, reinterpret_cast<const char*>(&from) + byte, sizeof to);
  return to;
}
static inline uint32_t model_word(int32_t x) { return static_cast<uint32_t>(x); }

#define MODEL(result, name, args, lane)                     \
  static inline result name args {                          \
    return model_each<result>([&](int j) { return lane; }); \
  }
#define MODEL_MASK(name, args, truth)                \
  static inline __mmask16 name args {                \
    return model_mask([&](int j) { return truth; }); \
  }

MODEL(__m512, _mm512_set1_ps, (float x), (static_cast<void>(j), x))
MODEL(__m512, _mm512_add_ps, (__m512 a, __m512 b), a.lane[j] + b.lane[j])
MODEL(__m512, _mm512_sub_ps, (__m512 a, __m512 b), a.lane[j] - b.lane[j])
MODEL(__m512, _mm512_mul_ps, (__m512 a, __m512 b), a.lane[j] * b.lane[j])
MODEL(__m512, _mm512_div_ps, (__m512 a, __m512 b), a.lane[j] / b.lane[j])
MODEL(__m512, _mm512_min_ps, (__m512 a, __m512 b), a.lane[j] < b.lane[j] ? a.lane[j] : b.lane[j])
MODEL(__m512, _mm512_max_ps, (__m512 a, __m512 b), a.lane[j] > b.lane[j] ? a.lane[j] : b.lane[j])
MODEL(__m512, _mm512_roundscale_ps, (__m512 a, int how),
      (how & 3) == _MM_FROUND_TO_ZERO ? std::trunc(a.lane[j]) : std::floor(a.lane[j]))
MODEL(__m512, _mm512_cvtepi32_ps, (__m512i a), static_cast<float>(a.lane[j]))
MODEL(__m512, _mm512_permutexvar_ps, (__m512i index, __m512 a), a.lane[index.lane[j] & 15])
MODEL(__m512, _mm512_permutex2var_ps, (__m512 a, __m512i index, __m512 b),
      (index.lane[j] & 16 ? b : a).lane[index.lane[j] & 15])
MODEL(__m512, _mm512_mask_blend_ps, (__mmask16 m, __m512 a, __m512 b), (m >> j & 1 ? b : a).lane[j])
MODEL(__m512, _mm512_mask_loadu_ps, (__m512 a, __mmask16 m, const float* p), m >> j & 1 ? p[j] : a.lane[j])

MODEL(__m512i, _mm512_set1_epi32, (int32_t x), (static_cast<void>(j), x))
MODEL(__m512i, _mm512_cvtps_epi32, (__m512 a), _mm_cvtss_si32(_mm_set_ss(a.lane[j])))
MODEL(__m512i, _mm512_add_epi32, (__m512i a, __m512i b),
      static_cast<int32_t>(model_word(a.lane[j]) + model_word(b.lane[j])))
MODEL(__m512i, _mm512_sub_epi32, (__m512i a, __m512i b),
      static_cast<int32_t>(model_word(a.lane[j]) - model_word(b.lane[j])))
MODEL(__m512i, _mm512_and_si512, (__m512i a, __m512i b), a.lane[j] & b.lane[j])
MODEL(__m512i, _mm512_or_si512, (__m512i a, __m512i b), a.lane[j] | b.lane[j])
MODEL(__m512i, _mm512_xor_si512, (__m512i a, __m512i b), a.lane[j] ^ b.lane[j])
MODEL(__m512i, _mm512_max_epi32, (__m512i a, __m512i b), a.lane[j] > b.lane[j] ? a.lane[j] : b.lane[j])
MODEL(__m512i, _mm512_min_epi32, (__m512i a, __m512i b), a.lane[j] < b.lane[j] ? a.lane[j] : b.lane[j])
MODEL(__m512i, _mm512_slli_epi32, (__m512i a, unsigned n), static_cast<int32_t>(model_word(a.lane[j]) << n))
MODEL(__m512i, _mm512_srli_epi32, (__m512i a, unsigned n), static_cast<int32_t>(model_word(a.lane[j]) >> n))
MODEL(__m512i, _mm512_srai_epi32, (__m512i a, unsigned n), a.lane[j] >> n)
MODEL(__m512i, _mm512_shuffle_epi32, (__m512i a, int how), a.lane[j / 4 * 4 + (how >> 2 * (j % 4) & 3)])
MODEL(__m512i, _mm512_movm_epi32, (__mmask16 m), -(m >> j & 1))
MODEL(__m512i, _mm512_mask_blend_epi32, (__mmask16 m, __m512i a, __m512i b), (m >> j & 1 ? b : a).lane[j])
MODEL(__m512i, _mm512_mask_add_epi32, (__m512i from, __mmask16 m, __m512i a, __m512i b),
      m >> j & 1 ? a.lane[j] + b.lane[j] : from.lane[j])
MODEL(__m512i, _mm512_maskz_expand_epi32, (__mmask16 m, __m512i a),
      m >> j & 1 ? a.lane[__builtin_popcount(m & ((1u << j) - 1))] : 0)
MODEL(__m512i, _mm512_cvtepu16_epi32, (__m256i a), (model_bits<uint16_t>(a, 2 * j)))
MODEL(__m512i, _mm512_cvtepu8_epi32, (__m128i a), (model_bits<uint8_t>(a, j)))
static inline __m512i _mm512_maskz_compress_epi32(__mmask16 m, __m512i a) {
  __m512i y{};
  for (int j = 0, k = 0; j < 16; ++j)
    if (m >> j & 1) y.lane[k++] = a.lane[j];
  return y;
}
template <class... Lanes>
static inline __m512i _mm512_setr_epi32(Lanes... lanes) {
  return {{lanes...}};
}

MODEL_MASK(_mm512_cmp_ps_mask, (__m512 a, __m512 b, int how),
           how == _CMP_LT_OQ ? a.lane[j] < b.lane[j] : a.lane[j] <= b.lane[j])
MODEL_MASK(_mm512_cmplt_epi32_mask, (__m512i a, __m512i b), a.lane[j] < b.lane[j])
MODEL_MASK(_mm512_cmple_epi32_mask, (__m512i a, __m512i b), a.lane[j] <= b.lane[j])
MODEL_MASK(_mm512_cmpeq_epi32_mask, (__m512i a, __m512i b), a.lane[j] == b.lane[j])
MODEL_MASK(_mm512_test_epi32_mask, (__m512i a, __m512i b), (a.lane[j] & b.lane[j]) != 0)

static inline __m512 _mm512_loadu_ps(const void* p) { return model_bits<__m512>(*static_cast<const __m512*>(p)); }
static inline __m512i _mm512_loadu_si512(const void* p) { return model_bits<__m512i>(*static_cast<const __m512i*>(p)); }
static inline void _mm512_storeu_ps(void* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
static inline void _mm512_stream_ps(void* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
static inline void _mm512_storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof a); }
static inline __m512i _mm512_castps_si512(__m512 a) { return model_bits<__m512i>(a); }
static inline __m512 _mm512_castsi512_ps(__m512i a) { return model_bits<__m512>(a); }
static inline __m128 _mm512_castps512_ps128(__m512 a) { return model_bits<__m128>(a); }
static inline __m256 _mm512_castps512_ps256(__m512 a) { return model_bits<__m256>(a); }
static inline __m128 _mm512_extractf32x4_ps(__m512 a, int part) { return model_bits<__m128>(a, 16 * part); }
static inline __m256 _mm512_extractf32x8_ps(__m512 a, int part) { return model_bits<__m256>(a, 32 * part); }
// Where each quarter or half of the result is of the same quarters or halves: twice what 256 bits do.
#define MODEL_HALVES(name, half)                                                              \
  static inline __m512i name(__m512i a, __m512i b) {                                          \
    const __m256i halves[2] = {half(model_bits<__m256i>(a), model_bits<__m256i>(b)),          \
                               half(model_bits<__m256i>(a, 32), model_bits<__m256i>(b, 32))}; \
    return model_bits<__m512i>(halves);                                                       \
  }
MODEL_HALVES(_mm512_unpacklo_epi32, _mm256_unpacklo_epi32)
MODEL_HALVES(_mm512_unpackhi_epi32, _mm256_unpackhi_epi32)
MODEL_HALVES(_mm512_unpacklo_epi64, _mm256_unpacklo_epi64)
MODEL_HALVES(_mm512_unpackhi_epi64, _mm256_unpackhi_epi64)
MODEL_HALVES(_mm512_packs_epi32, _mm256_packs_epi32)
MODEL_HALVES(_mm512_max_epi16, _mm256_max_epi16)
MODEL_HALVES(_mm512_min_epi16, _mm256_min_epi16)
MODEL_HALVES(_mm512_add_epi16, _mm256_add_epi16)
MODEL_HALVES(_mm512_madd_epi16, _mm256_madd_epi16)
MODEL_HALVES(_mm512_mulhrs_epi16, _mm256_mulhrs_epi16)
static inline __m512i _mm512_set1_epi16(int16_t x) {
  return _mm512_set1_epi32(static_cast<int32_t>(0x10001u * static_cast<uint16_t>(x)));
}
static inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int how) {
  return model_each<__m512i>([&](int j) { return (j < 8 ? a : b).lane[4 * (how >> 2 * (j / 4) & 3) + j % 4]; });
}
static inline int32_t _mm512_reduce_max_epi32(__m512i a) {
  int32_t most = a.lane[0];
  for (const int32_t x : a.lane) most = x > most ? x : most;
  return most;
}
template <class Result, class Lane>
static inline Result model_narrow(__m512i a) {
  Lane low[16];
  for (int j = 0; j < 16; ++j) low[j] = static_cast<Lane>(a.lane[j]);
  return model_bits<Result>(low);
}
static inline __m256i _mm512_cvtepi32_epi16(__m512i a) { return model_narrow<__m256i, int16_t>(a); }
static inline __m256i _mm512_cvtsepi32_epi16(__m512i a) {
  for (int32_t& x : a.lane) x = x < -32768 ? -32768 : x > 32767 ? 32767 : x;
  return model_narrow<__m256i, int16_t>(a);
}
static inline __m128i _mm512_cvtepi32_epi8(__m512i a) { return model_narrow<__m128i, int8_t>(a); }
static inline __m256i _mm512_cvtepi16_epi8(__m512i a) {
  int8_t low[32];
  for (int j = 0; j < 32; ++j) low[j] = model_bits<int8_t>(a, 2 * j);
  return model_bits<__m256i>(low);
}
static inline __m512 _mm512_cvtph_ps(__m256i a) {
  const __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
                            _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
  return model_bits<__m512>(halves);
}
static inline __m256i _mm512_cvtps_ph(__m512 a, int) {  // to nearest
  const __m128i halves[2] = {_mm256_cvtps_ph(_mm512_castps512_ps256(a), _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(_mm512_extractf32x8_ps(a, 1), _MM_FROUND_TO_NEAREST_INT)};
  return model_bits<__m256i>(halves);
}

#undef MODEL
#undef MODEL_HALVES
#undef MODEL_MASK
}  // namespace ISA
