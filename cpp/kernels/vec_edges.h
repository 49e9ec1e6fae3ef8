// Ascending edges as a binary tree, in which the edges below a number are counted level by level.
#pragma once
#include "isa.h"

namespace ISA {
namespace {
// A binary tree of edges, root at 1: the edges of depth d are node[2^d ...], so that edge p of depth d has the children
// 2p and 2p + 1 in depth d + 1. At the leaves p counts the edges below x. Missing edges are infinite. Of e0 < ... < e6:
//   node[1]                     e3
//   node[2..3]          e1              e5
//   node[4..7]      e0      e2      e4      e6
//   leaves p      0   1   2   3   4   5   6   7     e2 < x <= e3: left, right, right: p = 0, 1, 3
struct EdgeTree {
  alignas(64) float node[256 + 16];
  int depth;
  EdgeTree(const float* edges, int64_t count) : depth(1) {
    while ((1 << depth) <= count) ++depth;
    for (int d = 0; d < depth; ++d)
      for (int64_t p = 0; p < 1 << d; ++p) {
        const int64_t at = ((2 * p + 1) << (depth - 1 - d)) - 1;
        node[(1 << d) + p] = at < count ? edges[at] : __builtin_inff();
      }
    for (int i = 1 << depth; i < 24; ++i) node[i] = 0;  // read with the last level, never picked
  }
};
}  // namespace
}  // namespace ISA
