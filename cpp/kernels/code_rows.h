// Rows of codes: weights become steps on grids that are known, in bytes or packed.
#pragma once
#include "bits.h"
#include "grids.h"
#include "random.h"

constexpr int kTogether = 16;  // groups fitted at once: the scales of sixteen are one vector

// Whether the weights must be seen before they are coded. If not, coding them finds out whether they are finite.
inline bool needs_ranges(const Grid& grid) {
  return grid.rule != ScaleRule::kGiven && !(grid.rule == ScaleRule::kScale && grid.symmetric);
}

// Calls body(k, weights of group k, how many) for groups that follow each other; `size` may be a constant.
template <class Size, class Body>
inline void each_group(int64_t n, int count, Size size, const Body& body) {
  const int whole = static_cast<int>(smaller(count, n / size));
  for (int k = 0; k < whole; ++k) body(k, k * size, size);
  if (whole < count) body(whole, whole * size, n - whole * size);
}

// Memory where a last full vector may be stored whole.
struct Roomy {
  uint8_t* p;
  Roomy operator+(int64_t i) const { return {p + i}; }
};
template <class Part>
inline void store_bytes(Roomy to, I32x16 codes, Part) {
  store_bytes(to.p, codes);
}

// What else is done with places whose weights are coded: their successors in a large group are fetched, since nothing
// else uses the memory then; or nothing.
struct FetchNext {
  int64_t group_size;
  template <class T, class Part>
  void operator()(const T* p, Part) const {
    __builtin_prefetch(p + group_size, 0, 2);
  }
};
struct Nothing {
  template <class T, class Part>
  void operator()(const T*, Part) const {}
};

// Codes of n weights of group k.
template <Rounding rounding, class T, class Target, class Beside>
inline void code_weights(const T* x, int64_t n, const Coders& coders, int k, const Grid& grid, int64_t first,
                         Target codes, Finite& finite, const Beside& beside) {
  const I32x16 zero = splat(static_cast<int32_t>(coders.zero[k]));
  with_constant(!needs_ranges(grid), [&](auto unseen) {
    Finite here;
    sixteens(n, [&](int64_t i, auto part) {
      beside(x + i, part);
      alignas(64) float u[16];
      if constexpr (rounding == Rounding::kStochastic) uniform_from(grid.seed, static_cast<uint64_t>(first + i), 16, u);
      const F32x16 v = load(x + i, part);
      if constexpr (unseen) here.see(v);
      store_bytes(codes + i, nearest(coders.steps<rounding>(v, k, u)) + zero, part);
    });
    if constexpr (unseen) finite.peak = max(finite.peak, here.peak);
  });
}

// Codes of 8 bits go where they belong.
template <class Target>
struct ByteRow {
  Target to;

  template <Rounding rounding, class T, class Size>
  void code(const T* x, int64_t n, int count, Size size, const Coders& coders, const Grid& grid, int64_t first,
            Finite& finite) {
    each_group(n, count, size, [&](int k, int64_t at, auto some) {
      code_weights<rounding>(x + at, some, coders, k, grid, first + at, to + at, finite, Nothing{});
    });
    to = to + smaller(count * size, n);
  }
  template <Rounding rounding, class T, class Beside>
  void code_large(const T* x, int64_t n, const Coders& coders, const Grid& grid, int64_t first, Finite& finite,
                  const Beside& beside) {
    code_weights<rounding>(x, n, coders, 0, grid, first, to, finite, beside);
    to = to + n;
  }
  void end() {}
};

// Codes of fewer bits gather until a stretch is full, and are packed then.
struct PackedRow {
  uint8_t* to;
  int bits;
  bool streamed;
  int64_t count = 0;
  alignas(64) uint8_t codes[kStretch + 16];

  // Several groups that fit into a stretch; sixteen are whole bytes.
  template <Rounding rounding, class T, class Size>
  void code(const T* x, int64_t n, int groups, Size size, const Coders& coders, const Grid& grid, int64_t first,
            Finite& finite) {
    if (count + size * kTogether > kStretch) end_stretch();
    const Roomy start{codes + count};
    each_group(n, groups, size, [&](int k, int64_t at, auto some) {
      code_weights<rounding>(x + at, some, coders, k, grid, first + at, start + at, finite, Nothing{});
    });
    count += smaller(groups * size, n);
  }
  // One group, of any size.
  template <Rounding rounding, class T, class Beside>
  void code_large(const T* x, int64_t n, const Coders& coders, const Grid& grid, int64_t first, Finite& finite,
                  const Beside& beside) {
    for (int64_t at = 0; at < n;) {
      const int64_t some = smaller(n - at, kStretch - count);
      code_weights<rounding>(x + at, some, coders, 0, grid, first + at, Roomy{codes + count}, finite, beside);
      count += some;
      if (count == kStretch) end_stretch();
      at += some;
    }
  }
  void end_stretch() {
    pack_row(codes, count, bits, to, streamed && reinterpret_cast<uintptr_t>(to) % 16 == 0);
    to += (count * bits + 7) / 8;
    count = 0;
  }
  void end() { end_stretch(); }
};
