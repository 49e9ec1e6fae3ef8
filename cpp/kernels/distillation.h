#pragma once
#include "exponential.h"
#include "weights.h"

namespace ISA {
namespace {

// A logit that is further below the largest of its row counts as this far: what it is multiplied with stays finite.
constexpr float kFarthest = -1e38f;

// Logits of -inf are those of masked classes: their probability is 0.
inline Mask16 masked(F32x16 v) { return v < splat(-__FLT_MAX__); }

// What exp takes: a row's logits less their largest, over the temperature.
struct Exponents {
  float largest, inverse_temperature;
  bool masks;  // whether a class is masked
  F32x16 operator()(F32x16 v) const { return max((v - splat(largest)) * splat(inverse_temperature), splat(kFarthest)); }
  Exponents at(float inverse) const { return {largest, inverse, masks}; }
};

// Lanes past the end, which load as 0, as `rest`.
inline F32x16 ended(F32x16 v, Full, float) { return v; }
inline F32x16 ended(F32x16 v, Tail tail, float rest) { return select(mask_of(lanes(tail)), v, splat(rest)); }

// The highest of sixteen lanes.
inline float highest(F32x16 v) {
  alignas(64) float lane[16];
  store(lane, v);
  for (float x : lane) lane[0] = x > lane[0] ? x : lane[0];
  return lane[0];
}

inline Exponents exponents_of(Weights row, int64_t n, float inverse_temperature, Finite& finite) {
  const F32x16 lowest = splat(-__FLT_MAX__);
  F32x16 most = splat(-__builtin_inff()), least = splat(0.0f);
  typed(row, [&](auto* x) {
    for_each_vector(n, [&](int64_t i, auto tail) {
      fetch_ahead(x + i);
      const F32x16 v = load(x + i, tail);
      finite.see(max(lowest, v));  // NaN stays, -inf does not
      most = max(ended(v, tail, -__builtin_inff()), most);
      least = min(v, least);
    });
  });
  const float largest = highest(most);
  finite.see(splat(largest));  // -inf where all classes are masked
  return {largest, inverse_temperature, highest(select(masked(least), splat(1.0f), splat(0.0f))) > 0};
}

// body(i, tail, x, e) for sixteen exponents x and their exponentials e, 0 past the end; the sum of e.
template <class Body>
inline float softmax_sum(Weights row, int64_t n, const Exponents& exponents, const Body& body) {
  F32x16 total = splat(0.0f);
  typed(row, [&](auto* logits) {
    for_each_vector(n, [&](int64_t i, auto tail) {
      const F32x16 x = exponents(load(logits + i, tail)), e = ended(exp_nonpositive(x), tail, 0);
      total = total + e;
      body(i, tail, x, e);
    });
  });
  return sum(total);
}

// What the student is to give, p = softened * share, and sum p * log p = neg_entropy * share - log_sum.
struct Target {
  float share, neg_entropy, log_sum;
};

inline Target one_teacher(Weights row, int64_t n, float inverse_temperature, float* softened, Finite& finite) {
  const Exponents exponents = exponents_of(row, n, inverse_temperature, finite);
  F32x16 neg_entropy = splat(0.0f);
  const float total = softmax_sum(row, n, exponents, [&](int64_t i, auto tail, F32x16 x, F32x16 e) {
    store(softened + i, e, tail);
    neg_entropy = neg_entropy + e * x;
  });
  return {ieee_quotient(1.0f, total), sum(neg_entropy), log(total)};
}

inline Target target_of(const Weights* teachers, int count, int64_t first, int64_t n, float inverse_temperature,
                        float* softened, Finite& finite) {
  if (count == 1) return one_teacher(teachers[0].at(first), n, inverse_temperature, softened, finite);
  __builtin_memset(softened, 0, static_cast<size_t>(n) * sizeof(float));
  for (int k = 0; k < count; ++k) {
    const Weights row = teachers[k].at(first);
    const Exponents exponents = exponents_of(row, n, inverse_temperature, finite);
    const float total = softmax_sum(row, n, exponents, [](int64_t, auto, F32x16, F32x16) {});
    const F32x16 share = splat(ieee_quotient(1.0f, static_cast<float>(count) * total));
    softmax_sum(row, n, exponents, [&](int64_t i, auto tail, F32x16, F32x16 e) {
      store(softened + i, load(softened + i, tail) + e * share, tail);
    });
  }
  F32x16 neg_entropy = splat(0.0f);
  for_each_vector(n, [&](int64_t i, auto tail) {
    const F32x16 p = load(softened + i, tail);
    neg_entropy = neg_entropy + p * log(p);
  });
  return {1.0f, sum(neg_entropy), 0.0f};
}

// A student's row of logits beside what it is to give, and what each term of its loss and of its gradient weighs.
struct LossWeights {
  float inverse_temperature, soft, hard;
  double soft_loss, hard_loss;
  bool tempered;
};

// The loss against the target, whose softened probabilities are in grad; total: the sum of the student's exponentials.
inline double divergence_of(Weights row, int64_t n, const Exponents& exponents, const Target& target, const float* grad,
                            float& total) {
  F32x16 cross = splat(0.0f);
  total = softmax_sum(row, n, exponents,
                      [&](int64_t i, auto tail, F32x16 x, F32x16) { cross = cross + load(grad + i, tail) * x; });
  const double neg_entropy = target.neg_entropy, log_total = log(total);
  return (neg_entropy - sum(cross)) * target.share + (log_total - target.log_sum);
}

// Whether a row masks a class that has a probability in the target, whose softened probabilities are in grad.
inline bool masks_possible(Weights row, int64_t n, const float* grad) {
  F32x16 lost = splat(0.0f);
  typed(row, [&](auto* logits) {
    for_each_vector(n, [&](int64_t i, auto tail) {
      lost = max(lost, select(masked(load(logits + i, tail)), load(grad + i, tail), splat(0.0f)));
    });
  });
  return highest(lost) > 0;
}

// The gradient takes the place of the softened target. hot_total: of exponentials at temperature 1.
template <bool labelled, bool tempered>
inline void gradient_of(Weights row, int64_t n, const LossWeights& weight, const Exponents& exponents, float share,
                        float total, float hot_total, float* grad) {
  const F32x16 inverse = splat(ieee_quotient(1.0f, total)), hot_inverse = splat(ieee_quotient(1.0f, hot_total));
  const Exponents hot = exponents.at(1.0f);
  typed(row, [&](auto* logits) {
    for_each_vector(n, [&](int64_t i, auto tail) {
      const F32x16 v = load(logits + i, tail), e = exp_nonpositive(exponents(v));
      F32x16 g = splat(weight.soft) * (e * inverse - load(grad + i, tail) * splat(share));
      if constexpr (labelled) {
        const F32x16 h = tempered ? exp_nonpositive(hot(v)) : e;
        g = g + splat(weight.hard) * (h * hot_inverse);
      }
      store(grad + i, g, tail);
    });
  });
}

inline float element(Weights row, int64_t i) {
  return typed(row, [&](auto* x) { return first_lane(load(x + i, 1)); });
}

// The cross-entropy with the label is added to the loss, and its gradient to what gradient_of writes.
inline double label_loss(Weights row, int64_t n, int64_t label, const LossWeights& weight, const Exponents& exponents,
                         float share, float total, float* grad) {
  const Exponents hot = exponents.at(1.0f);
  const float exponent = first_lane(hot(splat(element(row, label))));
  if (weight.tempered) {
    const float hot_total = softmax_sum(row, n, hot, [](int64_t, auto, F32x16, F32x16) {});
    gradient_of<true, true>(row, n, weight, exponents, share, total, hot_total, grad);
    total = hot_total;
  } else {
    gradient_of<true, false>(row, n, weight, exponents, share, total, total, grad);
  }
  grad[label] -= weight.hard;
  return static_cast<double>(log(total)) - static_cast<double>(exponent);
}

FLATTEN bool distill(Weights student, const Weights* teachers, int count, const int64_t* labels, int64_t first,
                     int64_t rows, int64_t cols, double temperature, double alpha, int64_t batch, double* loss,
                     float* grad) {
  int64_t labelled = 0;
  for (int64_t r = 0; labels && r < batch; ++r) labelled += labels[r] >= 0;
  const double size = static_cast<double>(batch), counted = static_cast<double>(labelled > 0 ? labelled : 1);
  const LossWeights weight = {static_cast<float>(1 / temperature),
                              static_cast<float>(alpha * temperature / size),
                              static_cast<float>((1 - alpha) / counted),
                              alpha * temperature * temperature,
                              (1 - alpha) * (size / counted),  // the caller divides by the size of the batch
                              temperature != 1};
  Finite finite;
  bool all_defined = true;
  for (int64_t r = first; r < first + rows; ++r) {
    float* g = grad + r * cols;
    const Target target = target_of(teachers, count, r * cols, cols, weight.inverse_temperature, g, finite);
    const Weights row = student.at(r * cols);
    const Exponents exponents = exponents_of(row, cols, weight.inverse_temperature, finite);
    float total;
    const double divergence = divergence_of(row, cols, exponents, target, g, total);
    loss[r] = alpha == 0 ? 0 : weight.soft_loss * divergence;  // which masked classes may make infinite
    all_defined &= alpha == 0 || !exponents.masks || !masks_possible(row, cols, g);
    const bool has_label = labels && labels[r] >= 0;
    all_defined &= !has_label || alpha == 1 || element(row, labels[r]) >= -__FLT_MAX__;
    if (has_label)
      loss[r] += weight.hard_loss * label_loss(row, cols, labels[r], weight, exponents, target.share, total, g);
    else
      gradient_of<false, false>(row, cols, weight, exponents, target.share, total, total, g);
  }
  return all_defined && finite.all();
}

}  // namespace
}  // namespace ISA
