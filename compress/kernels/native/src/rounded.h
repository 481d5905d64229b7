// Products of inputs rounded to 8 bits with codes of 8 bits, in integers: Σ code · x is exact, and what is rounded after it
// is rounded in the order of the reference. A code q stands for q − 128, so 128 · Σ x is taken off.
#pragma once
#include <cmath>
#include <cstring>

#include "tiles.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr int kFourWords = 1;  // of 32 bits that hold the inputs of four columns: a byte each
constexpr int kRoundedTokens = 6, kRoundedTiles = 4;
INLINE I nothing() { return zeros(); }
INLINE F greater(F most, F x) { return maximum(most, magnitude(x)); }
INLINE void put_rounded(int8_t* to, F x, float scale) {
  const __m512i code = _mm512_cvtps_epi32(_mm512_div_ps(x.v, _mm512_set1_ps(scale)));
  store_bytes(to, {_mm512_max_epi32(_mm512_min_epi32(code, _mm512_set1_epi32(127)), _mm512_set1_epi32(-128))});
}
struct Inputs {
  __m512i four;
  INLINE explicit Inputs(const int32_t* x) : four(_mm512_set1_epi32(*x)) {}
};
struct Codes {
  I all;
  Codes() = default;
  INLINE explicit Codes(I words) : all(words) {}
  INLINE I times(I sum, const Inputs& x) const { return {_mm512_dpbusd_epi32(sum.v, all.v, x.four)}; }
};
INLINE I less(I sum, int32_t count) { return {_mm512_sub_epi32(sum.v, _mm512_set1_epi32(count))}; }
#else
constexpr int kFourWords = 2;  // columns 0 and 2 in the halves of one, 1 and 3 in those of the other
#if defined(__AVX512BW__)
constexpr int kRoundedTokens = 6, kRoundedTiles = 2;
INLINE F greater(F most, F x) { return maximum(most, magnitude(x)); }
INLINE void put_rounded(int8_t* to, F x, float scale) {
  const __m512i code = _mm512_cvtps_epi32(_mm512_div_ps(x.v, _mm512_set1_ps(scale)));
  store_bytes(to, {_mm512_max_epi32(_mm512_min_epi32(code, _mm512_set1_epi32(127)), _mm512_set1_epi32(-128))});
}
INLINE I nothing() { return zeros(); }
using Pair = __m512i;
INLINE Pair pair_of(int32_t x) { return _mm512_set1_epi32(x); }
INLINE I add_pairs(I sum, I codes, Pair x) { return plus(sum, {_mm512_madd_epi16(codes.v, x)}); }
INLINE I less(I sum, int32_t count) { return {_mm512_sub_epi32(sum.v, _mm512_set1_epi32(count))}; }
#elif defined(__AVX2__)
constexpr int kRoundedTokens = 4, kRoundedTiles = 1;
INLINE F greater(F most, F x) { return maximum(most, magnitude(x)); }
INLINE void put_rounded(int8_t* to, F x, float scale) {
  const __m256 by = _mm256_set1_ps(scale);
  const __m256i top = _mm256_set1_epi32(127), bottom = _mm256_set1_epi32(-128);
  const I code = {_mm256_cvtps_epi32(_mm256_div_ps(x.a, by)), _mm256_cvtps_epi32(_mm256_div_ps(x.b, by))};
  store_bytes(to, {_mm256_max_epi32(_mm256_min_epi32(code.a, top), bottom),
                   _mm256_max_epi32(_mm256_min_epi32(code.b, top), bottom)});
}
INLINE I nothing() { return zeros(); }
using Pair = __m256i;
INLINE Pair pair_of(int32_t x) { return _mm256_set1_epi32(x); }
INLINE I add_pairs(I sum, I codes, Pair x) {
  return plus(sum, {_mm256_madd_epi16(codes.a, x), _mm256_madd_epi16(codes.b, x)});
}
INLINE I less(I sum, int32_t count) {
  const __m256i by = _mm256_set1_epi32(count);
  return {_mm256_sub_epi32(sum.a, by), _mm256_sub_epi32(sum.b, by)};
}
#else
constexpr int kRoundedTokens = 2, kRoundedTiles = 1;
INLINE F greater(F most, F x) {
  for (int i = 0; i < kLanes; ++i) most.v[i] = std::fabs(x.v[i]) > most.v[i] ? std::fabs(x.v[i]) : most.v[i];
  return most;
}
INLINE void put_rounded(int8_t* to, F x, float scale) {
  for (int i = 0; i < kLanes; ++i) {
    const float value = std::nearbyint(x.v[i] / scale);
    to[i] = int8_t(value > 127 ? 127 : value < -128 ? -128 : value);
  }
}
INLINE I nothing() { return {Words{}}; }
using Pair = int32_t;
INLINE Pair pair_of(int32_t x) { return x; }
INLINE I add_pairs(I sum, I codes, Pair x) {  // products of 8 and 9 bits: as unsigned words they wrap to the right sum
  const uint32_t low_x = uint32_t(int32_t(int16_t(x))), high_x = uint32_t(x >> 16);
  return {sum.v + (codes.v & 0xffff) * low_x + (codes.v >> 16) * high_x};
}
INLINE I less(I sum, int32_t count) { return {sum.v - uint32_t(count)}; }
#endif
struct Inputs {
  Pair even, odd;
  INLINE explicit Inputs(const int32_t* x) : even(pair_of(x[0])), odd(pair_of(x[1])) {}
};
struct Codes {
  I even, odd;  // a code in each half of a lane
  Codes() = default;
  INLINE explicit Codes(I words) : even(halves(words)), odd(halves(right(words, 8))) {}
  INLINE I times(I sum, const Inputs& x) const { return add_pairs(add_pairs(sum, even, x.even), odd, x.odd); }
  static INLINE I halves(I words) {
#if defined(MULTIPLIES_BYTES)
    return low_bytes(words);
#else
    return {words.v & 0x00ff00ff};
#endif
  }
#if defined(__AVX512BW__)
  static INLINE I low_bytes(I words) { return {_mm512_and_si512(words.v, _mm512_set1_epi32(0x00ff00ff))}; }
#elif defined(__AVX2__)
  static INLINE I low_bytes(I words) {
    const __m256i mask = _mm256_set1_epi32(0x00ff00ff);
    return {_mm256_and_si256(words.a, mask), _mm256_and_si256(words.b, mask)};
  }
#endif
};
#endif

// The inputs of token t from column k on, zeros behind the last.
INLINE F sixteen_inputs(const Rounded& r, int64_t t, int64_t k) {
  const int64_t at = t * r.weight->cols + k, left = r.weight->cols - k;
  if (left >= kLanes) return load_number(r.x, r.x_type, at);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < left; ++i) lanes[i] = read_number(r.x, r.x_type, at + i);
  return load(lanes);
}

// The codes of sixteen columns in the form of `Codes`; returns their sum.
INLINE int32_t put_codes(const int8_t* code, int32_t* fours) {
  int32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += code[i];
  if constexpr (kFourWords == 1) {
    std::memcpy(fours, code, kLanes);
  } else {
    for (int step = 0; step < kLanes / 4; ++step, code += 4) {
      fours[2 * step] = int32_t(uint32_t(code[0] & 0xffff) | uint32_t(code[2]) << 16);
      fours[2 * step + 1] = int32_t(uint32_t(code[1] & 0xffff) | uint32_t(code[3]) << 16);
    }
  }
  return sum;
}

// Tokens `begin` to `end`: the inputs as codes in the form of `Codes`, their sums times 128, and the scales.
void round_inputs(const Rounded& r, int64_t begin, int64_t end) {
  const int64_t columns = r.weight->cols;
  for (int64_t t = begin; t < end; ++t) {
    F magnitudes = splat(0), signs = splat(0);
    for (int64_t k = 0; k < columns; k += kLanes) {
      const F x = sixteen_inputs(r, t, k);
      magnitudes = greater(magnitudes, x);
      signs = add(signs, sub(x, x));  // not a number where an input is infinite or none
    }
    float lanes[2][kLanes], most = 0, finite = 0;
    store(lanes[0], magnitudes);
    store(lanes[1], signs);
    for (int i = 0; i < kLanes; ++i) most = lanes[0][i] > most ? lanes[0][i] : most, finite += lanes[1][i];
    const float divided = most / 127.5f, scale = divided == 0 ? 0x1p-23f : divided;
    r.scale[t] = scale + finite;
    int32_t* fours = r.fours + t * r.steps * kFourWords;
    int32_t sum = 0;
    for (int64_t k = 0; k < r.steps * 4; k += kLanes, fours += kLanes / 4 * kFourWords) {
      alignas(16) int8_t code[kLanes] = {};
      if (k < columns && finite == 0) put_rounded(code, sixteen_inputs(r, t, k), scale);
      sum += put_codes(code, fours);
    }
    r.sums[t] = 128 * sum;
  }
}

INLINE void finish_rounded(const Rounded& r, int64_t tile, int64_t t, I sum) {
  const Header& h = *r.weight;
  const int64_t first = tile * kLanes, rows = h.rows - first < kLanes ? h.rows - first : kLanes;
  F y = mul(to_float(less(sum, r.sums[t])), splat(r.scale[t]));
  y = mul(y, load_number(h.at<char>(kScale), h.scale_type, first));
  if (rows == kLanes) {
    if (r.bias) y = add(y, load_number(r.bias, r.bias_type, first));
    return store_number(r.out, r.out_type, t * h.rows + first, y);
  }
  float lanes[kLanes];
  store(lanes, y);
  for (int64_t i = 0; i < rows; ++i) {
    const float bias = r.bias ? read_number(r.bias, r.bias_type, first + i) : 0.0f;
    write_number(r.out, r.out_type, t * h.rows + first + i, r.bias ? lanes[i] + bias : lanes[i]);
  }
}

// One copy for the sums of many tokens.
__attribute__((noinline)) void finish_apart(const Rounded& r, int64_t tile, int64_t t, I sum) {
  finish_rounded(r, tile, t, sum);
}

// TILES tiles from `tile` on for T tokens from `t` on.
template <int T, int TILES>
void multiply_rounded(const Rounded& r, int64_t tile, int64_t t) {
  const Header& h = *r.weight;
  const int64_t width = r.steps * kLanes, stride = r.steps * kFourWords;  // words of a tile, and of a token
  const uint32_t* words = h.at<uint32_t>(kWords) + tile * width;
  const int32_t* x = r.fours + t * stride;
  I sum[T][TILES];
  each<T>([&](auto i) { each<TILES>([&](auto j) { sum[i][j] = nothing(); }); });
  for (int64_t step = 0; step < r.steps; ++step, words += kLanes, x += kFourWords) {
    Codes codes[TILES];
    each<TILES>([&](auto j) {
      if constexpr (T == 1) ask_ahead(words + j * width);
      codes[j] = Codes(load(words + j * width));
    });
    each<T>([&](auto i) {
      const Inputs inputs(x + i * stride);
      each<TILES>([&](auto j) { sum[i][j] = codes[j].times(sum[i][j], inputs); });
    });
  }
  each<T>([&](auto i) {
    each<TILES>([&](auto j) {
      if constexpr (T == 1) {
        finish_rounded(r, tile + j, t + i, sum[i][j]);
      } else {
        finish_apart(r, tile + j, t + i, sum[i][j]);
      }
    });
  });
}

template <int TILES>
void multiply_tokens(const Rounded& r, int64_t tile, int64_t t, int64_t last) {
  for (; t + kRoundedTokens <= last; t += kRoundedTokens) multiply_rounded<kRoundedTokens, TILES>(r, tile, t);
  for (; t < last; ++t) multiply_rounded<1, TILES>(r, tile, t);
}

// Parts `begin` to `end` of units() · splits: 64 rows and a part of the tokens each.
void product_rounded(const Rounded& r, int64_t begin, int64_t end) {
  constexpr int64_t kTiles = kUnitRows / kLanes;
  for (int64_t part = begin; part < end; ++part) {
    const int64_t unit = part / r.splits, split = part % r.splits;
    const int64_t first = split * r.tokens / r.splits, last = (split + 1) * r.tokens / r.splits;
    const int64_t tiles = r.weight->tiles(), stop = (unit + 1) * kTiles < tiles ? (unit + 1) * kTiles : tiles;
    int64_t tile = unit * kTiles;
    for (; tile + kRoundedTiles <= stop; tile += kRoundedTiles) multiply_tokens<kRoundedTiles>(r, tile, first, last);
    for (; tile < stop; ++tile) multiply_tokens<1>(r, tile, first, last);
  }
}

}  // namespace
