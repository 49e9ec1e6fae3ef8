// A fast path for weights that need no conversion: the same checks in Python take longer than small kernels do. All
// other arguments go through python/quantrim/checks.py, which has the error messages.
#include "arrays.h"

// Whether `a` is a plain array of weights, C-contiguous and aligned, with at least one axis.
static bool usual_input(py::handle a) {
  constexpr int in_order = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  if (Py_TYPE(a.ptr()) != py::detail::npy_api::get().PyArray_Type_) return false;  // nor subclasses
  const auto x = py::reinterpret_borrow<py::array>(a);
  return x.ndim() > 0 && known_dtype(x) && (x.flags() & in_order) == in_order;
}

void bind_usual(py::module_& m) { m.def("usual_input", &usual_input, "a"_a); }
