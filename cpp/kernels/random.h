// SplitMix64 at a counter: number i of a stream is a function of (seed, i) alone.
#pragma once
#include "isa.h"

namespace ISA {
namespace {

inline float uniform_at(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<float>(static_cast<int32_t>(z >> 40)) * 0x1p-24f;
}

NOINLINE void uniform_from(uint64_t seed, uint64_t first, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = uniform_at(seed, first + static_cast<uint64_t>(i));
}

}  // namespace
}  // namespace ISA
