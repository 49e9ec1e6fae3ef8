#pragma once
#include "nonzeros.h"

namespace ISA {
namespace {

// Calls body with the weights as unsigned integers of their width.
template <class Body>
inline auto as_words(Weights w, const Body& body) {
  switch (w.itemsize()) {
    case 4:
      return body(static_cast<const uint32_t*>(w.data));
    case 2:
      return body(static_cast<const uint16_t*>(w.data));
    default:
      return body(static_cast<const uint8_t*>(w.data));
  }
}

// Remembers whether all floats were finite, from their bits.
struct FiniteWords {
  I32x16 magnitude, peak = splat(0);
  int32_t infinite;
  explicit FiniteWords(Dtype dtype) {
    const bool wide = dtype == Dtype::kFloat32, codes = dtype == Dtype::kCodes;
    magnitude = splat(wide ? 0x7fffffff : 0x7fff);
    infinite = wide ? 0x7f800000 : codes ? 0x100 : dtype == Dtype::kFloat16 ? 0x7c00 : 0x7f80;
  }
  void see(I32x16 x) { peak = max(peak, x & magnitude); }
  bool all() const { return largest(peak) < infinite; }
};

inline uint32_t nonzero(I32x16 x) { return ~lane_bits(x == splat(0)) & 0xffff; }

FLATTEN bool stored_per_row(Weights w, int64_t rows, int64_t cols, int64_t* counts) {
  return as_words(w, [&](auto* x) {
    FiniteWords finite(w.dtype);
    for (int64_t r = 0; r < rows; ++r, x += cols) {
      counts[r] = 0;
      for_each_vector(cols, [&](int64_t i, auto tail) {
        fetch_ahead(x + i);
        const I32x16 v = load(x + i, tail);
        finite.see(v);
        counts[r] += __builtin_popcount(nonzero(v));
      });
    }
    return finite.all();
  });
}

// How many bits each m consecutive ones of x have, m a power of two up to 32: in fields of m bits.
inline uint64_t counts_of(uint64_t x, int m) {
  x -= x >> 1 & 0x5555555555555555u;
  if (m >= 4) x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  if (m >= 8) x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  if (m >= 16) x = (x + (x >> 8)) & 0x00ff00ff00ff00ffu;
  if (m >= 32) x = (x + (x >> 16)) & 0x0000ffff0000ffffu;
  return x;
}

// Makes it n bits in each m of `some`: the first zeros become ones. Whether none had more. The mask has eight bytes
// more.
inline bool fill_groups(uint8_t* mask, int64_t some, int n, int m) {
  const uint64_t group = (uint64_t{1} << m) - 1, all = 64 % m ? 0 : ~uint64_t{0} / group * static_cast<uint64_t>(n);
  bool fits = true;
  for (int64_t i = 0; i + m <= some; i += m) {
    if (i % 64 == 0 && i + 64 <= some && all && counts_of(load_word(mask + i / 8, 8), m) == all) {
      i += 64 - m;
      continue;
    }
    const uint64_t word = load_word(mask + i / 8, 8);
    uint64_t kept = word >> (i % 8) & group;
    for (; __builtin_popcountll(kept) < n; kept |= kept + 1) {
    }
    for (; __builtin_popcountll(kept) > n; kept &= kept - 1) fits = false;
    const uint64_t filled = (word & ~(group << (i % 8))) | kept << (i % 8);
    __builtin_memcpy(mask + i / 8, &filled, 8);
  }
  return fits;
}

// Appends what is under the mask: of the words x, or of numbers that `lane` gives for sixteen columns.
template <class T, class Lane>
inline T* append_all(T* to, const uint8_t* mask, int64_t some, const Lane& lane) {
  for_each_vector(some, [&](int64_t i, auto tail) {
    const uint32_t m = load_mask(mask + i / 8, some - i) & lanes(tail);
    to = append(to, m, lane(i, tail));
  });
  return to;
}

template <class Word>
NOINLINE bool encode_rows(const Word* x, Dtype dtype, const Places& at, int64_t first, int64_t rows, void* places,
                          Word* values) {
  const int64_t cols = at.cols, stretch = stretch_of(at);
  FiniteWords finite(dtype);
  bool fits = true;
  alignas(64) uint8_t mask[kSpan / 8 + 16], position[kSpan + 16];
  alignas(64) uint8_t index[(kSpan + 16) * 4];
  alignas(64) Word kept[kSpan + 16];
  for (int64_t i = 0; i < kSpan; ++i) position[i] = static_cast<uint8_t>(at.m ? i % at.m : 0);
  for (int64_t r = first; r < first + rows; ++r, x += cols) {
    int64_t to = begin_of(at, r), room = end_of(at, r) - to;
    for (int64_t c = 0; c < cols; c += stretch) {
      const int64_t some = smaller(stretch, cols - c);
      for_each_vector(some, [&](int64_t i, auto tail) {
        fetch_ahead(x + c + i);
        const I32x16 v = load(x + c + i, tail);
        finite.see(v);
        store_bits(mask + i / 8, nonzero(v), some - i);
      });
      if (at.layout == SparseLayout::kNOfM) fits &= fill_groups(mask, some, at.n, at.m);
      Word* const end = append_all(kept, mask, some, [&](int64_t i, auto tail) { return load(x + c + i, tail); });
      const auto count = static_cast<size_t>(smaller(end - kept, room));
      __builtin_memcpy(values + to, kept, count * sizeof(Word));
      const auto column = [&](int64_t i, auto) { return counting() + splat(static_cast<int32_t>(c + i)); };
      switch (at.layout) {
        case SparseLayout::kBitmask:
          __builtin_memcpy(static_cast<uint8_t*>(places) + r * at.row_bytes() + c / 8, mask,
                           static_cast<size_t>((some + 7) / 8));
          break;
        case SparseLayout::kNOfM:
          append_all(index, mask, some, [&](int64_t i, auto tail) { return load(position + i, tail); });
          pack_row(index, some / at.m * at.n, at.index_bits(),
                   static_cast<uint8_t*>(places) + r * at.row_bytes() + c / at.m * at.n * at.index_bits() / 8);
          break;
        case SparseLayout::kCsr16:
          append_all(reinterpret_cast<uint16_t*>(index), mask, some, column);
          __builtin_memcpy(static_cast<uint16_t*>(places) + to, index, 2 * count);
          break;
        default:
          append_all(reinterpret_cast<uint32_t*>(index), mask, some, column);
          __builtin_memcpy(static_cast<uint32_t*>(places) + to, index, 4 * count);
      }
      to += static_cast<int64_t>(count);
      room -= static_cast<int64_t>(count);
    }
  }
  return finite.all() && fits;
}

FLATTEN bool sparse_encode(Weights w, const Places& at, int64_t first, int64_t rows, void* places,
                           MutableWeights values) {
  return as_words(w, [&]<class Word>(const Word* x) {
    return encode_rows(x, w.dtype, at, first, rows, places, static_cast<Word*>(values.data));
  });
}

inline void put(uint32_t* p, I32x16 a, Full) { store(p, a); }
inline void put(uint16_t* p, I32x16 a, Full) {
  for (int k = 0; k < kRegs; ++k) store_lanes(p + k * kLanes, a.r[k]);
}
inline void put(uint8_t* p, I32x16 a, Full) { store_bytes(p, a); }
inline void put(NonTemporal<uint32_t> to, I32x16 a, Full) {
  store(NonTemporal<float>{reinterpret_cast<float*>(to.p)}, from_bits(a), Full{});
}
template <class Word>
inline void put(NonTemporal<Word> to, I32x16 a, Full) {
  alignas(16) Word some[16];
  put(some, a, Full{});
  for (int i = 0; i < 16; i += 16 / static_cast<int>(sizeof(Word))) nontemporal_16(to.p + i, some + i);
}
template <class Word>
inline void put(Word* p, I32x16 a, Tail tail) {
  Word all[16];
  put(all, a, Full{});
  __builtin_memcpy(p, all, static_cast<size_t>(tail.n) * sizeof(Word));
}
template <class Word>
inline void put(NonTemporal<Word> to, I32x16 a, Tail tail) {
  put(to.p, a, tail);
}

template <class Word>
NOINLINE void scatter_rows(const Places& at, const Word* values, int64_t first, int64_t rows, Word* out) {
  alignas(64) uint32_t columns[kSpan + 16];
  __builtin_memset(out, 0, static_cast<size_t>(rows * at.cols) * sizeof(Word));
  for (int64_t r = first; r < first + rows; ++r, out += at.cols) {
    const int64_t end = end_of(at, r);
    for (int64_t p = begin_of(at, r); p < end; p += kSpan) {
      const int64_t some = smaller(kSpan, end - p);
      columns_of(at, p, some, columns);
      for (int64_t i = 0; i < some; ++i) out[columns[i]] = values[p + i];
    }
  }
}

FLATTEN void sparse_decode(const Places& at, Weights values, int64_t first, int64_t rows, MutableWeights out,
                           bool nontemporal) {
  as_words(values, [&]<class Word>(const Word* v) {
    Word* o = static_cast<Word*>(out.data);
    if (at.is_csr()) return scatter_rows(at, v, first, rows, o);
    with_target(o, nontemporal, [&](auto to) {
      for (int64_t r = first; r < first + rows; ++r, to = to + at.cols) {
        Reader<Word> reader{v + begin_of(at, r), v + at.count};
        alignas(64) uint8_t buffer[kMaskBytes];
        stretches(at, [&](int64_t c, int64_t some) {
          const uint8_t* mask = mask_of(at, r, c, some, buffer);
          for_each_vector(some, [&](int64_t i, auto tail) {
            fetch_ahead(reader.p);
            put(to + (c + i), reader.take(load_mask(mask + i / 8, some - i)), tail);
          });
        });
      }
    });
  });
}

template <class Index>
inline bool ascending(const Index* columns, int64_t n, int64_t cols) {
  bool bad = false;
  for (int64_t i = 1; i < n; ++i) bad |= columns[i] <= columns[i - 1];
  return !bad && (n == 0 || columns[n - 1] < cols);
}

inline bool good_positions(const Places& at, const uint8_t* row) {
  const int n = at.n, m = at.m, wide = at.index_bits();
  const int64_t all = at.cols / m * n, stretch = kSpan / n / 8 * 8 * n;
  uint8_t index[kSpan];
  bool bad = false;
  for (int64_t i = 0; i < all; i += stretch) {
    const int64_t some = smaller(stretch, all - i);
    unpack_row(row + i / 8 * wide, some, wide, index);
    for (int64_t g = 0; g < some; g += n) {
      for (int j = 1; j < n; ++j) bad |= index[g + j] <= index[g + j - 1];
      bad |= index[g + n - 1] >= m;
    }
  }
  const int64_t used = all * wide;
  return !bad && (used % 8 == 0 || row[used / 8] >> (used % 8) == 0);
}

FLATTEN int64_t sparse_check(const Places& at, int64_t first, int64_t rows) {
  for (int64_t r = first; r < first + rows; ++r) {
    const int64_t begin = begin_of(at, r), n = end_of(at, r) - begin;
    bool good;
    if (at.layout == SparseLayout::kBitmask) {
      good = count_bits(row_of(at, r), at.cols) == n &&
             (at.cols % 8 == 0 || row_of(at, r)[at.cols / 8] >> (at.cols % 8) == 0);
    } else if (at.layout == SparseLayout::kNOfM) {
      good = good_positions(at, row_of(at, r));
    } else if (at.layout == SparseLayout::kCsr16) {
      good = ascending(static_cast<const uint16_t*>(at.data) + begin, n, at.cols);
    } else {
      good = ascending(static_cast<const uint32_t*>(at.data) + begin, n, at.cols);
    }
    if (!good) return r;
  }
  return -1;
}

// Calls body(columns, weights, n) for some of row r's nonzeros at a time. The arrays have room for sixteen more.
template <class Source, class Body>
inline void each_list(const Places& at, int64_t r, Source& source, const Body& body) {
  alignas(64) uint32_t columns[kSpan + 16];
  alignas(64) float w[kSpan + 16];
  const int64_t begin = begin_of(at, r), end = end_of(at, r);
  source.row(r, begin);
  if (at.is_csr()) {
    for (int64_t p = begin; p < end; p += kSpan) {
      const int64_t some = smaller(kSpan, end - p);
      columns_of(at, p, some, columns);
      source.list(p, some, columns, w);
      body(columns, w, some);
    }
    return;
  }
  alignas(64) uint8_t buffer[kMaskBytes];
  stretches(at, [&](int64_t c, int64_t some) {
    const uint8_t* mask = mask_of(at, r, c, some, buffer);
    uint32_t *column = columns, *weight = reinterpret_cast<uint32_t*>(w);
    auto reader = source.stretch(mask, some);
    for (int64_t i = 0; i < some; i += 16) {
      const uint32_t m = load_mask(mask + i / 8, some - i);
      const I32x16 v = float_bits(source.take(reader, m, c + i));
      column = append(column, m, counting() + splat(static_cast<int32_t>(c + i)));
      weight = append(weight, m, v);
    }
    body(columns, w, column - columns);
  });
}

template <class Source>
inline float dot_of_list(const Places& at, int64_t r, Source& source, const float* x) {
  alignas(64) float lane[16] = {};
  each_list(at, r, source, [&](const uint32_t* columns, const float* weight, int64_t n) {
    for (int64_t i = 0; i < n; ++i) lane[columns[i] & 15] += weight[i] * x[columns[i]];
  });
  return fold(lane);
}

// Of rows r and r2, which may be the same: sums wait for one another, so that two take the time of one.
template <class Source>
inline void dots_of_masks(const Places& at, int64_t r, int64_t r2, Source& source, Source& source2, const float* x,
                          float* out) {
  alignas(64) uint8_t buffer[kMaskBytes], buffer2[kMaskBytes];
  F32x16 total = splat(0.0f), total2 = splat(0.0f);
  source.row(r, begin_of(at, r));
  source2.row(r2, begin_of(at, r2));
  stretches(at, [&](int64_t c, int64_t some) {
    const uint8_t *mask = mask_of(at, r, c, some, buffer), *mask2 = mask_of(at, r2, c, some, buffer2);
    auto reader = source.stretch(mask, some), reader2 = source2.stretch(mask2, some);
    F32x16 t = total, t2 = total2;
    for (int64_t i = 0; i < some; i += 16) {
      const F32x16 v = load(x + c + i);
      t = t + source.take(reader, load_mask(mask + i / 8, some - i), c + i) * v;
      t2 = t2 + source2.take(reader2, load_mask(mask2 + i / 8, some - i), c + i) * v;
    }
    total = t;
    total2 = t2;
  });
  out[0] = sum(total);
  out[r2 - r] = sum(total2);
}

FLATTEN void sparse_matvec(const Places& at, const Nonzeros& w, int64_t first, int64_t rows, const float* x,
                           float* out) {
  with_source(w, at, [&](auto& source) {
    if (at.is_csr()) {
      for (int64_t r = 0; r < rows; ++r) out[r] = dot_of_list(at, first + r, source, x);
      return;
    }
    auto source2 = source;
    for (int64_t r = 0; r < rows; r += 2)
      dots_of_masks(at, first + r, first + smaller(r + 1, rows - 1), source, source2, x, out + r);
  });
}

FLATTEN void sparse_matmul(const Places& at, const Nonzeros& w, int64_t first, int64_t rows, const float* x,
                           int64_t batch, float* out) {
  with_source(w, at, [&](auto& source) {
    for (int64_t b = 0; b < batch; b += 16, x += at.cols * 16)
      for (int64_t r = first; r < first + rows; ++r) {
        alignas(64) float lane[16][16] = {};
        each_list(at, r, source, [&](const uint32_t* columns, const float* weight, int64_t n) {
          for (int64_t i = 0; i < n; ++i) {
            float* const to = lane[columns[i] & 15];
            store(to, load(to) + splat(weight[i]) * load(x + int64_t{columns[i]} * 16));
          }
        });
        fold_rows(lane, 16, 16);
        for (int64_t j = 0; j < smaller(16, batch - b); ++j) out[(b + j) * at.rows + r] = lane[0][j];
      }
  });
}

}  // namespace
}  // namespace ISA
