#pragma once
#include "code_rows.h"
#include "mended_grids.h"
#include "scores.h"

namespace ISA {
namespace {

// The range of what it sees, with 0 in it. Most symmetric grids need the largest magnitude alone, which tells as well
// whether all were finite.
template <bool symmetric>
struct Range {
  I32x16 most = splat(0), least = splat(0);  // of v, and of -v

  void see(F32x16 v) {
    if constexpr (symmetric) {
      most = max(most, magnitude_bits(v));
    } else {  // as integers, positive floats are in order and above the negative ones
      most = max(most, float_bits(v));
      least = max(least, float_bits(v) ^ splat(INT32_MIN));
    }
  }
};

// The ranges of up to sixteen groups, which become numbers together.
template <bool symmetric>
struct Ranges {
  IntReg most[16], least[16];

  void set(int k, const Range<symmetric>& range) {
    most[k] = in_one(range.most);
    if constexpr (!symmetric) least[k] = in_one(range.least);
  }
  void end(int count, float* low, float* high, Finite& finite) {
    for (int k = count; k < 16; ++k) most[k] = least[k] = splat_int(0);
    const auto in_order = [&](const IntReg* of) {
      const I32x16 ends = largest_of_sixteen(of);
      finite.peak = max(finite.peak, ends);
      return from_bits(ends);
    };
    store(high, in_order(most));
    if constexpr (!symmetric) store(low, splat(0.0f) - in_order(least));
  }
};

template <bool symmetric, class T>
inline Range<symmetric> range_of(const T* x, int64_t n) {
  Range<symmetric> range;
  for_each_vector(n, [&](int64_t i, auto tail) {
    fetch_near(x + i);
    range.see(load(x + i, tail));
  });
  return range;
}

// Scales and zero points of up to sixteen groups of these ranges that follow each other in a row, or those that are
// given.
template <class T, class Size>
NOINLINE void finalize_scales(const T* x, int64_t n, int count, Size size, const float* low, const float* high,
                              const Grid& grid, float* scales, uint8_t* zeros, Quantizers& quantizers) {
  Grids found;
  if (grid.rule == ScaleRule::kMse) {
    least_squares_grids(x, n, count, size, low, high, grid, found);
    quantizers.set(load(found.scale));
  } else if (grid.rule == ScaleRule::kAbsmax) {
    absmax_grids(x, n, count, size, low, high, grid, quantizers, found);
  } else {
    for (int k = 0; k < 16; ++k) found.scale[k] = given_scales(grid) && k < count ? scales[k] : 0;
    quantizers.set(given_scales(grid) ? load(found.scale) : scales_for(load(low), load(high), grid));
    store(found.zero, zeros_for(load(low), quantizers, grid));
  }
  for (int k = 0; !given_scales(grid) && k < count; ++k) scales[k] = quantizers.scale[k];
  for (int k = 0; zeros && k < count; ++k) {
    if (grid.rule > ScaleRule::kGivenScale) found.zero[k] = static_cast<float>(zeros[k]);
    zeros[k] = static_cast<uint8_t>(found.zero[k]);
  }
  set_zeros(quantizers, load(found.zero), grid);
}

// Finds scales and zero points of up to sixteen groups that follow each other in a row, or reads those that are given.
template <class T, class Size>
NOINLINE void fit(const T* x, int64_t n, int count, Size size, const Grid& grid, float* scales, uint8_t* zeros,
                  Quantizers& quantizers, Finite& finite) {
  alignas(64) float low[16] = {}, high[16] = {};
  if (needs_ranges(grid))
    with_constant(grid.symmetric && grid.rule != ScaleRule::kMse, [&](auto symmetric) {
      Ranges<symmetric> ranges;
      each_group(n, count, size,
                 [&](int k, int64_t at, auto some) { ranges.set(k, range_of<symmetric>(x + at, some)); });
      ranges.end(count, low, high, finite);
    });
  finalize_scales(x, n, count, size, low, high, grid, scales, zeros, quantizers);
}

template <bool even, class T, class Size, class Row>
inline void quantize_into(Row& row, const T* x, int64_t rows, int64_t cols, Size size, auto given, const Grid& grid,
                          int64_t first, bool coded, float* scales, uint8_t* zeros, Finite& finite) {
  Quantizers
      quantizers[2];  // the next groups are fitted before these are coded, so that the divisions are done when needed
  const int64_t groups = (cols + size - 1) / size;
  const int64_t together = size * kTogether <= kStretch ? kTogether : 1;  // their weights stay in L1
  for (int64_t r = 0; r < rows; ++r, x += cols, first += cols) {
    const auto fit_from = [&](int64_t g, Quantizers& into) {
      if (g < groups)
        fit(x + g * size, cols - g * size, static_cast<int>(smaller(together, groups - g)), size, grid, scales + g,
            zeros ? zeros + g : nullptr, into, finite);
    };
    fit_from(0, quantizers[0]);
    for (int64_t g = 0, turn = 0; g < groups; g += together, turn ^= 1) {
      const int64_t at = g * size, left = cols - at;
      const int count = static_cast<int>(smaller(together, groups - g));
      fit_from(g + together, quantizers[turn ^ 1]);
      if (coded && together > 1)
        row.template code<even>(x + at, left, count, size, quantizers[turn], given, grid, first + at, finite);
      if (coded && together == 1)
        row.template code_large<even>(x + at, smaller(size, left), quantizers[turn], given, grid, first + at, finite,
                                      FetchNext{needs_ranges(grid) ? size : kAhead / int64_t{sizeof(T)}});
    }
    row.end();
    scales += groups;
    if (zeros) zeros += groups;
  }
}

// One group a row: while a row is coded the range of the next is found, which is then in the caches when it is coded.
//   row 0    range
//   row 1    .       range, while row 0 is coded
//   row 2    .       .       range, while row 1 is coded     each row comes from memory once, and from a cache once
template <bool symmetric, class T, class Row>
inline void quantize_channels(Row& row, const T* x, int64_t rows, int64_t cols, const Grid& grid, int64_t first,
                              float* scales, uint8_t* zeros, Finite& finite) {
  alignas(64) float low[16] = {}, high[16] = {};
  Quantizers quantizers;
  Ranges<symmetric> ranges;
  const auto end = [&](const Range<symmetric>& range) {
    ranges.set(0, range);
    ranges.end(1, low, high, finite);
  };
  end(range_of<symmetric>(x, rows ? cols : 0));
  for (int64_t r = 0; r < rows; ++r, x += cols, first += cols) {
    finalize_scales(x, cols, 1, cols, low, high, grid, scales + r, zeros ? zeros + r : nullptr, quantizers);
    const int64_t next = r + 1 < rows ? cols : 0;  // the last row sees itself, for nothing
    Range<symmetric> range;
    row.template code_large<true>(x, cols, quantizers, std::false_type{}, grid, first, finite,
                                  [&](const T* p, auto tail) {
                                    fetch_ahead(p + next);
                                    range.see(load(p + next, tail));
                                  });
    row.end();
    end(range);
  }
}

// Rounding to even, the usual one, stores codes of 4 and 8 bits where they belong; the others always gather them first,
// which keeps the compiled code small.
template <bool even, class T, class Size>
NOINLINE bool quantize_rows(const T* x, int64_t rows, int64_t cols, Size size, const Grid& grid, int64_t first,
                            uint8_t* data, float* scales, uint8_t* zeros, bool nontemporal) {
  Finite finite;
  const auto run = [&](auto&& row) {
    if constexpr (even && std::is_same_v<Size, int64_t>)
      if (data && size >= cols && cols * kTogether > kStretch && !given_scales(grid) && grid.rule != ScaleRule::kMse)
        return with_constant(grid.symmetric, [&](auto symmetric) {
          quantize_channels<symmetric>(row, x, rows, cols, grid, first, scales, zeros, finite);
        });
    with_constant(given_scales(grid), [&](auto given) {
      quantize_into<even>(row, x, rows, cols, size, given, grid, first, data != nullptr, scales, zeros, finite);
    });
  };
  const auto choose = [&] {
    if constexpr (even) {
      const bool in_pieces = size * grid.bits % 128 == 0 || size >= cols;  // groups start on sixteen bytes of their row
      if (data && grid.bits == 8) return run(DirectRow<8>{data, nontemporal && in_pieces});
      if (data && grid.bits == 4 && in_pieces) return run(DirectRow<4>{data, nontemporal});
    }
    run(PackedRow{data, grid.bits, nontemporal, 0, {}});
  };
  choose();
  if (nontemporal) nontemporal_end();
  return finite.all();
}

bool quantize(Weights w, int64_t rows, int64_t cols, const Grid& grid, int64_t first, uint8_t* data, float* scales,
              uint8_t* zeros, bool nontemporal) {
  const auto run = [&](auto even, auto* x, auto size) {
    return quantize_rows<even>(x, rows, cols, size, grid, first, data, scales, zeros, nontemporal);
  };
  return typed(w, [&](auto* x) {
    if (grid.rounding != Rounding::kEven) return run(std::false_type{}, x, grid.group_size);
    if (grid.group_size != 32) return run(std::true_type{}, x, grid.group_size);
    return run(std::true_type{}, x, std::integral_constant<int64_t, 32>{});  // the commonest group, unrolled
  });
}

FLATTEN bool extent(Weights w, int64_t n, bool symmetric, float* low, float* high) {
  return typed(w, [&](auto* x) {
    return with_constant(symmetric, [&](auto even) {
      Finite finite;
      Ranges<even> ranges;
      ranges.set(0, range_of<even>(x, n));
      alignas(64) float lows[16] = {}, highs[16];
      ranges.end(1, lows, highs, finite);
      *low = lows[0];
      *high = highs[0];
      return finite.all();
    });
  });
}

FLATTEN bool ranges(Weights w, int64_t rows, int64_t cols, int64_t group_size, float* low, float* high) {
  return typed(w, [&](auto* x) {
    Finite finite;
    for (int64_t r = 0; r < rows; ++r, x += cols)
      for (int64_t c = 0; c < cols; c += group_size) {
        const int64_t n = smaller(group_size, cols - c);
        I32x16 least = splat(INT32_MAX), most = splat(INT32_MIN);
        for_each_vector(n, [&](int64_t i, auto tail) {
          const F32x16 v = load(x + c + i, tail);
          finite.see(v);
          const I32x16 key = key_of(v, false);
          const Mask16 valid = mask_of(lanes(tail));
          least = min(least, select(valid, key, least));
          most = max(most, select(valid, key, most));
        });
        const auto value = [](int32_t key) {  // key_of() is its own inverse
          const I32x16 k = splat(key);
          return first_lane(from_bits(k ^ (shift_right_signed<31>(k) & splat(0x7fffffff))));
        };
        *low++ = value(-1 - largest(splat(-1) - least));
        *high++ = value(largest(most));
      }
    return finite.all();
  });
}

constexpr int64_t kUnpacked = 512;  // codes: stores of some drain while the next are unpacked

// The loop of codebooks.h's each_piece(), written out: through it, groups of 32 are up to a tenth slower.
FLATTEN void dequantize(const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size,
                        const float* scales, const uint8_t* zeros, MutableWeights out, bool nontemporal) {
  alignas(64) uint8_t codes[kUnpacked + 16];
  const int64_t groups = (cols + group_size - 1) / group_size;
  typed(Weights{out.data, out.dtype}, [&](auto* type) {
    with_target(as_type_of(type, out), nontemporal, [&](auto to) {
      for (int64_t r = 0; r < rows; ++r, data += (cols * bits + 7) / 8, scales += groups, zeros += zeros ? groups : 0)
        for (int64_t first = 0; first < cols; first += kUnpacked) {
          const int64_t end = smaller(first + kUnpacked, cols);
          unpack_row(data + first / 8 * bits, end - first, bits, codes);
          for (int64_t at = first, group = first / group_size; at < end; ++group) {
            const int64_t here = smaller(end, (group + 1) * group_size) - at;
            const F32x16 scale = splat(scales[group]);
            const I32x16 zero = splat(zeros ? zeros[group] : 1 << (bits - 1));
            const uint8_t* from = codes + at - first;
            const auto target = to + (r * cols + at);
            for_each_vector(
                here, [&](int64_t i, auto tail) { store(target + i, to_float(load(from + i) - zero) * scale, tail); });
            at += here;
          }
        }
    });
  });
}

// round_to_int() where 16 bits cannot hold the codes before the offset is added.
template <class Scaled>
inline void round_far(int64_t n, int offset, int low, int high, const Scaled& scaled, uint8_t* out) {
  const F32x16 below = splat(static_cast<float>(low - offset)), above = splat(static_cast<float>(high - offset));
  for_each_vector(n, [&](int64_t i, auto tail) {
    store_bytes(out + i, nearest(min(max(scaled(i, tail), below), above)) + splat(offset), tail);
  });
}

FLATTEN bool round_to_int(Weights w, int64_t n, float multiplier, int offset, int low, int high, Rounding rounding,
                          uint64_t seed, int64_t first, uint8_t* out, bool nontemporal) {
  const F32x16 factor = splat(multiplier);
  const CodeClip<false> clip(low - offset, high - offset, offset - low);  // codes count from the lowest
  return typed(w, [&](auto* x) {
    return with_constant(rounding == Rounding::kEven, [&](auto even) {
      Finite finite;
      const auto scaled = [&](int64_t i, auto tail) {
        fetch_ahead(x + i);
        const F32x16 v = load(x + i, tail);
        finite.see(v);
        if constexpr (even) return v * factor;
        return rounded(v * factor, rounding, seed, first + i);
      };
      const auto put = [&](int64_t i, const FloatReg* a, const FloatReg* b) {
        BytesReg codes[2];
        clip.thirty_two(a, b, codes);
        for (int k = 0; k < 2; ++k) put_sixteen(out + i + 16 * k, add_bytes(codes[k], low), nontemporal);
      };
      const auto put_last = [&](int64_t i, const uint8_t* codes, int64_t some) {
        for (int64_t k = 0; k < some; ++k) out[i + k] = static_cast<uint8_t>(codes[k] + low);
      };
      if (offset < -(1 << 14) || offset > 1 << 14)
        round_far(n, offset, low, high, scaled, out);
      else
        for_each_vector_pair(n, clip, scaled, put, put_last);
      if (nontemporal) nontemporal_end();
      return finite.all();
    });
  });
}

FLATTEN bool errors(Weights a, Weights b, int64_t rows, int64_t cols, double* out) {
  return typed(a, [&](auto* x) {
    return typed(b, [&](auto* y) {
      Finite finite;
      for (int64_t r = 0; r < rows; ++r, x += cols, y += cols, out += 5) {
        double lane[4][16] = {}, most[16] = {};
        for_each_vector(cols, [&](int64_t i, auto tail) {
          const F32x16 u = load(x + i, tail), v = load(y + i, tail);
          finite.see(u);
          finite.see(v);
          alignas(64) float p[16], q[16];
          store(p, u);
          store(q, v);
          for (int j = 0; j < 16; ++j) {
            const double s = p[j], t = q[j], d = s - t, size = __builtin_fabs(d);
            lane[0][j] += s * s;
            lane[1][j] += t * t;
            lane[2][j] += s * t;
            lane[3][j] += d * d;
            most[j] = size > most[j] ? size : most[j];
          }
        });
        for (int k = 0; k < 4; ++k) out[k] = fold(lane[k]);
        out[4] = 0;
        for (double m : most) out[4] = m > out[4] ? m : out[4];
      }
      return finite.all();
    });
  });
}

}  // namespace
}  // namespace ISA
