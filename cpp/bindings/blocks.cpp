#include "arrays.h"

static bool block_sums(const py::array& w, int64_t block_rows, int64_t block_cols, int power, py::array& out) {
  if (power < 0 || power > 2) throw py::value_error("power must be 0, 1 or 2");
  const auto [rows, cols] = shape_of(w);
  if (block_rows < 1 || block_cols < 1 || rows % block_rows || cols % block_cols)
    throw py::value_error("rows and cols must be multiples of those of a block");
  const int64_t bands = rows / block_rows, across = cols / block_cols, stride = cols;
  const Weights x = weights(w);
  float* o = numbers<float>("out", out, bands * across);
  if (bands > 1 || across == 0)
    return run_rows(bands, block_rows * cols, [&](int64_t b, int64_t count, int) {
      return active().block_sums(x.at(b * block_rows * stride), count * block_rows, stride, stride, block_rows,
                                 block_cols, power, o + b * across, across);
    });
  return run_rows(across, rows * block_cols, [&](int64_t b, int64_t count, int) {
    return active().block_sums(x.at(b * block_cols), rows, count * block_cols, stride, block_rows, block_cols, power,
                               o + b, across);
  });
}

static bool multiply(const py::array& w, const py::array& factor, bool by_row, py::array& out) {
  const auto [rows, cols] = shape_of(w);
  const int64_t n = cols;
  const Weights x = weights(w);
  const float* f = numbers<const float>("factor", factor, by_row ? rows : cols);
  const MutableWeights o = like(w, out);
  const bool nontemporal = wants_nontemporal(o.data, rows, n * o.itemsize(), x.data);
  return run_rows(rows, n, [&](int64_t r, int64_t count, int) {
    return active().multiply(x.at(r * n), by_row ? f + r : f, by_row, count, n, o.at(r * n), nontemporal);
  });
}

void bind_blocks(py::module_& m) {
  m.def("block_sums", &block_sums, "w"_a, "block_rows"_a, "block_cols"_a, "power"_a, "out"_a);
  m.def("multiply", &multiply, "w"_a, "factor"_a, "by_row"_a, "out"_a);
}
