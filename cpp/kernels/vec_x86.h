// Sixteen bytes in a register, as all of x86-64 has them.
#pragma once
#include <immintrin.h>

#include "isa.h"

namespace ISA {
namespace {
using BytesReg = __m128i;  // sixteen of them
inline void store_sixteen(uint8_t* p, BytesReg a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
inline BytesReg load_sixteen(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline BytesReg add_bytes(BytesReg a, int x) { return _mm_add_epi8(a, _mm_set1_epi8(static_cast<char>(x))); }
// 32 codes of 4 bits, one a byte, in 16 bytes: the first of two in the low half.
inline BytesReg join_nibbles(BytesReg a, BytesReg b) {
  const __m128i weight = _mm_set1_epi16(0x1001);  // a byte pair (l, h) becomes the word l + 16 h
  return _mm_packus_epi16(_mm_maddubs_epi16(a, weight), _mm_maddubs_epi16(b, weight));
}
inline void split_nibbles(uint8_t* codes, const uint8_t* packed) {
  const __m128i p = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)), low = _mm_set1_epi8(15);
  const __m128i even = _mm_and_si128(p, low), odd = _mm_and_si128(_mm_srli_epi16(p, 4), low);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm_unpacklo_epi8(even, odd));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm_unpackhi_epi8(even, odd));
}

// Sixteen codes below 16 become what a table of sixteen bytes says, in place.
inline void translate(uint8_t* codes, const uint8_t* table) {
  store_sixteen(codes, _mm_shuffle_epi8(load_sixteen(table), load_sixteen(codes)));
}

// Non-temporal stores, to multiples of 16 bytes; whole lines combine on their way. Other threads may read the result
// after nontemporal_end().
inline void nontemporal_16(void* p, const void* from) {
  _mm_stream_si128(static_cast<__m128i*>(p), _mm_loadu_si128(static_cast<const __m128i*>(from)));
}
inline void nontemporal_sixteen(uint8_t* p, BytesReg a) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), a); }
inline void nontemporal_end() { _mm_sfence(); }
}  // namespace
}  // namespace ISA
