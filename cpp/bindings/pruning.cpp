#include "../algorithms/selection.h"
#include "arrays.h"
#include "words.h"

static ThresholdMode mode_of(const std::string& mode) {
  static constexpr Word<ThresholdMode> known[] = {
      {"magnitude", ThresholdMode::kMagnitude}, {"signed", ThresholdMode::kSigned}, {"soft", ThresholdMode::kSoft}};
  return word("mode", mode, known);
}

static bool threshold(const py::array& w, float t, const std::string& mode, py::array& out) {
  const int64_t n = size_of(w);
  const Weights x = weights(w);
  const MutableWeights o = like(w, out);
  const ThresholdMode cut = mode_of(mode);
  const bool nontemporal = wants_nontemporal(o, n, x);
  return run_elements(n, [&](int64_t i, int64_t count, int) {
    return active().threshold(x.at(i), count, t, cut, o.at(i), nontemporal);
  });
}

static bool apply_mask(const py::array& w, const py::array& mask, py::array& out) {
  const int64_t n = size_of(w);
  const Weights x = weights(w);
  const auto* keep = reinterpret_cast<const uint8_t*>(numbers<const bool>("mask", mask, n));
  const MutableWeights o = like(w, out);
  const bool nontemporal = wants_nontemporal(o, n, x);
  return run_elements(n, [&](int64_t i, int64_t count, int) {
    return active().apply_mask(x.at(i), keep + i, count, o.at(i), nontemporal);
  });
}

static bool shrink(const py::array& w, float l1, float divisor, py::array& out) {
  const int64_t n = size_of(w);
  const Weights x = weights(w);
  const MutableWeights o = like(w, out);
  const bool nontemporal = wants_nontemporal(o, n, x);
  return run_elements(n, [&](int64_t i, int64_t count, int) {
    return active().shrink(x.at(i), count, l1, divisor, o.at(i), nontemporal);
  });
}

static int64_t count_nonzero(const py::array& w) {
  const Weights x = weights(w);
  std::atomic<int64_t> total{0};
  run_elements(size_of(w), [&](int64_t i, int64_t count, int) {
    total += active().count_nonzero(x.at(i), count);
    return true;
  });
  return total;
}

static bool is_finite(const py::array& w) {
  const Weights x = weights(w);
  return run_elements(size_of(w), [&](int64_t i, int64_t count, int) { return active().is_finite(x.at(i), count); });
}

static void check_count(int64_t count, int64_t n) {
  if (count < 0 || count > n) throw py::value_error("count must be within the set");
}

static bool lowest_mask(const py::array& scores, int64_t count, bool absolute, py::array& mask) {
  const auto [sets, n] = shape_of(scores);
  check_count(count, n);
  const Weights s = weights(scores);
  auto* keep = reinterpret_cast<uint8_t*>(numbers<bool>("mask", mask, sets * n));
  const Unlocked others_run;
  return lowest_mask(active(), s, sets, n, count, absolute, keep);
}

static bool prune_lowest(const py::array& w, const py::array& scores, int64_t count, bool absolute, py::array& out) {
  const auto [sets, n] = shape_of(scores);
  check_count(count, n);
  same_size("w", size_of(w), sets * n);
  const Weights x = weights(w), s = weights(scores);
  const MutableWeights o = like(w, out);
  const bool nontemporal = wants_nontemporal(o.data, sets, n * o.itemsize(), x.data);
  const Unlocked others_run;
  return prune_lowest(active(), x, s, sets, n, count, absolute, o, nontemporal);
}

static void check_pattern(int64_t count, int n, int m) {
  if (n < 1 || n >= m || m > 32 || count % m)
    throw py::value_error("n and m must be 1 <= n < m <= 32, m a part of the size");
}

// Slices of whole groups that are also whole cache lines.
template <class Body>
static bool run_groups(int64_t count, int64_t m, const Body& body) {
  const int64_t block = 64 * m, blocks = (count + block - 1) / block;
  return run_rows(blocks, block, [&](int64_t b, int64_t some, int) {
    return body(b * block, std::min(some * block, count - b * block));
  });
}

static bool n_of_m_mask(const py::array& scores, int n, int m, bool absolute, py::array& mask) {
  const int64_t count = size_of(scores);
  check_pattern(count, n, m);
  const Weights s = weights(scores);
  auto* keep = reinterpret_cast<uint8_t*>(numbers<bool>("mask", mask, count));
  return run_groups(
      count, m, [&](int64_t i, int64_t some) { return active().n_of_m_mask(s.at(i), some, n, m, absolute, keep + i); });
}

static bool prune_n_of_m(const py::array& w, const py::array& scores, int n, int m, bool absolute, py::array& out) {
  const int64_t count = size_of(scores);
  check_pattern(count, n, m);
  same_size("w", size_of(w), count);
  const Weights x = weights(w), s = weights(scores);
  const MutableWeights o = like(w, out);
  const bool nontemporal = wants_nontemporal(o, count, x);
  return run_groups(count, m, [&](int64_t i, int64_t some) {
    return active().prune_n_of_m(x.at(i), s.at(i), some, n, m, absolute, o.at(i), nontemporal);
  });
}

void bind_pruning(py::module_& m) {
  m.def("threshold", &threshold, "w"_a, "t"_a, "mode"_a, "out"_a);
  m.def("apply_mask", &apply_mask, "w"_a, "mask"_a, "out"_a);
  m.def("shrink", &shrink, "w"_a, "l1"_a, "divisor"_a, "out"_a);
  m.def("count_nonzero", &count_nonzero, "w"_a);
  m.def("is_finite", &is_finite, "w"_a);
  m.def("lowest_mask", py::overload_cast<const py::array&, int64_t, bool, py::array&>(&lowest_mask), "scores"_a,
        "count"_a, "absolute"_a, "mask"_a);
  m.def("prune_lowest", py::overload_cast<const py::array&, const py::array&, int64_t, bool, py::array&>(&prune_lowest),
        "w"_a, "scores"_a, "count"_a, "absolute"_a, "out"_a);
  m.def("n_of_m_mask", &n_of_m_mask, "scores"_a, "n"_a, "m"_a, "absolute"_a, "mask"_a);
  m.def("prune_n_of_m", &prune_n_of_m, "w"_a, "scores"_a, "n"_a, "m"_a, "absolute"_a, "out"_a);
}
