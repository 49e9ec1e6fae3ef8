// The kernel table: one row per kernel, one list of rows per family, one table per instruction set.
//
// Kernels are plain single-threaded loops over whole rows. They never allocate, never throw, check nothing and return
// the same bits on every instruction set. A kernel that reads weights returns whether they were all finite.
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

enum class Cut : int { kMagnitude, kSigned, kSoft };  // threshold: what falls
enum class ScaleRule : int {
  kAbsmax,
  kMse,
  kPowerOfTwo,
  kScale,
  kGiven,
  kFull
};  // quantize: kScale reads scales, kGiven zero points too, and so does kFull, for the range of codes that kMse has
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

// kAbsmax: scale = absmax / peak, or the one below where peak * scale is beyond `limit`. kPowerOfTwo: the power of two
// at or below absmax, divided by peak, at least 2^-127. kScale reads scales. kNone: edges are those of the weights
// themselves, and scales stay as they are.
enum class BookRule : int { kAbsmax, kPowerOfTwo, kScale, kNone };

struct Book {
  int bits;
  int64_t group_size;
  BookRule rule;
  Dtype scale_dtype;
  float peak, limit;
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

struct SoftmaxTerm {  // one sample and class c: l = logit c and others = sum of e^logit over the other classes, both
                      // over
  float logit, others, own, probability;  // the largest of those; own = that of the label (1 where it is c); p(label)
};

enum class SparseLayout : int { kBitmask, kNOfM, kCsr16, kCsr32 };

// Where the stored weights of a matrix stand: a bit per weight; the position of each of n within its m, packed; or the
// column of each. Whatever the arrays hold, nothing outside of them is read.
struct Places {
  SparseLayout layout;
  int n, m;
  int64_t rows, cols;
  const int64_t* offsets;  // rows + 1: how many are stored before each row; nullptr for n:m, which needs none
  const void* data;
  int64_t count;  // stored weights
};

struct StoredWeights {  // in order: floats, or packed codes with the grid they belong to
  Weights floats;
  int bits;  // 0: floats
  const uint8_t* codes;
  int64_t group_size;
  const float* scales;   // rows x groups
  const uint8_t* zeros;  // the same, or nullptr where the zero point is 2^(bits-1)
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
  X(bool, prune_n_of_m,      (Weights w, Weights scores, int64_t count, int n, int m, bool absolute, MutableWeights out, bool streamed)) \
  /* out[i] = soft threshold of w[i] at l1, over `divisor` */ \
  X(bool, shrink,            (Weights w, int64_t n, float l1, float divisor, MutableWeights out, bool streamed))

#define selection_rows(X) \
  /* keys[i]; keys in low..high, as long as there is `room`, appended (how many there were), and how many are below low: of scores, or of keys; */ \
  /* bins[key >> shift] for keys whose higher bits are `prefix`; the cut that `rank` keys fall under, in keys of low..high */ \
  X(bool, selection_keys,    (Weights scores, int64_t n, bool absolute, uint32_t* keys)) \
  X(bool, collect_keys,      (Weights scores, int64_t n, bool absolute, int32_t low, int32_t high, uint32_t* keys, int64_t room, int64_t* collected, int64_t* below)) \
  X(void, narrow_keys,       (const uint32_t* from, int64_t n, int32_t low, int32_t high, uint32_t* keys, int64_t room, int64_t* collected, int64_t* below)) \
  X(int64_t, count_below,    (const uint32_t* keys, int64_t n, int32_t cut)) \
  X(Below, select_rank,      (const uint32_t* keys, int64_t n, int64_t rank)) \
  X(void, mask_below,        (Weights scores, int64_t n, bool absolute, Below below, uint8_t* mask)) \
  X(bool, prune_below,       (Weights w, Weights scores, int64_t n, bool absolute, Below below, MutableWeights out, bool streamed)) \
  /* bins: 65536 counts, of the upper halves of keys (the lowest first), or of the lower halves where the upper is prefix */ \
  X(bool, count_keys,        (Weights scores, int64_t n, bool absolute, bool upper, int32_t prefix, int64_t* bins))

#define blocks_rows(X) \
  /* rows x cols, rows `stride` apart, in blocks of block_rows x block_cols: out, `out_stride` apart, is the sum of each, */ \
  /* of w (power 0), |w| (1) or w * w (2): sixteen lanes down each column, then sixteen lanes along those */ \
  X(bool, block_sums,        (Weights w, int64_t rows, int64_t cols, int64_t stride, int64_t block_rows, int64_t block_cols, int power, float* out, int64_t out_stride)) \
  /* out[r][c] = w[r][c] * factor[r], or * factor[c] */ \
  X(bool, multiply,          (Weights w, const float* factor, bool by_row, int64_t rows, int64_t cols, MutableWeights out, bool streamed))

#define activations_rows(X) \
  /* out[i] = w[i] * w[i] * h[i] * factor; where `positive`, no h may be below 0 */ \
  X(bool, square_product,    (Weights w, Weights h, int64_t n, float factor, bool positive, float* out, bool streamed)) \
  /* counts[c][(x[r][c] * lift[c] - low[c]) * scale[c] as an integer of 0..bins-1] += 1; rows of x are `stride` apart */ \
  X(bool, histogram,         (Weights x, int64_t rows, int64_t cols, int64_t stride, const float* lift, const float* low, const float* scale, int64_t bins, int64_t* counts)) \
  /* out[j][c] = x[j] . w[c] + bias[c], in sixteen lanes; returns whether all are finite */ \
  X(bool, logits,            (const float* x, int64_t n, const float* w, int64_t classes, int64_t inputs, const float* bias, float* out)) \
  /* terms[j][c]: what predictive needs to know of sample j when logit c moves; at least two classes */ \
  X(void, softmax_terms,     (const float* logits, int64_t n, int64_t classes, const int64_t* label, SoftmaxTerm* terms)) \
  /* out[c][i] = the sum over samples, in sixteen lanes, of p(label) less what it is with w[c][i] = 0; classes first, ... */ \
  X(void, predictive,        (const float* w, const float* x, int64_t n, int64_t classes, int64_t inputs, int64_t first, int64_t count, const int64_t* label, const SoftmaxTerm* terms, float* out))

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

#define distillation_rows(X) \
  /* rows first, first + 1, ... of logits (batch x cols): loss[r] in nats, and grad of the mean of all; labels: columns (-1: none) of the whole batch, or nullptr; false where a loss is infinite, too */ \
  X(bool, distill,           (Weights student, const Weights* teachers, int count, const int64_t* labels, int64_t first, int64_t rows, int64_t cols, double temperature, double alpha, int64_t batch, double* loss, float* grad))

#define codebooks_rows(X) \
  /* data (nullptr: scales alone): rows x packed bytes; scales: rows x groups */ \
  X(bool, quantize_codebook, (Weights w, int64_t rows, int64_t cols, const Book& book, uint8_t* data, float* scales, bool streamed)) \
  /* out = book[code] * scale; book: `count` values, or as many for each group; codes past its end stand for the last one */ \
  X(void, dequantize_codebook, (const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size, const float* book, int64_t count, bool per_group, const float* scales, MutableWeights out, bool streamed)) \
  /* out: rows x groups: sums of |w| in sixteen lanes */ \
  X(bool, magnitude_sums,    (Weights w, int64_t rows, int64_t cols, int64_t group_size, double* out)) \
  /* the first i of low..high-1 with the most of before[i] + (sums[at] - sums[i])^2 / (counts[at] - counts[i]); low < high <= at */ \
  X(Split, best_split,       (const double* before, const double* counts, const double* sums, int64_t low, int64_t high, int64_t at))

#define sparse_rows(X) \
  /* w may be kCodes; what is stored is what has a bit set. counts[r]: how many. places: a bit, a position or a column of */ \
  /* each; values: in order. Rows first..first + rows of the tensor. Whether all were finite, and each m had at most n */ \
  X(bool, stored_per_row,    (Weights w, int64_t rows, int64_t cols, int64_t* counts)) \
  X(bool, sparse_encode,     (Weights w, const Places& at, int64_t first, int64_t rows, void* places, MutableWeights values)) \
  X(void, sparse_decode,     (const Places& at, Weights values, int64_t first, int64_t rows, MutableWeights out, bool streamed)) \
  /* the first row whose places are not in order or not as many as its offsets say, or -1 */ \
  X(int64_t, sparse_check,   (const Places& at, int64_t first, int64_t rows)) \
  /* out[r] = sum of w[r][c] * x[c] in sixteen lanes over the columns; x has zeros up to a multiple of 16. The same for */ \
  /* sixteen vectors at once: x is blocks x cols x 16, out is batch x `at.rows` */ \
  X(void, sparse_matvec,     (const Places& at, const StoredWeights& w, int64_t first, int64_t rows, const float* x, float* out)) \
  X(void, sparse_matmul,     (const Places& at, const StoredWeights& w, int64_t first, int64_t rows, const float* x, int64_t batch, float* out))

// The families: the same word is a list of rows above, a header of kernels/ and an object of each instruction set.
#define FAMILIES(X) \
  X(importance) X(pruning) X(selection) X(packing) X(quantization) X(codebooks) X(sparse) X(blocks) X(activations) \
  X(distillation)

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
