#include "recognition.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../parallel.h"
#include "sorting.h"

namespace {

constexpr int kMultiples = 255;            // between the least and the greatest
constexpr int kDistinct = kMultiples + 2;  // weights of a group: one for each multiple but 0, and two zeros
constexpr int kSlots = 1024;               // of the table that finds them

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The magnitude of a weight, and the ends of what its dtype rounds to it.
struct Value {
  float size, low, high;
};

Value value_of(float size, Dtype dtype) {
  const uint32_t bits = bits_of(size);
  if (dtype == Dtype::kFloat32) return {size, size, size};
  if (dtype == Dtype::kFloat16 && size < 0x1p-13f) {  // all of them 2^-24 apart
    const uint32_t odd = static_cast<uint32_t>(size * 0x1p24f) & 1;
    return {size, from_bits(bits_of(size - 0x1p-25f) + odd), from_bits(bits_of(size + 0x1p-25f) - odd)};
  }
  const int dropped = dtype == Dtype::kFloat16 ? 13 : 16;  // digits of a float32; a tie goes to the even neighbour
  const uint32_t half = 1u << (dropped - 1), odd = bits >> dropped & 1;
  return {size, from_bits(bits - half + odd), from_bits(bits + half - odd)};
}

// Positive scales from the first to the last, by their bits, which are in the order of the numbers.
struct Scales {
  uint32_t first, last;
  bool any() const { return first <= last; }
};

// Those of which this multiple is the value.
Scales scales_for(const Value& value, int multiple) {
  const auto c = static_cast<float>(multiple);
  uint32_t first = std::max(1u, bits_of(value.low / c)), last = std::max(1u, bits_of(value.high / c));
  while (c * from_bits(first) < value.low) ++first;
  while (first > 1 && c * from_bits(first - 1) >= value.low) --first;
  while (last > 0 && c * from_bits(last) > value.high) --last;
  while (c * from_bits(last + 1) <= value.high) ++last;
  return {first, last};
}

// The one that ends in the most zeros.
uint32_t roundest(const Scales& some) {
  for (int zeros = 31; zeros > 0; --zeros)
    if (const uint32_t scale = some.last >> zeros << zeros; scale >= some.first) return scale;
  return some.first;
}

constexpr double kLess = 1 - 0x1p-20, kMore = 1 + 0x1p-20;  // room for the roundings of quotients

class Group {
 public:
  Group() : place_(kSlots, -1) {}

  void fit(const Kernels& kernels, Weights w, int64_t n, float* scale, int32_t* low, int32_t* high, uint8_t* codes) {
    const bool wide = w.dtype == Dtype::kFloat32;
    const bool few = wide ? find_distinct<uint32_t>(w, n) : find_distinct<uint16_t>(w, n);
    if (few) find_values(kernels, w.dtype);
    *scale = 0;
    *low = 0;
    *high = few && find_scale(scale, low, high) ? *high : -1;
    if (*high < 0) {
      *scale = 0;
      *low = 0;
      std::memset(codes, 0, static_cast<size_t>(n));
    } else {
      for (size_t i = 0; i < steps_.size(); ++i) steps_[i] -= *low;
      wide ? write_codes<uint32_t>(w, n, codes) : write_codes<uint16_t>(w, n, codes);
    }
    for (const size_t slot : taken_) place_[slot] = -1;
    taken_.clear();
    distinct_.clear();
  }

 private:
  static size_t slot_of(uint32_t bits) { return bits * 0x9e3779b1u >> 22; }

  // The slot of these bits, or where they belong.
  size_t seek(uint32_t bits) const {
    size_t slot = slot_of(bits);
    while (place_[slot] >= 0 && distinct_[static_cast<size_t>(place_[slot])] != bits) slot = (slot + 1) % kSlots;
    return slot;
  }

  // The distinct weights as their dtype has them; false if they are too many.
  template <class T>
  bool find_distinct(Weights w, int64_t n) {
    const T* x = static_cast<const T*>(w.data);
    for (int64_t i = 0; i < n; ++i) {
      if (i > 0 && x[i] == x[i - 1]) continue;
      const size_t slot = seek(x[i]);
      if (place_[slot] >= 0) continue;
      if (distinct_.size() == kDistinct) return false;
      place_[slot] = static_cast<int16_t>(distinct_.size());
      taken_.push_back(slot);
      distinct_.push_back(x[i]);
    }
    return true;
  }

  template <class T>
  void write_codes(Weights w, int64_t n, uint8_t* codes) const {
    const T* x = static_cast<const T*>(w.data);
    for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(steps_[static_cast<size_t>(place_[seek(x[i])])]);
  }

  // Their magnitudes but 0, the smallest first, and which of them each is.
  void find_values(const Kernels& kernels, Dtype dtype) {
    const size_t n = distinct_.size();
    const int sign = dtype == Dtype::kFloat32 ? 31 : 15;
    narrow_.assign(distinct_.begin(), distinct_.end());
    keys_.resize(n);
    const void* data = dtype == Dtype::kFloat32 ? static_cast<const void*>(distinct_.data()) : narrow_.data();
    kernels.selection_keys({data, dtype}, static_cast<int64_t>(n), true, keys_.data());
    plus_zero_ = minus_zero_ = false;
    order_.clear();
    negative_.resize(n);
    for (size_t i = 0; i < n; ++i) {
      negative_[i] = distinct_[i] >> sign & 1;
      if (weight_of(keys_[i]) != 0)
        order_.push_back(i);
      else
        (negative_[i] ? minus_zero_ : plus_zero_) = true;
    }
    std::sort(order_.begin(), order_.end(), [&](size_t a, size_t b) { return keys_[a] < keys_[b]; });
    values_.clear();
    for (const size_t i : order_)
      if (const float size = weight_of(keys_[i]); values_.empty() || values_.back().size != size)
        values_.push_back(value_of(size, dtype));
  }

  bool find_scale(float* scale, int32_t* low, int32_t* high) {
    const bool both = plus_zero_ && minus_zero_;
    steps_.assign(distinct_.size(), 0);
    *low = *high = 0;
    if (values_.empty()) {
      *scale = minus_zero_ && !both ? -0.0f : 0.0f;
      for (size_t i = 0; both && i < steps_.size(); ++i) *low = std::min(*low, steps_[i] = negative_[i] ? -1 : 0);
      return true;
    }
    if (both) return false;
    for (int multiple = 1; multiple <= kMultiples; ++multiple)
      if (may_be(multiple) && narrow_down(multiple)) return choose_scale(scale, low, high);
    return false;
  }

  // Whether the smallest value can be a multiple where the largest is this one: a quick no for most.
  bool may_be(int multiple) const {
    const Value &least = values_.front(), &most = values_.back();
    const double from = static_cast<double>(least.low) * multiple / static_cast<double>(most.high) * kLess;
    const double to = static_cast<double>(least.high) * multiple / static_cast<double>(most.low) * kMore;
    return static_cast<int>(to) >= std::max(from, 1.0);
  }

  // All scales of which the largest value is this multiple, and the others are some.
  bool narrow_down(int multiple) {
    scales_.assign(1, scales_for(values_.back(), multiple));
    if (!scales_[0].any()) return false;
    for (size_t i = 0; i + 1 < values_.size(); ++i) {
      const Value& value = values_[i];
      both_.clear();
      for (const Scales& some : scales_) {
        const double from = static_cast<double>(value.low) / static_cast<double>(from_bits(some.last)) * kLess;
        const double to = static_cast<double>(value.high) / static_cast<double>(from_bits(some.first)) * kMore;
        for (int c = std::max(1, static_cast<int>(from)); c <= std::min<double>(multiple, to); ++c) {
          if (c < from) continue;
          const Scales fit = scales_for(value, c), both{std::max(fit.first, some.first), std::min(fit.last, some.last)};
          if (both.any()) both_.push_back(both);
        }
      }
      if (both_.empty()) return false;
      join();
    }
    return true;
  }

  // both_ in order and without overlaps, to scales_.
  void join() {
    std::sort(both_.begin(), both_.end(), [](const Scales& a, const Scales& b) { return a.first < b.first; });
    scales_.clear();
    for (const Scales& some : both_) {
      if (!scales_.empty() && some.first <= scales_.back().last)
        scales_.back().last = std::max(scales_.back().last, some.last);
      else
        scales_.push_back(some);
    }
  }

  // The multiples of the largest scale that fits, which are the smallest ones, and the roundest scale with these;
  // whether they are near enough to each other.
  bool choose_scale(float* scale, int32_t* low, int32_t* high) {
    const float largest = from_bits(scales_.back().last);
    Scales fit{1, scales_.back().last};
    size_t seen = 0;
    int32_t c = 0;
    for (const size_t i : order_) {
      if (seen == 0 || weight_of(keys_[i]) != values_[seen - 1].size) {
        const Value& value = values_[seen++];
        c = std::max(1, static_cast<int32_t>(value.low / largest * static_cast<float>(kLess)));
        while (static_cast<float>(c) * largest < value.low) ++c;
        const Scales of_value = scales_for(value, c);
        fit = {std::max(fit.first, of_value.first), std::min(fit.last, of_value.last)};
      }
      steps_[i] = negative_[i] ? -c : c;
      *low = std::min(*low, steps_[i]);
      *high = std::max(*high, steps_[i]);
    }
    const float size = from_bits(roundest(fit));
    const bool turns = *high > 1 && (*high & (*high - 1)) == 0 && -*low < *high;
    const bool negative = minus_zero_ || (!plus_zero_ && turns);
    *scale = negative ? -size : size;
    if (negative) {
      for (int32_t& step : steps_) step = -step;
      std::swap(*low, *high);
      *low = -*low;
      *high = -*high;
    }
    return *high - *low <= kMultiples;
  }

  std::vector<int16_t> place_;  // in distinct_, by slot; -1 where there is none
  std::vector<size_t> taken_, order_;
  std::vector<uint32_t> distinct_, keys_;
  std::vector<uint16_t> narrow_;  // the same in 16 bits
  std::vector<char> negative_;
  std::vector<int32_t> steps_;
  std::vector<Value> values_;
  std::vector<Scales> scales_, both_;
  bool plus_zero_ = false, minus_zero_ = false;
};

}  // namespace

bool best_grids(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, float* scales,
                int32_t* low, int32_t* high, uint8_t* codes) {
  const int64_t groups = (cols + group_size - 1) / group_size;
  const int slices = slice_count(rows, cols);
  std::vector<Group> scratch(static_cast<size_t>(slices));
  return parallel_slices(rows, slices, [&](int64_t first, int64_t some, int slice) {
    if (!kernels.is_finite(w.at(first * cols), some * cols)) return false;
    Group& group = scratch[static_cast<size_t>(slice)];
    for (int64_t r = first; r < first + some; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = r * cols + g * group_size, to = r * groups + g;
        group.fit(kernels, w.at(at), std::min(group_size, cols - g * group_size), scales + to, low + to, high + to,
                  codes + at);
      }
    return true;
  });
}
