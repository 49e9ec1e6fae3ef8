// numpy arrays seen without Python. Sizes come from the arrays; what would read outside memory is refused here.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>
#include <string>

#include "../dispatch.h"
#include "../parallel.h"
#include "unlocked.h"

namespace py = pybind11;
using namespace py::literals;

constexpr int64_t kNonTemporalBytes = 16 << 20;  // results larger than this leave the caches anyway

// Whether the elements are T in native order; as fast as a comparison of two integers.
template <class T>
bool holds(const py::array& a) {
  const py::dtype dtype = a.dtype();
  return dtype.normalized_num() == py::dtype::num_of<T>() && dtype.byteorder() != '>';
}
std::optional<Dtype> known_dtype(const py::array& a);
Dtype dtype_of(const py::array& a);   // TypeError for what is not one of the three
int64_t size_of(const py::array& a);  // elements; ValueError unless C-contiguous
void same_size(const char* name, int64_t found, int64_t needed);

inline Weights weights(const py::array& a) {
  size_of(a);
  return {a.data(), dtype_of(a)};
}

inline MutableWeights mutable_weights(py::array& a) {
  size_of(a);
  return {a.mutable_data(), dtype_of(a)};
}

// Where results of w's dtype and size go.
inline MutableWeights like(const py::array& w, py::array& out) {
  same_size("out", size_of(out), size_of(w));
  const MutableWeights o = mutable_weights(out);
  if (o.dtype != dtype_of(w)) throw py::type_error("out must have the dtype of w");
  return o;
}

// A contiguous array of plain numbers; T is const for those that are only read.
template <class T>
T* numbers(const char* name, const py::array& a, int64_t needed) {
  if (!holds<std::remove_const_t<T>>(a)) throw py::type_error(std::string(name) + " has the wrong dtype");
  same_size(name, size_of(a), needed);
  if constexpr (std::is_const_v<T>) {
    return static_cast<T*>(a.data());
  } else {
    return static_cast<T*>(const_cast<py::array&>(a).mutable_data());
  }
}

struct Shape {
  int64_t rows, cols;
};
inline Shape shape_of(const py::array& a) {
  if (a.ndim() != 2) throw py::value_error("an array must have two axes here");
  return {a.shape(0), a.shape(1)};
}

// Past the caches where the result is large, not written over its input, and made of rows of whole 16-byte pieces.
inline bool wants_nontemporal(const void* out, int64_t rows, int64_t row_bytes, const void* in) {
  const bool in_pieces = row_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  return rows * row_bytes > kNonTemporalBytes && in_pieces && out != in;
}
// The same for elements without rows: their slices are multiples of 16 bytes.
inline bool wants_nontemporal(const void* out, int64_t bytes, const void* in) {
  return wants_nontemporal(out, bytes / 16, 16, in);
}
inline bool wants_nontemporal(MutableWeights out, int64_t n, Weights w) {
  return wants_nontemporal(out.data, n * out.itemsize(), w.data);
}

// Runs a kernel on slices without the GIL.
template <class Body>
bool run_elements(int64_t n, const Body& body) {
  const Unlocked others_run;
  return parallel_elements(n, body);
}
template <class Body>
bool run_rows(int64_t rows, int64_t size, const Body& body) {
  const Unlocked others_run;
  return parallel_rows(rows, size, body);
}
