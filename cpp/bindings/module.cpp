// The contents page of the compiled module. Argument checks with friendly messages live in python/quantrim.
#include <pthread.h>

#include "arrays.h"

void bind_importance(py::module_& m);
void bind_pruning(py::module_& m);
void bind_packing(py::module_& m);
void bind_quantization(py::module_& m);
void bind_distillation(py::module_& m);
void bind_blocks(py::module_& m);
void bind_activations(py::module_& m);
void bind_selection(py::module_& m);
void bind_codebooks(py::module_& m);
void bind_sparse(py::module_& m);
void bind_usual(py::module_& m);
void bind_dlpack(py::module_& m);
void bind_choice(py::module_& m);

static int bfloat16_number = -1;  // numpy's number for the dtype that ml_dtypes registers

std::optional<Dtype> known_dtype(const py::array& a) {
  constexpr int float16_number = 23;  // numpy's for float16, which no C++ type has
  const py::dtype dtype = a.dtype();
  if (dtype.byteorder() != '>') {
    if (holds<float>(a)) return Dtype::kFloat32;
    if (dtype.num() == float16_number) return Dtype::kFloat16;
    if (dtype.num() == bfloat16_number) return Dtype::kBfloat16;
  }
  return std::nullopt;
}

Dtype dtype_of(const py::array& a) {
  if (const auto dtype = known_dtype(a)) return *dtype;
  throw py::type_error("weights must be float32, float16 or bfloat16 in native byte order");
}

int64_t size_of(const py::array& a) {
  if (!(a.flags() & py::array::c_style)) throw py::value_error("arrays must be C-contiguous");
  return a.size();
}

void same_size(const char* name, int64_t found, int64_t needed) {
  if (found != needed)
    throw py::value_error(std::string(name) + " must have " + std::to_string(needed) + " elements, not " +
                          std::to_string(found));
}

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The kernels, compiled once per instruction set. Same names and parameters as quantrim.reference.";
  bfloat16_number = py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")).num();
  pthread_atfork(nullptr, nullptr, [] { forked_child = true; });
  m.def("built_isas", &built_isas);
  m.def("isas", &supported_isas);
  m.def("float_mode", &float_mode);
  m.def("use_float_mode", &set_float_mode);
  bind_importance(m);
  bind_pruning(m);
  bind_packing(m);
  bind_quantization(m);
  bind_distillation(m);
  bind_blocks(m);
  bind_activations(m);
  bind_selection(m);
  bind_codebooks(m);
  bind_sparse(m);
  bind_usual(m);
  bind_dlpack(m);
  bind_choice(m);
}
