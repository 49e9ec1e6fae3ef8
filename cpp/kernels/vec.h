// Sixteen lanes on every ISA (1 x 512, 2 x 256 or 4 x 128 bits), so results do not depend on register width.
// The register files below hold the only float intrinsics; kernels are written in terms of F32x16, I32x16 and Mask16.
#pragma once
#if defined(__AVX512BW__)
#include "vec_avx512.h"
#elif defined(__AVX2__)
#include "vec_avx2.h"
#elif defined(__SSE4_2__)
#include "vec_sse4.h"
#else
#include "vec_neon.h"
#endif

namespace ISA {
namespace {
struct F32x16 {
  FloatReg r[kRegs];
};
struct I32x16 {
  IntReg r[kRegs];
};
struct Mask16 {
  MaskReg r[kRegs];
};

// name(a) or name(a, b) on sixteen lanes is `op` on each register.
#define EACH_REGISTER(result, expression)                \
  {                                                      \
    result y;                                            \
    for (int k = 0; k < kRegs; ++k) y.r[k] = expression; \
    return y;                                            \
  }
#define UNARY(result, name, A, op) inline result name(A a) EACH_REGISTER(result, op(a.r[k]))
#define BINARY(result, name, A, B, op) inline result name(A a, B b) EACH_REGISTER(result, op(a.r[k], b.r[k]))

BINARY(F32x16, operator+, F32x16, F32x16, add_float);
BINARY(F32x16, operator-, F32x16, F32x16, sub_float);
BINARY(F32x16, operator*, F32x16, F32x16, mul_float);
BINARY(F32x16, operator/, F32x16, F32x16, div_float);
BINARY(F32x16, min, F32x16, F32x16, min_float);  // the second where either is NaN
BINARY(F32x16, max, F32x16, F32x16, max_float);
BINARY(Mask16, operator<, F32x16, F32x16, less_float);
BINARY(Mask16, operator<=, F32x16, F32x16, less_equal_float);
UNARY(F32x16, floor, F32x16, floor_float);
UNARY(F32x16, trunc, F32x16, trunc_float);
UNARY(I32x16, nearest, F32x16, nearest_int);  // half to even
UNARY(F32x16, to_float, I32x16, float_of_int);
UNARY(I32x16, float_bits, F32x16, bits_of);
UNARY(F32x16, from_bits, I32x16, float_of_bits);

BINARY(I32x16, operator+, I32x16, I32x16, add_int);
BINARY(I32x16, operator-, I32x16, I32x16, sub_int);
BINARY(I32x16, operator&, I32x16, I32x16, and_int);
BINARY(I32x16, operator|, I32x16, I32x16, or_int);
BINARY(I32x16, operator^, I32x16, I32x16, xor_int);
BINARY(I32x16, max, I32x16, I32x16, max_int);
BINARY(I32x16, min, I32x16, I32x16, min_int);
BINARY(Mask16, operator<, I32x16, I32x16, less_int);
BINARY(Mask16, operator<=, I32x16, I32x16, less_equal_int);
BINARY(Mask16, operator==, I32x16, I32x16, equal_int);
template <int n>
UNARY(I32x16, shift_left, I32x16, shift_left<n>);
template <int n>
UNARY(I32x16, shift_right, I32x16, shift_right<n>);
template <int n>
UNARY(I32x16, shift_right_signed, I32x16, shift_right_signed<n>);
UNARY(I32x16, swap_pairs, I32x16, swap_pairs);
template <int n>
UNARY(I32x16, rotate_quads, I32x16, rotate_quads<n>);
BINARY(Mask16, operator&, Mask16, Mask16, and_mask);
BINARY(Mask16, operator|, Mask16, Mask16, or_mask);
#undef UNARY
#undef BINARY

inline F32x16 splat(float x) EACH_REGISTER(F32x16, splat_float(x));
inline I32x16 splat(int32_t x) EACH_REGISTER(I32x16, splat_int(x));
inline I32x16 select(Mask16 m, I32x16 a, I32x16 b) EACH_REGISTER(I32x16, select_int(m.r[k], a.r[k], b.r[k]));
inline F32x16 select(Mask16 m, F32x16 a, F32x16 b) { return from_bits(select(m, float_bits(a), float_bits(b))); }
inline I32x16 minus_ones(Mask16 m) EACH_REGISTER(I32x16, int_of_mask(m.r[k]));  // -1 under the mask, 0 elsewhere
inline I32x16 magnitude_bits(F32x16 a) { return float_bits(a) & splat(0x7fffffff); }
inline F32x16 abs(F32x16 a) { return from_bits(magnitude_bits(a)); }

// Element 0 of the sixteen is bit 0.
inline uint32_t lane_bits(Mask16 m) {
  uint32_t all = 0;
  for (int k = 0; k < kRegs; ++k) all |= bits_of_mask(m.r[k]) << (k * kLanes);
  return all;
}
inline Mask16 mask_of(uint32_t all) EACH_REGISTER(Mask16, mask_of_bits(all >> (k * kLanes)));

// Lane j: the largest lane of register j of sixteen.
inline I32x16 largest_of_sixteen(const IntReg* a) EACH_REGISTER(I32x16, largest_of_each(a + k * kLanes));
inline IntReg in_one(I32x16 a) {  // the largest of each lane of the registers
  IntReg m = a.r[0];
  for (int k = 1; k < kRegs; ++k) m = max_int(m, a.r[k]);
  return m;
}
inline int32_t largest(I32x16 a) { return largest_lane(in_one(a)); }

// The one order of sums: lane j takes lane j + 8, then + 4, + 2, + 1.
template <class T>
inline T fold(T* lane) {
  for (int half = 8; half; half /= 2)
    for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
  return lane[0];
}
inline float sum(F32x16 a) {
  for (int half = kRegs / 2; half; half /= 2)
    for (int k = 0; k < half; ++k) a.r[k] = add_float(a.r[k], a.r[k + half]);
  return folded(a.r[0]);
}

inline int64_t sum(I32x16 a) {
  alignas(64) uint32_t lane[16];
  for (int k = 0; k < kRegs; ++k) store_int(lane + k * kLanes, a.r[k]);
  int64_t total = 0;
  for (const uint32_t x : lane) total += static_cast<int32_t>(x);
  return total;
}

// Weights in memory: float, or the bits of a float16 (Float16) or of a bfloat16 (BFloat16).
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline F32x16 load(const float* p) EACH_REGISTER(F32x16, load_float(p + k * kLanes));
inline F32x16 load(const Float16* p) {
  F32x16 y;
  load_halves(&p->bits, y.r);
  return y;
}
inline F32x16 load(const BFloat16* p)
    EACH_REGISTER(F32x16, float_of_bits(shift_left<16>(load_u16(&p[k * kLanes].bits))));
inline I32x16 load(const uint8_t* p) EACH_REGISTER(I32x16, load_u8(p + k * kLanes));
inline I32x16 load(const uint16_t* p) EACH_REGISTER(I32x16, load_u16(p + k * kLanes));
inline I32x16 load(const uint32_t* p) EACH_REGISTER(I32x16, load_int(p + k * kLanes));

inline void store(float* p, F32x16 a) {
  for (int k = 0; k < kRegs; ++k) store_float(p + k * kLanes, a.r[k]);
}
inline void store(Float16* p, F32x16 a) {
  for (int k = 0; k < kRegs; ++k) store_half(&p[k * kLanes].bits, a.r[k]);
}
inline void store(BFloat16* p, F32x16 a) {
  const I32x16 x = float_bits(a), odd = shift_right<16>(x) & splat(1);
  const I32x16 rounded = shift_right<16>(x + splat(0x7fff) + odd);
  const Mask16 nan = splat(0x7f800000) < (x & splat(0x7fffffff));
  const I32x16 h = select(nan, shift_right<16>(x) | splat(64), rounded);
  for (int k = 0; k < kRegs; ++k) store_low16(&p[k * kLanes].bits, h.r[k]);
}
inline void store(uint32_t* p, I32x16 a) {
  for (int k = 0; k < kRegs; ++k) store_int(p + k * kLanes, a.r[k]);
}
inline void store_bytes(uint8_t* p, I32x16 a) {  // the low byte of each lane
  store_sixteen(p, low_bytes(a.r));
}
#undef EACH_REGISTER

// Registers of integers in memory, of any width, zero-extended.
inline IntReg load_lanes(const uint8_t* p) { return load_u8(p); }
inline IntReg load_lanes(const uint16_t* p) { return load_u16(p); }
inline IntReg load_lanes(const uint32_t* p) { return load_int(p); }
inline IntReg load_lanes(const float* p) { return bits_of(load_float(p)); }
inline IntReg load_lanes(const Float16* p) { return bits_of(load_half(&p->bits)); }
inline IntReg load_lanes(const BFloat16* p) { return shift_left<16>(load_u16(&p->bits)); }
inline void store_lanes(uint8_t* p, IntReg a) { store_low8(p, a); }
inline void store_lanes(uint16_t* p, IntReg a) { store_low16(p, a); }
inline void store_lanes(uint32_t* p, IntReg a) { store_int(p, a); }

// The elements from p on, in order, in the lanes under the mask; zero in the others. May read sixteen elements.
template <class T>
inline I32x16 expand(const T* p, uint32_t mask) {
  I32x16 y;
  for (int k = 0; k < kRegs; ++k) {
    const uint32_t some = mask >> (k * kLanes) & ((1u << kLanes) - 1);
    y.r[k] = expand_int(load_lanes(p), some);
    p += __builtin_popcount(some);
  }
  return y;
}

// Appends the lanes under the mask, in order, to p; returns its new end. May write sixteen elements.
template <class T>
inline T* append(T* p, uint32_t mask, I32x16 a) {
  for (int k = 0; k < kRegs; ++k) {
    const uint32_t some = mask >> (k * kLanes) & ((1u << kLanes) - 1);
    store_lanes(p, compress_int(a.r[k], some));
    p += __builtin_popcount(some);
  }
  return p;
}

// The first n < 16 elements; lanes past them read as zero.
template <class T>
inline auto load(const T* p, int64_t n) {
  alignas(64) T some[16] = {};
  __builtin_memcpy(some, p, static_cast<size_t>(n) * sizeof(T));
  return load(some);
}
template <class T>
inline void store(T* p, F32x16 a, int64_t n) {
  alignas(64) T some[16];
  store(some, a);
  __builtin_memcpy(p, some, static_cast<size_t>(n) * sizeof(T));
}
inline void store_bytes(uint8_t* p, I32x16 a, int64_t n) {
  alignas(16) uint8_t some[16];
  store_bytes(some, a);
  __builtin_memcpy(p, some, static_cast<size_t>(n));
}

// All sixteen elements, or the last few of a row: for_each_vector() calls its body with one or the other.
struct Full {};
struct Tail {
  int64_t n;
};
template <class T>
inline auto load(const T* p, Full) {
  return load(p);
}
template <class T>
inline auto load(const T* p, Tail tail) {
  return load(p, tail.n);
}
template <class T>
inline void store(T* p, F32x16 a, Full) {
  store(p, a);
}
template <class T>
inline void store(T* p, F32x16 a, Tail tail) {
  store(p, a, tail.n);
}
inline void store_bytes(uint8_t* p, I32x16 a, Full) { store_bytes(p, a); }
inline void store_bytes(uint8_t* p, I32x16 a, Tail tail) { store_bytes(p, a, tail.n); }
inline uint32_t lanes(Full) { return 0xffff; }
inline uint32_t lanes(Tail tail) { return (1u << tail.n) - 1; }

template <class Body>
inline void for_each_vector(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, Full{});
  if (i < n) body(i, Tail{n - i});
}

// Loops that do much with each cache line leave the memory idle between them, unless they ask for lines further on: how
// far and into which cache is the machine's matter, so that each register file says it.
inline void fetch_ahead(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + kAhead, 0, kAheadCache); }
inline void fetch_near(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + kAhead); }  // into L1

// The same order of sums for sixteen rows of `width` floats, of which the first `used` rows and `count` columns are in
// use: the sums are in row 0. Writes up to a multiple of sixteen columns.
template <int64_t width>
inline void fold_rows(float (*row)[width], int64_t used, int64_t count) {
  for (int64_t half = 8; half; half /= 2)
    for (int64_t j = 0; j < half && j + half < used; ++j)
      for (int64_t i = 0; i < count; i += 16) store(&row[j][i], load(&row[j][i]) + load(&row[j + half][i]));
}

inline float first_lane(F32x16 a) {
  alignas(64) float lane[16];
  store(lane, a);
  return lane[0];
}

// Remembers whether every weight it saw was finite: the bits of infinity and NaN are the largest magnitudes.
struct Finite {
  I32x16 peak = splat(0);
  void see(F32x16 x) { peak = max(peak, magnitude_bits(x)); }
  bool all() const { return largest(peak) < 0x7f800000; }
};

constexpr int64_t kStretch = 4096;  // codes or marks that wait between two steps, in L1

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
template <class X>
inline X larger(X a, X b) {
  return a < b ? b : a;
}
template <class X>
inline X within(X x, X low, X high) {
  return x < low ? low : x < high ? x : high;
}

// a / b where b may be 0, and infinity or NaN is then what is wanted. UBSan takes other divisions by 0 for mistakes.
__attribute__((no_sanitize("float-divide-by-zero"))) inline float ieee_quotient(float a, float b) { return a / b; }

// Calls body with a truth that its loops need not ask for again.
template <class Body>
inline auto with_constant(bool truth, const Body& body) {
  return truth ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace
}  // namespace ISA
