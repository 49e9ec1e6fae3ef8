// Included before all else in builds with sanitizers: intrinsics that gcc hands to the processor as they are, so that no
// sanitizer sees what they read and write, as plain loads and stores of the same bytes.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>

#define _mm_stream_ps(p, a) _mm_store_ps(p, a)
#define _mm_stream_si128(p, a) _mm_store_si128(p, a)

#if defined(__AVX2__)
#undef _mm256_i32gather_ps
#define _mm256_i32gather_ps(table, index, size) seen_gather(table, index)
static inline __m256 seen_gather(const float* table, __m256i index) {
  int at[8];
  float found[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), index);
  for (int j = 0; j < 8; ++j) found[j] = table[at[j]];
  return _mm256_loadu_ps(found);
}
#endif

#if defined(__AVX512F__)
#define _mm512_stream_ps(p, a) _mm512_store_ps(p, a)
#define _mm512_mask_loadu_ps(others, mask, p) seen_load(others, mask, p)
static inline __m512 seen_load(__m512 others, __mmask16 mask, const float* p) {
  float found[16];
  _mm512_storeu_ps(found, others);
  for (int j = 0; j < 16; ++j)
    if (mask >> j & 1) found[j] = p[j];
  return _mm512_loadu_ps(found);
}
#endif
#endif
