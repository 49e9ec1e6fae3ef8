// The places of nonzeros, a stretch of columns at a time: as bits, and as lists.
#pragma once
#include "bits.h"

namespace ISA {
namespace {

constexpr int64_t kSpan = 1024;  // columns, or nonzeros, that are handled together: all of theirs fits L1

// A row's places in bytes, and its nonzeros; within the tensor, whatever the offsets say.
inline const uint8_t* row_of(const Places& at, int64_t r) {
  return static_cast<const uint8_t*>(at.data) + r * at.row_bytes();
}
inline int64_t begin_of(const Places& at, int64_t r) {
  return at.offsets ? within(at.offsets[r], int64_t{0}, at.count) : r * (at.cols / at.m * at.n);
}
inline int64_t end_of(const Places& at, int64_t r) {
  return at.offsets ? within(at.offsets[r + 1], begin_of(at, r), at.count) : begin_of(at, r + 1);
}

// Columns of a stretch: for n:m whole groups whose positions fill whole bytes.
inline int64_t stretch_of(const Places& at) {
  return at.layout == SparseLayout::kNOfM ? kSpan / at.m / 8 * 8 * at.m : kSpan;
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

// The mask of a byte of positions of two bits: of four groups of four with one nonzero each, or of two with two.
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
NOINLINE inline void mask_of_positions(const Places& at, const uint8_t* positions, int64_t some, uint8_t* mask) {
  const int n = at.n, m = at.m;
  static constexpr QuadTable table;
  uint8_t index[kSpan];
  int64_t group = 0;
  const int64_t groups = some / m;
  if (m == 4 && n == 1)
    for (; group + 4 <= groups; group += 4) __builtin_memcpy(mask + group / 2, &table.row[1][*positions++], 2);
  if (m == 4 && n == 2)
    for (; group + 2 <= groups; group += 2) mask[group / 2] = static_cast<uint8_t>(table.row[2][*positions++]);
  const int64_t first = group;
  unpack_row(positions, (groups - group) * n, at.index_bits(), index);
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

constexpr int64_t kMaskBytes = kSpan / 8 + 16;

// The bits of the `some` columns of row r from c on, the first of a stretch: in place, or in `buffer`. Not for csr.
inline const uint8_t* mask_of(const Places& at, int64_t r, int64_t c, int64_t some, uint8_t* buffer) {
  if (at.layout == SparseLayout::kBitmask) return row_of(at, r) + c / 8;
  mask_of_positions(at, row_of(at, r) + c / at.m * at.n * at.index_bits() / 8, some, buffer);
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
  for_each_vector(n, [&](int64_t i, auto tail) { store(columns + i, min(load(index + i, tail) & positive, last)); });
}
inline void columns_of(const Places& at, int64_t first, int64_t n, uint32_t* columns) {
  if (at.layout == SparseLayout::kCsr16)
    return load_columns(at, static_cast<const uint16_t*>(at.data) + first, n, columns);
  load_columns(at, static_cast<const uint32_t*>(at.data) + first, n, columns);
}

}  // namespace
}  // namespace ISA
