// Results that leave the caches: built in a tile that stays in L1, then written past the caches.
// Worth it only where the output is larger than the caches; the caller decides and says `streamed`.
constexpr int64_t kTileBytes = 8192;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct Tile { alignas(64) uint8_t bytes[kTileBytes + 64]; };  // 64 more, so that a last full vector may be stored

#if defined(__x86_64__)
inline void stream_line(uint8_t* p, const uint8_t* from) {  // 64 bytes to an address that is a multiple of 64
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), _mm512_loadu_si512(from));
#elif defined(__AVX__)
  for (int k = 0; k < 64; k += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p + k), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + k)));
#else
  for (int k = 0; k < 64; k += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(p + k), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k)));
#endif
}
inline void stream_end() { _mm_sfence(); }
#else
inline void stream_line(uint8_t* p, const uint8_t* from) { __builtin_memcpy(p, from, 64); }
inline void stream_end() {}
#endif

inline void copy_bytes(uint8_t* to, const uint8_t* from, int64_t n, bool streamed) {
  int64_t i = 0;
  if (streamed) {
    i = smaller(n, -reinterpret_cast<intptr_t>(to) & 63);
    __builtin_memcpy(to, from, static_cast<size_t>(i));
    for (; i + 64 <= n; i += 64) stream_line(to + i, from + i);
  }
  __builtin_memcpy(to + i, from + i, static_cast<size_t>(n - i));
}

// Calls body(first, count, out) over stretches of n elements of `out`; where streamed, the body writes to a tile.
template <class T, class Body> inline void each_tile(int64_t n, T* out, bool streamed, const Body& body) {
  if (!streamed) return body(int64_t{0}, n, out);
  Tile tile;
  constexpr int64_t step = kTileBytes / static_cast<int64_t>(sizeof(T));
  for (int64_t first = 0; first < n; first += step) {
    const int64_t count = smaller(step, n - first);
    body(first, count, reinterpret_cast<T*>(tile.bytes));
    copy_bytes(reinterpret_cast<uint8_t*>(out + first), tile.bytes, count * static_cast<int64_t>(sizeof(T)), true);
  }
  stream_end();
}
