// Loops over weights of any of the three dtypes.
#pragma once
#include "nontemporal.h"

namespace ISA {
namespace {

// Calls body with the weights as pointers of their own type.
template <class Body>
inline auto typed(Weights w, const Body& body) {
  switch (w.dtype) {
    case Dtype::kFloat16:
      return body(static_cast<const Float16*>(w.data));
    case Dtype::kBfloat16:
      return body(static_cast<const BFloat16*>(w.data));
    default:
      return body(static_cast<const float*>(w.data));
  }
}

template <class T>
inline T* as_type_of(const T*, MutableWeights out) {
  return static_cast<T*>(out.data);
}

// out[i] = change(w[i]) for all i; whether every weight was finite.
template <class Change>
inline bool map_weights(Weights w, int64_t n, MutableWeights out, bool nontemporal, const Change& change) {
  return typed(w, [&](auto* x) {
    Finite finite;
    with_target(as_type_of(x, out), nontemporal, [&](auto to) {
      for_each_vector(n, [&](int64_t i, auto tail) {
        const F32x16 v = load(x + i, tail);
        finite.see(v);
        store(to + i, change(v, i, tail), tail);
      });
    });
    return finite.all();
  });
}

// Calls body with what is summed: |x| or x * x.
template <class Body>
inline auto with_power(int power, const Body& body) {
  if (power == 1) return body([](F32x16 x) { return abs(x); });
  return body([](F32x16 x) { return x * x; });
}

NOINLINE inline bool all_finite(Weights w, int64_t n) {
  return typed(w, [&](auto* x) {
    Finite finite;
    for_each_vector(n, [&](int64_t i, auto tail) { finite.see(load(x + i, tail)); });
    return finite.all();
  });
}

}  // namespace
}  // namespace ISA
