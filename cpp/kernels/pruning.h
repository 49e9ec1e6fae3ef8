#pragma once
#include "scores.h"

namespace ISA {
namespace {

FLATTEN bool threshold(Weights w, int64_t n, float t, ThresholdMode mode, MutableWeights out, bool nontemporal) {
  const F32x16 cut = splat(t), zero = splat(0.0f);
  const I32x16 sign = splat(INT32_MIN);
  switch (mode) {
    case ThresholdMode::kMagnitude:
      return map_weights(w, n, out, nontemporal,
                         [&](F32x16 x, int64_t, auto) { return select(abs(x) < cut, zero, x); });
    case ThresholdMode::kSigned:
      return map_weights(w, n, out, nontemporal, [&](F32x16 x, int64_t, auto) { return select(x <= cut, zero, x); });
    default:
      return map_weights(w, n, out, nontemporal, [&](F32x16 x, int64_t, auto) {
        const F32x16 shrunk = from_bits(float_bits(abs(x) - cut) | (float_bits(x) & sign));
        return select(abs(x) <= cut, zero, shrunk);
      });
  }
}

FLATTEN bool apply_mask(Weights w, const uint8_t* mask, int64_t n, MutableWeights out, bool nontemporal) {
  return mask_weights(w, mask, n, out, nontemporal);
}

FLATTEN int64_t count_nonzero(Weights w, int64_t n) {
  constexpr int64_t kMost = int64_t{1} << 30;  // so that no lane's count overflows
  return typed(w, [&](auto* x) {
    int64_t zeros = 0;
    for (int64_t first = 0; first < n; first += kMost) {
      I32x16 counts = splat(0);
      for_each_vector(smaller(kMost, n - first), [&](int64_t i, auto tail) {
        fetch_ahead(x + first + i);
        const Mask16 zero = magnitude_bits(load(x + first + i, tail)) == splat(0);
        counts = counts + select(zero & mask_of(lanes(tail)), splat(1), splat(0));
      });
      zeros += sum(counts);
    }
    return n - zeros;
  });
}

FLATTEN bool is_finite(Weights w, int64_t n) { return all_finite(w, n); }

// Which of four consecutive keys outrank at least `removed` others of the four. Lane j sees lanes j + 1, j + 2, j + 3
// (mod 4) in turn. A key outranks equal ones that come before it: for those, + 1 makes < of <=. Of keys 5 5 2 9:
//   lane                    0      1      2      3
//   a: rotated by 1     5 < 5  2 < 5  9 < 2  5 < 10     no  yes no  yes    lane 3 sees lane 0, before it
//   b: rotated by 2     2 < 5  9 < 5  5 < 3  5 < 10     yes no  no  yes
//   c: rotated by 3     9 < 5  5 < 6  5 < 3  2 < 10     no  yes no  yes
// Two are removed: lanes 1 and 3 have two yes or more and stay, and of the equal 5s the later one is kept.
inline Mask16 keep_of_four(I32x16 key, int removed) {
  alignas(64) static const uint32_t before1[16] = {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1};
  alignas(64) static const uint32_t before2[16] = {0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1};
  alignas(64) static const uint32_t before3[16] = {0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1};
  const Mask16 a = rotate_quads<1>(key) < key + load(before1);
  const Mask16 b = rotate_quads<2>(key) < key + load(before2);
  const Mask16 c = rotate_quads<3>(key) < key + load(before3);
  if (removed == 1) return a | b | c;
  if (removed == 2) return (a & b) | (c & (a | b));
  return a & b & c;
}

// The higher of two, of equals the second: in lane 0 of a pair a strict comparison, in lane 1 one that equality passes.
inline Mask16 keep_of_two(I32x16 key) {
  alignas(64) static const uint32_t before[16] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
  return swap_pairs(key) < key + load(before);
}

// The bits of the m <= 32 keys at p that outrank at least `removed` others.
template <class T>
NOINLINE uint32_t keep_of(const T* p, int m, int removed, bool absolute) {
  const int tail = m - 16;
  const I32x16 beyond = splat(INT32_MAX);  // never below anything
  const Mask16 valid0 = mask_of(tail >= 0 ? 0xffff : (1u << m) - 1), valid1 = mask_of(tail > 0 ? (1u << tail) - 1 : 0);
  const I32x16 k0 = select(valid0, key_of(tail >= 0 ? load(p) : load(p, m), absolute), beyond);
  const I32x16 k1 = select(valid1, key_of(load(p + 16, tail > 0 ? tail : 0), absolute), beyond);
  alignas(64) uint32_t keys[32];
  store(keys, k0);
  store(keys + 16, k1);
  uint32_t keep = 0;
  for (int i = 0; i < m; ++i) {
    const I32x16 k = splat(static_cast<int32_t>(keys[i]));
    const uint32_t lower = lane_bits(k0 < k) | lane_bits(k1 < k) << 16, equal = lane_bits(k0 == k) | lane_bits(k1 == k)
                                                                                                         << 16;
    const int outranked = __builtin_popcount(lower) + __builtin_popcount(equal & ((1u << i) - 1));
    keep |= static_cast<uint32_t>(outranked >= removed) << i;
  }
  return keep;
}

// Calls many(i, mask of what stays) for sixteen scores at a time, or group(i, bits of what stays) for each m of them.
template <class T, class Many, class Group>
inline void each_n_of_m(const T* s, int64_t count, int n, int m, auto absolute, const Many& many, const Group& group) {
  const auto sixteen = [&](auto keep) {
    for_each_vector(count, [&](int64_t i, auto tail) { many(i, keep(key_of(load(s + i, tail), absolute)), tail); });
  };
  if (m == 2) return sixteen([](I32x16 key) { return keep_of_two(key); });
  if (m == 4 && n == 3) return sixteen([](I32x16 key) { return keep_of_four(key, 1); });
  if (m == 4 && n == 2) return sixteen([](I32x16 key) { return keep_of_four(key, 2); });
  if (m == 4) return sixteen([](I32x16 key) { return keep_of_four(key, 3); });
  for (int64_t i = 0; i < count; i += m) group(i, keep_of(s + i, m, m - n, absolute));
}

NOINLINE bool n_of_m_mask(Weights scores, int64_t count, int n, int m, bool absolute, uint8_t* mask) {
  typed(scores, [&](auto* s) {
    each_n_of_m(
        s, count, n, m, absolute, [&](int64_t i, Mask16 keep, auto tail) { store_mask(mask + i, keep, tail); },
        [&](int64_t i, uint32_t keep) {
          for (int j = 0; j < m; ++j) mask[i + j] = keep >> j & 1;
        });
  });
  return all_finite(scores, count);
}

FLATTEN bool prune_n_of_m(Weights w, Weights scores, int64_t count, int n, int m, bool absolute, MutableWeights out,
                          bool nontemporal) {
  if (!absolute || scores.data != w.data) {
    alignas(64) uint8_t mask[64 * 32];
    const int64_t stretch = 64 * m;  // whole groups, whole lines
    bool finite = true;
    for (int64_t i = 0; i < count; i += stretch) {
      const int64_t some = smaller(stretch, count - i);
      finite &= n_of_m_mask(scores.at(i), some, n, m, absolute, mask);
      finite &= mask_weights(w.at(i), mask, some, out.at(i), nontemporal);
    }
    return finite;
  }
  return typed(w, [&](auto* x) {
    Finite finite;
    with_target(as_type_of(x, out), nontemporal && (m == 2 || m == 4), [&](auto to) {
      const auto put = [&](int64_t i, Mask16 keep, auto tail) {
        if (nontemporal) fetch_ahead(x + i);
        const F32x16 v = load(x + i, tail);
        finite.see(v);
        store(to + i, select(keep, v, splat(0.0f)), tail);
      };
      each_n_of_m(x, count, n, m, std::true_type{}, put, [&](int64_t i, uint32_t keep) {
        for (int j = 0; j < m; j += 16) put(i + j, mask_of(keep >> j & 0xffff), Tail{smaller(16, m - j)});
      });
    });
    return finite.all();
  });
}

FLATTEN bool shrink(Weights w, int64_t n, float l1, float divisor, MutableWeights out, bool nontemporal) {
  const F32x16 cut = splat(l1), by = splat(divisor);
  const I32x16 sign = splat(INT32_MIN);
  return map_weights(w, n, out, nontemporal, [&](F32x16 x, int64_t, auto) {
    const F32x16 left = (abs(x) - cut) / by;
    return select(abs(x) <= cut, splat(0.0f), from_bits(float_bits(left) | (float_bits(x) & sign)));
  });
}

}  // namespace
}  // namespace ISA
