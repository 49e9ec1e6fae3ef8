// Memory that another library offers through DLPack, of the one dtype that numpy does not read there: bfloat16. The
// structures are those of https://dmlc.github.io/dlpack/latest/c_api.html, without a version and from version 1 on.
#include "arrays.h"

namespace {
struct DlTensor {
  char* data;
  int32_t device, device_id, ndim;
  uint8_t kind, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DlManaged {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};
struct DlManagedVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(DlManagedVersioned*);
  uint64_t flags;
  DlTensor tensor;
};

bool is_bfloat16_here(const DlTensor& t) {
  constexpr int32_t cpu = 1, cuda_host = 3, rocm_host = 11, cuda_managed = 13;
  const bool here = t.device == cpu || t.device == cuda_host || t.device == rocm_host || t.device == cuda_managed;
  return here && t.kind == 4 && t.bits == 16 && t.lanes == 1;
}

template <class Managed>
py::object view_of(py::handle capsule, const char* name, const char* used, const py::dtype& dtype) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (!managed) throw py::error_already_set();
  const DlTensor& t = managed->tensor;
  if (!is_bfloat16_here(t)) return py::none();
  std::vector<py::ssize_t> shape(t.shape, t.shape + t.ndim), strides(shape.size());
  py::ssize_t step = 1;
  for (size_t k = shape.size(); k--; step *= shape[k]) strides[k] = 2 * (t.strides ? t.strides[k] : step);
  PyCapsule_SetName(capsule.ptr(), used);  // from here on it is ours to delete
  const py::capsule owner(managed, [](void* p) {
    auto* m = static_cast<Managed*>(p);
    if (m->deleter) m->deleter(m);
  });
  py::array view(dtype, shape, strides, t.data ? t.data + t.byte_offset : nullptr, owner);
  view.attr("setflags")("write"_a = false);
  return view;
}
}  // namespace

// A read-only array of `dtype`, two bytes each, over what a capsule of bfloat16 holds; None for another.
static py::object bfloat16_from_dlpack(py::handle capsule, const py::dtype& dtype) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned"))
    return view_of<DlManagedVersioned>(capsule, "dltensor_versioned", "used_dltensor_versioned", dtype);
  return view_of<DlManaged>(capsule, "dltensor", "used_dltensor", dtype);
}

void bind_dlpack(py::module_& m) { m.def("bfloat16_from_dlpack", &bfloat16_from_dlpack, "capsule"_a, "dtype"_a); }
