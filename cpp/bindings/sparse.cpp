#include <vector>

#include "arrays.h"
#include "words.h"

using Offsets = std::optional<py::array>;

constexpr int64_t kFewVectors =
    3;  // up to so many vectors, products of one at a time are as fast as of sixteen at once

static Weights elements(const py::array& a) {  // weights or codes
  size_of(a);
  if (py::isinstance<py::array_t<uint8_t>>(a)) return {a.data(), Dtype::kCodes};
  return weights(a);
}

static MutableWeights mutable_elements(py::array& a, Dtype dtype) {
  const Weights found = elements(a);
  if (found.dtype != dtype) throw py::type_error("values must have the dtype of w");
  return {a.mutable_data(), dtype};
}

static SparseLayout layout_of(const std::string& layout, const py::array& places) {
  static constexpr Word<SparseLayout> known[] = {
      {"bitmask", SparseLayout::kBitmask}, {"n:m", SparseLayout::kNOfM}, {"csr", SparseLayout::kCsr32}};
  const SparseLayout found = word("layout", layout, known);
  const bool narrow = found == SparseLayout::kCsr32 && py::isinstance<py::array_t<uint16_t>>(places);
  return narrow ? SparseLayout::kCsr16 : found;
}

// Places in arrays of the sizes that they say.
static Places places_in(const std::string& layout, int n, int m, const Offsets& offsets, const py::array& places,
                        int64_t rows, int64_t cols, int64_t count) {
  Places at{layout_of(layout, places), n, m, rows, cols, nullptr, places.data(), count};
  if ((at.layout == SparseLayout::kNOfM) == offsets.has_value())
    throw py::value_error("offsets belong to bitmask and csr alone");
  if (offsets) at.offsets = numbers<const int64_t>("offsets", *offsets, rows + 1);
  if (at.layout == SparseLayout::kNOfM) {
    if (n < 1 || n >= m || m > 32 || cols % m) throw py::value_error("n:m must have 1 <= n < m <= 32 and divide cols");
    same_size("values", count, rows * (cols / m * n));
  }
  if (at.layout == SparseLayout::kCsr16) {
    numbers<const uint16_t>("places", places, count);
  } else if (at.layout == SparseLayout::kCsr32) {
    if (cols > INT32_MAX) throw py::value_error("csr columns must fit int32");
    numbers<const int32_t>("places", places, count);
  } else {
    numbers<const uint8_t>("places", places, rows * at.row_bytes());
  }
  return at;
}

static bool stored_per_row(const py::array& w, py::array& counts) {
  const auto [rows, cols] = shape_of(w);
  const int64_t n = cols;
  const Weights x = elements(w);
  auto* c = numbers<int64_t>("counts", counts, rows);
  return run_rows(rows, n,
                  [&](int64_t r, int64_t some, int) { return active().stored_per_row(x.at(r * n), some, n, c + r); });
}

static bool sparse_encode(const py::array& w, const std::string& layout, int n, int m, const Offsets& offsets,
                          py::array& places, py::array& values) {
  const auto [rows, cols] = shape_of(w);
  const int64_t width = cols;
  const Weights x = elements(w);
  const Places at = places_in(layout, n, m, offsets, places, rows, cols, size_of(values));
  const MutableWeights v = mutable_elements(values, x.dtype);
  void* p = places.mutable_data();
  return run_rows(rows, width, [&](int64_t r, int64_t some, int) {
    return active().sparse_encode(x.at(r * width), at, r, some, p, v);
  });
}

static void sparse_decode(const std::string& layout, int n, int m, const Offsets& offsets, const py::array& places,
                          const py::array& values, py::array& out) {
  const auto [rows, cols] = shape_of(out);
  const int64_t width = cols;
  const Weights v = elements(values);
  const Places at = places_in(layout, n, m, offsets, places, rows, cols, size_of(values));
  const MutableWeights o = mutable_elements(out, v.dtype);
  const bool nontemporal = wants_nontemporal(o.data, rows, cols * o.itemsize(), nullptr);
  run_rows(rows, width, [&](int64_t r, int64_t some, int) {
    active().sparse_decode(at, v, r, some, o.at(r * width), nontemporal);
    return true;
  });
}

static int64_t sparse_check(const std::string& layout, int n, int m, const Offsets& offsets, const py::array& places,
                            int64_t rows, int64_t cols, int64_t count) {
  if (rows < 0 || cols < 0) throw py::value_error("rows and cols must not be negative");
  const Places at = places_in(layout, n, m, offsets, places, rows, cols, count);
  std::atomic<int64_t> worst{rows};
  run_rows(rows, cols, [&](int64_t r, int64_t some, int) {
    const int64_t bad = active().sparse_check(at, r, some);
    for (int64_t seen = worst; bad >= 0 && bad < seen && !worst.compare_exchange_weak(seen, bad);) {
    }
    return bad < 0;
  });
  return worst < rows ? worst.load() : -1;
}

// Zeros from an address that is a multiple of 64, so that no register of them crosses cache lines.
class Vectors {
  std::vector<float> memory_;

 public:
  float* data;
  explicit Vectors(int64_t size) : memory_(static_cast<size_t>(size + 16)) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    data = memory_.data() + (64 - address % 64) % 64 / sizeof(float);
  }
};

// Vectors of `cols` as blocks of cols x 16.
static Vectors interleaved(const float* x, int64_t batch, int64_t cols) {
  Vectors blocks((batch + 15) / 16 * 16 * cols);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < cols; ++c) blocks.data[(b / 16 * cols + c) * 16 + b % 16] = x[b * cols + c];
  return blocks;
}

// The same, each with zeros up to a multiple of 16.
static Vectors padded(const float* x, int64_t batch, int64_t cols) {
  const int64_t whole = (cols + 15) / 16 * 16;
  Vectors rows(batch * whole);
  for (int64_t b = 0; b < batch; ++b) std::copy_n(x + b * cols, cols, rows.data + b * whole);
  return rows;
}

static Nonzeros nonzeros_in(const py::array& values, int64_t count, int64_t rows, int64_t cols, int bits,
                            int64_t group_size, const Offsets& scales, const Offsets& zero_points) {
  if (!bits) {
    same_size("values", size_of(values), count);
    return {weights(values), 0, nullptr, 1, nullptr, nullptr};
  }
  if (bits < 1 || bits > 8 || group_size < 1 || !scales)
    throw py::value_error("bits must be 1..8, group_size positive, and scales given");
  const auto* codes = numbers<const uint8_t>("values", values, (count * bits + 7) / 8);
  const int64_t grid = rows * ((cols + group_size - 1) / group_size);
  return {{nullptr, Dtype::kCodes},
          bits,
          codes,
          group_size,
          numbers<const float>("scales", *scales, grid),
          zero_points ? numbers<const uint8_t>("zero_points", *zero_points, grid) : nullptr};
}

static void sparse_product(const std::string& layout, int n, int m, const Offsets& offsets, const py::array& places,
                           int64_t count, const py::array& values, int bits, int64_t group_size, const Offsets& scales,
                           const Offsets& zero_points, const py::array& x, py::array& out) {
  const auto [batch, cols] = shape_of(x);
  const int64_t vectors = batch, width = cols, rows = shape_of(out).cols;
  if (count < 0) throw py::value_error("count must not be negative");
  const Places at = places_in(layout, n, m, offsets, places, rows, cols, count);
  const Nonzeros w = nonzeros_in(values, count, rows, cols, bits, group_size, scales, zero_points);
  const float* from = numbers<const float>("x", x, vectors * width);
  float* o = numbers<float>("out", out, vectors * rows);
  const Unlocked others_run;
  if (!width || !vectors || !rows) return static_cast<void>(std::fill_n(o, vectors * rows, 0.0f));
  const bool few = vectors <= kFewVectors;
  const Vectors inputs = few ? padded(from, vectors, width) : interleaved(from, vectors, width);
  const int64_t work = at.is_csr() ? count / rows + 1 : width / 4 + 1;  // of a row and vector
  parallel_rows(rows, work * vectors, [&](int64_t r, int64_t some, int) {
    if (!few) active().sparse_matmul(at, w, r, some, inputs.data, vectors, o);
    for (int64_t b = 0; few && b < vectors; ++b)
      active().sparse_matvec(at, w, r, some, inputs.data + b * ((width + 15) / 16 * 16), o + b * rows + r);
    return true;
  });
}

void bind_sparse(py::module_& m) {
  m.def("stored_per_row", &stored_per_row, "w"_a, "counts"_a);
  m.def("sparse_encode", &sparse_encode, "w"_a, "layout"_a, "n"_a, "m"_a, "offsets"_a.none(true), "places"_a,
        "values"_a);
  m.def("sparse_decode", &sparse_decode, "layout"_a, "n"_a, "m"_a, "offsets"_a.none(true), "places"_a, "values"_a,
        "out"_a);
  m.def("sparse_check", &sparse_check, "layout"_a, "n"_a, "m"_a, "offsets"_a.none(true), "places"_a, "rows"_a, "cols"_a,
        "count"_a);
  m.def("sparse_product", &sparse_product, "layout"_a, "n"_a, "m"_a, "offsets"_a.none(true), "places"_a, "count"_a,
        "values"_a, "bits"_a, "group_size"_a, "scales"_a.none(true), "zero_points"_a.none(true), "x"_a, "out"_a);
}
