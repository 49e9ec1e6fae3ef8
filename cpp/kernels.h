// The kernel table: one row per kernel, one list of rows per family, one table per instruction set.
//
// Kernels are plain single-threaded loops over whole rows. They never allocate, never throw, check nothing and return
// the same bits on every instruction set. A kernel that reads weights returns whether they were all finite.
#pragma once
#include <cstdint>

enum class Dtype : int { kFloat32, kFloat16, kBfloat16 };

// Weights to read, or to write, in one of the three dtypes.
struct Weights {
  const void* data;
  Dtype dtype;
  int64_t itemsize() const { return dtype == Dtype::kFloat32 ? 4 : 2; }
  Weights at(int64_t i) const { return {static_cast<const char*>(data) + i * itemsize(), dtype}; }
};
struct MutableWeights {
  void* data;
  Dtype dtype;
  int64_t itemsize() const { return Weights{data, dtype}.itemsize(); }
  MutableWeights at(int64_t i) const { return {static_cast<char*>(data) + i * itemsize(), dtype}; }
};

enum class Cut : int { kMagnitude, kSigned, kSoft };  // threshold: what falls
enum class ScaleRule : int {
  kAbsmax,
  kMse,
  kPowerOfTwo,
  kScale,
  kGiven
};  // quantize: kScale reads scales, kGiven zero points too
enum class Rounding : int { kEven, kAway, kFloor, kStochastic };

struct Grid {
  int bits;
  int64_t group_size;
  bool symmetric;
  ScaleRule rule;
  Dtype scale_dtype;
  Rounding rounding;
  uint64_t seed;
  float limit;  // what no code may stand for more than, so that no reader's dtype overflows
};

// kAbsmax: scale = absmax / peak. kPowerOfTwo: the power of two at or below absmax, divided by peak, at least 2^-127.
// kScale reads scales. kNone: edges are those of the weights themselves, and scales stay as they are.
enum class BookRule : int { kAbsmax, kPowerOfTwo, kScale, kNone };

struct Book {
  int bits;
  int64_t group_size;
  BookRule rule;
  Dtype scale_dtype;
  float peak;
  const float* edges;  // count - 1, ascending: a weight's rank is how many lie below it
  bool edges_per_group;
  int64_t count;         // of values
  const uint8_t* order;  // the codes of ranks, sixteen; nullptr: ranks are codes
};

struct Split {  // the best place to cut, and what is gained there
  int64_t at;
  double gain;
};

struct Below {  // the answer to a selection: keys under `cut` go, and the first `ties` of those equal to it
  int32_t cut;
  int64_t ties;
};

// Keys order scores as signed integers: the bits of |score| (absolute), or of score with negatives mirrored.

// clang-format off
#define importance_rows(X) \
  /* out[i] = |w[i]|;  |w[i] * grad[i]|;  |w[r][c]| * norm[c] */ \
  X(bool, magnitude,         (Weights w, int64_t n, float* out, bool streamed)) \
  X(bool, product_magnitude, (Weights w, Weights grad, int64_t n, float* out, bool streamed)) \
  X(bool, wanda,             (Weights w, const float* norm, int64_t rows, int64_t cols, float* out, bool streamed)) \
  /* out[r], out[c]: sums of |w|^power (1 or 2) in sixteen lanes; the columns are a part of rows that are `stride` apart; */ \
  /* totals: room for 16 x cols */ \
  X(bool, norm_rows,         (Weights w, int64_t rows, int64_t cols, int power, float* out)) \
  X(bool, norm_columns,      (Weights w, int64_t rows, int64_t cols, int64_t stride, int power, float* totals, float* out)) \
  /* out[i] = number first + i of stream `seed`, uniform in [0, 1) */ \
  X(void, uniform,           (uint64_t seed, uint64_t first, int64_t n, float* out))

#define pruning_rows(X) \
  /* out has the dtype of w */ \
  X(bool, threshold,         (Weights w, int64_t n, float t, Cut mode, MutableWeights out, bool streamed)) \
  X(bool, apply_mask,        (Weights w, const uint8_t* mask, int64_t n, MutableWeights out, bool streamed)) \
  X(int64_t, count_nonzero,  (Weights w, int64_t n)) \
  X(bool, is_finite,         (Weights w, int64_t n)) \
  /* each m consecutive scores keep their n highest: as mask bytes, or as weights */ \
  X(bool, n_of_m_mask,       (Weights scores, int64_t count, int n, int m, bool absolute, uint8_t* mask)) \
  X(bool, prune_n_of_m,      (Weights w, Weights scores, int64_t count, int n, int m, bool absolute, MutableWeights out, bool streamed))

#define selection_rows(X) \
  /* keys[i]; keys in low..high, at most `room`, appended (how many there were), and how many are below low; */ \
  /* bins[key >> shift] for keys whose higher bits are `prefix`; the cut that `rank` keys fall under, in keys of low..high */ \
  X(bool, selection_keys,    (Weights scores, int64_t n, bool absolute, uint32_t* keys)) \
  X(bool, collect_keys,      (Weights scores, int64_t n, bool absolute, int32_t low, int32_t high, uint32_t* keys, int64_t room, int64_t* collected, int64_t* below)) \
  X(int64_t, count_below,    (const uint32_t* keys, int64_t n, int32_t cut)) \
  X(Below, select_rank,      (const uint32_t* keys, int64_t n, int64_t rank)) \
  X(void, mask_below,        (Weights scores, int64_t n, bool absolute, Below below, uint8_t* mask)) \
  X(bool, prune_below,       (Weights w, Weights scores, int64_t n, bool absolute, Below below, MutableWeights out, bool streamed))

#define packing_rows(X) \
  /* codes (one a byte) into bits, returns whether all fit; and back */ \
  X(bool, pack,              (const uint8_t* codes, int64_t rows, int64_t n, int bits, uint8_t* packed)) \
  X(void, unpack,            (const uint8_t* packed, int64_t rows, int64_t n, int bits, uint8_t* codes))

#define quantization_rows(X) \
  /* low, high: rows x groups; data (nullptr: scales alone): rows x packed bytes; scales, zeros: rows x groups; */ \
  /* first: position of w[0] in its tensor */ \
  X(bool, extent,            (Weights w, int64_t n, bool symmetric, float* low, float* high)) \
  X(bool, ranges,            (Weights w, int64_t rows, int64_t cols, int64_t group_size, float* low, float* high)) \
  X(bool, quantize,          (Weights w, int64_t rows, int64_t cols, const Grid& grid, int64_t first, uint8_t* data, float* scales, uint8_t* zeros, bool streamed)) \
  X(void, dequantize,        (const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size, const float* scales, const uint8_t* zeros, MutableWeights out, bool streamed)) \
  X(bool, round_to_int,      (Weights w, int64_t n, float multiplier, int offset, int low, int high, Rounding rounding, uint64_t seed, int64_t first, uint8_t* out, bool streamed)) \
  /* out: rows x 5: sums of a*a, b*b, a*b, (a-b)^2, and the largest |a-b| */ \
  X(bool, errors,            (Weights a, Weights b, int64_t rows, int64_t cols, double* out))

#define codebooks_rows(X) \
  /* data (nullptr: scales alone): rows x packed bytes; scales: rows x groups */ \
  X(bool, quantize_codebook, (Weights w, int64_t rows, int64_t cols, const Book& book, uint8_t* data, float* scales, bool streamed)) \
  /* out = book[code] * scale; book: `count` values, or as many for each group; codes past its end stand for the last one */ \
  X(void, dequantize_codebook, (const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size, const float* book, int64_t count, bool per_group, const float* scales, MutableWeights out, bool streamed)) \
  /* out: rows x groups: sums of |w| in sixteen lanes */ \
  X(bool, magnitude_sums,    (Weights w, int64_t rows, int64_t cols, int64_t group_size, double* out)) \
  /* the first i of low..high-1 with the most of before[i] + (sums[at] - sums[i])^2 / (counts[at] - counts[i]); low < high <= at */ \
  X(Split, best_split,       (const double* before, const double* counts, const double* sums, int64_t low, int64_t high, int64_t at))

// The families: the same word is a list of rows above, a header of kernels/ and an object of each instruction set.
#define FAMILIES(X) X(importance) X(pruning) X(selection) X(packing) X(quantization) X(codebooks)

#define ROW(result, name, args) result(*name) args;
#define TABLE(family) struct family##_kernels { family##_rows(ROW) };
FAMILIES(TABLE)
#undef TABLE
#undef ROW

struct IsaName {
  const char* isa;
};
#define BASE(family) family##_kernels,
struct Kernels : FAMILIES(BASE) IsaName {};
#undef BASE
// clang-format on
