// Rows of codes: weights become integers on grids whose scales are known, in bytes or packed.
#pragma once
#include "bits.h"
#include "grids.h"
#include "random.h"

namespace ISA {
namespace {

constexpr int kTogether = 16;  // groups fitted at once: the scales of sixteen are one vector

// Whether the weights must be seen before they are coded. If not, coding them finds out whether they are finite.
inline bool needs_ranges(const Grid& grid) {
  return grid.rule < ScaleRule::kGivenScale || (grid.rule == ScaleRule::kGivenScale && !grid.symmetric);
}

// Whether scales are the caller's, who may have chosen any.
inline bool given_scales(const Grid& grid) { return grid.rule >= ScaleRule::kGivenScale; }

// Whole numbers by the rarer roundings, of weights first.. of their tensor. Half to even is what nearest() does anyway.
inline F32x16 rounded(F32x16 x, Rounding rounding, uint64_t seed, int64_t first) {
  if (rounding == Rounding::kFloor) return floor(x);
  if (rounding == Rounding::kStochastic) {
    alignas(64) float u[16];
    uniform_from(seed, static_cast<uint64_t>(first), 16, u);
    return floor(x + load(u));
  }
  const F32x16 whole = trunc(x);  // x - whole is exact, so that 0.49999997 stays below a half
  const I32x16 one = float_bits(splat(1.0f)) | (float_bits(x) & splat(INT32_MIN));
  return whole + select(splat(0.5f) <= abs(x - whole), from_bits(one), splat(0.0f));
}

// Calls body(k, weights of group k, how many) for groups that follow each other; `size` may be a constant.
template <class Size, class Body>
inline void each_group(int64_t n, int count, Size size, const Body& body) {
  const int whole = static_cast<int>(smaller(count, n / size));
  for (int k = 0; k < whole; ++k) body(k, k * size, size);
  if (whole < count) body(whole, whole * size, n - whole * size);
}

// What else is done with places whose weights are coded: their successors in a large group are fetched, or what follows
// the small groups that were fitted already, up to `fitted` weights further on: nothing else uses the memory then.
struct FetchNext {
  int64_t group_size;
  template <class T, class Part>
  void operator()(const T* p, Part) const {
    __builtin_prefetch(p + group_size, 0, 2);
  }
};
struct FetchAhead {
  int64_t fitted;
  template <class T, class Part>
  void operator()(const T* p, Part) const {
    fetch_near(p + fitted);
  }
};

// Scaled of n places: put(i, the first and the second half of 32), and for the last few put_last(i, codes, how many).
template <class Clip, class Scaled, class Put, class PutLast>
inline void for_each_vector_pair(int64_t n, const Clip& clip, const Scaled& scaled, const Put& put,
                                 const PutLast& put_last) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const F32x16 a = scaled(i, Full{}), b = scaled(i + 16, Full{});
    put(i, a.r, b.r);
  }
  if (i == n) return;
  alignas(32) uint8_t codes[32];
  for_each_vector(n - i, [&](int64_t k, auto tail) { store_sixteen(codes + k, clip.sixteen(scaled(i + k, tail).r)); });
  put_last(i, codes, n - i);
}

// Codes of n weights of group k go to place `at` of a row, and further. Where scales are `given`, the weights were not
// read before, and x / scale may be of any size.
template <bool even, class T, class Row, class Beside>
inline void code_weights(Row& row, int64_t at, const T* x, int64_t n, const Quantizers& quantizers, int k, auto given,
                         const Grid& grid, int64_t first, Finite& finite, const Beside& beside) {
  const GroupQuantizer<!given> quantizer(quantizers, k);
  Finite here;
  const auto scaled = [&](int64_t i, auto tail) {
    beside(x + i, tail);
    const F32x16 v = load(x + i, tail);
    if constexpr (given) here.see(v);
    const F32x16 q = quantizer.scaled(v);
    if constexpr (even) return q;
    return rounded(q, grid.rounding, grid.seed, first + i);
  };
  for_each_vector_pair(
      n, quantizer.clip, scaled,
      [&](int64_t i, const FloatReg* a, const FloatReg* b) { row.put(at + i, quantizer.clip, a, b); },
      [&](int64_t i, const uint8_t* codes, int64_t some) { row.put_last(at + i, codes, some); });
  if constexpr (given) finite.peak = max(finite.peak, here.peak);
}

// Codes of 8 bits, or of 4 where every group starts on sixteen bytes, go where they belong.
template <int bits>
struct DirectRow {
  uint8_t* to;
  bool nontemporal;

  template <class Clip>
  void put(int64_t i, const Clip& clip, const FloatReg* a, const FloatReg* b) {
    if constexpr (bits == 4) return put_sixteen(to + i / 2, clip.nibbles(a, b), nontemporal);
    BytesReg codes[2];
    clip.thirty_two(a, b, codes);
    put_sixteen(to + i, codes[0], nontemporal);
    put_sixteen(to + i + 16, codes[1], nontemporal);
  }
  void put_last(int64_t i, const uint8_t* codes, int64_t n) { pack_row(codes, n, bits, to + i * bits / 8); }

  template <bool even, class T, class Size>
  void code(const T* x, int64_t n, int count, Size size, const Quantizers& quantizers, auto given, const Grid& grid,
            int64_t first, Finite& finite) {
    each_group(n, count, size, [&](int k, int64_t at, auto some) {
      code_weights<even>(*this, at, x + at, some, quantizers, k, given, grid, first + at, finite,
                         FetchAhead{size * kTogether});
    });
    to += (smaller(count * size, n) * bits + 7) / 8;
  }
  template <bool even, class T, class Beside>
  void code_large(const T* x, int64_t n, const Quantizers& quantizers, auto given, const Grid& grid, int64_t first,
                  Finite& finite, const Beside& beside) {
    code_weights<even>(*this, 0, x, n, quantizers, 0, given, grid, first, finite, beside);
    to += (n * bits + 7) / 8;
  }
  void end() {}
};

// Codes of other bits gather until a stretch is full, and are packed then.
struct PackedRow {
  uint8_t* to;
  int bits;
  bool nontemporal;
  int64_t count = 0;
  alignas(64) uint8_t codes[kStretch];

  template <class Clip>
  void put(int64_t i, const Clip& clip, const FloatReg* a, const FloatReg* b) {
    BytesReg some[2];
    clip.thirty_two(a, b, some);
    store_sixteen(codes + count + i, some[0]);
    store_sixteen(codes + count + i + 16, some[1]);
  }
  void put_last(int64_t i, const uint8_t* some, int64_t n) {
    __builtin_memcpy(codes + count + i, some, static_cast<size_t>(n));
  }

  // Several groups that fit into a stretch; sixteen are whole bytes.
  template <bool even, class T, class Size>
  void code(const T* x, int64_t n, int groups, Size size, const Quantizers& quantizers, auto given, const Grid& grid,
            int64_t first, Finite& finite) {
    if (count + size * kTogether > kStretch) end_stretch();
    each_group(n, groups, size, [&](int k, int64_t at, auto some) {
      code_weights<even>(*this, at, x + at, some, quantizers, k, given, grid, first + at, finite,
                         FetchAhead{size * kTogether});
    });
    count += smaller(groups * size, n);
  }
  // One group, of any size.
  template <bool even, class T, class Beside>
  void code_large(const T* x, int64_t n, const Quantizers& quantizers, auto given, const Grid& grid, int64_t first,
                  Finite& finite, const Beside& beside) {
    for (int64_t at = 0; at < n;) {
      const int64_t some = smaller(n - at, kStretch - count);
      code_weights<even>(*this, 0, x + at, some, quantizers, 0, given, grid, first + at, finite, beside);
      count += some;
      if (count == kStretch) end_stretch();
      at += some;
    }
  }
  void end_stretch() {
    pack_row(codes, count, bits, to, nontemporal && reinterpret_cast<uintptr_t>(to) % 16 == 0);
    to += (count * bits + 7) / 8;
    count = 0;
  }
  void end() {
    if (count) end_stretch();  // nothing is written, and `to` may be null, where scales are all that is asked for
  }
};

}  // namespace
}  // namespace ISA
