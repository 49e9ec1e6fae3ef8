#pragma once
#include "nontemporal.h"

namespace ISA {
namespace {

// Eight codes in the bytes of a word become 8 * bits bits: neighbours join in pairs, fours and eights.
//   h000 g000 ... b000 a000  ->  hg00 fe00 dc00 ba00  ->  hgfe0000 dcba0000  ->  hgfedcba
inline uint64_t join_eight(uint64_t x, int bits) {
  x = (x & 0x00ff00ff00ff00ffu) | (x & 0xff00ff00ff00ff00u) >> (8 - bits);
  x = (x & 0x0000ffff0000ffffu) | (x & 0xffff0000ffff0000u) >> (16 - 2 * bits);
  return (x & 0x00000000ffffffffu) | (x & 0xffffffff00000000u) >> (32 - 4 * bits);
}

inline uint64_t split_eight(uint64_t x, int bits) {
  const uint64_t four = (uint64_t{1} << 4 * bits) - 1, two = (uint64_t{1} << 2 * bits) - 1,
                 one = (uint64_t{1} << bits) - 1;
  x = (x & four) | (x & four << 4 * bits) << (32 - 4 * bits);
  x = (x & (two | two << 32)) | (x & (two | two << 32) << 2 * bits) << (16 - 2 * bits);
  const uint64_t ones = one | one << 16 | one << 32 | one << 48;
  return (x & ones) | (x & ones << bits) << (8 - bits);
}

inline uint64_t load_word(const uint8_t* p, int64_t n) {
  uint64_t x = 0;
  __builtin_memcpy(&x, p, static_cast<size_t>(n));
  return x;
}

// Calls body with the bits as a constant, so that words of that many bytes are loads and stores of a fixed size.
template <class Body>
inline void with_bits(int bits, const Body& body) {
  switch (bits) {
    case 1:
      return body(std::integral_constant<int, 1>{});
    case 2:
      return body(std::integral_constant<int, 2>{});
    case 3:
      return body(std::integral_constant<int, 3>{});
    case 4:
      return body(std::integral_constant<int, 4>{});
    case 5:
      return body(std::integral_constant<int, 5>{});
    case 6:
      return body(std::integral_constant<int, 6>{});
    default:
      return body(std::integral_constant<int, 7>{});
  }
}

// n codes, each below 2^bits, into ceil(n * bits / 8) bytes; those of 4 and 8 bits past the caches where nontemporal.
NOINLINE inline void pack_row(const uint8_t* codes, int64_t n, int bits, uint8_t* packed, bool nontemporal = false) {
  int64_t i = 0;
  if (bits == 8 && nontemporal)
    for (; i + 16 <= n; i += 16) nontemporal_sixteen(packed + i, load_sixteen(codes + i));
  if (bits == 8) return static_cast<void>(__builtin_memcpy(packed + i, codes + i, static_cast<size_t>(n - i)));
  if (bits == 4)
    for (; i + 32 <= n; i += 32)
      put_sixteen(packed + i / 2, join_nibbles(load_sixteen(codes + i), load_sixteen(codes + i + 16)), nontemporal);
  packed += i / 8 * bits;
  with_bits(bits, [&](auto bytes) {
    for (; i + 8 <= n; i += 8, packed += bytes) {
      const uint64_t joined = join_eight(load_word(codes + i, 8), bytes);
      __builtin_memcpy(packed, &joined, bytes);
    }
  });
  if (i < n) {
    const uint64_t joined = join_eight(load_word(codes + i, n - i), bits);
    __builtin_memcpy(packed, &joined, static_cast<size_t>(((n - i) * bits + 7) / 8));
  }
}

NOINLINE inline void unpack_row(const uint8_t* packed, int64_t n, int bits, uint8_t* codes) {
  int64_t i = 0;
  if (bits == 8) return static_cast<void>(__builtin_memcpy(codes, packed, static_cast<size_t>(n)));
  if (bits == 4)
    for (; i + 32 <= n; i += 32) split_nibbles(codes + i, packed + i / 2);
  packed += i / 8 * bits;
  with_bits(bits, [&](auto bytes) {
    for (; (n - i) * bytes >= 64; i += 8, packed += bytes) {  // a whole word can be read, though `bytes` of it count
      const uint64_t split = split_eight(load_word(packed, 8), bytes);
      __builtin_memcpy(codes + i, &split, 8);
    }
  });
  for (; i < n; i += 8, packed += bits) {
    const int64_t some = smaller(8, n - i);
    const uint64_t split = split_eight(load_word(packed, (some * bits + 7) / 8), bits);
    __builtin_memcpy(codes + i, &split, static_cast<size_t>(some));
  }
}

}  // namespace
}  // namespace ISA
