// Prints a checksum of what every kernel makes of fixed data. Built for two processors, it must print the same twice.
// Compiled with -DISA=<name> and linked with the objects of cpp/kernels.cpp of that name.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../cpp/dispatch.h"

ISA_TABLE(ISA)
static const Kernels k = ISA::kernels();

struct Hash {
  uint64_t value = 0xcbf29ce484222325u;
  void add(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) value = (value ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
  }
  template <class T>
  void add(const std::vector<T>& v) {
    add(v.data(), v.size() * sizeof(T));
  }
  void add(int64_t x) { add(&x, sizeof x); }
};

static uint64_t next_random() {
  static uint64_t state = 1;
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  return (z ^ (z >> 27)) * 0x94D049BB133111EBu;
}

// Finite bits of a dtype: any sign and mantissa, exponents around 1, and now and then any exponent, tie or zero.
static std::vector<uint8_t> random_weights(Dtype dtype, int64_t n) {
  const int bits = dtype == Dtype::kFloat32 ? 32 : 16, mantissa = dtype == Dtype::kFloat32   ? 23
                                                                  : dtype == Dtype::kFloat16 ? 10
                                                                                             : 7;
  const uint64_t bias = (uint64_t{1} << (bits - mantissa - 2)) - 1;
  std::vector<uint8_t> data(static_cast<size_t>(n * bits / 8));
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t r = next_random(), kind = r >> 60;
    uint64_t exponent = bias + (r >> 40) % 5 - 3, fraction = r & ((uint64_t{1} << mantissa) - 1);
    if (kind == 0) exponent = (r >> 40) % (2 * bias);  // at most half of the largest
    if (kind == 1) fraction &= fraction << 3;
    if (kind == 2) exponent = 0;  // subnormal
    if (kind == 3) exponent = fraction = 0;
    const uint64_t x = (r >> 59 & 1) << (bits - 1) | exponent << mantissa | fraction;
    std::memcpy(data.data() + i * bits / 8, &x, static_cast<size_t>(bits / 8));
  }
  return data;
}

template <class T>
static std::vector<T> blank(int64_t n) {
  return std::vector<T>(static_cast<size_t>(n), T(77));
}

static std::vector<uint8_t> random_bytes(int64_t n, int bits) {
  std::vector<uint8_t> data(static_cast<size_t>(n));
  for (uint8_t& x : data) x = static_cast<uint8_t>(next_random() >> 40 & ((1u << bits) - 1));
  return data;
}

static std::vector<float> positive(int64_t n) {
  std::vector<float> data(static_cast<size_t>(n));
  for (float& x : data) x = static_cast<float>(next_random() >> 40) * 0x1p-20f + 0x1p-10f;
  return data;
}

static float largest(Dtype dtype) {
  return dtype == Dtype::kFloat32 ? 0x1.fffffep127f : dtype == Dtype::kFloat16 ? 65504.0f : 0x1.fep127f;
}

// One shape: rows x cols weights, and each kernel on them.
class Round {
 public:
  Round(Dtype dtype, int64_t rows, int64_t cols)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        n_(rows * cols),
        memory_(random_weights(dtype, n_)),
        other_(random_weights(dtype, n_)),
        w_{memory_.data(), dtype},
        grad_{other_.data(), dtype} {}

  void importance(Hash& hash) {
    auto out = blank<float>(n_);
    hash.add(k.magnitude(w_, n_, out.data(), false));
    hash.add(out);
    hash.add(k.product_magnitude(w_, grad_, n_, out.data(), false));
    hash.add(out);
    const auto norm = positive(cols_);
    hash.add(k.wanda(w_, norm.data(), rows_, cols_, out.data(), false));
    hash.add(out);
    for (int power : {1, 2}) {
      auto sums = blank<float>(rows_), columns = blank<float>(cols_), totals = blank<float>(16 * cols_);
      hash.add(k.norm_rows(w_, rows_, cols_, power, sums.data()));
      hash.add(k.norm_columns(w_, rows_, cols_, cols_, power, totals.data(), columns.data()));
      hash.add(sums);
      hash.add(columns);
    }
    k.uniform(3, 5, n_, out.data());
    hash.add(out);
    std::vector<double> misses(static_cast<size_t>(rows_ * 5));
    hash.add(k.errors(w_, grad_, rows_, cols_, misses.data()));
    hash.add(misses);
  }

  void pruning(Hash& hash) {
    auto out = random_weights(dtype_, n_);
    const MutableWeights to{out.data(), dtype_};
    for (ThresholdMode cut : {ThresholdMode::kMagnitude, ThresholdMode::kSigned, ThresholdMode::kSoft}) {
      hash.add(k.threshold(w_, n_, 0.3f, cut, to, false));
      hash.add(out);
    }
    const auto mask = random_bytes(n_, 1);
    hash.add(k.apply_mask(w_, mask.data(), n_, to, false));
    hash.add(out);
    hash.add(k.count_nonzero(w_, n_));
    hash.add(k.is_finite(w_, n_));
    auto keep = blank<uint8_t>(n_);
    for (int m : {2, 4, 7, 16, 17, 32})
      for (bool absolute : {false, true}) {
        const int64_t count = n_ / m * m;
        hash.add(k.n_of_m_mask(w_, count, m / 2, m, absolute, keep.data()));
        hash.add(k.prune_n_of_m(w_, grad_, count, m / 2, m, absolute, to, false));
        hash.add(keep);
        hash.add(out);
      }
    for (bool absolute : {false, true}) {
      auto keys = blank<uint32_t>(n_);
      hash.add(k.selection_keys(w_, n_, absolute, keys.data()));
      hash.add(keys);
      for (int64_t rank : {int64_t{0}, n_ / 3, n_ - 1}) {
        const Cutoff cutoff = k.select_rank(keys.data(), n_, rank);
        hash.add(cutoff.cut);
        hash.add(cutoff.ties);
        hash.add(k.count_below(keys.data(), n_, cutoff.cut));
        k.mask_below(w_, n_, absolute, cutoff, keep.data());
        hash.add(k.prune_below(grad_, w_, n_, absolute, cutoff, to, false));
        hash.add(keep);
        hash.add(out);
      }
      auto found = blank<uint32_t>(n_ + 16);
      int64_t collected = 0, under = 0;
      hash.add(k.collect_keys(w_, n_, absolute, -0x3e000000, 0x3f000000, found.data(), n_ + 16, &collected, &under));
      hash.add(collected);
      hash.add(under);
      hash.add(found.data(), static_cast<size_t>(collected) * sizeof(uint32_t));
      k.narrow_keys(keys.data(), n_, -0x3f000000, 0x40000000, found.data(), n_ + 16, &collected, &under);
      hash.add(collected);
      hash.add(under);
      hash.add(found.data(), static_cast<size_t>(collected) * sizeof(uint32_t));
    }
  }

  void packing(Hash& hash) {
    for (int bits = 1; bits <= 8; ++bits) {
      const auto codes = random_bytes(n_, bits);
      auto packed = blank<uint8_t>(rows_ * ((cols_ * bits + 7) / 8)), back = blank<uint8_t>(n_);
      hash.add(k.pack(codes.data(), rows_, cols_, bits, packed.data()));
      k.unpack(packed.data(), rows_, cols_, bits, back.data());
      hash.add(packed);
      hash.add(back);
    }
  }

  void quantization(Hash& hash) {
    for (int bits = 2; bits <= 8; ++bits)
      for (int64_t group : {int64_t{7}, int64_t{32}, cols_})
        for (ScaleRule rule :
             {ScaleRule::kAbsmax, ScaleRule::kMse, ScaleRule::kPowerOfTwo, ScaleRule::kGivenScale, ScaleRule::kGivenScaleAndZero})
          for (bool symmetric : {true, false}) {
            const auto variant = static_cast<unsigned>(next_random() >> 33);
            const Dtype of_scales = rule >= ScaleRule::kGivenScale ? Dtype::kFloat32 : static_cast<Dtype>(variant % 3);
            const auto rounding = static_cast<Rounding>(variant / 3 % 4);
            const float limit = std::min(largest(dtype_), largest(of_scales));
            const Grid grid{bits, group, symmetric, rule, of_scales, rounding, 11, limit};
            one_grid(grid, hash);
          }
    auto codes = blank<uint8_t>(n_);
    for (Rounding rounding : {Rounding::kEven, Rounding::kAway, Rounding::kFloor, Rounding::kStochastic})
      for (int offset : {0, -3}) {
        hash.add(k.round_to_int(w_, n_, 12.5f, offset, -8, 7, rounding, 5, 9, codes.data(), false));
        hash.add(codes);
      }
  }

  void distillation(Hash& hash) {
    const std::vector<int64_t> labels(static_cast<size_t>(rows_), cols_ / 2);
    const Weights teachers[] = {grad_, w_, grad_};
    auto loss = blank<double>(rows_);
    auto grad = blank<float>(n_);
    for (int count : {1, 3})
      for (double temperature : {0.7, 1.0, 40.0})
        for (const int64_t* truth : {labels.data(), static_cast<const int64_t*>(nullptr)}) {
          const double alpha = truth ? 0.3 : 1.0;
          hash.add(k.distill(w_, teachers, count, truth, 0, rows_, cols_, temperature, alpha, rows_, loss.data(),
                             grad.data()));
          hash.add(loss);
          hash.add(grad);
        }
  }

  void codebooks(Hash& hash) {
    const uint8_t order[16] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10};
    for (int64_t count : {2, 3, 4, 8, 15, 16, 17, 33, 100, 256})
      for (int64_t group : {int64_t{7}, int64_t{48}, cols_})
        for (BookRule rule : {BookRule::kAbsmax, BookRule::kPowerOfTwo, BookRule::kGivenScale, BookRule::kNone})
          for (bool per_group : {false, true}) {
            const auto variant = static_cast<unsigned>(next_random() >> 33);
            const Dtype of_scales = rule == BookRule::kAbsmax ? static_cast<Dtype>(variant % 3) : Dtype::kFloat32;
            const int bits = count <= 16 ? 4 : 8;
            const uint8_t* codes = count <= 16 && variant / 3 % 2 ? order : nullptr;
            one_book({bits, group, rule, of_scales, 1.5f, 1e30f, nullptr, per_group, count, codes}, hash);
          }
    std::vector<double> sums(static_cast<size_t>(rows_ * ((cols_ + 6) / 7)));
    hash.add(k.magnitude_sums(w_, rows_, cols_, 7, sums.data()));
    hash.add(sums);
    std::vector<double> running(1), counts(1), before(1);
    for (int64_t i = 0; i < n_; ++i) {
      counts.push_back(counts.back() + 1);
      running.push_back(running.back() + static_cast<double>(next_random() >> 40) - 0x1p23);
      before.push_back(running.back() * running.back() / counts.back());
    }
    for (int64_t low : {int64_t{0}, n_ / 3}) {
      const Split split = k.best_split(before.data(), counts.data(), running.data(), low, n_, n_);
      hash.add(split.at);
      hash.add(&split.gain, sizeof split.gain);
    }
  }

 private:
  void one_book(Book book, Hash& hash) {
    const int64_t groups = rows_ * ((cols_ + book.group_size - 1) / book.group_size);
    const int64_t sets = book.edges_per_group ? groups : 1;
    std::vector<float> edges;
    for (int64_t set = 0; set < sets; ++set)
      for (int64_t i = 1; i < book.count; ++i)
        edges.push_back(static_cast<float>(2 * i - book.count) / static_cast<float>(book.count + set));
    book.edges = edges.data();
    auto data = blank<uint8_t>(rows_ * ((cols_ * book.bits + 7) / 8));
    auto scales = positive(groups);
    hash.add(k.quantize_codebook(w_, rows_, cols_, book, data.data(), scales.data(), false));
    hash.add(data);
    hash.add(scales);
    for (float scale : scales)
      if (scale > 0x1p126f) return;  // overflowed its dtype: callers refuse it
    auto back = random_weights(dtype_, n_);
    const auto values = positive(sets * book.count);
    k.dequantize_codebook(data.data(), rows_, cols_, book.bits, book.group_size, values.data(), book.count,
                          book.edges_per_group, scales.data(), {back.data(), dtype_}, false);
    hash.add(back);
  }

  bool beyond(float limit) const {
    for (int64_t i = 0; i < n_; ++i) {
      float x = 0;
      if (dtype_ == Dtype::kFloat32) std::memcpy(&x, memory_.data() + 4 * i, 4);
      if (dtype_ == Dtype::kBfloat16) std::memcpy(reinterpret_cast<char*>(&x) + 2, memory_.data() + 2 * i, 2);
      if (std::fabs(x) > limit) return true;
    }
    return false;
  }

  void one_grid(const Grid& grid, Hash& hash) {
    if (grid.rule == ScaleRule::kMse && beyond(grid.limit)) return;  // refused by callers: steps need not fit words
    const int64_t groups = rows_ * ((cols_ + grid.group_size - 1) / grid.group_size);
    auto data = blank<uint8_t>(rows_ * ((cols_ * grid.bits + 7) / 8));
    auto scales = positive(groups);
    auto zeros = random_bytes(groups, grid.bits);
    uint8_t* z = grid.symmetric ? nullptr : zeros.data();
    hash.add(k.quantize(w_, rows_, cols_, grid, 3, data.data(), scales.data(), z, false));
    hash.add(data);
    hash.add(scales);
    hash.add(zeros);
    for (float scale : scales)
      if (std::fabs(scale) > 0x1p127f)
        return;  // overflowed its dtype: callers refuse it, and the sign of inf * 0 is the processor's
    auto back = random_weights(dtype_, n_);
    k.dequantize(data.data(), rows_, cols_, grid.bits, grid.group_size, scales.data(), z, {back.data(), dtype_}, false);
    hash.add(back);
    auto low = blank<float>(groups), high = low;
    hash.add(k.ranges(w_, rows_, cols_, grid.group_size, low.data(), high.data()));
    hash.add(low);
    hash.add(high);
  }

  Dtype dtype_;
  int64_t rows_, cols_, n_;
  std::vector<uint8_t> memory_, other_;
  Weights w_, grad_;
};

int main() {
  const char* names[] = {"float32", "float16", "bfloat16"};
  for (Dtype dtype : {Dtype::kFloat32, Dtype::kFloat16, Dtype::kBfloat16}) {
    Hash importance, pruning, packing, quantization, codebooks, distillation;
    for (int64_t cols : {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 129, 500})
      for (int64_t rows : {1, 3}) {
        Round round(dtype, rows, cols);
        round.importance(importance);
        round.pruning(pruning);
        round.packing(packing);
        round.quantization(quantization);
        round.distillation(distillation);
        round.codebooks(codebooks);
      }
    const char* name = names[static_cast<int>(dtype)];
    const auto print = [&](const char* family, const Hash& hash) {
      std::printf("%s %s %016llx\n", family, name, static_cast<unsigned long long>(hash.value));
    };
    print("importance", importance);
    print("pruning", pruning);
    print("packing", packing);
    print("quantization", quantization);
    print("distillation", distillation);
    print("codebooks", codebooks);
  }
}
