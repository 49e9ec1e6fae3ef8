#pragma once
#include "bits.h"
#include "grids.h"
#include "weights.h"

namespace ISA {
namespace {

constexpr int64_t kFitted = 16;  // groups whose scales are found together: one division

// Codes gather until a stretch is full; they are translated and packed then.
struct CodeRow {
  uint8_t* to;
  int bits;
  bool nontemporal;
  const uint8_t* order;  // of sixteen codes, or nullptr where the ranks are the codes
  int64_t count = 0;
  alignas(64) uint8_t codes[kStretch + 16];  // 16 more, so that a last full vector may be stored
  void flush() {
    for (int64_t i = 0; order && i < count; i += 16) translate(codes + i, order);
    pack_row(codes, count, bits, to, nontemporal && reinterpret_cast<uintptr_t>(to) % 16 == 0);
    to += (count * bits + 7) / 8;
    count = 0;
  }
};

// Calls body(i, tail, left) for n weights, of which `readable` can be read: a short tail is read whole where that goes,
// as `left` good lanes.
template <class Body>
inline void for_each_vector_within(int64_t n, int64_t readable, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, Full{}, Full{});
  if (i == n) return;
  if (i + 16 <= readable) return body(i, Full{}, Tail{n - i});
  body(i, Tail{n - i}, Tail{n - i});
}

template <class T>
inline float absmax(const T* x, int64_t n, int64_t readable, Finite& finite) {
  I32x16 most = splat(0);
  for_each_vector_within(n, readable, [&](int64_t i, auto tail, auto left) {
    fetch_ahead(x + i);
    const I32x16 size = magnitude_bits(load(x + i, tail));
    most = max(most, select(mask_of(lanes(left)), size, splat(0)));
  });
  finite.peak = max(finite.peak, most);
  const int32_t top = largest(most);
  float result;
  __builtin_memcpy(&result, &top, 4);
  return result;
}

inline F32x16 scales_for(F32x16 high, const Book& book) {
  if (book.rule == BookRule::kAbsmax) {
    const F32x16 scale = through(high / splat(book.peak), book.scale_dtype);
    const Mask16 too_far = (splat(book.limit) < scale * splat(book.peak)) & (scale < splat(__builtin_inff()));
    return select(too_far, previous(scale, book.scale_dtype), scale);
  }
  const F32x16 below = from_bits(float_bits(high) & splat(0x7f800000)) / splat(book.peak);
  return select(splat(0.0f) < high, max(below, splat(0x1p-127f)), splat(0.0f));
}

// Scales of up to sixteen groups that follow each other in a row, or those that are given.
template <class T>
NOINLINE void fit_book(const T* x, int64_t n, int64_t count, const Book& book, float* scales, Inverses& inverses,
                       Finite& finite) {
  alignas(64) float high[16] = {}, given[16] = {};
  Finite here;  // in a register; `finite` is in memory by now
  for (int64_t k = 0; k < count; ++k)
    high[k] = absmax(x + k * book.group_size, smaller(book.group_size, n - k * book.group_size),
                     n - k * book.group_size, here);
  finite.peak = max(finite.peak, here.peak);
  const bool found = book.rule == BookRule::kAbsmax || book.rule == BookRule::kPowerOfTwo;
  for (int64_t k = 0; book.rule == BookRule::kGivenScale && k < count; ++k) given[k] = scales[k];
  inverses.set(found ? scales_for(load(high), book) : load(given));
  for (int64_t k = 0; found && k < count; ++k) scales[k] = inverses.scale[k];
}

// Ranks among the edges of n weights of group k, of as many as fit into the row's stretch at a time.
template <bool scaled, class T, class Edges>
inline void code_group(const T* x, int64_t n, int64_t readable, const Edges& search, const Inverses& inverses,
                       int64_t k, CodeRow& row) {
  const F32x16 lift = splat(inverses.lift[k]), inverse = splat(inverses.inverse[k]);
  for (int64_t at = 0; at < n;) {
    const int64_t some = smaller(n - at, kStretch - row.count);
    uint8_t* codes = row.codes + row.count;
    for_each_vector_within(some, readable - at, [&](int64_t i, auto tail, auto) {
      F32x16 v = load(x + at + i, tail);
      if constexpr (scaled) v = (inverses.lifted ? v * lift : v) * inverse;
      I32x16 rank;
      search(v.r, rank.r);
      store_bytes(codes + i, rank);
    });
    row.count += some;
    if (row.count == kStretch) row.flush();
    at += some;
  }
}

template <int levels, bool scaled, class T>
NOINLINE bool code_rows(const T* x, int64_t rows, int64_t cols, const Book& book, uint8_t* data, float* scales,
                        bool nontemporal) {
  Finite finite;
  Inverses inverses;
  CodeRow row{data, book.bits, nontemporal, book.order, 0, {}};
  const float* edges = book.edges;
  Search<levels> search(edges, book.count - 1);
  const int64_t size = book.group_size, groups = (cols + size - 1) / size;
  const int64_t together = size * kFitted <= kStretch ? kFitted : 1;  // their weights stay in L1
  for (int64_t r = 0; r < rows; ++r, x += cols, scales += groups) {
    for (int64_t g = 0; g < groups; g += together) {
      const int64_t count = smaller(together, groups - g);
      fit_book(x + g * size, cols - g * size, count, book, scales + g, inverses, finite);
      if (!data) continue;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t at = (g + k) * size;
        if (book.edges_per_group) {
          search = Search<levels>(edges, book.count - 1);
          edges += book.count - 1;
        }
        code_group<scaled>(x + at, smaller(size, cols - at), cols - at, search, inverses, k, row);
      }
    }
    if (data) row.flush();
  }
  if (nontemporal) nontemporal_end();
  return finite.all();
}

// Calls body with the levels of a tree over `edges` that are searched in registers.
template <class Body>
inline auto with_levels(int64_t edges, const Body& body) {
  if (edges < 2) return body(std::integral_constant<int, 1>{});
  if (edges < 4) return body(std::integral_constant<int, 2>{});
  if (edges < 8) return body(std::integral_constant<int, 3>{});
  if (kLevels == 4 || edges < 16) return body(std::integral_constant<int, 4>{});
  if (edges < 32) return body(std::integral_constant<int, kLevels == 4 ? 4 : 5>{});
  if (edges < 64) return body(std::integral_constant<int, kLevels == 4 ? 4 : 6>{});
  if (edges < 128) return body(std::integral_constant<int, kLevels == 4 ? 4 : 7>{});
  return body(std::integral_constant<int, kLevels>{});
}

bool quantize_codebook(Weights w, int64_t rows, int64_t cols, const Book& book, uint8_t* data, float* scales,
                       bool nontemporal) {
  return typed(w, [&](auto* x) {
    return with_levels(book.count - 1, [&](auto levels) {
      return with_constant(book.rule != BookRule::kNone, [&](auto scaled) {
        return code_rows<levels, scaled>(x, rows, cols, book, data, scales, nontemporal);
      });
    });
  });
}

// The values of a codebook by code: the last one again for codes past its end.
struct Values {
  alignas(64) float all[256];
  void set(const float* book, int64_t count) {
    __builtin_memcpy(all, book, static_cast<size_t>(count) * 4);
    for (int64_t i = count; i < 256; ++i) all[i] = book[count - 1];
  }
};

// Calls body(first, codes, n, group) for n unpacked codes of one group at a time: from place `first` of rows x cols on.
template <class Body>
inline void each_piece(const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size,
                       const Body& body) {
  alignas(64) uint8_t codes[kStretch + 16];
  const int64_t groups = (cols + group_size - 1) / group_size;
  for (int64_t r = 0; r < rows; ++r, data += (cols * bits + 7) / 8)
    for (int64_t first = 0; first < cols; first += kStretch) {
      const int64_t end = smaller(first + kStretch, cols);
      unpack_row(data + first / 8 * bits, end - first, bits, codes);
      for (int64_t at = first, group = first / group_size; at < end; ++group) {
        const int64_t here = smaller(end, (group + 1) * group_size) - at;
        body(r * cols + at, codes + at - first, here, r * groups + group);
        at += here;
      }
    }
}

template <class Lookup, class Target>
NOINLINE void decode_rows(const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size,
                          const float* book, int64_t count, bool per_group, const float* scales, Target to) {
  Values values;
  values.set(book, count);
  Lookup lookup(values.all);
  each_piece(data, rows, cols, bits, group_size, [&](int64_t at, const uint8_t* codes, int64_t n, int64_t group) {
    const F32x16 scale = splat(scales[group]);
    if (per_group) {
      values.set(book + group * count, count);
      lookup = Lookup(values.all);
    }
    const auto target = to + at;
    for_each_vector(n, [&](int64_t i, auto tail) {
      F32x16 v;
      lookup(codes + i, v.r);
      store(target + i, v * scale, tail);
    });
  });
}

void dequantize_codebook(const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size,
                         const float* book, int64_t count, bool per_group, const float* scales, MutableWeights out,
                         bool nontemporal) {
  typed(Weights{out.data, out.dtype}, [&](auto* type) {
    with_target(as_type_of(type, out), nontemporal, [&](auto to) {
      const auto rows_with = [&](auto decode) {
        decode(data, rows, cols, bits, group_size, book, count, per_group, scales, to);
      };
      using Target = decltype(to);
      if (bits <= 4) return rows_with(decode_rows<Values16, Target>);
      if (bits == 5) return rows_with(decode_rows<ManyValues<5>, Target>);
      if (bits == 6) return rows_with(decode_rows<ManyValues<6>, Target>);
      if (bits == 7) return rows_with(decode_rows<ManyValues<7>, Target>);
      rows_with(decode_rows<ManyValues<8>, Target>);
    });
  });
}

FLATTEN bool magnitude_sums(Weights w, int64_t rows, int64_t cols, int64_t group_size, double* out) {
  return typed(w, [&](auto* x) {
    Finite finite;
    for (int64_t r = 0; r < rows; ++r, x += cols)
      for (int64_t c = 0; c < cols; c += group_size) {
        double lane[16] = {};
        for_each_vector(smaller(group_size, cols - c), [&](int64_t i, auto tail) {
          fetch_ahead(x + c + i);
          const F32x16 v = load(x + c + i, tail);
          finite.see(v);
          alignas(64) float size[16];
          store(size, abs(v));
          for (int j = 0; j < 16; ++j) lane[j] += static_cast<double>(size[j]);
        });
        *out++ = fold(lane);
      }
    return finite.all();
  });
}

FLATTEN Split best_split(const double* before, const double* counts, const double* sums, int64_t low, int64_t high,
                         int64_t at) {
  const double count = counts[at], sum = sums[at];
  const auto gain = [&](int64_t i) {
    const double s = sum - sums[i];
    return before[i] + s * s / (count - counts[i]);
  };
  double best[16];
  double where[16];  // as floats, so that the lanes of both are of one width
  int64_t i = low;
  Split found{low, gain(low)};
  if (high - low >= 32) {
    for (int j = 0; j < 16; ++j) best[j] = gain(low + j), where[j] = static_cast<double>(low + j);
    for (i = low + 16; i + 16 <= high; i += 16)
      for (int j = 0; j < 16; ++j) {
        const double g = gain(i + j);
        where[j] = g > best[j] ? static_cast<double>(i + j) : where[j];
        best[j] = g > best[j] ? g : best[j];
      }
    found = {static_cast<int64_t>(where[0]), best[0]};
    for (int j = 1; j < 16; ++j) {
      const auto here = static_cast<int64_t>(where[j]);
      if (best[j] > found.gain || (best[j] == found.gain && here < found.at)) found = {here, best[j]};
    }
  }
  for (; i < high; ++i)
    if (gain(i) > found.gain) found = {i, gain(i)};
  return found;
}

}  // namespace
}  // namespace ISA
