#include "../algorithms/selection.h"

#include "arrays.h"

constexpr int64_t kBins = 1 << 16;

static bool count_keys(const py::array& scores, bool absolute, std::optional<int> upper, py::array& bins) {
  const int64_t n = size_of(scores);
  const Weights s = weights(scores);
  int64_t* counts = numbers<int64_t>("bins", bins, kBins);
  const Unlocked others_run;
  return count_keys(active(), s, n, absolute, !upper, upper.value_or(0), counts);
}

static int64_t mask_below(const py::array& scores, bool absolute, int32_t cut, int64_t ties, py::array& mask) {
  const int64_t n = size_of(scores);
  const Weights s = weights(scores);
  auto* keep = reinterpret_cast<uint8_t*>(numbers<bool>("mask", mask, n));
  const Unlocked others_run;
  return mask_below(active(), s, n, absolute, {cut, ties}, keep);
}

static int64_t prune_below(const py::array& w, const py::array& scores, bool absolute, int32_t cut, int64_t ties,
                           py::array& out) {
  const int64_t n = size_of(w);
  same_size("scores", size_of(scores), n);
  const Weights x = weights(w), s = weights(scores);
  const MutableWeights o = like(w, out);
  const bool nontemporal = wants_nontemporal(o, n, x);
  const Unlocked others_run;
  return prune_below(active(), x, s, n, absolute, {cut, ties}, o, nontemporal);
}

void bind_selection(py::module_& m) {
  m.def("count_keys", py::overload_cast<const py::array&, bool, std::optional<int>, py::array&>(&count_keys),
        "scores"_a, "absolute"_a, "upper"_a, "bins"_a);
  m.def("mask_below", py::overload_cast<const py::array&, bool, int32_t, int64_t, py::array&>(&mask_below), "scores"_a,
        "absolute"_a, "cut"_a, "ties"_a, "mask"_a);
  m.def("prune_below",
        py::overload_cast<const py::array&, const py::array&, bool, int32_t, int64_t, py::array&>(&prune_below), "w"_a,
        "scores"_a, "absolute"_a, "cut"_a, "ties"_a, "out"_a);
}
