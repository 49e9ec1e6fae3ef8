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

// clip(nearest(x), lowest, highest) + zero as bytes: of sixteen steps, of 32, or of 32 in nibbles. `bounded` steps are
// known to fit int32; of others, those above would become its lowest, as those below rightly do. Words saturate.
#if defined(__AVX512BW__)
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
    const __m512i steps = _mm512_max_epi16(_mm512_packs_epi32(nearest_int(x), nearest_int(y)), lowest);
    return _mm512_add_epi16(bounded ? _mm512_min_epi16(steps, highest) : steps, zero);
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
#elif defined(__AVX2__)
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
  __m256i steps(const FloatReg* x) const {  // x0..x3 y0..y3 | x4..x7 y4..y7
    if constexpr (bounded) return _mm256_packs_epi32(nearest_int(x[0]), nearest_int(x[1]));
    return _mm256_packs_epi32(nearest_int(min_float(x[0], most)), nearest_int(min_float(x[1], most)));
  }
  __m256i words(const FloatReg* x) const {
    __m256i w = _mm256_max_epi16(steps(x), lowest);
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
    __m256i quads = _mm256_max_epi8(_mm256_packs_epi16(steps(x), steps(y)), lowest8);
    if constexpr (bounded) quads = _mm256_min_epi8(quads, highest8);
    const __m256i joined = _mm256_maddubs_epi16(_mm256_add_epi8(quads, zero8), _mm256_set1_epi16(0x1001));
    const __m256i pairs = _mm256_packus_epi16(joined, joined);
    return _mm_unpacklo_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  }
};
#elif defined(__SSE4_2__)
template <bool bounded>
struct CodeClip {
  FloatReg most;
  __m128i lowest, highest, zero;  // words
  CodeClip(int low, int high, int zero_point)
      : most(_mm_set1_ps(static_cast<float>(high))),
        lowest(_mm_set1_epi16(static_cast<int16_t>(low))),
        highest(_mm_set1_epi16(static_cast<int16_t>(high))),
        zero(_mm_set1_epi16(static_cast<int16_t>(zero_point))) {}
  __m128i steps(FloatReg a, FloatReg b) const {
    if constexpr (bounded) return _mm_packs_epi32(nearest_int(a), nearest_int(b));
    return _mm_packs_epi32(nearest_int(min_float(a, most)), nearest_int(min_float(b, most)));
  }
  __m128i words(FloatReg a, FloatReg b) const {
    __m128i w = _mm_max_epi16(steps(a, b), lowest);
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
#else
template <bool bounded>
struct CodeClip {
  FloatReg most;
  int16x8_t lowest, zero;
  CodeClip(int low, int high, int zero_point)
      : most(vdupq_n_f32(static_cast<float>(high))),
        lowest(vdupq_n_s16(static_cast<int16_t>(low))),
        zero(vdupq_n_s16(static_cast<int16_t>(zero_point))) {}
  uint8x8_t eight(FloatReg a, FloatReg b) const {
    const auto steps = [&](FloatReg x) { return vqmovn_s32(nearest_int(min_float(x, most))); };
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
