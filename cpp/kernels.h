// The kernel table: one row per kernel in kernels/<family>.inc, one table per instruction set.
//
// Kernels are plain single-threaded loops over whole rows. They never allocate, never throw, check nothing and return
// the same bits on every instruction set. A kernel that reads weights returns whether they were all finite. One that is
// told `nontemporal` stores past the caches.
#pragma once
#include <cstdint>

enum class Dtype : int { kFloat32, kFloat16, kBfloat16, kCodes };  // kCodes: bytes, which only `sparse` reads

// Weights to read, or to write, in one of the three dtypes.
struct Weights {
  const void* data;
  Dtype dtype;
  int64_t itemsize() const { return dtype == Dtype::kFloat32 ? 4 : dtype == Dtype::kCodes ? 1 : 2; }
  Weights at(int64_t i) const { return {static_cast<const char*>(data) + i * itemsize(), dtype}; }
};
struct MutableWeights {
  void* data;
  Dtype dtype;
  int64_t itemsize() const { return Weights{data, dtype}.itemsize(); }
  MutableWeights at(int64_t i) const { return {static_cast<char*>(data) + i * itemsize(), dtype}; }
};

enum class ThresholdMode : int { kMagnitude, kSigned, kSoft };  // threshold: which weights become 0

// quantize: where scales come from. The given ones are read, with zero points or for the range of codes of kMse.
enum class ScaleRule : int { kAbsmax, kMse, kPowerOfTwo, kGivenScale, kGivenScaleAndZero, kGivenFullRange };
enum class Rounding : int { kEven, kAway, kFloor, kStochastic };

struct Grid {
  int bits;
  int64_t group_size;
  bool symmetric;
  ScaleRule rule;
  Dtype scale_dtype;
  Rounding rounding;
  uint64_t seed;
  float limit;  // the largest magnitude that a code may decode to, so that no reader's dtype overflows
};

// kAbsmax: scale = absmax / peak, or the one below where peak * scale is beyond `limit`. kPowerOfTwo: the power of two
// at or below absmax, divided by peak, at least 2^-127. kGivenScale reads scales. kNone: edges are those of the weights
// themselves, and scales are neither read nor written.
enum class BookRule : int { kAbsmax, kPowerOfTwo, kGivenScale, kNone };

struct Book {
  int bits;
  int64_t group_size;
  BookRule rule;
  Dtype scale_dtype;
  float peak, limit;
  const float* edges;  // count - 1, ascending: a weight's rank is the number of edges below it
  bool edges_per_group;
  int64_t count;         // of values
  const uint8_t* order;  // the codes of ranks, sixteen; nullptr: ranks are codes
};

struct Split {  // the best place to cut, and what is gained there
  int64_t at;
  double gain;
};

struct Cutoff {  // the answer to a selection: keys below `cut` are pruned, and the first `ties` of those equal to it
  int32_t cut;
  int64_t ties;
};

// One sample and class c: l = logit c and others = sum of e^logit over the other classes, both over the largest of
// those; own = that of the label (1 where it is c); p(label).
struct SoftmaxTerm {
  float logit, others, own, probability;
};

enum class SparseLayout : int { kBitmask, kNOfM, kCsr16, kCsr32 };

// Where the nonzeros of a matrix are: a bit per weight; the position of each of n within its m, packed; or the column
// of each. Whatever the arrays hold, nothing outside of them is read.
struct Places {
  SparseLayout layout;
  int n, m;
  int64_t rows, cols;
  const int64_t* offsets;  // rows + 1: how many nonzeros come before each row; nullptr for n:m, which needs none
  const void* data;
  int64_t count;  // of nonzeros

  bool is_csr() const { return layout == SparseLayout::kCsr16 || layout == SparseLayout::kCsr32; }
  int index_bits() const { return 32 - __builtin_clz(static_cast<uint32_t>(m - 1)); }  // of a position within m
  int64_t row_bytes() const {                                                          // of bits or positions
    if (layout == SparseLayout::kBitmask) return (cols + 7) / 8;
    return (cols / m * n * index_bits() + 7) / 8;
  }
};

struct Nonzeros {  // in order: floats, or packed codes with the grid they belong to
  Weights floats;
  int bits;  // 0: floats
  const uint8_t* codes;
  int64_t group_size;
  const float* scales;   // rows x groups
  const uint8_t* zeros;  // the same, or nullptr where the zero point is 2^(bits-1)
};

// The families: the same word is a list of rows kernels/<family>.inc, a header of kernels/ and an object of each
// instruction set.
#define FAMILIES(X) \
  X(importance)     \
  X(pruning)        \
  X(selection)      \
  X(packing)        \
  X(quantization)   \
  X(codebooks)      \
  X(sparse)         \
  X(blocks)         \
  X(activations)    \
  X(distillation)

#define KERNEL(result, name, args) result(*name) args;
struct importance_kernels {
#include "kernels/importance.inc"
};
struct pruning_kernels {
#include "kernels/pruning.inc"
};
struct selection_kernels {
#include "kernels/selection.inc"
};
struct packing_kernels {
#include "kernels/packing.inc"
};
struct quantization_kernels {
#include "kernels/quantization.inc"
};
struct codebooks_kernels {
#include "kernels/codebooks.inc"
};
struct sparse_kernels {
#include "kernels/sparse.inc"
};
struct blocks_kernels {
#include "kernels/blocks.inc"
};
struct activations_kernels {
#include "kernels/activations.inc"
};
struct distillation_kernels {
#include "kernels/distillation.inc"
};
#undef KERNEL

struct IsaName {
  const char* isa;
};
#define BASE(family) family##_kernels,
struct Kernels : FAMILIES(BASE) IsaName {};
#undef BASE
