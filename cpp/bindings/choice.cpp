// Who computes: for the process, and for a thread that has chosen otherwise.
#include "arrays.h"

static std::atomic<PyObject*> common_module{nullptr};  // this module or the reference; never freed
static thread_local PyObject* own_module = nullptr;

// A plain C function: it stands before every call of a kernel.
static PyObject* active_module(PyObject*, PyObject*) {
  PyObject* module = own_module ? own_module : common_module.load(std::memory_order_relaxed);
  Py_INCREF(module);
  return module;
}
static PyMethodDef active_method = {"active", active_module, METH_O, "The module that computes for this thread."};

static void compute_with(const py::object& module) { common_module = module.inc_ref().ptr(); }

// module: None, isa: "", threads: 0 for what the process has.
static void compute_here(const py::object& module, const std::string& isa, int threads) {
  const Kernels* kernels = isa.empty() ? nullptr : kernels_of(isa);
  if (!isa.empty() && !kernels) throw py::value_error("instruction set not available: " + isa);
  own_module = module.is_none() ? nullptr : module.inc_ref().ptr();
  own_choice = {kernels, std::max(threads, 0)};
}

void bind_choice(py::module_& m) {
  compute_with(m);
  m.attr("active") = py::reinterpret_steal<py::object>(PyCFunction_New(&active_method, nullptr));
  m.def("compute_with", &compute_with, "module"_a);
  m.def("compute_here", &compute_here, "module"_a.none(true), "isa"_a, "threads"_a);
  m.def("current_isa", [] { return std::string(active().isa); });
  m.def("use_isa", [](const std::string& name) {
    if (!use_isa(name)) throw py::value_error("instruction set not available: " + name);
  });
  m.def("current_threads", &thread_limit);
  m.def("use_threads", [](int count) { thread_count = std::max(count, 1); });
}
