// Arguments of the usual kind, known by one look: in Python, a dozen steps that take longer than small kernels do. What
// is unusual is left to python/quantrim/checks.py, which has the words for it.
#include "arrays.h"

static bool is_plain(py::handle a) { return Py_TYPE(a.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

constexpr int kInOrder = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
static bool has(const py::array& a, int flags) { return (a.flags() & flags) == flags; }

// A plain array of weights, C-contiguous and aligned, with at least one axis.
static bool usual_input(py::handle a) {
  if (!is_plain(a)) return false;
  const auto x = py::reinterpret_borrow<py::array>(a);
  return x.ndim() > 0 && known_dtype(x) && has(x, kInOrder);
}

static bool has_shape(const py::array& a, const py::tuple& shape) {
  if (a.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
  for (py::ssize_t k = 0; k < a.ndim(); ++k) {
    const py::handle n = PyTuple_GET_ITEM(shape.ptr(), k);
    int overflow = 0;  // then -1, which no array has, and no exception
    if (!PyLong_CheckExact(n.ptr()) || PyLong_AsLongLongAndOverflow(n.ptr(), &overflow) != a.shape(k)) return false;
  }
  return true;
}

// `dtype` may be one, or the type of its scalars. Two of the same kind that are two objects are not of the usual kind.
static bool has_dtype(const py::array& a, py::handle dtype) {
  const py::dtype own = a.dtype();
  const auto* known = py::detail::array_descriptor_proxy(own.ptr());
  return own.is(dtype) || (known->typeobj == dtype.ptr() && known->byteorder != '>');
}

// A plain array of that form that may be written and is apart from every input, each of them contiguous.
static bool usual_output(py::handle out, const py::tuple& shape, py::handle dtype, const py::args& inputs) {
  if (!is_plain(out)) return false;
  const auto to = py::reinterpret_borrow<py::array>(out);
  if (!has(to, kInOrder) || !to.writeable() || !has_shape(to, shape) || !has_dtype(to, dtype)) return false;
  const auto* begin = static_cast<const char*>(to.data());
  for (const py::handle input : inputs) {
    if (!is_plain(input)) return false;
    const auto from = py::reinterpret_borrow<py::array>(input);
    const auto* data = static_cast<const char*>(from.data());
    if (!has(from, py::array::c_style) || (data < begin + to.nbytes() && begin < data + from.nbytes())) return false;
  }
  return true;
}

// A plain float32 vector of that length, all finite and not negative: NaN is neither.
static bool usual_vector(py::handle a, py::ssize_t length) {
  if (!usual_input(a)) return false;
  const auto x = py::reinterpret_borrow<py::array>(a);
  if (x.ndim() != 1 || x.shape(0) != length || known_dtype(x) != Dtype::kFloat32) return false;
  const auto* value = static_cast<const float*>(x.data());
  bool all = true;
  for (py::ssize_t i = 0; i < length; ++i) all &= value[i] >= 0 && value[i] <= std::numeric_limits<float>::max();
  return all;
}

void bind_usual(py::module_& m) {
  m.def("usual_input", &usual_input, "a"_a);
  m.def("usual_vector", &usual_vector, "a"_a, "length"_a);
  m.def("usual_output", &usual_output, "out"_a, "shape"_a, "dtype"_a);
}
