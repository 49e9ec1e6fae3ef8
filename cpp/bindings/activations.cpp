#include <memory>

#include "arrays.h"

static bool square_product(const py::array& w, const py::array& h, float factor, bool positive, py::array& out) {
  const int64_t n = size_of(w);
  same_size("h", size_of(h), n);
  const Weights x = weights(w), y = weights(h);
  float* o = numbers<float>("out", out, n);
  const bool nontemporal = wants_nontemporal(o, n * 4, x.data) && o != y.data;
  return run_elements(n, [&](int64_t i, int64_t count, int) {
    return active().square_product(x.at(i), y.at(i), count, factor, positive, o + i, nontemporal);
  });
}

static bool histogram(const py::array& x, const py::array& lift, const py::array& low, const py::array& scale,
                      py::array& counts) {
  const auto [rows, units] = shape_of(x);
  const int64_t n = rows, stride = units;
  if (counts.ndim() != 2 || counts.shape(1) < 1) throw py::value_error("counts must be of units and bins");
  const int64_t bins = counts.shape(1);
  const Weights a = weights(x);
  const float* by = numbers<const float>("lift", lift, units);
  const float* from = numbers<const float>("low", low, units);
  const float* s = numbers<const float>("scale", scale, units);
  int64_t* c = numbers<int64_t>("counts", counts, units * bins);
  return run_rows(units, n, [&](int64_t u, int64_t count, int) {
    return active().histogram(a.at(u), n, count, stride, by + u, from + u, s + u, bins, c + u * bins);
  });
}

static bool predictive(const py::array& w, const py::array& x, const py::array& labels, const py::array& bias,
                       py::array& out) {
  const auto [all_classes, all_inputs] = shape_of(w);
  const int64_t classes = all_classes, inputs = all_inputs, n = shape_of(x).rows;
  if (classes < 2) throw py::value_error("w must have two classes or more");
  const float* weight = numbers<const float>("w", w, classes * inputs);
  const float* sample = numbers<const float>("x", x, n * inputs);
  const int64_t* label = numbers<const int64_t>("labels", labels, n);
  const float* b = numbers<const float>("bias", bias, classes);
  float* o = numbers<float>("out", out, classes * inputs);
  for (int64_t j = 0; j < n; ++j)
    if (label[j] < 0 || label[j] >= classes) throw py::value_error("labels must be classes");
  const std::unique_ptr<float[]> l(new float[n * classes]);
  const std::unique_ptr<SoftmaxTerm[]> terms(new SoftmaxTerm[n * classes]);
  const bool finite = run_rows(n, classes * inputs, [&](int64_t j, int64_t count, int) {
    const bool good = active().logits(sample + j * inputs, count, weight, classes, inputs, b, l.get() + j * classes);
    if (good) active().softmax_terms(l.get() + j * classes, count, classes, label + j, terms.get() + j * classes);
    return good;
  });
  return finite && run_rows(classes, n * inputs, [&](int64_t c, int64_t count, int) {
           active().predictive(weight, sample, n, classes, inputs, c, count, label, terms.get(), o);
           return true;
         });
}

void bind_activations(py::module_& m) {
  m.def("square_product", &square_product, "w"_a, "h"_a, "factor"_a, "positive"_a, "out"_a);
  m.def("histogram", &histogram, "x"_a, "lift"_a, "low"_a, "scale"_a, "counts"_a);
  m.def("predictive", &predictive, "w"_a, "x"_a, "labels"_a, "bias"_a, "out"_a);
}
