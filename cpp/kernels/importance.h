#include "random.h"
#include "weights.h"

KERNEL bool magnitude(Weights w, int64_t n, float* out, bool streamed) {
  return typed(w, [&](auto* x) {
    Finite finite;
    with_target(out, streamed, [&](auto to) {
      sixteens(n, [&](int64_t i, auto part) {
        const F32x16 v = load(x + i, part);
        finite.see(v);
        store(to + i, abs(v), part);
      });
    });
    return finite.all();
  });
}

KERNEL bool product_magnitude(Weights w, Weights grad, int64_t n, float* out, bool streamed) {
  return typed(w, [&](auto* x) {
    return typed(grad, [&](auto* g) {
      Finite finite;
      with_target(out, streamed, [&](auto to) {
        sixteens(n, [&](int64_t i, auto part) {
          const F32x16 a = load(x + i, part), b = load(g + i, part);
          finite.see(a);
          finite.see(b);
          store(to + i, abs(a * b), part);
        });
      });
      return finite.all();
    });
  });
}

KERNEL bool wanda(Weights w, const float* norm, int64_t rows, int64_t cols, float* out, bool streamed) {
  return typed(w, [&](auto* x) {
    Finite finite;
    with_target(out, streamed, [&](auto to) {
      for (int64_t r = 0; r < rows; ++r)
        sixteens(cols, [&](int64_t i, auto part) {
          const F32x16 v = load(x + r * cols + i, part);
          finite.see(v);
          store(to + (r * cols + i), abs(v) * load(norm + i, part), part);
        });
    });
    return finite.all();
  });
}

// Calls body with what is summed: |x| or x * x.
template <class Body>
inline bool with_power(int power, const Body& body) {
  if (power == 1) return body([](F32x16 x) { return abs(x); });
  return body([](F32x16 x) { return x * x; });
}

KERNEL bool norm_rows(Weights w, int64_t rows, int64_t cols, int power, float* out) {
  return typed(w, [&](auto* x) {
    return with_power(power, [&](auto powered) {
      Finite finite;
      for (int64_t r = 0; r < rows; ++r) {
        F32x16 total = splat(0.0f);
        sixteens(cols, [&](int64_t i, auto part) {
          fetch_ahead(x + r * cols + i);
          const F32x16 v = load(x + r * cols + i, part);
          finite.see(v);
          total = total + powered(v);
        });
        out[r] = sum(total);
      }
      return finite.all();
    });
  });
}

// Lane j of a column takes rows j, j + 16, ...: sixteen rows of totals, for as many columns as stay in L1.
KERNEL bool norm_columns(Weights w, int64_t rows, int64_t cols, int64_t stride, int power, float* out) {
  constexpr int64_t kColumns = 512;
  alignas(64) float total[16][kColumns];
  return typed(w, [&](auto* x) {
    return with_power(power, [&](auto powered) {
      Finite finite;
      for (int64_t first = 0; first < cols; first += kColumns) {
        const int64_t count = smaller(kColumns, cols - first);
        __builtin_memset(total, 0, sizeof total);
        for (int64_t r = 0; r < rows; ++r)
          sixteens(count, [&](int64_t i, auto part) {
            __builtin_prefetch(x + (r + 2) * stride + first + i);
            const F32x16 v = load(x + r * stride + first + i, part);
            finite.see(v);
            float* sums = total[r % 16] + i;
            store(sums, load(sums) + powered(v));
          });
        for (int half = 8; half; half /= 2)
          for (int j = 0; j < half; ++j)
            for (int64_t i = 0; i < count; i += 16) store(&total[j][i], load(&total[j][i]) + load(&total[j + half][i]));
        __builtin_memcpy(out + first, total[0], static_cast<size_t>(count) * sizeof(float));
      }
      return finite.all();
    });
  });
}

KERNEL void uniform(uint64_t seed, uint64_t first, int64_t n, float* out) { uniform_from(seed, first, n, out); }
