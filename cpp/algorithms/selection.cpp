#include "selection.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "../parallel.h"

namespace {

constexpr int64_t kSlice = 1 << 18;      // scores of one slice of a large set: its ties are counted apart
constexpr int64_t kRoom = kSlice / 8;    // candidates that a slice may hand on
constexpr int64_t kSampleBlocks = 8192;  // places where a large set is sampled, sixteen scores each
constexpr double kDeviations = 4;        // half the width of a bracket, in standard deviations of the sample's rank
constexpr int64_t kPoints = 512;         // keys that are sorted to narrow down many others

int64_t slices_of(int64_t n) { return (n + kSlice - 1) / kSlice; }
int64_t size_of(int64_t slice, int64_t n) { return std::min(kSlice, n - slice * kSlice); }

struct Bracket {
  int32_t low, high;
  int32_t middle() const { return static_cast<int32_t>((int64_t{low} + high) >> 1); }
};

// The places in a sorted sample of `size` that the rank `part` of 0..1 is almost surely between; they may be
// outside.
struct Around {
  int64_t low, middle, high;
};
Around around(double part, int64_t size) {
  const double n = static_cast<double>(size), width = kDeviations * std::sqrt(n * part * (1 - part)) + 2;
  return {static_cast<int64_t>(std::floor(part * n - width)), static_cast<int64_t>(part * n),
          static_cast<int64_t>(std::ceil(part * n + width))};
}

// select_rank() for many keys: a sample says which of them to count again and again (Floyd and Rivest 1975).
// `scratch` has room for as many keys.
Cutoff select(const Kernels& kernels, const uint32_t* keys, int64_t n, int64_t rank, uint32_t* scratch) {
  if (n < 64 * kPoints) return kernels.select_rank(keys, n, rank);  // sooner than the points are sorted
  int32_t points[kPoints];
  for (int64_t i = 0; i < kPoints; ++i) points[i] = static_cast<int32_t>(keys[i * (n / kPoints)]);
  std::sort(points, points + kPoints);
  const auto [low, middle, high] = around(static_cast<double>(rank) / static_cast<double>(n), kPoints);
  int64_t inside, below;
  kernels.narrow_keys(keys, n, low < 0 ? INT32_MIN : points[low], high < kPoints ? points[high] : INT32_MAX, scratch, n,
                      &inside, &below);
  if (below > rank || rank > below + inside || inside > n - 16) return kernels.select_rank(keys, n, rank);
  return kernels.select_rank(scratch, inside, rank - below);
}

// One large set of scores, and what is known of where its `rank` lowest end.
class Search {
 public:
  Search(const Kernels& kernels, Weights scores, int64_t n, bool absolute, int64_t rank)
      : kernels_(kernels),
        scores_(scores),
        n_(n),
        absolute_(absolute),
        rank_(rank),
        slices_(slices_of(n)),
        inside_(slices_),
        below_(slices_),
        candidates_(new uint32_t[slices_ * kRoom]) {}

  // The cutoff, with each slice's share of the ties.
  std::vector<Cutoff> run() {
    if (rank_ <= 0 || rank_ >= n_) return trivial();
    Bracket known{INT32_MIN, INT32_MAX};
    const std::vector<uint32_t> keys = sample();
    const auto [low, middle, high] = around(static_cast<double>(rank_) / static_cast<double>(n_), kSampleBlocks * 16);
    // First the sample's bracket; where too many scores are equal for it, their value alone; then bisection.
    Bracket probe{key_at(keys, low), key_at(keys, high)};
    for (int pass = 1;; ++pass) {
      count(probe);
      if (rank_ < under_) {
        known.high = probe.low - 1;
      } else if (rank_ > under_ + within_) {
        known.low = probe.high + 1;
      } else if (probe.low == probe.high) {
        return shared({probe.low, rank_ - under_}, inside_);
      } else if (*std::max_element(inside_.begin(), inside_.end()) <= kRoom - 16) {
        return chosen();
      } else {
        known = probe;
      }
      const int32_t value = pass == 1 ? key_at(keys, middle) : known.middle();
      probe = {value, value};
    }
  }

  bool finite() const { return finite_; }

 private:
  std::vector<Cutoff> trivial() {
    finite_ = parallel_elements(
        n_, [&](int64_t first, int64_t some, int) { return kernels_.is_finite(scores_.at(first), some); });
    return std::vector<Cutoff>(slices_, rank_ <= 0 ? Cutoff{INT32_MIN, 0} : Cutoff{INT32_MAX, n_});
  }

  // Blocks of the scores are taken evenly, each at a hashed place.
  std::vector<uint32_t> sample() const {
    std::vector<uint32_t> keys(kSampleBlocks * 16);
    const int64_t stretch = n_ / kSampleBlocks;
    for (int64_t b = 0; b < kSampleBlocks; ++b) {
      const uint64_t hash = (static_cast<uint64_t>(b) + 1) * 0x9E3779B97F4A7C15u;
      const int64_t first = b * stretch + static_cast<int64_t>((hash >> 32) % static_cast<uint64_t>(stretch - 15));
      kernels_.selection_keys(scores_.at(first), 16, absolute_, keys.data() + b * 16);
    }
    return keys;
  }

  // The key at a place of a sorted sample, or the end beyond it.
  int32_t key_at(const std::vector<uint32_t>& sample, int64_t place) const {
    const auto size = static_cast<int64_t>(sample.size());
    if (place < 0) return INT32_MIN;
    if (place >= size) return INT32_MAX;
    std::vector<uint32_t> scratch(sample.size());
    return select(kernels_, sample.data(), size, place, scratch.data()).cut;
  }

  // How many scores are below the probe and within it; those within are kept, as far as there is room.
  void count(Bracket probe) {
    finite_ = parallel_rows(slices_, kSlice, [&](int64_t first, int64_t some, int) {
      bool all = true;
      for (int64_t s = first; s < first + some; ++s)
        all &= kernels_.collect_keys(scores_.at(s * kSlice), size_of(s, n_), absolute_, probe.low, probe.high,
                                     candidates_.get() + s * kRoom, kRoom, &inside_[s], &below_[s]);
      return all;
    });
    under_ = within_ = 0;
    for (int64_t s = 0; s < slices_; ++s) {
      under_ += below_[s];
      within_ += inside_[s];
    }
  }

  // The answer is among the candidates.
  std::vector<Cutoff> chosen() const {
    std::vector<uint32_t> all;
    all.reserve(static_cast<size_t>(within_));
    for (int64_t s = 0; s < slices_; ++s)
      all.insert(all.end(), candidates_.get() + s * kRoom, candidates_.get() + s * kRoom + inside_[s]);
    std::vector<uint32_t> scratch(all.size());
    const Cutoff answer = select(kernels_, all.data(), within_, rank_ - under_, scratch.data());
    std::vector<int64_t> equal(slices_);
    if (answer.ties > 0)
      for (int64_t s = 0; s < slices_; ++s) {
        const uint32_t* keys = candidates_.get() + s * kRoom;
        equal[s] =
            kernels_.count_below(keys, inside_[s], answer.cut + 1) - kernels_.count_below(keys, inside_[s], answer.cut);
      }
    return shared(answer, equal);
  }

  // Ties go to the first slices that have them.
  std::vector<Cutoff> shared(Cutoff answer, const std::vector<int64_t>& equal) const {
    std::vector<Cutoff> of_slice(slices_, answer);
    for (int64_t s = 0; s < slices_; ++s) {
      of_slice[s].ties = std::min(answer.ties, equal[s]);
      answer.ties -= of_slice[s].ties;
    }
    return of_slice;
  }

  const Kernels& kernels_;
  const Weights scores_;
  const int64_t n_;
  const bool absolute_;
  const int64_t rank_, slices_;
  std::vector<int64_t> inside_, below_;
  const std::unique_ptr<uint32_t[]> candidates_;
  int64_t under_ = 0, within_ = 0;
  bool finite_ = true;
};

// Calls apply(first, count, cutoff) for stretches that make up all sets, each with its share of the ties.
template <class Apply>
bool each_answer(const Kernels& kernels, Weights scores, int64_t sets, int64_t n, int64_t rank, bool absolute,
                 const Apply& apply) {
  if (n >= 2 * kSampleBlocks * 16) {
    bool finite = true;
    for (int64_t set = 0; set < sets; ++set) {
      Search search(kernels, scores.at(set * n), n, absolute, rank);
      const std::vector<Cutoff> of_slice = search.run();
      finite &= search.finite();
      finite &= parallel_rows(slices_of(n), kSlice, [&](int64_t first, int64_t some, int) {
        bool all = true;
        for (int64_t s = first; s < first + some; ++s) all &= apply(set * n + s * kSlice, size_of(s, n), of_slice[s]);
        return all;
      });
    }
    return finite;
  }
  const int slices = slice_count(sets, n);
  const std::unique_ptr<uint32_t[]> scratch(new uint32_t[slices * 2 * n]);
  return parallel_slices(sets, slices, [&](int64_t first, int64_t some, int slice) {
    uint32_t* keys = scratch.get() + slice * 2 * n;
    bool all = true;
    for (int64_t set = first; set < first + some; ++set) {
      all &= kernels.selection_keys(scores.at(set * n), n, absolute, keys);
      all &= apply(set * n, n, select(kernels, keys, n, rank, keys + n));
    }
    return all;
  });
}

// Calls apply(first, count, cutoff) for slices that make up a set, each with its share of the ties of a known cutoff.
template <class Apply>
int64_t each_below(const Kernels& kernels, Weights scores, int64_t n, bool absolute, Cutoff cutoff,
                   const Apply& apply) {
  const int64_t slices = slices_of(n);
  std::vector<Cutoff> of_slice(slices, cutoff);
  if (cutoff.ties > 0)
    parallel_rows(slices, kSlice, [&](int64_t first, int64_t some, int) {
      for (int64_t s = first; s < first + some; ++s) {
        uint32_t keys[16];
        int64_t under;
        kernels.collect_keys(scores.at(s * kSlice), size_of(s, n), absolute, cutoff.cut, cutoff.cut, keys, 16,
                             &of_slice[s].ties, &under);
      }
      return true;
    });
  int64_t left = cutoff.ties;
  for (Cutoff& slice : of_slice) {
    slice.ties = std::min(left, slice.ties);
    left -= slice.ties;
  }
  parallel_rows(slices, kSlice, [&](int64_t first, int64_t some, int) {
    for (int64_t s = first; s < first + some; ++s) apply(s * kSlice, size_of(s, n), of_slice[s]);
    return true;
  });
  return cutoff.ties - left;
}

}  // namespace

int64_t mask_below(const Kernels& kernels, Weights scores, int64_t n, bool absolute, Cutoff cutoff, uint8_t* mask) {
  return each_below(kernels, scores, n, absolute, cutoff, [&](int64_t first, int64_t some, Cutoff of_slice) {
    kernels.mask_below(scores.at(first), some, absolute, of_slice, mask + first);
  });
}

int64_t prune_below(const Kernels& kernels, Weights w, Weights scores, int64_t n, bool absolute, Cutoff cutoff,
                    MutableWeights out, bool nontemporal) {
  return each_below(kernels, scores, n, absolute, cutoff, [&](int64_t first, int64_t some, Cutoff of_slice) {
    kernels.prune_below(w.at(first), scores.at(first), some, absolute, of_slice, out.at(first), nontemporal);
  });
}

bool count_keys(const Kernels& kernels, Weights scores, int64_t n, bool absolute, bool upper, int32_t prefix,
                int64_t* bins) {
  constexpr int64_t count = 1 << 16;
  const int slices = slice_count(slices_of(n), kSlice);
  std::vector<int64_t> counts(static_cast<size_t>(slices * count));
  const bool finite = parallel_slices(slices_of(n), slices, [&](int64_t first, int64_t some, int slice) {
    bool all = true;
    for (int64_t s = first; s < first + some; ++s)
      all &= kernels.count_keys(scores.at(s * kSlice), size_of(s, n), absolute, upper, prefix,
                                counts.data() + slice * count);
    return all;
  });
  for (int64_t i = 0; i < slices * count; ++i) bins[i % count] += counts[i];
  return finite;
}

bool lowest_mask(const Kernels& kernels, Weights scores, int64_t sets, int64_t n, int64_t count, bool absolute,
                 uint8_t* mask) {
  return each_answer(kernels, scores, sets, n, count, absolute, [&](int64_t first, int64_t some, Cutoff cutoff) {
    kernels.mask_below(scores.at(first), some, absolute, cutoff, mask + first);
    return true;
  });
}

bool prune_lowest(const Kernels& kernels, Weights w, Weights scores, int64_t sets, int64_t n, int64_t count,
                  bool absolute, MutableWeights out, bool nontemporal) {
  return each_answer(kernels, scores, sets, n, count, absolute, [&](int64_t first, int64_t some, Cutoff cutoff) {
    return kernels.prune_below(w.at(first), scores.at(first), some, absolute, cutoff, out.at(first), nontemporal);
  });
}
