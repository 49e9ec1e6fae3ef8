// Passes from which algorithms/selection.cpp finds the k lowest scores of any number without sorting them.
#pragma once
#include "scores.h"

namespace ISA {
namespace {

FLATTEN bool selection_keys(Weights scores, int64_t n, bool absolute, uint32_t* keys) {
  return typed(scores, [&](auto* s) {
    Finite finite;
    for_each_vector(n, [&](int64_t i, auto tail) {
      const F32x16 v = load(s + i, tail);
      finite.see(v);
      alignas(64) uint32_t some[16];
      store(some, key_of(v, absolute));
      __builtin_memcpy(keys + i, some, static_cast<size_t>(smaller(16, n - i)) * sizeof(uint32_t));
    });
    return finite.all();
  });
}

// Appends those of 64 keys that have a bit. Mostly there are none to two of them: those take no branch to mispredict.
inline uint32_t* append_few(uint32_t* end, const uint32_t* keys, uint64_t marks) {
  for (int k = 0; k < 2; ++k) {
    *end = keys[__builtin_ctzll(marks | uint64_t{1} << 63)];
    end += marks != 0;
    marks &= marks - 1;
  }
  for (; marks; marks &= marks - 1) *end++ = keys[__builtin_ctzll(marks)];
  return end;
}

// Appends the keys of low..high to `keys` while there is room for them, and counts those and the ones below. Keys are
// marked first and moved afterwards: a branch for each sixteen would be mispredicted, and memory would wait meanwhile.
// One comparison says low <= key <= high: as unsigned, key - low is at most high - low. Of low = -3 and high = 5:
//   key                      -4     -3      0      5      6
//   key - low, unsigned   2^32-1     0      3      8      9     inside: those up to 8
// Flipping the top bit of both sides turns the signed comparison that every ISA has into the unsigned one; the flip of
// key - low is in `start`.
template <class Key>
inline void collect(int64_t n, int32_t low, int32_t high, uint32_t* keys, int64_t room, int64_t* collected,
                    int64_t* below, const Key& key_at) {
  constexpr int64_t kBatch = 1024;
  alignas(64) uint32_t batch[kBatch];
  const uint32_t flip = 0x80000000u, span = static_cast<uint32_t>(high) - static_cast<uint32_t>(low);
  const I32x16 start = splat(static_cast<int32_t>(static_cast<uint32_t>(low) ^ flip)), lowest = splat(low),
               limit = splat(static_cast<int32_t>(span ^ flip));
  I32x16 under = splat(0);  // of each lane, for a slice of a set: they do not overflow
  int64_t all = 0;
  uint32_t* end = keys;
  uint32_t* const last = keys + room - 16;
  for (int64_t first = 0; first < n; first += kBatch) {
    const int64_t some = smaller(kBatch, n - first);
    uint16_t marks[kBatch / 16];  // a bit for each key of the batch that is inside
    for (int64_t i = some / 16; i < kBatch / 16; ++i) marks[i] = 0;
    for_each_vector(some, [&](int64_t i, auto tail) {
      const I32x16 key = key_at(first + i, tail);
      store(batch + i, key);
      const Mask16 less = key < lowest;
      under = under - minus_ones(std::is_same_v<decltype(tail), Full> ? less : less & mask_of(lanes(tail)));
      marks[i / 16] = static_cast<uint16_t>(~lane_bits(limit < key - start) & lanes(tail));
    });
    uint64_t sixty_four[kBatch / 64];
    __builtin_memcpy(sixty_four, marks, sizeof marks);
    int64_t here = 0;
    for (const uint64_t m : sixty_four) here += __builtin_popcountll(m);
    all += here;
    if (end + here <= last)
      for (size_t k = 0; k < kBatch / 64; ++k) end = append_few(end, batch + 64 * k, sixty_four[k]);
  }
  *below = sum(under);
  *collected = all;
}

FLATTEN bool collect_keys(Weights scores, int64_t n, bool by_magnitude, int32_t low, int32_t high, uint32_t* keys,
                          int64_t room, int64_t* collected, int64_t* below) {
  return typed(scores, [&](auto* s) {
    return with_constant(by_magnitude, [&](auto absolute) {
      Finite finite;
      collect(n, low, high, keys, room, collected, below, [&](int64_t i, auto tail) {
        fetch_ahead(s + i);
        const F32x16 v = load(s + i, tail);
        finite.see(v);
        return key_of(v, absolute);
      });
      return finite.all();
    });
  });
}

FLATTEN void narrow_keys(const uint32_t* from, int64_t n, int32_t low, int32_t high, uint32_t* keys, int64_t room,
                         int64_t* collected, int64_t* below) {
  collect(n, low, high, keys, room, collected, below, [&](int64_t i, auto tail) { return load(from + i, tail); });
}

FLATTEN int64_t count_below(const uint32_t* keys, int64_t n, int32_t cut) {
  int64_t count = 0;
  const I32x16 c = splat(cut);
  for_each_vector(
      n, [&](int64_t i, auto tail) { count += __builtin_popcount(lane_bits(load(keys + i, tail) < c) & lanes(tail)); });
  return count;
}

// Bisection on the value: fewer than `rank` + 1 keys are under the cut, and `ties` more equal to it make `rank`.
FLATTEN Cutoff select_rank(const uint32_t* keys, int64_t n, int64_t rank) {
  int64_t low = INT32_MIN, high = int64_t{INT32_MAX} + 1, under = 0;  // count_below(low) <= rank < count_below(high)
  I32x16 least = splat(INT32_MAX), most = splat(INT32_MIN);
  for_each_vector(n, [&](int64_t i, auto tail) {
    const I32x16 key = load(keys + i, tail);
    const Mask16 valid = mask_of(lanes(tail));
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
inline uint32_t pruned_lanes(I32x16 key, Cutoff& cutoff, uint32_t valid) {
  uint32_t gone = lane_bits(key < splat(cutoff.cut)) & valid;
  if (cutoff.ties > 0)
    for (uint32_t equal = lane_bits(key == splat(cutoff.cut)) & valid; equal && cutoff.ties > 0;
         equal &= equal - 1, --cutoff.ties)
      gone |= equal & -equal;
  return gone;
}

NOINLINE Cutoff mask_some(Weights scores, int64_t n, bool absolute, Cutoff cutoff, uint8_t* mask) {
  typed(scores, [&](auto* s) {
    for_each_vector(n, [&](int64_t i, auto tail) {
      const uint32_t gone = pruned_lanes(key_of(load(s + i, tail), absolute), cutoff, lanes(tail));
      store_mask(mask + i, mask_of(~gone & 0xffff), tail);
    });
  });
  return cutoff;
}

FLATTEN void mask_below(Weights scores, int64_t n, bool absolute, Cutoff cutoff, uint8_t* mask) {
  mask_some(scores, n, absolute, cutoff, mask);
}

FLATTEN bool prune_below(Weights w, Weights scores, int64_t n, bool absolute, Cutoff cutoff, MutableWeights out,
                         bool nontemporal) {
  if (!absolute || scores.data != w.data || cutoff.ties > 0) {
    alignas(64) uint8_t mask[kStretch];
    bool finite = true;
    for (int64_t i = 0; i < n; i += kStretch) {
      const int64_t some = smaller(kStretch, n - i);
      cutoff = mask_some(scores.at(i), some, absolute, cutoff, mask);
      finite &= mask_weights(w.at(i), mask, some, out.at(i), nontemporal);
    }
    return finite;
  }
  const I32x16 cut = splat(cutoff.cut);
  return map_weights(w, n, out, nontemporal,
                     [&](F32x16 x, int64_t, auto) { return select(magnitude_bits(x) < cut, splat(0.0f), x); });
}

FLATTEN bool count_keys(Weights scores, int64_t n, bool by_magnitude, bool upper, int32_t prefix, int64_t* bins) {
  const I32x16 wanted = splat(prefix);
  return typed(scores, [&](auto* s) {
    return with_constant(by_magnitude, [&](auto absolute) {
      Finite finite;
      for_each_vector(n, [&](int64_t i, auto tail) {
        fetch_ahead(s + i);
        const F32x16 v = load(s + i, tail);
        finite.see(v);
        const I32x16 key = key_of(v, absolute), half = shift_right_signed<16>(key);
        alignas(64) uint32_t lane[16];
        if (upper) {
          store(lane, half + splat(1 << 15));
          for (int64_t k = 0; k < smaller(16, n - i); ++k) ++bins[lane[k]];
        } else {
          uint32_t inside = lane_bits(half == wanted) & lanes(tail);
          if (inside) store(lane, key & splat(0xffff));
          for (; inside; inside &= inside - 1) ++bins[lane[__builtin_ctz(inside)]];
        }
      });
      return finite.all();
    });
  });
}

}  // namespace
}  // namespace ISA
