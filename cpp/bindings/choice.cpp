// Who computes: what a context variable of Python says, so that a thread or a task has its own choice.
#include "arrays.h"

static PyObject* choice_variable = nullptr;  // its values are what choice_of gives; never freed

// A plain C function: it is called before every kernel.
static PyObject* active_module(PyObject*, PyObject*) {
  PyObject* choice = nullptr;
  if (PyContextVar_Get(choice_variable, nullptr, &choice) < 0) return nullptr;
  own_choice = {PyLong_AsVoidPtr(PyTuple_GET_ITEM(choice, 1)),
                static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(choice, 2)))};
  PyObject* module = PyTuple_GET_ITEM(choice, 0);
  Py_INCREF(module);
  Py_DECREF(choice);
  return module;
}
static PyMethodDef active_method = {"active", active_module, METH_O,
                                    "The module that computes in this context; its kernels and threads are set, too."};

// (module, address of its kernels or 0, threads)
static py::tuple choice_of(const py::object& module, const std::string& isa, int threads) {
  const Kernels* kernels = kernels_of(isa);
  if (!isa.empty() && !kernels) throw py::value_error("instruction set not available: " + isa);
  auto address = py::reinterpret_steal<py::object>(PyLong_FromVoidPtr(const_cast<Kernels*>(kernels)));
  return py::make_tuple(module, address, std::max(threads, 1));
}

void bind_choice(py::module_& m) {
  m.attr("active") = py::reinterpret_steal<py::object>(PyCFunction_New(&active_method, nullptr));
  m.def("choose_by", [](const py::object& variable) { choice_variable = variable.inc_ref().ptr(); }, "variable"_a);
  m.def("choice_of", &choice_of, "module"_a, "isa"_a, "threads"_a);
  m.def("current_isa", [] { return std::string(active().isa); });
  m.def("current_threads", &thread_limit);
}
