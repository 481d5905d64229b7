// Sixteen lanes as two vectors of AVX2, with FMA and F16C.
#pragma once
#include <immintrin.h>

#include "numbers.h"
#include "simd_eight.h"

namespace {

constexpr int kTokensAtOnce = 4;
constexpr bool kFewForms = false;

struct F { __m256 a, b; };
struct I { __m256i a, b; };

inline F splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float* to, F v) { _mm256_storeu_ps(to, v.a); _mm256_storeu_ps(to + 8, v.b); }
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }

inline I load(const uint32_t* from) {
  return {_mm256_loadu_si256((const __m256i*)from), _mm256_loadu_si256((const __m256i*)(from + 8))};
}
inline I load(const uint8_t* from) {
  const __m128i bytes = _mm_loadu_si128((const __m128i*)from);
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
inline F gather(const float* from, I index) {
  return {_mm256_i32gather_ps(from, index.a, 4), _mm256_i32gather_ps(from, index.b, 4)};
}
inline I load(const uint16_t* from) {
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from)),
          _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(from + 8)))};
}
inline I times(I v, int factor) {
  const __m256i by = _mm256_set1_epi32(factor);
  return {_mm256_mullo_epi32(v.a, by), _mm256_mullo_epi32(v.b, by)};
}
inline I right(I v, int count) {
  const __m128i n = _mm_cvtsi32_si128(count);
  return {_mm256_srl_epi32(v.a, n), _mm256_srl_epi32(v.b, n)};
}
inline I left(I v, int count) {
  const __m128i n = _mm_cvtsi32_si128(count);
  return {_mm256_sll_epi32(v.a, n), _mm256_sll_epi32(v.b, n)};
}
inline I either(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline I low(I v, int bits) {
  const __m256i mask = _mm256_set1_epi32((1 << bits) - 1);
  return {_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
}
inline F to_float(I v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }

inline F load_half(const uint16_t* from) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + 8)))};
}
inline __m256 widen_bfloat(const uint16_t* from) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from)), 16));
}
inline F load_bfloat(const uint16_t* from) { return {widen_bfloat(from), widen_bfloat(from + 8)}; }
inline void store_half(uint16_t* to, F v) {
  _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(to + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
inline void store_bfloat(uint16_t* to, F v) {
  float lanes[16];
  store(lanes, v);
  for (int i = 0; i < 16; ++i) to[i] = to_bfloat(lanes[i]);
}

// The value of the low BITS bits of each lane, less the middle code where CENTRED; bits above may be anything.
template <int BITS, bool CENTRED>
struct Value {
  static constexpr int kMiddle = CENTRED ? 1 << (BITS - 1) : 0;
  __m256 table;
  Value() {
    float lanes[8];
    for (int i = 0; i < 8; ++i) lanes[i] = float((i & ((1 << BITS) - 1)) - kMiddle);
    table = _mm256_loadu_ps(lanes);
  }
  F operator()(I code) const {
    if constexpr (BITS <= 3) {  // the permutation reads three bits; narrower codes stand in the table repeatedly
      return {_mm256_permutevar8x32_ps(table, code.a), _mm256_permutevar8x32_ps(table, code.b)};
    } else {
      const F value = to_float(low(code, BITS));
      return CENTRED ? sub(value, splat(float(kMiddle))) : value;
    }
  }
};

inline F pick(const float* x, I place) {
  const __m256 four = _mm256_broadcast_ps((const __m128*)x);
  return {_mm256_permutevar_ps(four, place.a), _mm256_permutevar_ps(four, place.b)};
}
inline F where(I place, int wanted, F x, F y) {
  const I two = low(place, 2);
  const __m256i want = _mm256_set1_epi32(wanted);
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(two.a, want))),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(two.b, want)))};
}

inline void turn_eight(const Eight* rows, __m256* columns) {
  __m256 pair[8];
  __m256d four[8];
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    pair[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int side = 0; side < 2; ++side) {
      const __m256d x = _mm256_castps_pd(pair[i + side]), y = _mm256_castps_pd(pair[i + 2 + side]);
      four[i + 2 * side] = _mm256_unpacklo_pd(x, y);
      four[i + 2 * side + 1] = _mm256_unpackhi_pd(x, y);
    }
  }
  for (int c = 0; c < 4; ++c) {
    columns[c] = _mm256_castpd_ps(_mm256_permute2f128_pd(four[c], four[c + 4], 0x20));
    columns[c + 4] = _mm256_castpd_ps(_mm256_permute2f128_pd(four[c], four[c + 4], 0x31));
  }
}
// Sixteen rows of eight to eight columns of sixteen.
inline void turn(const Eight* rows, F* columns) {
  __m256 half[2][8];
  turn_eight(rows, half[0]);
  turn_eight(rows + 8, half[1]);
  for (int c = 0; c < 8; ++c) columns[c] = {half[0][c], half[1][c]};
}

// What bytes.h takes: four codes of each row, one in each byte.
#define MULTIPLIES_BYTES
template <int SHIFT>
inline I moved(I v) {  // to the right, or to the left where SHIFT is negative
  if constexpr (SHIFT > 0) return {_mm256_srli_epi32(v.a, SHIFT), _mm256_srli_epi32(v.b, SHIFT)};
  if constexpr (SHIFT < 0) return {_mm256_slli_epi32(v.a, -SHIFT), _mm256_slli_epi32(v.b, -SHIFT)};
  return v;
}
inline I masked(I v, int mask) {
  const __m256i bytes = _mm256_set1_epi8(char(mask));
  return {_mm256_and_si256(v.a, bytes), _mm256_and_si256(v.b, bytes)};
}
// (x & mask) | y
inline I masked_or(I x, int mask, I y) { return either(masked(x, mask), y); }
inline I zeros() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I plus(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline F magnitude(F v) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, v.a), _mm256_andnot_ps(sign, v.b)};
}
inline F maximum(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline float largest(F v) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, _mm256_max_ps(v.a, v.b));
  float most = lanes[0];
  for (int i = 1; i < 8; ++i) most = most < lanes[i] ? lanes[i] : most;
  return most;
}
inline float total(F v) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, _mm256_add_ps(v.a, v.b));
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}
inline I rounded(F v) { return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
inline void store_bytes(int8_t* to, I v) {
  const I bytes = low(v, 8);
  // packing works on halves of 128 bits, which are put in order in between
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(bytes.a, bytes.b), 0xd8);
  _mm_storeu_si128((__m128i*)to, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
// What is left after a digit between -128 and 127 was taken off.
inline I next_digit(I v) {
  const __m256i half = _mm256_set1_epi32(128);
  return {_mm256_srai_epi32(_mm256_add_epi32(v.a, half), 8), _mm256_srai_epi32(_mm256_add_epi32(v.b, half), 8)};
}
// Products of unsigned codes with four signed bytes: sums of two, in halves of a lane.
inline I dot_pairs(I codes, int32_t four) {
  const __m256i x = _mm256_set1_epi32(four);
  return {_mm256_maddubs_epi16(codes.a, x), _mm256_maddubs_epi16(codes.b, x)};
}
inline I plus_halves(I x, I y) { return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)}; }
// sum + both halves of each lane
inline I add_halves(I sum, I pairs) {
  const __m256i ones = _mm256_set1_epi16(1);
  return plus(sum, {_mm256_madd_epi16(pairs.a, ones), _mm256_madd_epi16(pairs.b, ones)});
}

}  // namespace
