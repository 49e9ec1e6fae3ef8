// Tables in registers: which of ascending edges a lane lies above, and the float that a code stands for.
#pragma once

// A binary tree of edges, root at 1: the edges of depth d are node[2^d ...], so that below edge p of depth d hang
// 2p and 2p + 1 of depth d + 1. At the leaves p counts the edges below x. Missing edges are infinite.
struct EdgeTree {
  alignas(64) float node[256 + 16];
  int depth;
  EdgeTree(const float* edges, int64_t count) : depth(1) {
    while ((1 << depth) <= count) ++depth;
    for (int d = 0; d < depth; ++d)
      for (int64_t p = 0; p < 1 << d; ++p) {
        const int64_t at = ((2 * p + 1) << (depth - 1 - d)) - 1;
        node[(1 << d) + p] = at < count ? edges[at] : __builtin_inff();
      }
    for (int i = 1 << depth; i < 24; ++i) node[i] = 0;  // read with the last level, never picked
  }
};

#if defined(__AVX512BW__)
inline FloatReg pick(FloatReg table, IntReg index) { return _mm512_permutexvar_ps(index, table); }
inline IntReg child(IntReg p, MaskReg right) {
  const IntReg left = add_int(p, p);
  return _mm512_mask_add_epi32(left, right, left, splat_int(1));
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
#elif defined(__AVX2__)
inline FloatReg pick(FloatReg table, IntReg index) { return _mm256_permutevar8x32_ps(table, index); }
inline IntReg child(IntReg p, MaskReg right) { return sub_int(add_int(p, p), right); }
inline FloatReg gather_reg(const float* table, IntReg index) { return _mm256_i32gather_ps(table, index, 4); }
#else
inline FloatReg gather_reg(const float* table, IntReg index) {
  alignas(16) uint32_t at[4];
  store_int(at, index);
  const float some[4] = {table[at[0]], table[at[1]], table[at[2]], table[at[3]]};
  return load_float(some);
}
#if defined(__x86_64__)
inline IntReg child(IntReg p, MaskReg right) { return sub_int(add_int(p, p), right); }
#else
inline IntReg child(IntReg p, MaskReg right) {
  return add_int(add_int(p, p), select_int(right, splat_int(1), splat_int(0)));
}
#endif
#endif

// How many of `count` ascending edges lie below each lane of x; levels: of their tree, at most kLevels.
#if defined(__AVX512BW__)
constexpr int kLevels = 8;
template <int levels>
class Search {  // all levels wait in registers
 public:
  Search(const float* edges, int64_t count) {
    if constexpr (levels <= 4) {  // in order, then permuted: edge p of depth d is number (2p + 1) 2^(levels-1-d) - 1
      const FloatReg sorted = _mm512_mask_loadu_ps(splat_float(__builtin_inff()), (1u << count) - 1, edges);
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
  I32x16 operator()(F32x16 x) const {
    IntReg p = splat_int(0);
    for (int d = 0; d < (levels < 4 ? levels : 4); ++d) p = child(p, less_float(pick(level_[d], p), x.r[0]));
    if constexpr (levels > 4) p = child(p, less_float(pick_of<1>(level_ + 4, p), x.r[0]));
    if constexpr (levels > 5) p = child(p, less_float(pick_of<2>(level_ + 5, p), x.r[0]));
    if constexpr (levels > 6) p = child(p, less_float(pick_of<4>(level_ + 7, p), x.r[0]));
    if constexpr (levels > 7) p = child(p, less_float(pick_of<8>(level_ + 11, p), x.r[0]));
    return {{p}};
  }

 private:
  static constexpr int kMore = levels > 4 ? (1 << (levels - 4)) - 1 : 0;  // registers below the first four levels
  FloatReg level_[(levels < 4 ? levels : 4) + kMore];
};
#else
constexpr int kLevels = 4;
inline F32x16 gather(const float* table, I32x16 index) {
  F32x16 y;
  for (int k = 0; k < kRegs; ++k) y.r[k] = gather_reg(table, index.r[k]);
  return y;
}
template <int levels>
class Search {  // the first four levels wait in registers
 public:
  Search(const float* edges, int64_t count) : tree_(edges, count) {
    if (kPermuted) {
      for (int d = 0; d < levels; ++d) level_[d] = load_float(tree_.node + (1 << d));
    } else {
      for (int i = 1; i < 1 << levels; ++i) level_[i] = splat_float(tree_.node[i]);
    }
  }
  I32x16 operator()(F32x16 x) const {
    I32x16 p = first(x);
    for (int d = levels; levels == 4 && d < tree_.depth; ++d) {
      const F32x16 edge = gather(tree_.node + (1 << d), p);
      for (int k = 0; k < kRegs; ++k) p.r[k] = child(p.r[k], less_float(edge.r[k], x.r[k]));
    }
    return p;
  }

 private:
  I32x16 first(F32x16 x) const {
    I32x16 p = splat(0);
#if defined(__AVX2__)
    for (int k = 0; kPermuted && k < kRegs; ++k)
      for (int d = 0; d < levels; ++d) p.r[k] = child(p.r[k], less_float(pick(level_[d], p.r[k]), x.r[k]));
#endif
    for (int k = 0; !kPermuted && k < kRegs; ++k)
      for (int i = 1; i < 1 << levels; ++i)
        p.r[k] = sub_int(p.r[k], select_int(less_float(level_[i], x.r[k]), splat_int(-1), splat_int(0)));
    return p;
  }
#if defined(__AVX2__)
  static constexpr bool kPermuted = levels > 2;
#else
  static constexpr bool kPermuted = false;  // edges are compared one after the other, and counted
#endif
  EdgeTree tree_;
  FloatReg level_[1 << levels];
};
#endif

// The floats that sixteen codes stand for, of 2^bits with bits 5..8.
#if defined(__AVX512BW__)
template <int bits>
struct ManyValues {
  FloatReg all[1 << (bits - 4)];
  explicit ManyValues(const float* p) {
    for (int k = 0; k < 1 << (bits - 4); ++k) all[k] = load_float(p + 16 * k);
  }
  F32x16 operator()(const uint8_t* codes) const { return {{pick_of<1 << (bits - 4)>(all, load_u8(codes))}}; }
};
#else
template <int bits>
struct ManyValues {
  const float* all;
  explicit ManyValues(const float* p) : all(p) {}
  F32x16 operator()(const uint8_t* codes) const { return gather(all, load(codes)); }
};
#endif

// The same of 16 floats. Without permutations of floats: byte k of each of
// them is plane k, and planes join in pairs: b0 b1 and b2 b3, then b0 b1 b2 b3.
#if defined(__AVX512BW__)
struct Values16 {
  FloatReg all;
  explicit Values16(const float* p) : all(load_float(p)) {}
  F32x16 operator()(const uint8_t* codes) const { return {{pick(all, load_u8(codes))}}; }
};
#elif defined(__AVX2__)
struct Values16 {
  FloatReg low, high;
  explicit Values16(const float* p) : low(load_float(p)), high(load_float(p + 8)) {}
  F32x16 operator()(const uint8_t* codes) const {
    F32x16 y;
    for (int k = 0; k < 2; ++k) {
      const IntReg c = load_u8(codes + 8 * k);
      y.r[k] = _mm256_blendv_ps(pick(low, c), pick(high, c), float_of_bits(shift_left<28>(c)));
    }
    return y;
  }
};
#elif defined(__x86_64__)
struct Values16 {
  __m128i plane[4];
  explicit Values16(const float* p) {
    alignas(16) uint8_t bytes[4][16];
    for (int i = 0; i < 64; ++i) bytes[i % 4][i / 4] = reinterpret_cast<const uint8_t*>(p)[i];
    for (int k = 0; k < 4; ++k) plane[k] = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes[k]));
  }
  F32x16 operator()(const uint8_t* codes) const {
    const __m128i c = _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), _mm_set1_epi8(15));
    __m128i b[4];
    for (int k = 0; k < 4; ++k) b[k] = _mm_shuffle_epi8(plane[k], c);
    const __m128i low01 = _mm_unpacklo_epi8(b[0], b[1]), low23 = _mm_unpacklo_epi8(b[2], b[3]);
    const __m128i high01 = _mm_unpackhi_epi8(b[0], b[1]), high23 = _mm_unpackhi_epi8(b[2], b[3]);
    return {{float_of_bits(_mm_unpacklo_epi16(low01, low23)), float_of_bits(_mm_unpackhi_epi16(low01, low23)),
             float_of_bits(_mm_unpacklo_epi16(high01, high23)), float_of_bits(_mm_unpackhi_epi16(high01, high23))}};
  }
};
#else
struct Values16 {
  uint8x16_t plane[4];
  explicit Values16(const float* p) {
    const uint8x16x4_t planes = vld4q_u8(reinterpret_cast<const uint8_t*>(p));
    for (int k = 0; k < 4; ++k) plane[k] = planes.val[k];
  }
  F32x16 operator()(const uint8_t* codes) const {
    const uint8x16_t c = vandq_u8(vld1q_u8(codes), vdupq_n_u8(15));
    uint8x16x4_t planes;
    for (int k = 0; k < 4; ++k) planes.val[k] = vqtbl1q_u8(plane[k], c);
    alignas(16) uint8_t some[64];
    vst4q_u8(some, planes);
    return load(reinterpret_cast<const float*>(some));
  }
};
#endif

// Sixteen codes below 16 become what a table of sixteen bytes says, in place.
inline void translate(uint8_t* codes, const uint8_t* table) {
#if defined(__x86_64__)
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  auto* p = reinterpret_cast<__m128i*>(codes);
  _mm_storeu_si128(p, _mm_shuffle_epi8(t, _mm_loadu_si128(p)));
#else
  vst1q_u8(codes, vqtbl1q_u8(vld1q_u8(table), vld1q_u8(codes)));
#endif
}
