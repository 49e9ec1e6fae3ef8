// Keys of weights in ascending order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>

// Sorts n keys, which are ordered as signed integers, from `keys` into `sorted`; both are written.
inline void sort_keys(uint32_t* keys, int64_t n, uint32_t* sorted) {
  constexpr int64_t few = 2048;  // up to here comparing is faster than counting digits
  constexpr int digit = 11, passes = 3;
  if (n <= few) {
    std::copy(keys, keys + n, sorted);
    std::sort(sorted, sorted + n,
              [](uint32_t a, uint32_t b) { return static_cast<int32_t>(a) < static_cast<int32_t>(b); });
    return;
  }
  int64_t place[passes][1 << digit] = {};
  for (int64_t i = 0; i < n; ++i) {
    keys[i] ^= 0x80000000u;
    for (int p = 0; p < passes; ++p) ++place[p][keys[i] >> (p * digit) & ((1 << digit) - 1)];
  }
  uint32_t *from = keys, *to = sorted;
  for (int p = 0; p < passes; ++p, std::swap(from, to)) {
    int64_t before = 0;
    for (int64_t& here : place[p]) before += std::exchange(here, before);
    for (int64_t i = 0; i < n; ++i) to[place[p][from[i] >> (p * digit) & ((1 << digit) - 1)]++] = from[i];
  }
  for (int64_t i = 0; i < n; ++i) sorted[i] ^= 0x80000000u;  // after an odd number of passes they are here
}

// The weight of a key; -0 has become 0.
inline float weight_of(uint32_t key) {
  const uint32_t bits = key ^ (static_cast<uint32_t>(static_cast<int32_t>(key) >> 31) & 0x7fffffffu);
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
