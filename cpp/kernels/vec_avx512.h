// One 512-bit register holds sixteen lanes. Masks are mask registers.
// Bytes, and the cache: L2, from where the processor fetches by itself. Into L1 or further on, line buffers that stores
// need would wait for the memory.
constexpr int64_t kAhead = 2048;
constexpr int kAheadCache = 2;
constexpr int kLanes = 16;
using FloatReg = __m512;
using IntReg = __m512i;
using MaskReg = __mmask16;

inline FloatReg load_float(const float* p) {
  FloatReg a = _mm512_loadu_ps(p);
  asm("" : "+v"(a));  // or gcc loads once for each use, and a load across two cache lines counts double
  return a;
}
inline void store_float(float* p, FloatReg a) { _mm512_storeu_ps(p, a); }
inline void stream_float(float* p, FloatReg a) {  // p: a multiple of 16 bytes; parts of lines combine on their way
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
using BytesReg = __m128i;  // sixteen of them
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
inline void store_sixteen(uint8_t* p, BytesReg a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
inline FloatReg load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_half(uint16_t* p, FloatReg a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
