#include "../algorithms/clusters.h"
#include "../algorithms/recognition.h"
#include "arrays.h"
#include "words.h"

static BookRule book_rule_of(const std::string& rule) {
  static constexpr Word<BookRule> known[] = {{"absmax", BookRule::kAbsmax},
                                             {"power_of_two", BookRule::kPowerOfTwo},
                                             {"scale", BookRule::kGivenScale},
                                             {"none", BookRule::kNone}};
  return word("rule", rule, known);
}

// Rows of weights, cut into groups.
struct Groups {
  int64_t rows, cols, groups, all;
  Groups(Shape shape, int64_t group_size) : rows(shape.rows), cols(shape.cols) {
    if (group_size < 1) throw py::value_error("group_size must be positive");
    groups = (cols + group_size - 1) / group_size;
    all = rows * groups;
  }
};

static int64_t packed_bytes(int64_t cols, int bits) {
  if (bits < 1 || bits > 8) throw py::value_error("bits must be 1..8");
  return (cols * bits + 7) / 8;
}

// How many values there are in each of the sets of `a`; one set, or one per group.
static int64_t per_set(const char* name, const py::array& a, const Groups& at, int64_t most) {
  if (a.ndim() < 1) throw py::value_error(std::string(name) + " must have an axis");
  const int64_t count = a.shape(a.ndim() - 1), size = size_of(a);
  if (count < 1 || count > most || (size != count && size != count * at.all))
    throw py::value_error(std::string(name) + " must be one set of 1.." + std::to_string(most) + " or one per group");
  return count;
}

static bool quantize_codebook(const py::array& w, int64_t group_size, const std::string& rule,
                              const std::string& scale_dtype, float peak, const py::array& edges,
                              const std::optional<py::array>& order, int bits, std::optional<py::array> data,
                              py::array& scales) {
  const Groups at(shape_of(w), group_size);
  const int64_t bytes = packed_bytes(at.cols, bits), count = per_set("edges", edges, at, 255);
  const auto* e = numbers<const float>("edges", edges, size_of(edges));
  const auto* o = order ? numbers<const uint8_t>("order", *order, 16) : nullptr;
  if (count >= 1 << bits || (o && count > 15)) throw py::value_error("edges must have fewer values than bits can say");
  for (int i = 0; o && i < 16; ++i)
    if (o[i] >= 1 << bits) throw py::value_error("order must fit bits");
  const bool apart = size_of(edges) != count;
  const Weights x = weights(w);
  const float limit = x.dtype == Dtype::kFloat32   ? 0x1.fffffep127f
                      : x.dtype == Dtype::kFloat16 ? 65504.0f
                                                   : 0x1.fep127f;
  const Book book{bits,      group_size, book_rule_of(rule), scale_dtype_of(scale_dtype), peak, limit, e, apart,
                  count + 1, o};
  uint8_t* d = data ? numbers<uint8_t>("data", *data, at.rows * bytes) : nullptr;
  float* s = numbers<float>("scales", scales, at.all);
  const bool nontemporal = d && wants_nontemporal(d, at.rows, bytes, nullptr);
  return run_rows(at.rows, at.cols, [&](int64_t r, int64_t some, int) {
    Book here = book;
    if (apart) here.edges += r * at.groups * count;
    return active().quantize_codebook(x.at(r * at.cols), some, at.cols, here, d ? d + r * bytes : nullptr,
                                      s + r * at.groups, nontemporal);
  });
}

static void dequantize_codebook(const py::array& data, int bits, int64_t group_size, const py::array& codebook,
                                const py::array& scales, py::array& out) {
  const Groups at(shape_of(out), group_size);
  const int64_t bytes = packed_bytes(at.cols, bits), count = per_set("codebook", codebook, at, 256);
  const auto* b = numbers<const float>("codebook", codebook, size_of(codebook));
  const auto* d = numbers<const uint8_t>("data", data, at.rows * bytes);
  const float* s = numbers<const float>("scales", scales, at.all);
  const bool apart = size_of(codebook) != count;
  const MutableWeights o = mutable_weights(out);
  const bool nontemporal = wants_nontemporal(o.data, at.rows, at.cols * o.itemsize(), nullptr);
  run_rows(at.rows, at.cols, [&](int64_t r, int64_t some, int) {
    active().dequantize_codebook(d + r * bytes, some, at.cols, bits, group_size,
                                 b + (apart ? r * at.groups * count : 0), count, apart, s + r * at.groups,
                                 o.at(r * at.cols), nontemporal);
    return true;
  });
}

static bool magnitude_sums(const py::array& w, int64_t group_size, py::array& out) {
  const Groups at(shape_of(w), group_size);
  const Weights x = weights(w);
  double* o = numbers<double>("out", out, at.all);
  return run_rows(at.rows, at.cols, [&](int64_t r, int64_t some, int) {
    return active().magnitude_sums(x.at(r * at.cols), some, at.cols, group_size, o + r * at.groups);
  });
}

static bool fit_ternary(const py::array& w, int64_t group_size, py::array& edges, py::array& scales) {
  const Groups at(shape_of(w), group_size);
  const Weights x = weights(w);
  float *e = numbers<float>("edges", edges, at.all * 2), *s = numbers<float>("scales", scales, at.all);
  const Unlocked unlocked;
  return at.all == 0 || best_ternary(active(), x, at.rows, at.cols, group_size, e, s);
}

static bool fit_clusters(const py::array& w, int64_t group_size, int k, py::array& codebooks) {
  if (k < 2 || k > 256) throw py::value_error("k must be 2..256");
  const Groups at(shape_of(w), group_size);
  const Weights x = weights(w);
  float* c = numbers<float>("codebooks", codebooks, at.all * k);
  const Unlocked unlocked;
  return at.all == 0 || best_clusters(active(), x, at.rows, at.cols, group_size, k, c);
}

static bool fit_grids(const py::array& w, int64_t group_size, py::array& scales, py::array& low, py::array& high,
                      py::array& codes) {
  const Groups at(shape_of(w), group_size);
  const Weights x = weights(w);
  float* s = numbers<float>("scales", scales, at.all);
  int32_t *l = numbers<int32_t>("low", low, at.all), *h = numbers<int32_t>("high", high, at.all);
  uint8_t* c = numbers<uint8_t>("codes", codes, at.rows * at.cols);
  const Unlocked unlocked;
  return at.all == 0 || best_grids(active(), x, at.rows, at.cols, group_size, s, l, h, c);
}

void bind_codebooks(py::module_& m) {
  m.def("quantize_codebook", &quantize_codebook, "w"_a, "group_size"_a, "rule"_a, "scale_dtype"_a, "peak"_a, "edges"_a,
        "order"_a.none(true), "bits"_a, "data"_a.none(true), "scales"_a);
  m.def("dequantize_codebook", &dequantize_codebook, "data"_a, "bits"_a, "group_size"_a, "codebook"_a, "scales"_a,
        "out"_a);
  m.def("magnitude_sums", &magnitude_sums, "w"_a, "group_size"_a, "out"_a);
  m.def("fit_ternary", &fit_ternary, "w"_a, "group_size"_a, "edges"_a, "scales"_a);
  m.def("fit_clusters", &fit_clusters, "w"_a, "group_size"_a, "k"_a, "codebooks"_a);
  m.def("fit_grids", &fit_grids, "w"_a, "group_size"_a, "scales"_a, "low"_a, "high"_a, "codes"_a);
}
