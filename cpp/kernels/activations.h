// Scores from what passes through a layer: gradients, curvatures, activations.
#include "weights.h"

KERNEL bool square_product(Weights w, Weights h, int64_t n, float factor, bool positive, float* out, bool streamed) {
  const F32x16 by = splat(factor), zero = splat(0.0f), infinite = from_bits(splat(0x7f800000));
  return typed(w, [&](auto* x) {
    return typed(h, [&](auto* y) {
      Finite finite;
      with_target(out, streamed, [&](auto to) {
        sixteens(n, [&](int64_t i, auto part) {
          const F32x16 a = load(x + i, part), b = load(y + i, part);
          finite.see(a);
          finite.see(positive ? select(b < zero, infinite, b) : b);
          store(to + i, a * (a * b) * by, part);
        });
      });
      return finite.all();
    });
  });
}

// A few columns at a time, so that their counts stay in L1.
KERNEL bool histogram(Weights x, int64_t rows, int64_t cols, int64_t stride, const float* lift, const float* low,
                      const float* scale, int64_t bins, int64_t* counts) {
  const F32x16 last = splat(static_cast<float>(bins - 1)), zero = splat(0.0f);
  return typed(x, [&](auto* p) {
    Finite finite;
    for (int64_t first = 0; first < cols; first += 64)
      for (int64_t r = 0; r < rows; ++r)
        sixteens(smaller(64, cols - first), [&](int64_t c, auto part) {
          const int64_t at = first + c;
          const F32x16 v = load(p + r * stride + at, part);
          finite.see(v);
          const F32x16 place = (v * load(lift + at, part) - load(low + at, part)) * load(scale + at, part);
          alignas(64) uint32_t bin[16];
          store(bin, nearest(trunc(max(min(place, last), zero))));
          for (int64_t k = 0; k < smaller(16, cols - at); ++k) ++counts[(at + k) * bins + bin[k]];
        });
    return finite.all();
  });
}
