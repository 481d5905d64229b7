// Sixteen lanes as one vector of AVX-512 (F, BW, DQ, VL).
#pragma once
#include <immintrin.h>

#include "numbers.h"
#include "simd_eight.h"

namespace {

constexpr int kTokensAtOnce = 16;
constexpr bool kFewForms = false;

struct F { __m512 v; };
struct I { __m512i v; };

inline F splat(float value) { return {_mm512_set1_ps(value)}; }
inline F load(const float* from) { return {_mm512_loadu_ps(from)}; }
inline void store(float* to, F a) { _mm512_storeu_ps(to, a.v); }
inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

inline I load(const uint32_t* from) { return {_mm512_loadu_si512(from)}; }
inline I load(const uint8_t* from) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from))}; }
inline F gather(const float* from, I index) { return {_mm512_i32gather_ps(index.v, from, 4)}; }
inline I load(const uint16_t* from) { return {_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from))}; }
inline I times(I a, int factor) { return {_mm512_mullo_epi32(a.v, _mm512_set1_epi32(factor))}; }
inline I right(I a, int count) { return {_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(count))}; }
inline I left(I a, int count) { return {_mm512_sll_epi32(a.v, _mm_cvtsi32_si128(count))}; }
inline I either(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
inline I low(I a, int bits) { return {_mm512_and_si512(a.v, _mm512_set1_epi32((1 << bits) - 1))}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }

inline F load_half(const uint16_t* from) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from))}; }
inline F load_bfloat(const uint16_t* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline void store_half(uint16_t* to, F a) {
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void store_bfloat(uint16_t* to, F a) {
  // in integers: the instruction of AVX512_BF16 would flush subnormals
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i wide = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff)), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  wide = _mm512_mask_or_epi32(wide, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16(wide));
}

// The value of the low BITS bits of each lane, less the middle code where CENTRED; bits above may be anything.
template <int BITS, bool CENTRED>
struct Value {
  static constexpr int kMiddle = CENTRED ? 1 << (BITS - 1) : 0;
  __m512 table, upper;
  Value() {
    float lanes[32];
    for (int i = 0; i < 32; ++i) lanes[i] = float((i & ((1 << BITS) - 1)) - kMiddle);
    table = _mm512_loadu_ps(lanes);
    upper = _mm512_loadu_ps(lanes + 16);
  }
  F operator()(I code) const {
    // a permutation reads four bits of an index (five over two vectors): narrower codes stand in the table repeatedly
    if constexpr (BITS <= 4) return {_mm512_permutexvar_ps(code.v, table)};
    if constexpr (BITS == 5) return {_mm512_permutex2var_ps(table, code.v, upper)};
    const F value = to_float(low(code, BITS));
    return CENTRED ? sub(value, splat(float(kMiddle))) : value;
  }
};

inline F pick(const float* x, I place) {
  return {_mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(x)), place.v)};
}
inline F where(I place, int wanted, F a, F b) {
  const __m512i want = _mm512_set1_epi32(wanted);
  const __mmask16 same = _mm512_cmpeq_epi32_mask(_mm512_and_si512(place.v, _mm512_set1_epi32(3)), want);
  return {_mm512_mask_blend_ps(same, b.v, a.v)};
}

// Sixteen rows of eight to eight columns of sixteen.
inline void turn(const Eight* rows, F* columns) {
  // pairs of rows, then of pairs, then of quarters; rows 8 to 15 stand in the upper halves
  __m512 row[8], pair[8];
  __m512d four[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm512_insertf32x8(_mm512_castps256_ps512(rows[i].v), rows[i + 8].v, 1);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int side = 0; side < 2; ++side) {
      const __m512d a = _mm512_castps_pd(pair[i + side]), b = _mm512_castps_pd(pair[i + 2 + side]);
      four[i + 2 * side] = _mm512_unpacklo_pd(a, b);
      four[i + 2 * side + 1] = _mm512_unpackhi_pd(a, b);
    }
  }
  const __m512i lower = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i upper = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (int c = 0; c < 4; ++c) {
    columns[c] = {_mm512_castpd_ps(_mm512_permutex2var_pd(four[c], lower, four[c + 4]))};
    columns[c + 4] = {_mm512_castpd_ps(_mm512_permutex2var_pd(four[c], upper, four[c + 4]))};
  }
}

// What bytes.h takes: four codes of each row, one in each byte.
#define MULTIPLIES_BYTES
template <int SHIFT>
inline I moved(I a) {  // to the right, or to the left where SHIFT is negative
  if constexpr (SHIFT > 0) return {_mm512_srli_epi32(a.v, SHIFT)};
  if constexpr (SHIFT < 0) return {_mm512_slli_epi32(a.v, -SHIFT)};
  return a;
}
inline I masked(I a, int mask) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(char(mask)))}; }
// (a & mask) | b
inline I masked_or(I a, int mask, I b) {
  return {_mm512_ternarylogic_epi32(a.v, _mm512_set1_epi8(char(mask)), b.v, 0xea)};
}
inline I zeros() { return {_mm512_setzero_si512()}; }
inline I plus(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline F magnitude(F a) { return {_mm512_abs_ps(a.v)}; }
inline F maximum(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline float largest(F a) { return _mm512_reduce_max_ps(a.v); }
inline float total(F a) { return _mm512_reduce_add_ps(a.v); }
inline I rounded(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline void store_bytes(int8_t* to, I a) { _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8(a.v)); }
// What is left after a digit between -128 and 127 was taken off.
inline I next_digit(I a) { return {_mm512_srai_epi32(_mm512_add_epi32(a.v, _mm512_set1_epi32(128)), 8)}; }
#if defined(__AVX512VNNI__)
// sum + the products of unsigned codes with four signed bytes
inline I add_dot(I sum, I codes, int32_t four) {
  return {_mm512_dpbusd_epi32(sum.v, codes.v, _mm512_set1_epi32(four))};
}
#else
// Products of unsigned codes with four signed bytes: sums of two, in halves of a lane.
inline I dot_pairs(I codes, int32_t four) { return {_mm512_maddubs_epi16(codes.v, _mm512_set1_epi32(four))}; }
inline I plus_halves(I a, I b) { return {_mm512_add_epi16(a.v, b.v)}; }
// sum + both halves of each lane
inline I add_halves(I sum, I pairs) { return plus(sum, {_mm512_madd_epi16(pairs.v, _mm512_set1_epi16(1))}); }
#endif

}  // namespace
