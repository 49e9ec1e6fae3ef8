// Steps on a grid as codes: bytes, sixteen in a register, and pairs of codes of 4 bits in a byte, the first in its low
// half.
#pragma once

#if defined(__x86_64__)
inline BytesReg load_sixteen(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline BytesReg add_bytes(BytesReg a, int x) { return _mm_add_epi8(a, _mm_set1_epi8(static_cast<char>(x))); }
// 32 codes, one a byte, in 16 bytes.
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
#else
inline BytesReg load_sixteen(const uint8_t* p) { return vld1q_u8(p); }
inline BytesReg add_bytes(BytesReg a, int x) { return vaddq_u8(a, vdupq_n_u8(static_cast<uint8_t>(x))); }
inline BytesReg join_nibbles(BytesReg a, BytesReg b) {
  return vorrq_u8(vuzp1q_u8(a, b), vshlq_n_u8(vuzp2q_u8(a, b), 4));
}
inline void split_nibbles(uint8_t* codes, const uint8_t* packed) {
  const uint8x16_t p = vld1q_u8(packed);
  vst2q_u8(codes, uint8x16x2_t{{vandq_u8(p, vdupq_n_u8(15)), vshrq_n_u8(p, 4)}});
}
#endif

// clip(nearest(x), lowest, highest) + zero as bytes. Steps below any int32 become its lowest, and words saturate.
#if defined(__AVX512BW__)
struct CodeClip {
  FloatReg lowest, highest;
  IntReg zero;
  CodeClip(int low, float high, int zero_point)
      : lowest(splat_float(static_cast<float>(low))), highest(splat_float(high)), zero(splat_int(zero_point)) {}
  BytesReg sixteen(const FloatReg* x) const {
    return _mm512_cvtepi32_epi8(add_int(nearest_int(min_float(max_float(x[0], lowest), highest)), zero));
  }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    to[0] = sixteen(x);
    to[1] = sixteen(y);
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const { return join_nibbles(sixteen(x), sixteen(y)); }
};
#elif defined(__AVX2__)
struct CodeClip {
  FloatReg highest;
  __m256i lowest, zero;  // words
  CodeClip(int low, float high, int zero_point)
      : highest(_mm256_set1_ps(high)),
        lowest(_mm256_set1_epi16(static_cast<int16_t>(low))),
        zero(_mm256_set1_epi16(static_cast<int16_t>(zero_point))) {}
  __m256i words(const FloatReg* x) const {  // x0..x3 y0..y3 | x4..x7 y4..y7
    const __m256i steps =
        _mm256_packs_epi32(nearest_int(min_float(x[0], highest)), nearest_int(min_float(x[1], highest)));
    return _mm256_add_epi16(_mm256_max_epi16(steps, lowest), zero);
  }
  BytesReg sixteen(const FloatReg* x) const {
    const __m256i w = words(x), bytes = _mm256_packus_epi16(w, w);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  }
  __m256i quads(const FloatReg* x, const FloatReg* y) const {  // x0..x3 x8..x11 y0..y3 y8..y11 | x4..x7 ...
    return _mm256_packus_epi16(words(x), words(y));
  }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    const __m256i q = quads(x, y);
    const __m128i low = _mm256_castsi256_si128(q), high = _mm256_extracti128_si256(q, 1);
    to[0] = _mm_unpacklo_epi32(low, high);
    to[1] = _mm_unpackhi_epi32(low, high);
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const {  // joined while they are quads, two bytes each then
    const __m256i joined = _mm256_maddubs_epi16(quads(x, y), _mm256_set1_epi16(0x1001));
    const __m256i pairs = _mm256_packus_epi16(joined, joined);
    return _mm_unpacklo_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  }
};
#elif defined(__SSE4_2__)
struct CodeClip {
  FloatReg highest;
  __m128i lowest, zero;  // words
  CodeClip(int low, float high, int zero_point)
      : highest(_mm_set1_ps(high)),
        lowest(_mm_set1_epi16(static_cast<int16_t>(low))),
        zero(_mm_set1_epi16(static_cast<int16_t>(zero_point))) {}
  __m128i words(FloatReg a, FloatReg b) const {
    const __m128i steps = _mm_packs_epi32(nearest_int(min_float(a, highest)), nearest_int(min_float(b, highest)));
    return _mm_add_epi16(_mm_max_epi16(steps, lowest), zero);
  }
  BytesReg sixteen(const FloatReg* x) const { return _mm_packus_epi16(words(x[0], x[1]), words(x[2], x[3])); }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    to[0] = sixteen(x);
    to[1] = sixteen(y);
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const { return join_nibbles(sixteen(x), sixteen(y)); }
};
#else
struct CodeClip {
  FloatReg highest;
  int16x8_t lowest, zero;
  CodeClip(int low, float high, int zero_point)
      : highest(vdupq_n_f32(high)),
        lowest(vdupq_n_s16(static_cast<int16_t>(low))),
        zero(vdupq_n_s16(static_cast<int16_t>(zero_point))) {}
  uint8x8_t eight(FloatReg a, FloatReg b) const {
    const auto steps = [&](FloatReg x) { return vqmovn_s32(nearest_int(min_float(x, highest))); };
    return vqmovun_s16(vaddq_s16(vmaxq_s16(vcombine_s16(steps(a), steps(b)), lowest), zero));
  }
  BytesReg sixteen(const FloatReg* x) const { return vcombine_u8(eight(x[0], x[1]), eight(x[2], x[3])); }
  void thirty_two(const FloatReg* x, const FloatReg* y, BytesReg* to) const {
    to[0] = sixteen(x);
    to[1] = sixteen(y);
  }
  BytesReg nibbles(const FloatReg* x, const FloatReg* y) const { return join_nibbles(sixteen(x), sixteen(y)); }
};
#endif
