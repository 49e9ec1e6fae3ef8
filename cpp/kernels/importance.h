#pragma once
#include "random.h"
#include "weights.h"

namespace ISA {
namespace {

FLATTEN bool magnitude(Weights w, int64_t n, float* out, bool nontemporal) {
  return typed(w, [&](auto* x) {
    Finite finite;
    with_target(out, nontemporal, [&](auto to) {
      for_each_vector(n, [&](int64_t i, auto tail) {
        const F32x16 v = load(x + i, tail);
        finite.see(v);
        store(to + i, abs(v), tail);
      });
    });
    return finite.all();
  });
}

FLATTEN bool product_magnitude(Weights w, Weights grad, int64_t n, float* out, bool nontemporal) {
  return typed(w, [&](auto* x) {
    return typed(grad, [&](auto* g) {
      Finite finite;
      with_target(out, nontemporal, [&](auto to) {
        for_each_vector(n, [&](int64_t i, auto tail) {
          const F32x16 a = load(x + i, tail), b = load(g + i, tail);
          finite.see(a);
          finite.see(b);
          store(to + i, abs(a * b), tail);
        });
      });
      return finite.all();
    });
  });
}

FLATTEN bool wanda(Weights w, const float* norm, int64_t rows, int64_t cols, float* out, bool nontemporal) {
  return typed(w, [&](auto* x) {
    Finite finite;
    with_target(out, nontemporal, [&](auto to) {
      for (int64_t r = 0; r < rows; ++r)
        for_each_vector(cols, [&](int64_t i, auto tail) {
          if (nontemporal) fetch_ahead(x + r * cols + i);  // in the caches it only costs
          const F32x16 v = load(x + r * cols + i, tail);
          finite.see(v);
          store(to + (r * cols + i), abs(v) * load(norm + i, tail), tail);
        });
    });
    return finite.all();
  });
}

// The sums of `count` rows side by side: each is one chain of additions, which alone would wait for one another. The
// processor itself fetches several rows ahead; one alone it fetches too late.
template <int count, class T, class Powered>
inline void sum_rows(const T* x, int64_t cols, const Powered& powered, auto fetched, float* out) {
  F32x16 totals[count];
  for (F32x16& total : totals) total = splat(0.0f);
  for_each_vector(cols, [&](int64_t i, auto tail) {
    for (int k = 0; k < count; ++k) {
      if (count == 1 || fetched) fetch_ahead(x + k * cols + i);
      totals[k] = totals[k] + powered(load(x + k * cols + i, tail));
    }
  });
  for (int k = 0; k < count; ++k) out[k] = sum(totals[k]);
}

// Whether all weights were finite of which `sums` of magnitudes or squares are made. NaN and infinity stay in a sum, so
// that finite sums have finite weights; others are ambiguous, and only then all weights are read again:
//   weights   1    2    3        sum 6
//   weights   1    inf  3        sum inf     not finite
//   weights   3e38 3e38 3e38     sum inf     finite: the sum alone overflowed
inline bool finite_sums(const float* sums, int64_t n, Weights w, int64_t rows, int64_t cols, int64_t stride) {
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) finite &= __builtin_isfinite(sums[i]);
  for (int64_t r = 0; !finite && r < rows; ++r)
    if (!all_finite(w.at(r * stride), cols)) return false;
  return true;
}

// Bytes of rows beyond which it gains a tenth to fetch several of them; only where lines go to L2.
constexpr int64_t kCachedRows = kAheadCache == 2 ? 4 << 20 : INT64_MAX;

FLATTEN bool norm_rows(Weights w, int64_t rows, int64_t cols, int power, float* out) {
  constexpr int kTogether = kRegs > 2 ? 2 : 4;  // whose totals fit into registers
  typed(w, [&]<class T>(const T* x) {
    with_constant(rows * cols * int64_t{sizeof(T)} > kCachedRows, [&](auto fetched) {
      with_power(power, [&](auto powered) {
        int64_t r = 0;
        for (; r + kTogether <= rows; r += kTogether)
          sum_rows<kTogether>(x + r * cols, cols, powered, fetched, out + r);
        for (; r < rows; ++r) sum_rows<1>(x + r * cols, cols, powered, fetched, out + r);
      });
    });
  });
  return finite_sums(out, rows, w, rows, cols, cols);
}

// Adds `depth` rows of a strip, which are 16 strides apart, to the totals of their lane. Fetched are the places that
// follow in the strip, in these rows or in those below them, which come next.
template <int depth, class T, class Powered>
inline void add_rows(const T* x, int64_t stride, int64_t n, float* sums, const Powered& powered) {
  constexpr int64_t kFetched = 512;
  for_each_vector(n, [&](int64_t i, auto tail) {
    const int64_t next = i + kFetched < n ? i + kFetched : i + kFetched - n + stride;
    F32x16 total = load(sums + i, tail);
    for (int d = 0; d < depth; ++d) {
      __builtin_prefetch(x + 16 * d * stride + next);
      total = total + powered(load(x + 16 * d * stride + i, tail));
    }
    store(sums + i, total, tail);
  });
}

// Lane j of a column takes rows j, j + 16, ...: sixteen rows of totals. Four rows of a lane are added at a visit, so
// that the totals are read and written a fourth as often as the weights are read.
FLATTEN bool norm_columns(Weights w, int64_t rows, int64_t cols, int64_t stride, int power, float* totals, float* out) {
  constexpr int kDepth = 4;
  const auto sums = [&](int lane) { return totals + lane * cols; };
  typed(w, [&](auto* x) {
    with_power(power, [&](auto powered) {
      __builtin_memset(totals, 0, static_cast<size_t>(16 * cols) * sizeof(float));
      for (int64_t r = 0; r < rows; r += 16 * kDepth)
        for (int j = 0; j < 16; ++j) {
          const auto* row = x + (r + j) * stride;
          if (r + j + 16 * (kDepth - 1) < rows)
            add_rows<kDepth>(row, stride, cols, sums(j), powered);
          else
            for (int64_t left = r + j; left < rows; left += 16, row += 16 * stride)
              add_rows<1>(row, stride, cols, sums(j), powered);
        }
    });
  });
  for (int half = 8; half; half /= 2)
    for (int j = 0; j < half; ++j)
      for_each_vector(cols, [&](int64_t i, auto tail) {
        store((half > 1 ? sums(j) : out) + i, load(sums(j) + i, tail) + load(sums(j + half) + i, tail), tail);
      });
  return finite_sums(out, cols, w, rows, cols, stride);
}

FLATTEN void uniform(uint64_t seed, uint64_t first, int64_t n, float* out) { uniform_from(seed, first, n, out); }

}  // namespace
}  // namespace ISA
