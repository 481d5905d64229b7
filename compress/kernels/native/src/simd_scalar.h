// Sixteen lanes as one vector of the compiler's own, which it maps to what every processor of the architecture has.
#pragma once
#include "numbers.h"

namespace {

constexpr int kTokensAtOnce = 4;
#if defined(COMPRESS_X86)
constexpr bool kFewForms = true;  // no processor of the last ten years runs this unit, and it takes longest to compile
#else
constexpr bool kFewForms = false;
#endif

typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4)));
typedef int32_t Signed __attribute__((vector_size(64), aligned(4)));
struct F { Floats v; };
struct I { Words v; };

#define EACH_LANE for (int i = 0; i < 16; ++i)
// For what is unrolled to sixteen times several instructions: a copy at each place where it is called would be a third of the
// time of compiling.
#define ONE_COPY __attribute__((noinline))

inline F splat(float value) {
  Floats lanes;
  EACH_LANE lanes[i] = value;
  return {lanes};
}
inline F load(const float* from) { F r; std::memcpy(&r.v, from, 64); return r; }
inline void store(float* to, F a) { std::memcpy(to, &a.v, 64); }
inline F add(F a, F b) { return {a.v + b.v}; }
inline F sub(F a, F b) { return {a.v - b.v}; }
inline F mul(F a, F b) { return {a.v * b.v}; }
inline F fma(F a, F b, F c) { return {a.v * b.v + c.v}; }

inline I load(const uint32_t* from) { I r; std::memcpy(&r.v, from, 64); return r; }
inline I load(const uint8_t* from) { I r; EACH_LANE r.v[i] = from[i]; return r; }
ONE_COPY F gather(const float* from, I index) { F r; EACH_LANE r.v[i] = from[index.v[i]]; return r; }
inline I load(const uint16_t* from) { I r; EACH_LANE r.v[i] = from[i]; return r; }
inline I times(I a, int factor) { return {a.v * uint32_t(factor)}; }
inline I right(I a, int count) { return {a.v >> uint32_t(count)}; }
inline I left(I a, int count) { return {a.v << uint32_t(count)}; }
inline I either(I a, I b) { return {a.v | b.v}; }
inline I low(I a, int bits) { return {a.v & ((1u << bits) - 1)}; }
inline F to_float(I a) { return {__builtin_convertvector((Signed)a.v, Floats)}; }

ONE_COPY F load_half(const uint16_t* from) { F r; EACH_LANE r.v[i] = from_half(from[i]); return r; }
ONE_COPY F load_bfloat(const uint16_t* from) { F r; EACH_LANE r.v[i] = from_bfloat(from[i]); return r; }
ONE_COPY void store_half(uint16_t* to, F a) { EACH_LANE to[i] = to_half(a.v[i]); }
ONE_COPY void store_bfloat(uint16_t* to, F a) { EACH_LANE to[i] = to_bfloat(a.v[i]); }

// The value of the low BITS bits of each lane, less the middle code where CENTRED; bits above may be anything.
template <int BITS, bool CENTRED>
struct Value {
  F operator()(I code) const {
    const F value = to_float(low(code, BITS));
    return CENTRED ? sub(value, splat(float(1 << (BITS - 1)))) : value;
  }
};

// x[low two bits of each lane], from four floats.
ONE_COPY F pick(const float* x, I place) { F r; EACH_LANE r.v[i] = x[place.v[i] & 3]; return r; }
// `a` where the low two bits of `place` are `wanted`, else `b`.
ONE_COPY F where(I place, int wanted, F a, F b) {
  EACH_LANE b.v[i] = int(place.v[i] & 3) == wanted ? a.v[i] : b.v[i];
  return b;
}

// Eight numbers of one row.
struct Eight { float v[8]; };
inline Eight load_eight(const uint16_t* halves) {
  Eight r;
  for (int i = 0; i < 8; ++i) r.v[i] = from_half(halves[i]);
  return r;
}
inline Eight add(Eight a, Eight b) {
  for (int i = 0; i < 8; ++i) a.v[i] += b.v[i];
  return a;
}
inline Eight load_eight(const float* from) { Eight r; std::memcpy(r.v, from, sizeof r.v); return r; }
inline Eight zero_eight() { return {}; }
inline Eight fma(Eight a, Eight b, Eight c) {
  for (int i = 0; i < 8; ++i) c.v[i] += a.v[i] * b.v[i];
  return c;
}
// Sixteen rows of eight to eight columns of sixteen.
ONE_COPY void turn(const Eight* rows, F* columns) {
  for (int c = 0; c < 8; ++c) EACH_LANE columns[c].v[i] = rows[i].v[c];
}

#undef EACH_LANE
#undef ONE_COPY

}  // namespace
