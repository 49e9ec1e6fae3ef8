// Tables of floats for registers that cannot hold them: edges beyond the fourth level of a tree, and the values of more
// than sixteen codes, are gathered from memory. The register files that need it include it.
#pragma once
#include "vec.h"
#include "vec_edges.h"

namespace ISA {
namespace {

constexpr int kLevels = 4;  // of a tree of edges that wait in registers

// The first levels of a tree, edge by edge: how many of them are below x.
template <int levels>
class ComparedEdges {
 public:
  explicit ComparedEdges(const EdgeTree& tree) {
    for (int i = 1; i < 1 << levels; ++i) edge_[i] = splat_float(tree.node[i]);
  }
  void operator()(const FloatReg* x, IntReg* rank) const {
    for (int k = 0; k < kRegs; ++k) {
      rank[k] = splat_int(0);
      for (int i = 1; i < 1 << levels; ++i) rank[k] = sub_int(rank[k], int_of_mask(less_float(edge_[i], x[k])));
    }
  }

 private:
  FloatReg edge_[1 << levels];
};

// How many of `count` ascending edges are below each lane of x; levels: of their tree, at most kLevels.
template <int levels>
class Search {
 public:
  Search(const float* edges, int64_t count) : tree_(edges, count), first_(tree_) {}
  void operator()(const FloatReg* x, IntReg* rank) const {
    first_(x, rank);
    for (int d = levels; levels == kLevels && d < tree_.depth; ++d)
      for (int k = 0; k < kRegs; ++k)
        rank[k] = child(rank[k], less_float(gather(tree_.node + (1 << d), rank[k]), x[k]));
  }

 private:
  EdgeTree tree_;
  std::conditional_t<(levels >= kPickedLevels), PickedEdges<levels>, ComparedEdges<levels>> first_;
};

// The floats that sixteen codes name, of 2^bits with bits 5..8.
template <int bits>
struct ManyValues {
  const float* all;
  explicit ManyValues(const float* p) : all(p) {}
  void operator()(const uint8_t* codes, FloatReg* to) const {
    for (int k = 0; k < kRegs; ++k) to[k] = gather(all, load_u8(codes + k * kLanes));
  }
};
}  // namespace
}  // namespace ISA
