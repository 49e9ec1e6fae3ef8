// Passes from which algorithms/selection.cpp finds the k lowest scores of any number without sorting them.
#include "scores.h"

KERNEL bool selection_keys(Weights scores, int64_t n, bool absolute, uint32_t* keys) {
  return typed(scores, [&](auto* s) {
    Finite finite;
    sixteens(n, [&](int64_t i, auto part) {
      const F32x16 v = load(s + i, part);
      finite.see(v);
      alignas(64) uint32_t some[16];
      store(some, key_of(v, absolute));
      __builtin_memcpy(keys + i, some, static_cast<size_t>(smaller(16, n - i)) * sizeof(uint32_t));
    });
    return finite.all();
  });
}

// One comparison says low <= key <= high: as unsigned, key - low is at most high - low. Flipping the top bit of both
// sides turns the signed comparison that every ISA has into the unsigned one.
KERNEL bool collect_keys(Weights scores, int64_t n, bool by_magnitude, int32_t low, int32_t high, uint32_t* keys,
                         int64_t room, int64_t* collected, int64_t* below) {
  const uint32_t span = static_cast<uint32_t>(high) - static_cast<uint32_t>(low);
  const I32x16 start = splat(low), top = splat(INT32_MIN), limit = splat(static_cast<int32_t>(span ^ 0x80000000u));
  return typed(scores, [&](auto* s) {
    return with_constant(by_magnitude, [&](auto absolute) {
      Finite finite;
      int64_t under = 0, all = 0;
      uint32_t* end = keys;
      uint32_t* const last = keys + room - 16;
      sixteens(n, [&](int64_t i, auto part) {
        fetch_ahead(s + i);
        const F32x16 v = load(s + i, part);
        finite.see(v);
        const I32x16 key = key_of(v, absolute);
        under += __builtin_popcount(bits(key < start) & lanes(part));
        const uint32_t inside = bits(((key - start) ^ top) <= limit) & lanes(part);
        if (end <= last) end = append(end, inside, key);
        all += __builtin_popcount(inside);
      });
      *below = under;
      *collected = all;
      return finite.all();
    });
  });
}

KERNEL int64_t count_below(const uint32_t* keys, int64_t n, int32_t cut) {
  int64_t count = 0;
  const I32x16 c = splat(cut);
  sixteens(n, [&](int64_t i, auto part) { count += __builtin_popcount(bits(load(keys + i, part) < c) & lanes(part)); });
  return count;
}

// Bisection on the value: fewer than `rank` + 1 keys lie under the cut, and `ties` more equal to it make `rank`.
KERNEL Below select_rank(const uint32_t* keys, int64_t n, int64_t rank) {
  int64_t low = INT32_MIN, high = int64_t{INT32_MAX} + 1, under = 0;  // count_below(low) <= rank < count_below(high)
  I32x16 least = splat(INT32_MAX), most = splat(INT32_MIN);
  sixteens(n, [&](int64_t i, auto part) {
    const I32x16 key = load(keys + i, part);
    const Mask16 valid = mask_of(lanes(part));
    least = min(least, select(valid, key, least));
    most = max(most, select(valid, key, most));
  });
  low = -static_cast<int64_t>(largest(splat(-1) - least)) - 1;
  high = static_cast<int64_t>(largest(most)) + 1;
  if (rank <= 0) return {static_cast<int32_t>(low), 0};
  if (rank >= n) return {static_cast<int32_t>(smaller(high, INT32_MAX)), high > INT32_MAX ? n : 0};
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2, count = count_below(keys, n, static_cast<int32_t>(middle));
    if (count == rank) return {static_cast<int32_t>(middle), 0};
    if (count < rank) {
      low = middle;
      under = count;
    } else {
      high = middle;
    }
  }
  return {static_cast<int32_t>(low), rank - under};
}

// Bits of the keys that go: those under the cut, and the first of those equal to it while ties are left.
inline uint32_t fallen(I32x16 key, Below& below, uint32_t valid) {
  uint32_t gone = bits(key < splat(below.cut)) & valid;
  if (below.ties > 0)
    for (uint32_t equal = bits(key == splat(below.cut)) & valid; equal && below.ties > 0;
         equal &= equal - 1, --below.ties)
      gone |= equal & -equal;
  return gone;
}

APART Below mask_some(Weights scores, int64_t n, bool absolute, Below below, uint8_t* mask) {
  typed(scores, [&](auto* s) {
    sixteens(n, [&](int64_t i, auto part) {
      const uint32_t gone = fallen(key_of(load(s + i, part), absolute), below, lanes(part));
      store_mask(mask + i, mask_of(~gone & 0xffff), part);
    });
  });
  return below;
}

KERNEL void mask_below(Weights scores, int64_t n, bool absolute, Below below, uint8_t* mask) {
  mask_some(scores, n, absolute, below, mask);
}

KERNEL bool prune_below(Weights w, Weights scores, int64_t n, bool absolute, Below below, MutableWeights out,
                        bool streamed) {
  if (!absolute || scores.data != w.data || below.ties > 0) {
    alignas(64) uint8_t mask[kStretch];
    bool finite = true;
    for (int64_t i = 0; i < n; i += kStretch) {
      const int64_t some = smaller(kStretch, n - i);
      below = mask_some(scores.at(i), some, absolute, below, mask);
      finite &= mask_weights(w.at(i), mask, some, out.at(i), streamed);
    }
    return finite;
  }
  const I32x16 cut = splat(below.cut);
  return map_weights(w, n, out, streamed,
                     [&](F32x16 x, int64_t, auto) { return select(magnitude_bits(x) < cut, splat(0.0f), x); });
}

KERNEL bool count_keys(Weights scores, int64_t n, bool by_magnitude, bool upper, int32_t prefix, int64_t* bins) {
  const I32x16 wanted = splat(prefix);
  return typed(scores, [&](auto* s) {
    return with_constant(by_magnitude, [&](auto absolute) {
      Finite finite;
      sixteens(n, [&](int64_t i, auto part) {
        fetch_ahead(s + i);
        const F32x16 v = load(s + i, part);
        finite.see(v);
        const I32x16 key = key_of(v, absolute), half = shift_right_signed<16>(key);
        alignas(64) uint32_t lane[16];
        if (upper) {
          store(lane, half + splat(1 << 15));
          for (int64_t k = 0; k < smaller(16, n - i); ++k) ++bins[lane[k]];
        } else {
          uint32_t inside = bits(half == wanted) & lanes(part);
          if (inside) store(lane, key & splat(0xffff));
          for (; inside; inside &= inside - 1) ++bins[lane[__builtin_ctz(inside)]];
        }
      });
      return finite.all();
    });
  });
}
