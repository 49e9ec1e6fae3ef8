// Sums over blocks of a matrix, and matrices whose rows or columns are multiplied.
#pragma once
#include "weights.h"

namespace ISA {
namespace {

// The sum of n values in sixteen lanes; lanes that a short row leaves empty are not read.
inline float lane_sum(const float* p, int64_t n) {
  if (n >= 16) {
    F32x16 total = splat(0.0f);
    for_each_vector(n, [&](int64_t i, auto tail) { total = total + load(p + i, tail); });
    return sum(total);
  }
  float lane[16];
  __builtin_memcpy(lane, p, static_cast<size_t>(n) * sizeof(float));
  for (int64_t half = 8; half; half /= 2)
    for (int64_t j = 0; j < half && j + half < n; ++j) lane[j] += lane[j + half];
  return lane[0];
}

constexpr int64_t kColumns = 512;  // of sixteen lanes each, that stay in L1

// total[0][i] = sum down column i of `rows` rows, lane j taking rows j, j + 16, ...
template <class T, class Powered>
inline void sum_down(const T* x, int64_t rows, int64_t count, int64_t stride, const Powered& powered, Finite& finite,
                     float (*total)[kColumns]) {
  const int64_t used = smaller(16, rows);
  __builtin_memset(total, 0, static_cast<size_t>(used) * sizeof *total);
  for (int64_t r = 0; r < rows; ++r)
    for_each_vector(count, [&](int64_t i, auto tail) {
      __builtin_prefetch(x + (r + 2) * stride + i);
      const F32x16 v = load(x + r * stride + i, tail);
      finite.see(v);
      float* sums = total[r % 16] + i;
      store(sums, load(sums) + powered(v));
    });
  fold_rows(total, used, count);
}

FLATTEN bool block_sums(Weights w, int64_t rows, int64_t cols, int64_t stride, int64_t block_rows, int64_t block_cols,
                        int power, float* out, int64_t out_stride) {
  alignas(64) float total[16][kColumns];
  return typed(w, [&](auto* x) {
    const auto sums = [&](auto powered) {
      Finite finite;
      for (int64_t r = 0; r < rows; r += block_rows, out += out_stride) {
        if (block_cols > kColumns) {  // a block in several stretches
          for (int64_t c = 0, b = 0; c < cols; c += block_cols, ++b) {
            F32x16 all = splat(0.0f);
            for (int64_t i = 0; i < block_cols; i += kColumns) {
              const int64_t some = smaller(kColumns, block_cols - i);
              sum_down(x + r * stride + c + i, block_rows, some, stride, powered, finite, total);
              for_each_vector(some, [&](int64_t k, auto tail) { all = all + load(total[0] + k, tail); });
            }
            out[b] = sum(all);
          }
          continue;
        }
        const int64_t stretch = kColumns / block_cols * block_cols;  // several blocks at a time
        for (int64_t c = 0; c < cols; c += stretch) {
          const int64_t some = smaller(stretch, cols - c);
          sum_down(x + r * stride + c, block_rows, some, stride, powered, finite, total);
          float* to = out + c / block_cols;
          for (int64_t i = 0; i < some; i += block_cols) *to++ = lane_sum(total[0] + i, block_cols);
        }
      }
      return finite.all();
    };
    return power == 0 ? sums([](F32x16 v) { return v; }) : with_power(power, sums);
  });
}

// + 0: a weight that becomes zero is 0, not -0.
FLATTEN bool multiply(Weights w, const float* factor, bool by_row, int64_t rows, int64_t cols, MutableWeights out,
                      bool nontemporal) {
  const F32x16 zero = splat(0.0f);
  bool finite = true;
  for (int64_t r = 0; r < rows; ++r) {
    const F32x16 one = splat(by_row ? factor[r] : 0.0f);
    finite &= map_weights(w.at(r * cols), cols, out.at(r * cols), nontemporal, [&](F32x16 x, int64_t i, auto tail) {
      return x * (by_row ? one : load(factor + i, tail)) + zero;
    });
  }
  return finite;
}

}  // namespace
}  // namespace ISA
