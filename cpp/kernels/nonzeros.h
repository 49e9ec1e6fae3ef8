// The nonzeros themselves, in the order of their places: floats, or codes on their grid.
#pragma once
#include "places.h"
#include "weights.h"

namespace ISA {
namespace {

// Elements from p on, as many as masks ask for. NonTemporal `end` there are zeros.
template <class T>
struct Reader {
  const T* p;
  const T* end;
  I32x16 take(uint32_t mask) {
    const T* from = p;
    p += __builtin_popcount(mask);
    if (end - from >= 16) return expand(from, mask);
    T some[16] = {};
    const int64_t n = end - from;
    if (n > 0) __builtin_memcpy(some, from, static_cast<size_t>(n) * sizeof(T));
    return expand(some, mask);
  }
};

template <class T>
struct FloatSource {
  const T* values;
  int64_t count;
  const T* next = nullptr;

  explicit FloatSource(const Nonzeros& w, const Places& at)
      : values(static_cast<const T*>(w.floats.data)), count(at.count) {}
  void row(int64_t, int64_t begin) { next = values + begin; }
  // The nonzeros of a stretch; stretches are asked for in order.
  Reader<T> stretch(const uint8_t* mask, int64_t n) {
    const T* from = next;
    next += count_bits(mask, n);
    return {from, values + count};
  }
  F32x16 take(Reader<T>& from, uint32_t mask, int64_t) {
    fetch_ahead(from.p);
    return from_bits(from.take(mask));
  }
  void list(int64_t first, int64_t n, const uint32_t*, float* out) {
    for_each_vector(n, [&](int64_t i, auto tail) { store(out + i, load(values + first + i, tail)); });
  }
};

// What a column's codes are counted from and multiplied with: value = (code - zero) * scale. Stored is
// (code - zero) mod 2^bits, so that absent is 0.
struct CodeSource {
  const Nonzeros& w;
  int64_t group_size, groups, count, position = 0;
  int shift;     // of a column to its group, where group_size is a power of two or there is one group; otherwise -1
  bool uniform;  // whether sixteen columns from a multiple of 16 on are of one group
  int32_t low;
  const float* scales = nullptr;
  const uint8_t* zeros = nullptr;
  alignas(64) float counted[kSpan + 64];  // codes from their zero point: with sign where symmetric, else modulo 2^bits

  explicit CodeSource(const Nonzeros& of, const Places& at)
      : w(of),
        group_size(of.group_size),
        groups((at.cols + group_size - 1) / group_size),
        count(at.count),
        shift(groups == 1                     ? 62
              : group_size & (group_size - 1) ? -1
                                              : __builtin_ctzll(static_cast<uint64_t>(group_size))),
        uniform(groups == 1 || group_size % 16 == 0),
        low((1 << of.bits) - 1) {}

  void row(int64_t r, int64_t begin) {
    scales = w.scales + r * groups;
    zeros = w.zeros ? w.zeros + r * groups : nullptr;
    position = begin;
  }
  int64_t group_of(int64_t c) const {
    return shift >= 0 ? c >> shift : static_cast<uint32_t>(c) / static_cast<uint32_t>(group_size);
  }
  // Numbers above it are below the zero point, less 2^bits.
  float top_of(int64_t g) const { return static_cast<float>(zeros ? low - zeros[g] : low); }
  // The n codes from number `first` on; they start in the middle of a byte.
  const float* unpacked(int64_t first, int64_t n) {
    uint8_t codes[kSpan + 16];
    const int64_t start = first / 8 * 8, some = smaller(first - start + n, count - start);
    if (some > 0) unpack_row(w.codes + start / 8 * w.bits, some, w.bits, codes);
    const I32x16 half = splat(zeros ? 0 : (low + 1) / 2);
    for_each_vector(some, [&](int64_t i, auto tail) {
      store(counted + i, to_float(((load(codes + i, tail) + half) & splat(low)) - half), tail);
    });
    return counted + (first - start);
  }
  Reader<float> stretch(const uint8_t* mask, int64_t n) {
    const int64_t some = count_bits(mask, n), from = position;
    position += some;
    return {unpacked(from, some), counted + kSpan + 64};
  }
  F32x16 on_grid(F32x16 t, F32x16 top, F32x16 scale) const {
    return select(top < t, t - splat(static_cast<float>(low + 1)), t) * scale;
  }
  F32x16 take(Reader<float>& from, uint32_t mask, int64_t c) {
    const F32x16 t = from_bits(from.take(mask));
    if (!uniform) return each_on_its_grid(t, c);
    const int64_t g = group_of(c);
    if (!zeros) return t * splat(scales[g]);
    return on_grid(t, splat(top_of(g)), splat(scales[g]));
  }
  NOINLINE F32x16 each_on_its_grid(F32x16 t, int64_t c) {
    alignas(64) float scale[16], top[16];
    for (int j = 0; j < 16; ++j) {
      const int64_t g = smaller(group_of(c + j), groups - 1);
      scale[j] = scales[g];
      top[j] = top_of(g);
    }
    return on_grid(t, load(top), load(scale));
  }
  void list(int64_t first, int64_t n, const uint32_t* columns, float* out) {
    const float *t = unpacked(first, n), all = static_cast<float>(low + 1);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t g = group_of(columns[i]);
      out[i] = (t[i] > top_of(g) ? t[i] - all : t[i]) * scales[g];
    }
  }
};

// Calls body with a source of the nonzeros.
template <class Body>
inline void with_source(const Nonzeros& w, const Places& at, const Body& body) {
  if (w.bits) {
    CodeSource source(w, at);
    return body(source);
  }
  typed(w.floats, [&]<class T>(const T*) {
    FloatSource<T> source(w, at);
    body(source);
  });
}

}  // namespace
}  // namespace ISA
