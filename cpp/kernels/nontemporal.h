// Stores past the caches. Worth it only where a result is larger than the caches; the caller decides, and only for
// results whose address is a multiple of 16. Pieces of 16 bytes need no more alignment than that, and fill whole lines
// one after the other. They must come straight from registers: bursts from a tile cost half of the bandwidth.
#if defined(__x86_64__)
inline void stream_16(void* p, const void* from) {
  _mm_stream_si128(static_cast<__m128i*>(p), _mm_loadu_si128(static_cast<const __m128i*>(from)));
}
inline void stream_sixteen(uint8_t* p, BytesReg a) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), a); }
inline void stream_end() { _mm_sfence(); }
#else
inline void stream_16(void* p, const void* from) { __builtin_memcpy(p, from, 16); }
inline void stream_sixteen(uint8_t* p, BytesReg a) { store_sixteen(p, a); }
inline void stream_end() {}
#endif
// Where the choice costs less than the code for both.
inline void put_sixteen(uint8_t* p, BytesReg a, bool streamed) {
  streamed ? stream_sixteen(p, a) : store_sixteen(p, a);
}

// A place to store to, like a pointer, past the caches.
template <class T>
struct Past {
  T* p;
  Past operator+(int64_t i) const { return {p + i}; }
};

inline void store(Past<float> out, F32x16 a, All) {
  for (int k = 0; k < kRegs; ++k) stream_float(out.p + k * kLanes, a.r[k]);
}
template <class T>
inline void store(Past<T> out, F32x16 a, All) {  // Half, Brain
  alignas(64) T some[16];
  store(some, a);
  stream_16(out.p, some);
  stream_16(out.p + 8, some + 8);
}
template <class T>
inline void store(Past<T> out, F32x16 a, Some some) {
  store(out.p, a, some.n);
}

// Calls body with `out` as what it is to be stored through.
template <class T, class Body>
inline void with_target(T* out, bool streamed, const Body& body) {
  if (!streamed) return body(out);
  body(Past<T>{out});
  stream_end();
}

constexpr int64_t kStretch = 4096;  // codes or marks that wait between two steps, in L1

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
