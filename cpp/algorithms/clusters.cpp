#include "clusters.h"

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "../parallel.h"
#include "sorting.h"

namespace {

constexpr int64_t kCuts = 65536;  // places where a set of more distinct values may be cut at first
constexpr int kPasses = 1000;     // of Lloyd's iteration at most

// Calls body(scratch, first weight, how many, group) for all groups; scratch(n) reserves memory for its thread before.
template <class Reserve, class Body>
bool each_group(int64_t rows, int64_t cols, int64_t group_size, const Reserve& reserve, const Body& body) {
  const int64_t groups = (cols + group_size - 1) / group_size;
  constexpr int64_t work = 16;  // times that of a simple kernel
  const int slices = slice_count(rows, cols * work);
  std::vector<decltype(reserve(cols))> scratch;
  for (int s = 0; s < slices; ++s) scratch.push_back(reserve(std::min(group_size, cols)));
  return parallel_slices(rows, slices, [&](int64_t first, int64_t some, int slice) {
    bool all = true;
    for (int64_t r = first; r < first + some; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = g * group_size;
        all &=
            body(*scratch[static_cast<size_t>(slice)], r * cols + at, std::min(group_size, cols - at), r * groups + g);
      }
    return all;
  });
}

// Memory for n + 1 numbers that holds keys before; as untyped storage, so that it may.
struct Free {
  void operator()(void* p) const { ::operator delete(p); }
};
using Memory = std::unique_ptr<void, Free>;
Memory reserved(int64_t n) { return Memory(::operator new((static_cast<size_t>(n) + 1) * sizeof(double))); }

// Clusters of one set of weights after the other.
class Clusters {
 public:
  Clusters(const Kernels& kernels, int64_t most, int k)
      : kernels_(kernels),
        k_(k),
        values_(new float[static_cast<size_t>(most)]),
        counts_memory_(reserved(most)),
        sums_memory_(reserved(most)),
        cuts_(static_cast<size_t>(k) + 1),
        moved_(cuts_.size()),
        means_(static_cast<size_t>(k)) {
    const auto places = static_cast<size_t>(std::min(most, kCuts)) + 1;
    for (auto* v : {&before_, &after_}) v->resize(places);
    for (auto* v : {&some_counts_, &some_sums_}) v->resize(most > kCuts ? places : 0);
    places_.resize(most > kCuts ? places : 0);
    choices_.resize(places * static_cast<size_t>(std::max(k - 2, 0)));
  }

  bool fit(Weights w, int64_t n, float* codebook) {
    if (!find_values(w, n)) return false;
    if (m_ <= k_) {  // the values themselves, the last one again and again
      for (int c = 0; c < k_; ++c) codebook[c] = values_[std::min<int64_t>(c, m_ - 1)];
      return true;
    }
    sum_up();
    first_cuts();
    for (int pass = 0; pass < kPasses && move_cuts(); ++pass) {
    }
    for (int c = 0; c < k_; ++c) codebook[c] = static_cast<float>(means_[static_cast<size_t>(c)] + center_);
    return true;
  }

 private:
  double value(int64_t i) const { return static_cast<double>(values_[i]) - center_; }

  // values_: distinct and ascending; counts_: how many weights come before each.
  bool find_values(Weights w, int64_t n) {
    auto* keys = static_cast<uint32_t*>(counts_memory_.get());
    auto* sorted = static_cast<uint32_t*>(sums_memory_.get());
    if (!kernels_.selection_keys(w, n, false, keys)) return false;
    sort_keys(keys, n, sorted);
    counts_ = static_cast<double*>(counts_memory_.get());
    m_ = 0;
    for (int64_t i = 0; i < n; ++i)
      if (i == 0 || sorted[i] != sorted[i - 1]) {
        values_[m_] = weight_of(sorted[i]);
        counts_[m_++] = static_cast<double>(i);
      }
    counts_[m_] = static_cast<double>(n);
    return true;
  }

  // Sums of values before each, counted from the middle one so that little cancels.
  void sum_up() {
    sums_ = static_cast<double*>(sums_memory_.get());
    center_ = static_cast<double>(values_[m_ / 2]);
    sums_[0] = 0;
    for (int64_t i = 0; i < m_; ++i) sums_[i + 1] = sums_[i] + (counts_[i + 1] - counts_[i]) * value(i);
  }

  // Even steps of rank and of the sum of sqrt(gap) together, so that both the many values of the middle and the few of
  // the tails can be told apart. Returns how many steps there are.
  int64_t choose_places() {
    double spread = 0, all = 0;
    for (int64_t i = 1; i < m_; ++i) all += std::sqrt(value(i) - value(i - 1));
    int64_t count = 0;
    for (int64_t i = 0, step = 0; i < m_; ++i) {
      if (i > 0) spread += std::sqrt(value(i) - value(i - 1));
      const double way = static_cast<double>(i) / static_cast<double>(m_) + spread / all;
      const auto target = [&] { return 2 * static_cast<double>(step) / static_cast<double>(kCuts); };
      if (step == kCuts || way < target()) continue;
      places_[static_cast<size_t>(count++)] = i;
      while (step < kCuts && target() <= way) ++step;
    }
    places_[static_cast<size_t>(count)] = m_;
    for (int64_t i = 0; i <= count; ++i) {
      some_counts_[static_cast<size_t>(i)] = counts_[places_[static_cast<size_t>(i)]];
      some_sums_[static_cast<size_t>(i)] = sums_[places_[static_cast<size_t>(i)]];
    }
    return count;
  }

  // The best cuts at all values, or at chosen places, by dynamic programming: the best gain of c + 1 clusters up to
  // each place comes from that of c clusters up to an earlier one.
  void first_cuts() {
    const bool all = m_ <= kCuts;
    const int64_t places = all ? m_ : choose_places();
    const auto place = [&](int64_t i) { return all ? i : places_[static_cast<size_t>(i)]; };
    const double *counts = all ? counts_ : some_counts_.data(), *sums = all ? sums_ : some_sums_.data();
    for (int64_t i = 1; i <= places; ++i) before_[static_cast<size_t>(i)] = sums[i] * sums[i] / counts[i];
    for (int c = 1; c < k_ - 1; ++c) {
      choice_ = choices_.data() + (c - 1) * (places + 1);
      layer(counts, sums, c + 1, places, c, places - 1);
      before_.swap(after_);
    }
    int64_t at = places;
    cuts_[0] = 0;
    cuts_[static_cast<size_t>(k_)] = m_;
    for (int c = k_ - 1; c > 0; --c) {
      at = c == k_ - 1 ? kernels_.best_split(before_.data(), counts, sums, c, at, at).at
                       : choices_[static_cast<size_t>((c - 1) * (places + 1) + at)];
      cuts_[static_cast<size_t>(c)] = place(at);
    }
  }

  // The best earlier cut for each of the places first..last; it is in low..high, and grows with the place.
  void layer(const double* counts, const double* sums, int64_t first, int64_t last, int64_t low, int64_t high) {
    if (first > last) return;
    const int64_t middle = (first + last) / 2;
    const Split split = kernels_.best_split(before_.data(), counts, sums, low, std::min(high, middle - 1) + 1, middle);
    after_[static_cast<size_t>(middle)] = split.gain;
    choice_[middle] = static_cast<uint32_t>(split.at);
    layer(counts, sums, first, middle - 1, low, split.at);
    layer(counts, sums, middle + 1, last, split.at, high);
  }

  // Finds the means of the clusters, and cuts half-way between them; whether anything moved.
  bool move_cuts() {
    for (int c = 0; c < k_; ++c) {
      const auto here = static_cast<size_t>(c);
      const int64_t from = cuts_[here], to = cuts_[here + 1];
      const double mean = (sums_[to] - sums_[from]) / (counts_[to] - counts_[from]);
      means_[here] = std::min(std::max(mean, value(from)), value(to - 1));  // whatever rounding did
    }
    moved_ = cuts_;
    for (size_t c = 1; c < means_.size(); ++c) {
      const double edge = (means_[c - 1] + means_[c]) / 2;
      int64_t low = 0, high = m_;
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (value(middle) <= edge) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      moved_[c] = low;
      if (moved_[c] <= moved_[c - 1]) return false;  // a cluster would be empty
    }
    if (moved_[means_.size() - 1] >= m_ || moved_ == cuts_) return false;
    cuts_.swap(moved_);
    return true;
  }

  const Kernels& kernels_;
  const int k_;
  const std::unique_ptr<float[]> values_;
  const Memory counts_memory_, sums_memory_;
  double *counts_ = nullptr, *sums_ = nullptr, center_ = 0;
  int64_t m_ = 0;                      // distinct values
  std::vector<int64_t> cuts_, moved_;  // cluster c holds values cuts_[c] .. cuts_[c + 1] - 1
  std::vector<int64_t> places_;
  std::vector<double> means_, before_, after_, some_counts_, some_sums_;
  std::vector<uint32_t> choices_;
  uint32_t* choice_ = nullptr;
};

struct Keys {
  explicit Keys(int64_t n) : keys(static_cast<size_t>(n)), sorted(keys.size()) {}
  std::vector<uint32_t> keys, sorted;
};

// The m largest magnitudes become their mean, the rest 0: that saves (their sum)^2 / m of the squared error.
void keep_largest(const uint32_t* sorted, int64_t n, float* edges, float* scale) {
  double sum = 0, most = -1;
  float edge = 0;
  for (int64_t m = 1; m <= n; ++m) {
    const float size = weight_of(sorted[n - m]);
    sum += static_cast<double>(size);
    const double gain = sum * sum / static_cast<double>(m);
    if (!(gain > most)) continue;
    most = gain;
    edge = size;
    *scale = static_cast<float>(sum / static_cast<double>(m));
  }
  edge = std::max(edge, std::numeric_limits<float>::denorm_min());  // edges of zeros alone must ascend as well
  edges[0] = -edge;
  edges[1] = std::nextafter(edge, -1.0f);
}

}  // namespace

bool best_clusters(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, int k,
                   float* codebooks) {
  return each_group(
      rows, cols, group_size, [&](int64_t n) { return std::make_unique<Clusters>(kernels, n, k); },
      [&](Clusters& clusters, int64_t first, int64_t n, int64_t group) {
        return clusters.fit(w.at(first), n, codebooks + group * k);
      });
}

bool best_ternary(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, float* edges,
                  float* scales) {
  return each_group(
      rows, cols, group_size, [](int64_t n) { return std::make_unique<Keys>(n); },
      [&](Keys& scratch, int64_t first, int64_t n, int64_t group) {
        const bool finite = kernels.selection_keys(w.at(first), n, true, scratch.keys.data());
        sort_keys(scratch.keys.data(), n, scratch.sorted.data());
        keep_largest(scratch.sorted.data(), n, edges + 2 * group, scales + group);
        return finite;
      });
}
