// The words of the Python side, as enumerators.
#pragma once
#include <string>

#include "arrays.h"

template <class T>
struct Word {
  const char* word;
  T value;
};

template <class T, size_t n>
T word(const char* name, const std::string& value, const Word<T> (&known)[n]) {
  for (const Word<T>& row : known)
    if (value == row.word) return row.value;
  throw py::value_error(std::string(name) + " unknown: " + value);
}

inline Dtype scale_dtype_of(const std::string& dtype) {
  static constexpr Word<Dtype> known[] = {
      {"float32", Dtype::kFloat32}, {"float16", Dtype::kFloat16}, {"bfloat16", Dtype::kBfloat16}};
  return word("scale_dtype", dtype, known);
}
