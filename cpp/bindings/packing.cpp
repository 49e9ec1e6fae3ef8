#include "arrays.h"

static void check_bits(int bits) {
  if (bits < 1 || bits > 8) throw py::value_error("bits must be 1..8");
}

static bool pack(const py::array& codes, int bits, py::array& out) {
  check_bits(bits);
  const auto [rows, cols] = shape_of(codes);
  const int64_t n = cols, bytes = (n * bits + 7) / 8;
  const auto* c = numbers<const uint8_t>("codes", codes, rows * n);
  auto* p = numbers<uint8_t>("out", out, rows * bytes);
  return run_rows(
      rows, n, [&](int64_t r, int64_t count, int) { return active().pack(c + r * n, count, n, bits, p + r * bytes); });
}

static void unpack(const py::array& packed, int bits, py::array& out) {
  check_bits(bits);
  const auto [rows, cols] = shape_of(out);
  const int64_t n = cols, bytes = (n * bits + 7) / 8;
  const auto* p = numbers<const uint8_t>("packed", packed, rows * bytes);
  auto* c = numbers<uint8_t>("out", out, rows * n);
  run_rows(rows, n, [&](int64_t r, int64_t count, int) {
    active().unpack(p + r * bytes, count, n, bits, c + r * n);
    return true;
  });
}

void bind_packing(py::module_& m) {
  m.def("pack", &pack, "codes"_a, "bits"_a, "out"_a);
  m.def("unpack", &unpack, "packed"_a, "bits"_a, "out"_a);
}
