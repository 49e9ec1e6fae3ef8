// float16 to float32 and back without instructions for it (x86-64-v2 has none).

// sign eeeee mmmmmmmmmm: the 15 bits below the sign, moved up by 13, are the value times 2^-112, subnormals included.
inline FloatReg load_half(const uint16_t* p) {
  const IntReg h = load_u16(p), below_sign = and_int(h, splat_int(0x7fff));
  const FloatReg value = mul_float(float_of_bits(shift_left<13>(below_sign)), splat_float(0x1p112f));
  const IntReg infinite = select_int(less_int(splat_int(0x7bff), below_sign), splat_int(0x7f800000), splat_int(0));
  const IntReg sign = shift_left<16>(sub_int(h, below_sign));
  return float_of_bits(or_int(or_int(bits_of(value), infinite), sign));
}

inline void store_half(uint16_t* p, FloatReg x) {
  const IntReg bits = bits_of(x), magnitude = and_int(bits, splat_int(0x7fffffff));
  // Normal results: half to even at bit 13, then the exponent bias falls from 127 to 15.
  const IntReg odd = and_int(shift_right<13>(magnitude), splat_int(1));
  const IntReg normal =
      sub_int(shift_right<13>(add_int(add_int(magnitude, splat_int(0xfff)), odd)), splat_int(112 << 10));
  // Subnormal results: adding 0.5 leaves the value in units of 2^-24, rounded half to even by the addition.
  const IntReg half = splat_int(0x3f000000);
  const IntReg subnormal = sub_int(bits_of(add_float(float_of_bits(magnitude), float_of_bits(half))), half);
  IntReg h = select_int(less_int(magnitude, splat_int(0x38800000)), subnormal, normal);
  h = select_int(less_int(magnitude, splat_int(0x477ff000)), h, splat_int(0x7c00));  // 65520 and above
  h = select_int(less_int(splat_int(0x7f800000), magnitude), splat_int(0x7e00), h);  // NaN
  store_low16(p, or_int(h, shift_right<16>(sub_int(bits, magnitude))));
}
