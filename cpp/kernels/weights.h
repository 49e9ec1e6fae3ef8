// Loops over weights of any of the three dtypes.
#pragma once
// Calls body with the weights as pointers of their own type.
template <class Body>
inline auto typed(Weights w, const Body& body) {
  switch (w.dtype) {
    case Dtype::kFloat16:
      return body(static_cast<const Half*>(w.data));
    case Dtype::kBfloat16:
      return body(static_cast<const Brain*>(w.data));
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
inline bool map_weights(Weights w, int64_t n, MutableWeights out, bool streamed, const Change& change) {
  return typed(w, [&](auto* x) {
    Finite finite;
    with_target(as_type_of(x, out), streamed, [&](auto to) {
      sixteens(n, [&](int64_t i, auto part) {
        const F32x16 v = load(x + i, part);
        finite.see(v);
        store(to + i, change(v, i, part), part);
      });
    });
    return finite.all();
  });
}

APART inline bool all_finite(Weights w, int64_t n) {
  return typed(w, [&](auto* x) {
    Finite finite;
    sixteens(n, [&](int64_t i, auto part) { finite.see(load(x + i, part)); });
    return finite.all();
  });
}
