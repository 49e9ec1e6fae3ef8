#include "recognition.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../parallel.h"
#include "sorting.h"

namespace {

constexpr int kMultiples = 255;

// A weight's value, and the magnitudes that its dtype rounds to it.
struct Value {
  double x, low, high;
  double size() const { return std::fabs(x); }
};

Value value_of(float weight, Dtype dtype) {
  const int digits = dtype == Dtype::kFloat32 ? 23 : dtype == Dtype::kFloat16 ? 10 : 7;
  const int least = dtype == Dtype::kFloat32 ? -149 : dtype == Dtype::kFloat16 ? -24 : -133;
  const auto x = static_cast<double>(weight), size = std::fabs(x);
  const int exponent = std::ilogb(size);
  const double half = std::ldexp(0.5, std::max(exponent - digits, least));
  const bool finer_below = std::ldexp(1.0, exponent) == size && exponent - digits > least;
  return {x, size - (finer_below ? half / 2 : half), size + half};
}

struct Range {
  double bottom, top;
  double middle() const { return (bottom + top) / 2; }
};

class Group {
 public:
  explicit Group(int64_t n) : keys_(static_cast<size_t>(n)), sorted_(keys_.size()) { values_.reserve(2 * kMultiples); }

  bool fit(const Kernels& kernels, Weights w, int64_t n, float* scale, int32_t* low, int32_t* high) {
    *scale = 0;
    *low = *high = 0;
    if (!kernels.selection_keys(w, n, false, keys_.data())) return false;
    sort_keys(keys_.data(), n, sorted_.data());
    if (!find_values(n, w.dtype)) {
      *high = -1;
    } else if (!values_.empty()) {
      int multiple = 1;
      while (multiple <= kMultiples && !adjust(multiple, scale, low, high)) ++multiple;
      if (multiple <= kMultiples) return true;
      *scale = 0;
      *low = 0;
      *high = -1;
    }
    return true;
  }

 private:
  // The distinct values that are not 0, the smallest magnitude first; false if they are too many.
  bool find_values(int64_t n, Dtype dtype) {
    values_.clear();
    for (int64_t i = 0; i < n; ++i) {
      const auto here = static_cast<size_t>(i);
      const float x = weight_of(sorted_[here]);
      if (x == 0 || (i > 0 && sorted_[here] == sorted_[here - 1])) continue;
      if (values_.size() == 2 * kMultiples) return false;
      values_.push_back(value_of(x, dtype));
    }
    std::sort(values_.begin(), values_.end(), [](const Value& a, const Value& b) {
      return a.size() < b.size() || (a.size() == b.size() && a.x < b.x);
    });
    return true;
  }

  // Whether there is a scale of which the largest value is this multiple, and all others are some. Small values come
  // first: their multiples are certain, and narrow down the scale for the larger ones.
  bool adjust(int multiple, float* scale, int32_t* low, int32_t* high) const {
    Range range{values_.back().low / multiple, values_.back().high / multiple};
    *low = *high = 0;
    for (const Value& value : values_) {
      const double near = std::nearbyint(value.size() / range.middle());
      double steps = 0;
      for (const double c : {near, near - 1, near + 1}) {
        const Range both{std::max(range.bottom, value.low / c), std::min(range.top, value.high / c)};
        if (c <= 0 || both.bottom > both.top) continue;
        range = both;
        steps = c;
        break;
      }
      if (steps == 0) return false;
      const auto signed_steps = static_cast<int32_t>(value.x < 0 ? -steps : steps);
      *low = std::min(*low, signed_steps);
      *high = std::max(*high, signed_steps);
    }
    *scale = static_cast<float>(range.middle());
    return range.bottom <= static_cast<double>(*scale) && static_cast<double>(*scale) <= range.top;
  }

  std::vector<uint32_t> keys_, sorted_;
  std::vector<Value> values_;
};

}  // namespace

bool best_grids(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, float* scales,
                int32_t* low, int32_t* high) {
  const int64_t groups = (cols + group_size - 1) / group_size;
  const int slices = slice_count(rows, cols);
  std::vector<Group> scratch;
  for (int s = 0; s < slices; ++s) scratch.emplace_back(std::min(group_size, cols));
  return parallel_slices(rows, slices, [&](int64_t first, int64_t some, int slice) {
    Group& group = scratch[static_cast<size_t>(slice)];
    bool all = true;
    for (int64_t r = first; r < first + some; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = g * group_size, to = r * groups + g;
        all &=
            group.fit(kernels, w.at(r * cols + at), std::min(group_size, cols - at), scales + to, low + to, high + to);
      }
    return all;
  });
}
