// Scores from what passes through a layer: gradients, curvatures, activations.
#pragma once
#include "exponential.h"
#include "weights.h"

namespace ISA {
namespace {

FLATTEN bool square_product(Weights w, Weights h, int64_t n, float factor, bool positive, float* out,
                            bool nontemporal) {
  const F32x16 by = splat(factor), zero = splat(0.0f), infinite = from_bits(splat(0x7f800000));
  return typed(w, [&](auto* x) {
    return typed(h, [&](auto* y) {
      Finite finite;
      with_target(out, nontemporal, [&](auto to) {
        for_each_vector(n, [&](int64_t i, auto tail) {
          const F32x16 a = load(x + i, tail), b = load(y + i, tail);
          finite.see(a);
          finite.see(positive ? select(b < zero, infinite, b) : b);
          store(to + i, a * (a * b) * by, tail);
        });
      });
      return finite.all();
    });
  });
}

// A few columns at a time, so that their counts stay in L1.
FLATTEN bool histogram(Weights x, int64_t rows, int64_t cols, int64_t stride, const float* lift, const float* low,
                       const float* scale, int64_t bins, int64_t* counts) {
  const F32x16 last = splat(static_cast<float>(bins - 1)), zero = splat(0.0f);
  return typed(x, [&](auto* p) {
    Finite finite;
    for (int64_t first = 0; first < cols; first += 64)
      for (int64_t r = 0; r < rows; ++r)
        for_each_vector(smaller(64, cols - first), [&](int64_t c, auto tail) {
          const int64_t at = first + c;
          const F32x16 v = load(p + r * stride + at, tail);
          finite.see(v);
          const F32x16 place = (v * load(lift + at, tail) - load(low + at, tail)) * load(scale + at, tail);
          alignas(64) uint32_t bin[16];
          store(bin, nearest(trunc(max(min(place, last), zero))));
          for (int64_t k = 0; k < smaller(16, cols - at); ++k) ++counts[(at + k) * bins + bin[k]];
        });
    return finite.all();
  });
}

FLATTEN bool logits(const float* x, int64_t n, const float* w, int64_t classes, int64_t inputs, const float* bias,
                    float* out) {
  Finite finite;
  for (int64_t j = 0; j < n; ++j)
    for (int64_t c = 0; c < classes; ++c) {
      F32x16 total = splat(0.0f);
      for_each_vector(inputs, [&](int64_t i, auto tail) {
        total = total + load(x + j * inputs + i, tail) * load(w + c * inputs + i, tail);
      });
      const float logit = sum(total) + bias[c];
      finite.see(splat(logit));
      out[j * classes + c] = logit;
    }
  return finite.all();
}

// The label's probability when `logit`, of the label itself or of another class, is what it is here. Both are fractions
// of e^logit and the others' sum, in units of the larger exponential, so that nothing overflows.
inline F32x16 label_probability(F32x16 logit, F32x16 others, F32x16 own, bool of_label) {
  const F32x16 zero = splat(0.0f), one = splat(1.0f);
  const Mask16 above = zero < logit;
  const F32x16 u = exp_nonpositive(zero - abs(logit));
  const F32x16 mine = select(above, one, u), theirs = select(above, u, one);
  return own * (of_label ? mine : theirs) / (others * theirs + mine);
}

// e^(logit - top) of all classes; their sum in sixteen lanes without class `without`. Returns that of class `wanted`.
inline float exponentials(const float* logits, int64_t classes, float top, int64_t without, int64_t wanted,
                          float* others) {
  const F32x16 most = splat(top), zero = splat(0.0f);
  F32x16 total = zero;
  float found = 0;
  for_each_vector(classes, [&](int64_t c, auto tail) {
    alignas(64) float lane[16];
    store(lane, exp_nonpositive(min(load(logits + c, tail) - most, zero)));
    if (wanted >= c && wanted < c + 16) found = lane[wanted - c];
    const int64_t here = smaller(16, classes - c);
    for (int64_t k = 0; k < 16; ++k)
      if (k >= here || c + k == without) lane[k] = 0;
    total = total + load(lane);
  });
  *others = sum(total);
  return found;
}

FLATTEN void softmax_terms(const float* logits, int64_t n, int64_t classes, const int64_t* label, SoftmaxTerm* terms) {
  for (int64_t j = 0; j < n; ++j, logits += classes, terms += classes) {
    int64_t top = 0;  // the class of the largest logit
    for (int64_t c = 1; c < classes; ++c)
      if (logits[c] > logits[top]) top = c;
    int64_t second = top == 0;
    for (int64_t c = 0; c < classes; ++c)
      if (c != top && logits[c] > logits[second]) second = c;
    float others, all;
    const float own = exponentials(logits, classes, logits[second], top, label[j], &others);
    const float own_below = exponentials(logits, classes, logits[top], -1, label[j], &all);
    for (int64_t c = 0; c < classes; ++c) {
      const bool is_label = c == label[j];
      SoftmaxTerm t;
      if (c == top) {
        t = {logits[c] - logits[second], others, is_label ? 1.0f : own, 0};
      } else {  // no cancellation: that of the top is 1, and at least a half of the sum stays
        const float e = first_lane(exp_nonpositive(splat(logits[c] - logits[top])));
        t = {logits[c] - logits[top], all - e, is_label ? 1.0f : own_below, 0};
      }
      t.probability = first_lane(label_probability(splat(t.logit), splat(t.others), splat(t.own), is_label));
      terms[c] = t;
    }
  }
}

FLATTEN void predictive(const float* w, const float* x, int64_t n, int64_t classes, int64_t inputs, int64_t first,
                        int64_t count, const int64_t* label, const SoftmaxTerm* terms, float* out) {
  constexpr int64_t kColumns = 512;
  alignas(64) float total[16][kColumns];
  for (int64_t c = first; c < first + count; ++c)
    for (int64_t at = 0; at < inputs; at += kColumns) {
      const int64_t some = smaller(kColumns, inputs - at);
      __builtin_memset(total, 0, sizeof total);
      for (int64_t j = 0; j < n; ++j) {
        const SoftmaxTerm& t = terms[j * classes + c];
        const F32x16 logit = splat(t.logit), others = splat(t.others), own = splat(t.own), p = splat(t.probability);
        with_constant(label[j] == c, [&](auto of_label) {
          for_each_vector(some, [&](int64_t i, auto tail) {
            const F32x16 moved = logit - load(w + c * inputs + at + i, tail) * load(x + j * inputs + at + i, tail);
            float* sums = total[j % 16] + i;
            store(sums, load(sums) + (p - label_probability(moved, others, own, of_label)));
          });
        });
      }
      fold_rows(total, 16, some);
      __builtin_memcpy(out + c * inputs + at, total[0], static_cast<size_t>(some) * sizeof(float));
    }
}

}  // namespace
}  // namespace ISA
