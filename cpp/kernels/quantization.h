constexpr float kLift = 0x1p100f;  // scales below 1 / kLift are lifted by it, so that their inverse is finite
constexpr int kClips = 48;         // clips that ScaleRule::kMse tries: 1, 63/64, 62/64, ...

// What codes one group: step = clip(round(x * lift * inverse), below, above), code = step + zero.
struct Coder {
  float lift, inverse, below, above;
  int zero;
  Coder(float scale, int zero_point, int bits, bool symmetric) : zero(zero_point) {
    lift = scale < 1 / kLift ? kLift : 1.0f;
    inverse = scale > 0 ? 1 / (scale * lift) : 0.0f;
    below = static_cast<float>(symmetric - zero);
    above = static_cast<float>((1 << bits) - 1 - zero);
  }
  F32x16 scaled(F32x16 x) const { return (lift == 1 ? x : x * splat(lift)) * splat(inverse); }
  F32x16 clipped(F32x16 x) const { return min(max(x, splat(below)), splat(above)); }
};

template <Rounding rounding> inline F32x16 rounded(F32x16 x, const float* u) {
  if constexpr (rounding == Rounding::kFloor) return floor(x);
  if constexpr (rounding == Rounding::kStochastic) return floor(x + load(u));
  if constexpr (rounding == Rounding::kAway) {  // x - trunc(x) is exact, so that 0.49999997 stays below a half
    const F32x16 whole = trunc(x);
    const I32x16 one = bits(splat(1.0f)) | (bits(x) & splat(INT32_MIN));
    return whole + select(splat(0.5f) <= abs(x - whole), from_bits(one), splat(0.0f));
  }
  return x;  // kEven: nearest() rounds so, and the clips are whole numbers
}

template <Rounding rounding, class T>
inline void code_stretch(const T* x, int64_t n, const Coder& coder, uint64_t seed, uint64_t first, uint8_t* codes) {
  const I32x16 zero = splat(coder.zero);
  sixteens(n, [&](int64_t i, auto part) {
    alignas(64) float u[16];
    if constexpr (rounding == Rounding::kStochastic) uniform(seed, first + static_cast<uint64_t>(i), 16, u);
    const F32x16 steps = coder.clipped(rounded<rounding>(coder.scaled(load(x + i, part)), u));
    store_bytes(codes + i, nearest(steps) + zero);
  });
}

// Scalar conversions through the vectors, so that they round alike.
inline float through(float scale, Dtype dtype) {
  alignas(64) uint16_t some[16];
  if (dtype == Dtype::kFloat32) return scale;
  float result[16];
  if (dtype == Dtype::kFloat16) {
    store(reinterpret_cast<Half*>(some), splat(scale));
    store(result, load(reinterpret_cast<const Half*>(some)));
  } else {
    store(reinterpret_cast<Brain*>(some), splat(scale));
    store(result, load(reinterpret_cast<const Brain*>(some)));
  }
  return result[0];
}

inline float next_power_of_two(float scale) {  // scale >= 0; at most 2^127
  uint32_t b;
  __builtin_memcpy(&b, &scale, 4);
  uint32_t power = (b + 0x007fffff) & 0xff800000;
  if (power > 0x7f000000) power = 0x7f000000;
  if (b < 0x00800000)  // subnormal: one bit of the mantissa
    for (power = b ? 1 : 0; power < b;) power *= 2;
  __builtin_memcpy(&scale, &power, 4);
  return scale;
}

// The scale for values of low..high, low <= 0 <= high. Doubles, since high - low can exceed float.
inline float scale_for(float low, float high, const Grid& grid) {
  float scale;
  if (grid.symmetric) {
    const float most = __builtin_fabsf(low) > __builtin_fabsf(high) ? __builtin_fabsf(low) : __builtin_fabsf(high);
    scale = most / static_cast<float>((1 << (grid.bits - 1)) - 1);
  } else {
    const double span = static_cast<double>(high) - static_cast<double>(low);
    scale = static_cast<float>(__builtin_fabs(span / static_cast<double>((1 << grid.bits) - 1)));
  }
  if (grid.rule == ScaleRule::kPowerOfTwo) scale = next_power_of_two(scale);
  return through(scale, grid.scale_dtype);
}

inline int zero_for(float low, float scale, const Grid& grid) {
  if (grid.symmetric) return 1 << (grid.bits - 1);
  const Coder coder(scale, 0, grid.bits, false);
  alignas(64) float steps[16];
  store(steps, to_float(nearest(coder.clipped(coder.scaled(splat(-low))))));
  return static_cast<int>(steps[0]);
}

struct Range { float low, high; };

// The range of a group with 0 in it. Symmetric grids need its largest magnitude alone.
template <class T> inline Range range_with_zero(const T* x, int64_t n, bool symmetric, Finite& finite) {
  if (symmetric) {
    Finite here;
    sixteens(n, [&](int64_t i, auto part) { here.see(load(x + i, part)); });
    finite.peak = max(finite.peak, here.peak);
    const int32_t most = largest(here.peak);
    float high;
    __builtin_memcpy(&high, &most, 4);
    return {0, high};
  }
  F32x16 low = splat(0.0f), high = splat(0.0f);
  sixteens(n, [&](int64_t i, auto part) {
    const F32x16 v = load(x + i, part);
    finite.see(v);
    low = min(v, low);
    high = max(v, high);
  });
  const auto end = [](F32x16 v) {
    float y;
    const int32_t most = largest(magnitude_bits(v));
    __builtin_memcpy(&y, &most, 4);
    return y;
  };
  return {-end(low), end(high)};
}

// The clip of MSE_FACTORS with the least squared error, the wider among equals.
template <class T> inline float best_clip(const T* x, int64_t n, Range range, const Grid& grid) {
  float best = 1, least = 0;
  for (int k = 0; k < kClips; ++k) {
    const float factor = 1 - static_cast<float>(k) / 64;
    const float scale = scale_for(range.low * factor, range.high * factor, grid);
    const Coder coder(scale, zero_for(range.low * factor, scale, grid), grid.bits, grid.symmetric);
    F32x16 total = splat(0.0f);
    sixteens(n, [&](int64_t i, auto part) {
      const F32x16 v = load(x + i, part);
      const F32x16 miss = v - to_float(nearest(coder.clipped(coder.scaled(v)))) * splat(scale);
      total = total + miss * miss;
    });
    const float error = sum(total);
    if (k == 0 || error < least) {
      least = error;
      best = factor;
    }
  }
  return best;
}

// The scale and zero point of one group: found, or read where the rule says that they are given.
template <class T>
inline Coder fit(const T* x, int64_t n, const Grid& grid, float* scale, uint8_t* zero, Finite& finite) {
  Range range = range_with_zero(x, n, grid.symmetric, finite);
  if (grid.rule == ScaleRule::kMse) {
    const float factor = best_clip(x, n, range, grid);
    range = {range.low * factor, range.high * factor};
  }
  if (grid.rule != ScaleRule::kScale && grid.rule != ScaleRule::kGiven) *scale = scale_for(range.low, range.high, grid);
  if (zero && grid.rule != ScaleRule::kGiven) *zero = static_cast<uint8_t>(zero_for(range.low, *scale, grid));
  return Coder(*scale, zero ? *zero : 1 << (grid.bits - 1), grid.bits, grid.symmetric);
}

// Codes gather in a tile of whole bytes' worth, which is packed when full.
struct PackedRow {
  uint8_t* to;
  int bits;
  bool streamed;
  int64_t count = 0;
  Tile codes, packed;
  static constexpr int64_t kCodes = kTileBytes / 2;
  int64_t room() const { return kCodes - count; }
  void flush() {
    const int64_t bytes = (count * bits + 7) / 8;
    const uint8_t* from = codes.bytes;
    if (bits < 8) {
      pack_row(codes.bytes, count, bits, streamed ? packed.bytes : to);
      from = packed.bytes;
    }
    if (bits == 8 || streamed) copy_bytes(to, from, bytes, streamed);
    to += bytes;
    count = 0;
  }
};

template <Rounding rounding, class T>
inline bool quantize_rows(const T* x, int64_t rows, int64_t cols, const Grid& grid, int64_t first, uint8_t* data,
                          float* scales, uint8_t* zeros, bool streamed) {
  Finite finite;
  PackedRow row{data, grid.bits, streamed, 0, {}, {}};
  for (int64_t r = 0; r < rows; ++r, x += cols, first += cols) {
    for (int64_t c = 0; c < cols; c += grid.group_size) {
      int64_t left = smaller(grid.group_size, cols - c);
      const Coder coder = fit(x + c, left, grid, scales, zeros, finite);
      ++scales;
      if (zeros) ++zeros;
      if (!data) continue;
      for (int64_t at = c; left > 0;) {
        const int64_t count = smaller(left, row.room());
        code_stretch<rounding>(x + at, count, coder, grid.seed, static_cast<uint64_t>(first + at), row.codes.bytes + row.count);
        row.count += count;
        at += count;
        left -= count;
        if (row.room() == 0) row.flush();
      }
    }
    if (data) row.flush();
  }
  if (streamed) stream_end();
  return finite.all();
}

// Calls body with the rounding as a constant.
template <class Body> inline auto with_rounding(Rounding rounding, const Body& body) {
  switch (rounding) {
    case Rounding::kAway: return body(std::integral_constant<Rounding, Rounding::kAway>{});
    case Rounding::kFloor: return body(std::integral_constant<Rounding, Rounding::kFloor>{});
    case Rounding::kStochastic: return body(std::integral_constant<Rounding, Rounding::kStochastic>{});
    default: return body(std::integral_constant<Rounding, Rounding::kEven>{});
  }
}

KERNEL bool quantize(Weights w, int64_t rows, int64_t cols, const Grid& grid, int64_t first, uint8_t* data, float* scales,
                     uint8_t* zeros, bool streamed) {
  return typed(w, [&](auto* x) {
    return with_rounding(grid.rounding, [&](auto rounding) {
      return quantize_rows<rounding>(x, rows, cols, grid, first, data, scales, zeros, streamed);
    });
  });
}

KERNEL bool ranges(Weights w, int64_t rows, int64_t cols, int64_t group_size, float* low, float* high) {
  return typed(w, [&](auto* x) {
    Finite finite;
    for (int64_t r = 0; r < rows; ++r, x += cols)
      for (int64_t c = 0; c < cols; c += group_size) {
        const int64_t n = smaller(group_size, cols - c);
        I32x16 least = splat(INT32_MAX), most = splat(INT32_MIN);
        sixteens(n, [&](int64_t i, auto part) {
          const F32x16 v = load(x + c + i, part);
          finite.see(v);
          const I32x16 key = key_of(v, false);
          const Mask16 valid = mask_of(lanes(part));
          least = min(least, select(valid, key, least));
          most = max(most, select(valid, key, most));
        });
        const auto value = [](int32_t key) {  // key_of() is its own inverse
          alignas(64) float lane[16];
          const I32x16 k = splat(key);
          store(lane, from_bits(k ^ (shift_right_signed<31>(k) & splat(0x7fffffff))));
          return lane[0];
        };
        *low++ = value(-1 - largest(splat(-1) - least));
        *high++ = value(largest(most));
      }
    return finite.all();
  });
}

KERNEL void dequantize(const uint8_t* data, int64_t rows, int64_t cols, int bits, int64_t group_size, const float* scales,
                       const uint8_t* zeros, MutableWeights out, bool streamed) {
  constexpr int64_t kCodes = kTileBytes / 4;
  Tile codes;
  typed(Weights{out.data, out.dtype}, [&](auto* type) {
    auto* w = as_type_of(type, out);
    using T = std::remove_reference_t<decltype(*w)>;
    for (int64_t r = 0; r < rows; ++r, data += (cols * bits + 7) / 8, w += cols) {
      int64_t group = 0, left = smaller(group_size, cols);  // of this row; left: columns of the group not yet decoded
      for (int64_t first = 0; first < cols; first += kCodes) {
        const int64_t count = smaller(kCodes, cols - first);
        unpack_row(data + first / 8 * bits, count, bits, codes.bytes);
        each_tile(count, w + first, streamed, [&](int64_t, int64_t, T* tile) {
          for (int64_t at = 0; at < count;) {
            const int64_t here = smaller(left, count - at);
            const F32x16 scale = splat(scales[group]);
            const I32x16 zero = splat(zeros ? zeros[group] : 1 << (bits - 1));
            sixteens(here, [&](int64_t i, auto part) {
              store(tile + at + i, to_float(load(codes.bytes + at + i) - zero) * scale, part);
            });
            at += here;
            left -= here;
            if (left == 0) {
              ++group;
              left = group_size;
            }
          }
        });
      }
      const int64_t groups = (cols + group_size - 1) / group_size;
      scales += groups;
      if (zeros) zeros += groups;
    }
  });
}

KERNEL bool round_to_int(Weights w, int64_t n, float multiplier, int offset, int low, int high, Rounding rounding,
                         uint64_t seed, int64_t first, uint8_t* out, bool streamed) {
  const F32x16 factor = splat(multiplier), below = splat(static_cast<float>(low - offset)), above = splat(static_cast<float>(high - offset));
  const I32x16 shift = splat(offset);
  return typed(w, [&](auto* x) {
    return with_rounding(rounding, [&](auto mode) {
      Finite finite;
      each_tile(n, out, streamed, [&](int64_t start, int64_t count, uint8_t* tile) {
        sixteens(count, [&](int64_t i, auto part) {
          const F32x16 v = load(x + start + i, part);
          finite.see(v);
          alignas(64) float u[16];
          if constexpr (mode == Rounding::kStochastic) uniform(seed, static_cast<uint64_t>(first + start + i), 16, u);
          const F32x16 steps = min(max(rounded<mode>(v * factor, u), below), above);
          store_bytes(tile + i, nearest(steps) + shift, part);
        });
      });
      return finite.all();
    });
  });
}

KERNEL bool errors(Weights a, Weights b, int64_t rows, int64_t cols, double* out) {
  return typed(a, [&](auto* x) {
    return typed(b, [&](auto* y) {
      Finite finite;
      for (int64_t r = 0; r < rows; ++r, x += cols, y += cols, out += 5) {
        double lane[4][16] = {}, most[16] = {};
        sixteens(cols, [&](int64_t i, auto part) {
          const F32x16 u = load(x + i, part), v = load(y + i, part);
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
