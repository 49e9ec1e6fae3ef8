#include <map>

#include "arrays.h"

// The value that a word of the Python side stands for.
template <class T>
static T word(const char* name, const std::string& value, const std::map<std::string, T>& known) {
  const auto found = known.find(value);
  if (found == known.end()) throw py::value_error(std::string(name) + " unknown: " + value);
  return found->second;
}

static ScaleRule rule_of(const std::string& rule) {
  return word<ScaleRule>("rule", rule,
                         {{"absmax", ScaleRule::kAbsmax},
                          {"mse", ScaleRule::kMse},
                          {"power_of_two", ScaleRule::kPowerOfTwo},
                          {"scale", ScaleRule::kScale},
                          {"given", ScaleRule::kGiven}});
}

static Rounding rounding_of(const std::string& rounding) {
  return word<Rounding>("rounding", rounding,
                        {{"even", Rounding::kEven},
                         {"away", Rounding::kAway},
                         {"floor", Rounding::kFloor},
                         {"stochastic", Rounding::kStochastic}});
}

static Dtype scale_dtype_of(const std::string& dtype) {
  return word<Dtype>("scale_dtype", dtype,
                     {{"float32", Dtype::kFloat32}, {"float16", Dtype::kFloat16}, {"bfloat16", Dtype::kBfloat16}});
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

static bool quantize(const py::array& w, int bits, int64_t group_size, bool symmetric, const std::string& rule,
                     const std::string& scale_dtype, const std::string& rounding, uint64_t seed,
                     std::optional<py::array> data, py::array& scales, std::optional<py::array> zero_points) {
  if (bits < 2 || symmetric != !zero_points)
    throw py::value_error("bits must be 2..8, and zero_points None where symmetric");
  const Layout at(shape_of(w), bits, group_size);
  const Weights x = weights(w);
  const Grid grid{bits, group_size, symmetric, rule_of(rule), scale_dtype_of(scale_dtype), rounding_of(rounding), seed};
  uint8_t* d = data ? numbers<uint8_t>("data", *data, at.rows * at.bytes) : nullptr;
  float* s = numbers<float>("scales", scales, at.rows * at.groups);
  uint8_t* z = zero_points ? numbers<uint8_t>("zero_points", *zero_points, at.rows * at.groups) : nullptr;
  const bool stream = d && streamed(d, at.rows, at.bytes, nullptr);
  return run_rows(at.rows, at.cols, [&](int64_t r, int64_t count, int) {
    return active().quantize(x.at(r * at.cols), count, at.cols, grid, r * at.cols, d ? d + r * at.bytes : nullptr,
                             s + r * at.groups, z ? z + r * at.groups : nullptr, stream);
  });
}

static void dequantize(const py::array& data, int bits, int64_t group_size, const py::array& scales,
                       const std::optional<py::array>& zero_points, py::array& out) {
  const Layout at(shape_of(out), bits, group_size);
  const auto* d = numbers<const uint8_t>("data", data, at.rows * at.bytes);
  const float* s = numbers<const float>("scales", scales, at.rows * at.groups);
  const uint8_t* z = zero_points ? numbers<const uint8_t>("zero_points", *zero_points, at.rows * at.groups) : nullptr;
  const MutableWeights o = mutable_weights(out);
  const bool stream = streamed(o.data, at.rows, at.cols * o.itemsize(), nullptr);
  run_rows(at.rows, at.cols, [&](int64_t r, int64_t count, int) {
    active().dequantize(d + r * at.bytes, count, at.cols, bits, group_size, s + r * at.groups,
                        z ? z + r * at.groups : nullptr, o.at(r * at.cols), stream);
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
  const bool stream = streamed(o, n, nullptr);
  return run_elements(n, [&](int64_t i, int64_t count, int) {
    return active().round_to_int(x.at(i), count, multiplier, offset, low, high, mode, seed, i, o + i, stream);
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
  m.def("quantize", &quantize, "w"_a, "bits"_a, "group_size"_a, "symmetric"_a, "rule"_a, "scale_dtype"_a, "rounding"_a,
        "seed"_a, "data"_a.none(true), "scales"_a, "zero_points"_a.none(true));
  m.def("dequantize", &dequantize, "data"_a, "bits"_a, "group_size"_a, "scales"_a, "zero_points"_a.none(true), "out"_a);
  m.def("round_to_int", &round_to_int, "w"_a, "multiplier"_a, "offset"_a, "bits"_a, "signed"_a, "rounding"_a, "seed"_a,
        "out"_a);
  m.def("errors", &errors, "a"_a, "b"_a, "out"_a);
}
