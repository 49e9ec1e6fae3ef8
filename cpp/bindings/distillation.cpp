#include <vector>

#include "arrays.h"

static void check_labels(const int64_t* labels, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r)
    if (labels[r] < -1 || labels[r] >= cols) throw py::value_error("labels must be columns of student, or -1");
}

static bool distill(const py::array& student, const std::vector<py::array>& teachers,
                    const std::optional<py::array>& labels, double temperature, double alpha, py::array& loss,
                    py::array& grad) {
  const auto [rows, cols] = shape_of(student);
  const int64_t batch = rows, n = cols;
  if (teachers.empty() || n == 0) throw py::value_error("there must be a teacher and a class");
  std::vector<Weights> taught;
  for (const py::array& teacher : teachers) {
    same_size("teachers", size_of(teacher), rows * n);
    taught.push_back(weights(teacher));
  }
  const int64_t* truth = nullptr;
  if (labels) {
    truth = numbers<const int64_t>("labels", *labels, rows);
    check_labels(truth, rows, n);
  }
  const Weights x = weights(student);
  double* losses = numbers<double>("loss", loss, rows);
  float* g = numbers<float>("grad", grad, rows * n);
  constexpr int64_t work = 4;  // an element with its exponentials costs about as much as four in other kernels
  return run_rows(rows, n * work, [&](int64_t first, int64_t some, int) {
    return active().distill(x, taught.data(), static_cast<int>(taught.size()), truth, first, some, n, temperature,
                            alpha, batch, losses, g);
  });
}

void bind_distillation(py::module_& m) {
  m.def("distill", &distill, "student"_a, "teachers"_a, "labels"_a.none(true), "temperature"_a, "alpha"_a, "loss"_a,
        "grad"_a);
}
