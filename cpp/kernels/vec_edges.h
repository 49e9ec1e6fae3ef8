// Ascending edges as a binary tree, in which the edges below a number are counted level by level.
#pragma once
#include "isa.h"

namespace ISA {
namespace {
// A binary tree of edges, root at 1: the edges of depth d are node[2^d ...], so that below edge p of depth d hang
// 2p and 2p + 1 of depth d + 1. At the leaves p counts the edges below x. Missing edges are infinite.
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
