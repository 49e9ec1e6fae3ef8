// The places of stored weights, a stretch of columns at a time: as bits, and as lists.
#pragma once
#include "bits.h"

constexpr int64_t kSome =
    1024;  // columns, or stored weights, that are looked at together; what belongs to them fits L1

// Rows of places in bytes, and what a row has stored; within the tensor, whatever the offsets say.
inline int index_bits(int m) { return 32 - __builtin_clz(static_cast<uint32_t>(m - 1)); }
inline int64_t row_bytes(const Places& at) {
  if (at.layout == SparseLayout::kBitmask) return (at.cols + 7) / 8;
  return (at.cols / at.m * at.n * index_bits(at.m) + 7) / 8;  // n:m
}
inline const uint8_t* row_of(const Places& at, int64_t r) {
  return static_cast<const uint8_t*>(at.data) + r * row_bytes(at);
}
inline int64_t within(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
inline int64_t begin_of(const Places& at, int64_t r) {
  return at.offsets ? within(at.offsets[r], 0, at.count) : r * (at.cols / at.m * at.n);
}
inline int64_t end_of(const Places& at, int64_t r) {
  return at.offsets ? within(at.offsets[r + 1], begin_of(at, r), at.count) : begin_of(at, r + 1);
}
inline bool is_csr(const Places& at) { return at.layout == SparseLayout::kCsr16 || at.layout == SparseLayout::kCsr32; }

// Columns of a stretch: for n:m whole groups whose positions fill whole bytes.
inline int64_t stretch_of(const Places& at) {
  return at.layout == SparseLayout::kNOfM ? kSome / at.m / 8 * 8 * at.m : kSome;
}

// Sixteen bits of a mask of n bits, the missing ones 0.
inline uint32_t load_mask(const uint8_t* p, int64_t n) {
  uint16_t two;
  if (n <= 8) return *p;
  __builtin_memcpy(&two, p, 2);
  return two;
}
inline void store_bits(uint8_t* p, uint32_t mask, int64_t n) {
  const auto two = static_cast<uint16_t>(mask);
  __builtin_memcpy(p, &two, n <= 8 ? 1 : 2);
}

// What a byte of positions of two bits says: the bits of four groups of four with one stored each, or of two with two.
struct QuadTable {
  uint16_t row[3][256];
  constexpr QuadTable() : row() {
    for (int n = 1; n <= 2; ++n)
      for (int byte = 0; byte < 256; ++byte)
        for (int i = 0; i < 4; ++i)
          row[n][byte] = static_cast<uint16_t>(row[n][byte] | 1 << (i / n * 4 + (byte >> 2 * i & 3)));
  }
};

// The bits of `some` columns from positions of n:m. Writes up to eight bytes more than they need.
APART inline void mask_of_positions(const uint8_t* positions, int64_t some, int n, int m, uint8_t* mask) {
  static constexpr QuadTable table;
  uint8_t index[kSome];
  int64_t group = 0;
  const int64_t groups = some / m;
  if (m == 4 && n == 1)
    for (; group + 4 <= groups; group += 4) __builtin_memcpy(mask + group / 2, &table.row[1][*positions++], 2);
  if (m == 4 && n == 2)
    for (; group + 2 <= groups; group += 2) mask[group / 2] = static_cast<uint8_t>(table.row[2][*positions++]);
  const int64_t first = group;
  unpack_row(positions, (groups - group) * n, index_bits(m), index);
  uint8_t* to = mask + group * m / 8;
  uint64_t word = 0;
  int filled = 0;
  for (; group < groups; ++group) {
    for (int j = 0; j < n; ++j) word |= uint64_t{1} << (filled + (index[(group - first) * n + j] & 31));
    filled += m;
    if (filled >= 32) {
      __builtin_memcpy(to, &word, 4);
      to += 4;
      word >>= 32;
      filled -= 32;
    }
  }
  __builtin_memcpy(to, &word, 8);
}

constexpr int64_t kMaskBytes = kSome / 8 + 16;

// The bits of the `some` columns of row r from c on, the first of a stretch: in place, or in `buffer`. Not for csr.
inline const uint8_t* mask_of(const Places& at, int64_t r, int64_t c, int64_t some, uint8_t* buffer) {
  if (at.layout == SparseLayout::kBitmask) return row_of(at, r) + c / 8;
  mask_of_positions(row_of(at, r) + c / at.m * at.n * index_bits(at.m) / 8, some, at.n, at.m, buffer);
  return buffer;
}

// Calls body(c, some) for the stretches of a row: `some` columns from c on.
template <class Body>
inline void stretches(const Places& at, const Body& body) {
  const int64_t stretch = stretch_of(at);
  for (int64_t c = 0; c < at.cols; c += stretch) body(c, smaller(stretch, at.cols - c));
}

inline int64_t count_bits(const uint8_t* mask, int64_t n) {
  int64_t count = 0, i = 0;
  const int64_t bytes = (n + 7) / 8;
  for (; i + 8 <= bytes; i += 8) count += __builtin_popcountll(load_word(mask + i, 8));
  return count + __builtin_popcountll(load_word(mask + i, bytes - i));
}

inline I32x16 counting() {
  alignas(64) static const uint32_t lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(lane);
}

// Columns number first..first + n of a csr tensor, of at.cols at most.
template <class Index>
inline void load_columns(const Places& at, const Index* index, int64_t n, uint32_t* columns) {
  const I32x16 last = splat(static_cast<int32_t>(at.cols - 1)), positive = splat(INT32_MAX);
  sixteens(n, [&](int64_t i, auto part) { store(columns + i, min(load(index + i, part) & positive, last)); });
}
inline void columns_of(const Places& at, int64_t first, int64_t n, uint32_t* columns) {
  if (at.layout == SparseLayout::kCsr16)
    return load_columns(at, static_cast<const uint16_t*>(at.data) + first, n, columns);
  load_columns(at, static_cast<const uint32_t*>(at.data) + first, n, columns);
}
