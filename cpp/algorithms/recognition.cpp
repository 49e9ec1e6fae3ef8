#include "recognition.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../parallel.h"
#include "sorting.h"

namespace {

constexpr int kMultiples = 255;

struct Group {
  explicit Group(int64_t n) : keys(static_cast<size_t>(n)), weights(keys.size()), halves(keys.size()) {}
  std::vector<uint32_t> keys;
  std::vector<double> weights, halves;  // not zero; half a unit in the last place of each

  // Half a unit in the last place of weights in this dtype.
  static double half_unit(double x, Dtype dtype) {
    const int digits = dtype == Dtype::kFloat32 ? 23 : dtype == Dtype::kFloat16 ? 10 : 7;
    const int least = dtype == Dtype::kFloat32 ? -149 : dtype == Dtype::kFloat16 ? -24 : -133;
    return std::ldexp(0.5, std::max(std::ilogb(x) - digits, least));
  }

  bool read(const Kernels& kernels, Weights w, int64_t n) {
    const bool finite = kernels.selection_keys(w, n, false, keys.data());
    count = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto x = static_cast<double>(weight_of(keys[static_cast<size_t>(i)]));
      if (x == 0) continue;
      weights[count] = x;
      halves[count++] = half_unit(x, w.dtype);
    }
    return finite;
  }

  // Whether `scale`, near enough to find the multiples by, can be adjusted so that all weights are multiples of it.
  bool adjust(double near, float* scale, int32_t* low, int32_t* high) const {
    double least = 0, most = INFINITY;
    *low = *high = 0;
    for (size_t i = 0; i < count; ++i) {
      const double multiple = std::nearbyint(weights[i] / near), size = std::fabs(multiple);
      if (size == 0) return false;
      least = std::max(least, (std::fabs(weights[i]) - halves[i]) / size);
      most = std::min(most, (std::fabs(weights[i]) + halves[i]) / size);
      if (least > most) return false;
      *low = std::min(*low, static_cast<int32_t>(multiple));
      *high = std::max(*high, static_cast<int32_t>(multiple));
    }
    *scale = static_cast<float>((least + most) / 2);
    return least <= static_cast<double>(*scale) && static_cast<double>(*scale) <= most;
  }

  void fit(float* scale, int32_t* low, int32_t* high) const {
    *scale = 0;
    *low = *high = 0;
    if (count == 0) return;
    double top = 0;
    for (size_t i = 0; i < count; ++i) top = std::max(top, std::fabs(weights[i]));
    for (int multiple = 1; multiple <= kMultiples; ++multiple)
      if (adjust(top / multiple, scale, low, high)) return;
    *scale = 0;
    *low = 0;
    *high = -1;
  }

  size_t count = 0;
};

}  // namespace

bool best_grids(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, float* scales,
                int32_t* low, int32_t* high) {
  const int64_t groups = (cols + group_size - 1) / group_size;
  const int slices = slice_count(rows, cols);
  std::vector<Group> scratch(static_cast<size_t>(slices), Group(std::min(group_size, cols)));
  return parallel_slices(rows, slices, [&](int64_t first, int64_t some, int slice) {
    Group& group = scratch[static_cast<size_t>(slice)];
    bool all = true;
    for (int64_t r = first; r < first + some; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = g * group_size, to = r * groups + g;
        const bool finite = group.read(kernels, w.at(r * cols + at), std::min(group_size, cols - at));
        all &= finite;
        if (finite) group.fit(scales + to, low + to, high + to);
      }
    return all;
  });
}
