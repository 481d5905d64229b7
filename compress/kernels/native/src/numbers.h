// Conversions of single numbers, rounding to nearest even, as torch does them.
#pragma once
#include <cstdint>
#include <cstring>

#include "abi.h"

namespace {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float from_bfloat(uint16_t value) { return float_of(uint32_t(value) << 16); }

inline float from_half(uint16_t value) {
  const uint32_t sign = uint32_t(value & 0x8000) << 16, rest = value & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // infinite, or not a number
  // a subnormal half is a normal float: multiplying by 2^112 moves the exponent and normalises in one step
  return float_of(sign | bits_of(float_of(rest << 13) * float_of(0x77800000)));
}

inline uint16_t to_bfloat(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline uint16_t to_half(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000;
  uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (rest >= 0x47800000) return uint16_t(sign | 0x7c00);
  if (rest < 0x38800000) {  // subnormal: adding 0.5 puts the bits that stay at the end of the mantissa
    return uint16_t(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000));
  }
  rest += 0xfff + (rest >> 13 & 1);
  return uint16_t(sign | (rest - 0x38000000) >> 13);
}

inline float read_number(const void* data, int64_t type, int64_t i) {
  using namespace compress_native;
  if (type == kFloat) return static_cast<const float*>(data)[i];
  const uint16_t raw = static_cast<const uint16_t*>(data)[i];
  return type == kHalf ? from_half(raw) : from_bfloat(raw);
}

inline void write_number(void* data, int64_t type, int64_t i, float value) {
  using namespace compress_native;
  if (type == kFloat) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<uint16_t*>(data)[i] = type == kHalf ? to_half(value) : to_bfloat(value);
  }
}

inline float power_of_two(int64_t exponent) { return float_of(uint32_t(exponent + 127) << 23); }

}  // namespace
