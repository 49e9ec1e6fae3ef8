// Scales by least squares: for codes q the best scale is sum(x q) / sum(q q); the codes are those of a few first
// scales. reference/least_squares.py says which.
#pragma once
#include "code_rows.h"

namespace ISA {
namespace {

constexpr int kFirst = 7, kMostTried = 32;  // first scales that are always tried, and that are tried at most
constexpr float kPart = 128;                // parts of a step in which weights are counted
constexpr double kAgain = 256 * 128;        // divided by a scale in such parts: the factor for it
constexpr int64_t kKept = 4 * kStretch;  // weights that are counted once; larger groups are counted again in each trial
constexpr int64_t kExact = 1024;         // products whose sums fit 32 bits
constexpr double kClose = 16;  // square parts per weight, and for as many more, that are more than absmax may gain

inline int64_t padded(int64_t size) { return (size + kWords - 1) / kWords * kWords; }
inline std::integral_constant<int64_t, 32> padded(std::integral_constant<int64_t, 32> size) { return size; }

// Weights in 128ths of a step: of up to sixteen groups, or a stretch of a large one. Zeros follow each.
struct ScaledWeights {
  alignas(64) int16_t y[kKept];

  template <class T>
  void set(int64_t at, const T* x, int64_t n, float lift, float inverse) {
    const F32x16 by = splat(inverse), lifted = splat(lift);
    if (lift == 1)
      for_each_vector(n, [&](int64_t i, auto tail) { store_rounded(y + at + i, (load(x + i, tail) * by).r); });
    else
      for_each_vector(n, [&](int64_t i, auto tail) { store_rounded(y + at + i, (load(x + i, tail) * lifted * by).r); });
    for (int64_t i = (n + 15) / 16 * 16; i < padded(n); i += 16) store_rounded(y + at + i, splat(0.0f).r);
  }
};

// What is tried for each of sixteen groups, codes q of the weights y * factor / 256, and their sums.
struct Trial {
  alignas(64) int32_t factor[16], zero[16];
  alignas(64) double along[16], square[16];  // sum(y q), sum(q q)

  Trial(int32_t same, const int32_t* zeros) {
    for (int k = 0; k < 16; ++k) factor[k] = same, zero[k] = zeros[k];
  }
};

inline void add_sums(const int16_t* y, int64_t n, Words by, Words low, Words high, Products& along, Products& square) {
  for (int64_t i = 0; i < n; i += kWords) {
    const Words v = load_words(y + i), q = clipped(scaled(v, by), low, high);
    along = add_products(along, v, q);
    square = add_products(square, q, q);
  }
}

// Where the sums come from. Groups of at most 256 that follow each other, each of `stride` weights:
template <class Stride>
struct Groups {
  const ScaledWeights& weights;
  Stride stride;
  int last;
  Products along[16], square[16];

  Groups(const ScaledWeights& from, Stride each, int last_code) : weights(from), stride(each), last(last_code) {
    for (int k = 0; k < 16; ++k) along[k] = square[k] = no_products();
  }
  void each(Trial& trial, uint32_t which) {  // of one factor and zero point each
    for (; which; which &= which - 1) {
      const int k = __builtin_ctz(which);
      sums(k, trial.factor[k], trial.zero[k]);
    }
    solve(trial);
  }
  void all(Trial& trial, uint32_t which) {  // of the same
    const int factor = trial.factor[0], zero = trial.zero[0];
    for (int k = 0; which >> k; ++k) sums(k, factor, zero);
    solve(trial);
  }
  void sums(int k, int factor, int zero) {
    Products a = no_products(), s = no_products();
    add_sums(weights.y + k * stride, stride, splat_words(factor), splat_words(-zero), splat_words(last - zero), a, s);
    along[k] = a;
    square[k] = s;
  }
  void solve(Trial& trial) const {
    alignas(64) int32_t a[16], s[16];
    totals_of_sixteen(along, a);
    totals_of_sixteen(square, s);
    for (int k = 0; k < 16; ++k) {
      trial.along[k] = static_cast<double>(a[k]);
      trial.square[k] = static_cast<double>(s[k]);
    }
  }
};
// A group of any size, which is seen stretch by stretch:
template <class T>
struct Stretches {
  ScaledWeights& weights;
  const T* x;
  int64_t n;
  float lift, inverse;
  int last;

  void all(Trial& trial, uint32_t which) { each(trial, which); }
  void each(Trial& trial, uint32_t) {
    const Words by = splat_words(trial.factor[0]), low = splat_words(-trial.zero[0]);
    const Words high = splat_words(last - trial.zero[0]);
    int64_t along = 0, square = 0;
    for (int64_t first = 0; first < n; first += kKept) {
      const int64_t some = smaller(kKept, n - first);
      if (n > kKept) weights.set(0, x + first, some, lift, inverse);
      for (int64_t i = 0; i < some; i += kExact) {
        Products a = no_products(), s = no_products();
        add_sums(weights.y + i, smaller(kExact, padded(some - i)), by, low, high, a, s);
        along += total(a);
        square += total(s);
      }
    }
    for (int k = 0; k < 16; ++k) trial.along[k] = trial.square[k] = 0;
    trial.along[0] = static_cast<double>(along);
    trial.square[0] = static_cast<double>(square);
  }
};

// The best of each group yet. Codes leave sum(y y) - along along / square; those of absmax leave sum(y y) + left.
struct Best {
  alignas(64) int32_t factor[16], zero[16], better[16];
  alignas(64) double along[16], square[16], left[16];

  explicit Best(const int32_t* zeros) {
    for (int k = 0; k < 16; ++k) {
      factor[k] = 256;
      zero[k] = zeros[k];
      along[k] = 0;
      square[k] = 1;
    }
  }
  // Takes those of `which` that are better, and marks them. Loops over memory, not inlined, become instructions of
  // whole vectors; what is stored in any case needs no branch.
  NOINLINE void take(const Trial& trial, uint32_t which) {
    Best next;
    for (int k = 0; k < 16; ++k) {
      const double a = trial.along[k], s = trial.square[k];
      const bool now = along[k] * along[k] * s < a * a * square[k];
      next.better[k] = now ? -static_cast<int32_t>(which >> k & 1) : 0;
    }
    for (int k = 0; k < 16; ++k) {
      next.factor[k] = next.better[k] ? trial.factor[k] : factor[k];
      next.zero[k] = next.better[k] ? trial.zero[k] : zero[k];
      next.along[k] = next.better[k] ? trial.along[k] : along[k];
      next.square[k] = next.better[k] ? trial.square[k] : square[k];
      next.left[k] = left[k];
    }
    *this = next;
  }
  // Of absmax, or of what rounding may make of it at best.
  NOINLINE void set_left(const Trial& trial, double absmax, bool rounded) {
    alignas(64) double scale[16];
    for (int k = 0; k < 16; ++k) scale[k] = absmax;
    for (int k = 0; rounded && k < 16; ++k) scale[k] = trial.along[k] / (trial.square[k] < 1 ? 1 : trial.square[k]);
    for (int k = 0; k < 16; ++k) left[k] = scale[k] * (scale[k] * trial.square[k] - 2 * trial.along[k]);
  }
  uint32_t which() const { return lane_bits(load(reinterpret_cast<const uint32_t*>(better)) < splat(0)); }

 private:
  Best() = default;
};

template <class Sums>
NOINLINE Best search(const int32_t* middle, uint32_t groups, const Grid& grid, Sums&& sums) {
  Best best(middle);
  const int last = (1 << grid.bits) - 1;
  const int first = grid.symmetric ? 256 - (256 >> (grid.bits - 1)) : 256;
  const int wide = larger(1, grid.symmetric ? 192 >> grid.bits : 96 / last);
  int factor = first;
  for (int k = 0; k < kFirst; ++k) {
    factor = first + k * wide;
    Trial trial(factor, middle);
    if (grid.symmetric)
      sums.all(trial, groups);
    else
      sums.each(trial, groups);
    best.take(trial, groups);
    if (k == 0) best.set_left(trial, kAgain / first, grid.scale_dtype != Dtype::kFloat32);
  }
  uint32_t going = best.which();
  for (int k = kFirst; k < kMostTried && going; ++k) {
    factor += factor / 8;
    Trial trial(factor, middle);
    sums.each(trial, going);
    best.take(trial, going);
    going = best.which();
  }
  if (grid.symmetric) return best;
  const Best found = best;
  const auto tries = [&](const auto& change) {
    Trial trial(0, best.zero);
    for (int k = 0; k < 16; ++k) change(trial, k);
    sums.each(trial, groups);
    best.take(trial, groups);
  };
  for (int shift = -1; shift <= 1; shift += 2)
    tries([&](Trial& trial, int k) {
      trial.factor[k] = found.factor[k];
      trial.zero[k] = within(found.zero[k] + shift, 0, last);
    });
  tries([&](Trial& trial, int k) {
    const double again = kAgain * best.square[k] / (best.along[k] < 1 ? 1 : best.along[k]);
    trial.factor[k] = static_cast<int32_t>(__builtin_rint(again < INT16_MAX ? again : INT16_MAX));
  });
  return best;
}

// What sixteen groups of low..high are counted in, and what takes weights to parts of steps of it.
struct First {
  double scale[16];
  alignas(64) float lift[16], inverse[16];

  First(F32x16 low, F32x16 high, const Grid& grid) {
    alignas(64) float from[16], to[16];
    if (grid.symmetric) {
      store(to, select(high <= splat(0.0f) - low, low, high));
      const double inverse_half = -1.0 / (1 << (grid.bits - 1));
      for (int k = 0; k < 16; ++k) scale[k] = static_cast<double>(to[k]) * inverse_half;
    } else {
      store(from, low);
      store(to, high);
      for (int k = 0; k < 16; ++k) scale[k] = ideal_scale(from[k], to[k], grid);
    }
    for (int k = 0; k < 16; ++k) {
      lift[k] = __builtin_fabs(scale[k]) < static_cast<double>(1 / kLift) ? kLift : 1;
      from[k] = static_cast<float>(scale[k] * static_cast<double>(lift[k]));
    }
    const F32x16 lifted = load(from);
    store(inverse, select(splat(0.0f) < abs(lifted), splat(kPart) / lifted, splat(0.0f)));
  }
};

// The scales of sixteen groups before they were rounded to their dtype, and which of absmax might be as good.
struct Ideals {
  double scale[16];
  uint32_t doubtful;
};

// Scales and zero points of up to sixteen groups of low..high that follow each other.
template <class T, class Size>
NOINLINE Ideals fit_squares(const T* x, int64_t n, int count, Size size, const float* low, const float* high,
                            const Grid& grid, Grids& found) {
  ScaledWeights weights;
  const First first(load(low), load(high), grid);
  const int last = (1 << grid.bits) - 1;
  I32x16 middle = splat(1 << (grid.bits - 1));
  if (!grid.symmetric) {
    const F32x16 below = (splat(0.0f) - load(low)) * load(first.lift) * load(first.inverse) * splat(1 / kPart);
    middle = min(max(nearest(below), splat(0)), splat(last));
  }
  alignas(64) uint32_t zero[16];
  store(zero, middle);
  const auto* zeros = reinterpret_cast<const int32_t*>(zero);
  const auto searched = [&] {
    if (size * kTogether <= kStretch) {
      const auto stride = padded(size);
      each_group(n, count, size, [&](int k, int64_t at, auto some) {
        weights.set(k * stride, x + at, some, first.lift[k], first.inverse[k]);
        for (int64_t i = padded(some); i < stride; i += 16) store_rounded(weights.y + k * stride + i, splat(0.0f).r);
      });
      return search(zeros, (1u << count) - 1, grid, Groups{weights, stride, last});
    }
    const int64_t some = smaller(size, n);
    if (some <= kKept) weights.set(0, x, some, first.lift[0], first.inverse[0]);
    return search(zeros, 1, grid, Stretches<T>{weights, x, some, first.lift[0], first.inverse[0], last});
  };
  const Best best = searched();
  Ideals ideal;
  ideal.doubtful = 0;
  const Dtype dtype = grid.scale_dtype;
  const double rounded = dtype == Dtype::kFloat32 ? 0 : (dtype == Dtype::kFloat16 ? 1.0 / 256 : 0.25);
  const double each = rounded * (1 << 2 * grid.bits);
  const double normal = least_normal(dtype);
  for (int k = 0; k < 16; ++k) {
    ideal.scale[k] = first.scale[k] * (best.along[k] / best.square[k] / static_cast<double>(kPart));
    found.scale[k] = static_cast<float>(ideal.scale[k]);
    found.zero[k] = static_cast<float>(best.zero[k]);
    const double gain = best.along[k] * best.along[k] / best.square[k];
    const auto n_here = static_cast<double>(larger(int64_t{0}, smaller(size, n - k * size)));
    const bool close =
        (best.left[k] + gain < kClose * (n_here + 16) + each * n_here) | (__builtin_fabs(ideal.scale[k]) < normal);
    ideal.doubtful |= static_cast<uint32_t>(close) << k;
  }
  F32x16 scale = through(load(found.scale), grid.scale_dtype);
  if (grid.symmetric) {
    const F32x16 most = splat(grid.limit / static_cast<float>(1 << (grid.bits - 1)));
    ideal.doubtful |= lane_bits(most <= abs(scale));
    scale = from_bits(float_bits(min(abs(scale), most)) | (float_bits(scale) & splat(INT32_MIN)));
  }
  store(found.scale, scale + splat(0.0f));  // never -0
  return ideal;
}

}  // namespace
}  // namespace ISA
