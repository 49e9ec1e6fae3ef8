#include <algorithm>
#include <vector>

#include "arrays.h"
#include "words.h"

static ScaleRule rule_of(const std::string& rule) {
  static constexpr Word<ScaleRule> known[] = {
      {"absmax", ScaleRule::kAbsmax},           {"mse", ScaleRule::kMse},
      {"power_of_two", ScaleRule::kPowerOfTwo}, {"scale", ScaleRule::kGivenScale},
      {"given", ScaleRule::kGivenScaleAndZero}, {"full", ScaleRule::kGivenFullRange}};
  return word("rule", rule, known);
}

static Rounding rounding_of(const std::string& rounding) {
  static constexpr Word<Rounding> known[] = {{"even", Rounding::kEven},
                                             {"away", Rounding::kAway},
                                             {"floor", Rounding::kFloor},
                                             {"stochastic", Rounding::kStochastic}};
  return word("rounding", rounding, known);
}

// Rows of weights with their codes, cut into groups.
struct Layout {
  int64_t rows, cols, groups, bytes;
  Layout(Shape shape, int bits, int64_t group_size) : rows(shape.rows), cols(shape.cols) {
    if (bits < 1 || bits > 8 || group_size < 1) throw py::value_error("bits must be 1..8 and group_size positive");
    groups = (cols + group_size - 1) / group_size;
    bytes = (cols * bits + 7) / 8;
  }
};

static bool ranges(const py::array& w, int64_t group_size, py::array& low, py::array& high) {
  const Layout at(shape_of(w), 8, group_size);
  const Weights x = weights(w);
  float *l = numbers<float>("low", low, at.rows * at.groups), *h = numbers<float>("high", high, at.rows * at.groups);
  return run_rows(at.rows, at.cols, [&](int64_t r, int64_t count, int) {
    return active().ranges(x.at(r * at.cols), count, at.cols, group_size, l + r * at.groups, h + r * at.groups);
  });
}

// The largest finite value of the narrower of two dtypes.
static float largest_of(Dtype a, Dtype b) {
  if (a == Dtype::kFloat16 || b == Dtype::kFloat16) return 65504.0f;
  return a == Dtype::kBfloat16 || b == Dtype::kBfloat16 ? 0x1.fep127f : 0x1.fffffep127f;
}

static Grid grid_of(const py::array& w, int bits, int64_t group_size, bool symmetric, const std::string& rule,
                    const std::string& scale_dtype, const std::string& rounding, uint64_t seed) {
  if (bits < 2) throw py::value_error("bits must be 2..8");
  const Dtype of_scales = scale_dtype_of(scale_dtype);
  return {bits,      group_size,
          symmetric, rule_of(rule),
          of_scales, rounding_of(rounding),
          seed,      largest_of(dtype_of(w), of_scales)};
}

// The scale and zero point of a whole tensor, from its extent alone; kMse must see every weight again, and so must
// kAbsmax where scales are subnormal.
static bool fit_tensor(const py::array& w, int bits, bool symmetric, const std::string& rule,
                       const std::string& scale_dtype, py::array& scale, std::optional<py::array> zero_point) {
  if (symmetric != !zero_point) throw py::value_error("zero_point must be None where symmetric");
  const int64_t n = size_of(w);
  const Grid grid = grid_of(w, bits, std::max<int64_t>(n, 1), symmetric, rule, scale_dtype, "even", 0);
  const Weights x = weights(w);
  float* s = numbers<float>("scale", scale, 1);
  uint8_t* z = zero_point ? numbers<uint8_t>("zero_point", *zero_point, 1) : nullptr;
  std::vector<float> low(static_cast<size_t>(thread_limit())), high = low;
  const bool finite = run_elements(n, [&](int64_t i, int64_t count, int slice) {
    return active().extent(x.at(i), count, symmetric, &low[static_cast<size_t>(slice)],
                           &high[static_cast<size_t>(slice)]);
  });
  float ends[2] = {*std::min_element(low.begin(), low.end()), *std::max_element(high.begin(), high.end())};
  if (!finite || grid.rule == ScaleRule::kMse)
    return finite && active().quantize(x, 1, n, grid, 0, nullptr, s, z, false);
  Grid of_two = grid;
  of_two.group_size = 2;
  active().quantize({ends, Dtype::kFloat32}, 1, 2, of_two, 0, nullptr, s, z, false);
  const float normal = grid.scale_dtype == Dtype::kFloat16 ? 0x1p-14f : 0x1p-126f;
  if (grid.rule == ScaleRule::kAbsmax && *s <= normal && (ends[0] < 0 || ends[1] > 0))
    active().quantize(x, 1, n, grid, 0, nullptr, s, z, false);
  return true;
}

static bool quantize(const py::array& w, int bits, int64_t group_size, bool symmetric, const std::string& rule,
                     const std::string& scale_dtype, const std::string& rounding, uint64_t seed, py::array& data,
                     py::array& scales, std::optional<py::array> zero_points) {
  if (symmetric != !zero_points) throw py::value_error("zero_points must be None where symmetric");
  const Layout at(shape_of(w), bits, group_size);
  const Weights x = weights(w);
  const Grid grid = grid_of(w, bits, group_size, symmetric, rule, scale_dtype, rounding, seed);
  uint8_t* d = numbers<uint8_t>("data", data, at.rows * at.bytes);
  float* s = numbers<float>("scales", scales, at.rows * at.groups);
  uint8_t* z = zero_points ? numbers<uint8_t>("zero_points", *zero_points, at.rows * at.groups) : nullptr;
  const bool nontemporal = wants_nontemporal(d, at.rows, at.bytes, nullptr);
  return run_rows(at.rows, at.cols, [&](int64_t r, int64_t count, int) {
    return active().quantize(x.at(r * at.cols), count, at.cols, grid, r * at.cols, d + r * at.bytes, s + r * at.groups,
                             z ? z + r * at.groups : nullptr, nontemporal);
  });
}

static void dequantize(const py::array& data, int bits, int64_t group_size, const py::array& scales,
                       const std::optional<py::array>& zero_points, py::array& out) {
  const Layout at(shape_of(out), bits, group_size);
  const auto* d = numbers<const uint8_t>("data", data, at.rows * at.bytes);
  const float* s = numbers<const float>("scales", scales, at.rows * at.groups);
  const uint8_t* z = zero_points ? numbers<const uint8_t>("zero_points", *zero_points, at.rows * at.groups) : nullptr;
  const MutableWeights o = mutable_weights(out);
  const bool nontemporal = wants_nontemporal(o.data, at.rows, at.cols * o.itemsize(), nullptr);
  run_rows(at.rows, at.cols, [&](int64_t r, int64_t count, int) {
    active().dequantize(d + r * at.bytes, count, at.cols, bits, group_size, s + r * at.groups,
                        z ? z + r * at.groups : nullptr, o.at(r * at.cols), nontemporal);
    return true;
  });
}

static bool round_to_int(const py::array& w, float multiplier, int offset, int bits, bool is_signed,
                         const std::string& rounding, uint64_t seed, py::array& out) {
  if (bits < 1 || bits > 8 || offset < -(1 << 16) || offset > 1 << 16)
    throw py::value_error("bits or offset out of range");
  const int64_t n = size_of(w);
  const Weights x = weights(w);
  const Rounding mode = rounding_of(rounding);
  const int low = is_signed ? -(1 << (bits - 1)) : 0, high = low + (1 << bits) - 1;
  auto* o = is_signed ? reinterpret_cast<uint8_t*>(numbers<int8_t>("out", out, n)) : numbers<uint8_t>("out", out, n);
  const bool nontemporal = wants_nontemporal(o, n, nullptr);
  return run_elements(n, [&](int64_t i, int64_t count, int) {
    return active().round_to_int(x.at(i), count, multiplier, offset, low, high, mode, seed, i, o + i, nontemporal);
  });
}

static bool errors(const py::array& a, const py::array& b, py::array& out) {
  const auto [rows, cols] = shape_of(a);
  const int64_t n = cols;
  same_size("b", size_of(b), rows * n);
  const Weights x = weights(a), y = weights(b);
  double* o = numbers<double>("out", out, rows * 5);
  return run_rows(rows, n, [&](int64_t r, int64_t count, int) {
    return active().errors(x.at(r * n), y.at(r * n), count, n, o + r * 5);
  });
}

void bind_quantization(py::module_& m) {
  m.def("ranges", &ranges, "w"_a, "group_size"_a, "low"_a, "high"_a);
  m.def("fit_tensor", &fit_tensor, "w"_a, "bits"_a, "symmetric"_a, "rule"_a, "scale_dtype"_a, "scale"_a,
        "zero_point"_a.none(true));
  m.def("quantize", &quantize, "w"_a, "bits"_a, "group_size"_a, "symmetric"_a, "rule"_a, "scale_dtype"_a, "rounding"_a,
        "seed"_a, "data"_a, "scales"_a, "zero_points"_a.none(true));
  m.def("dequantize", &dequantize, "data"_a, "bits"_a, "group_size"_a, "scales"_a, "zero_points"_a.none(true), "out"_a);
  m.def("round_to_int", &round_to_int, "w"_a, "multiplier"_a, "offset"_a, "bits"_a, "signed"_a, "rounding"_a, "seed"_a,
        "out"_a);
  m.def("errors", &errors, "a"_a, "b"_a, "out"_a);
}
