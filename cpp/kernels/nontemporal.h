// Non-temporal stores: past the caches, to memory. Worth it only where a result is larger than the caches; the caller
// decides, and only for results whose address is a multiple of 16. Stores of 16 bytes need no more alignment than that,
// and fill whole lines one after the other. They must come straight from registers: bursts from a tile cost half of the
// bandwidth.
#pragma once
#include "vec.h"

namespace ISA {
namespace {

// Where the choice costs less than the code for both.
inline void put_sixteen(uint8_t* p, BytesReg a, bool nontemporal) {
  nontemporal ? nontemporal_sixteen(p, a) : store_sixteen(p, a);
}

// Where to store to without the caches, like a pointer.
template <class T>
struct NonTemporal {
  T* p;
  NonTemporal operator+(int64_t i) const { return {p + i}; }
};

inline void store(NonTemporal<float> out, F32x16 a, Full) {
  for (int k = 0; k < kRegs; ++k) nontemporal_float(out.p + k * kLanes, a.r[k]);
}
template <class T>
inline void store(NonTemporal<T> out, F32x16 a, Full) {  // Float16, BFloat16
  alignas(64) T some[16];
  store(some, a);
  nontemporal_16(out.p, some);
  nontemporal_16(out.p + 8, some + 8);
}
template <class T>
inline void store(NonTemporal<T> out, F32x16 a, Tail tail) {
  store(out.p, a, tail.n);
}

// Calls body with `out` as a plain pointer or as a NonTemporal one.
template <class T, class Body>
inline void with_target(T* out, bool nontemporal, const Body& body) {
  if (!nontemporal) return body(out);
  body(NonTemporal<T>{out});
  nontemporal_end();
}

}  // namespace
}  // namespace ISA
