// Eight numbers of one row as one vector of AVX2, beside sixteen lanes of whichever width.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

struct Eight { __m256 v; };
inline Eight load_eight(const float* from) { return {_mm256_loadu_ps(from)}; }
inline Eight load_eight(const uint16_t* halves) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)halves))}; }
inline Eight zero_eight() { return {_mm256_setzero_ps()}; }
inline Eight add(Eight a, Eight b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Eight fma(Eight a, Eight b, Eight c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

}  // namespace
