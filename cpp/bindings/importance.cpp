#include <vector>

#include "arrays.h"

static bool magnitude(const py::array& w, py::array& out) {
  const int64_t n = size_of(w);
  const Weights x = weights(w);
  float* o = numbers<float>("out", out, n);
  const bool nontemporal = wants_nontemporal(o, n * 4, x.data);
  return run_elements(
      n, [&](int64_t i, int64_t count, int) { return active().magnitude(x.at(i), count, o + i, nontemporal); });
}

static bool product_magnitude(const py::array& w, const py::array& grad, py::array& out) {
  const int64_t n = size_of(w);
  same_size("grad", size_of(grad), n);
  const Weights x = weights(w), g = weights(grad);
  float* o = numbers<float>("out", out, n);
  const bool nontemporal = wants_nontemporal(o, n * 4, x.data) && o != g.data;
  return run_elements(n, [&](int64_t i, int64_t count, int) {
    return active().product_magnitude(x.at(i), g.at(i), count, o + i, nontemporal);
  });
}

static bool wanda(const py::array& w, const py::array& input_norm, py::array& out) {
  const auto [rows, cols] = shape_of(w);
  const int64_t n = cols;
  const Weights x = weights(w);
  const float* norm = numbers<const float>("input_norm", input_norm, n);
  float* o = numbers<float>("out", out, rows * n);
  const bool nontemporal = wants_nontemporal(o, rows, n * 4, x.data);
  return run_rows(rows, n, [&](int64_t r, int64_t count, int) {
    return active().wanda(x.at(r * n), norm, count, n, o + r * n, nontemporal);
  });
}

static void check_power(int power) {
  if (power != 1 && power != 2) throw py::value_error("power must be 1 or 2");
}

static bool norm_rows(const py::array& w, int power, py::array& out) {
  check_power(power);
  const auto [rows, cols] = shape_of(w);
  const int64_t n = cols;
  const Weights x = weights(w);
  float* o = numbers<float>("out", out, rows);
  return run_rows(
      rows, n, [&](int64_t r, int64_t count, int) { return active().norm_rows(x.at(r * n), count, n, power, o + r); });
}

static bool norm_columns(const py::array& w, int power, py::array& out) {
  check_power(power);
  if (w.ndim() != 3) throw py::value_error("w must have three axes");
  const int64_t outer = w.shape(0), rows = w.shape(1), cols = w.shape(2);
  const Weights x = weights(w);
  float* o = numbers<float>("out", out, outer * cols);
  // Columns are summed in strips whose totals stay near the core.
  const int64_t strip = std::min<int64_t>(cols, 16384), slices = thread_limit();
  std::vector<float> totals(static_cast<size_t>(slices * 16 * strip));
  const auto sum_columns = [&](int64_t k, int64_t first, int64_t count, int slice) {
    bool all = true;
    for (const int64_t end = first + count; first < end; first += strip)
      all &= active().norm_columns(x.at(k * rows * cols + first), rows, std::min(strip, end - first), cols, power,
                                   totals.data() + slice * 16 * strip, o + k * cols + first);
    return all;
  };
  if (outer > 1)
    return run_rows(outer, rows * cols, [&](int64_t first, int64_t count, int slice) {
      bool all = true;
      for (int64_t k = first; k < first + count; ++k) all &= sum_columns(k, 0, cols, slice);
      return all;
    });
  return outer == 0 || run_rows(cols, rows, [&](int64_t first, int64_t count, int slice) {
           return sum_columns(0, first, count, slice);
         });
}

static void uniform(uint64_t seed, uint64_t first, py::array& out) {
  const int64_t n = size_of(out);
  float* o = numbers<float>("out", out, n);
  run_elements(n, [&](int64_t i, int64_t count, int) {
    active().uniform(seed, first + static_cast<uint64_t>(i), count, o + i);
    return true;
  });
}

void bind_importance(py::module_& m) {
  m.def("magnitude", &magnitude, "w"_a, "out"_a);
  m.def("product_magnitude", &product_magnitude, "w"_a, "grad"_a, "out"_a);
  m.def("wanda", &wanda, "w"_a, "input_norm"_a, "out"_a);
  m.def("norm_rows", &norm_rows, "w"_a, "power"_a, "out"_a);
  m.def("norm_columns", &norm_columns, "w"_a, "power"_a, "out"_a);
  m.def("uniform", &uniform, "seed"_a, "first"_a, "out"_a);
}
