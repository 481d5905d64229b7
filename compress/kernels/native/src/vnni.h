// Products of codes with inputs in bytes, for processors that multiply bytes (AVX512_VNNI).
//
// The inputs of a group become integers of 24 bits in units of their largest magnitude over 8355700, and these three
// digits of a signed byte each, so that Σ code · x is three exact integer sums. An input is off by at most 2^-24 of the
// largest in its group, as much as a float32 sum of the group loses. Nothing is rounded to 8 bits.
#pragma once
#include <cstring>

#include "codes.h"

namespace {

#if defined(__AVX512VNNI__)

constexpr int kDigits = 3;
constexpr float kLargestInput = 8355700.0f;  // below 127 · (2^16 + 2^8 + 1), the largest number of three signed bytes
constexpr int64_t kWidestGroup = 65536;      // 255 · 128 · columns fit into 32 bits
constexpr int kVectors = 8;                  // of four codes per row in a period

// The inputs of a token, [periods, digits, 32] bytes in the order of the codes, and for each group the unit and −Σ x.
struct Bytes {
  int8_t* digits;
  float *unit, *sum;
  int64_t stride, group_stride;  // between tokens

  Bytes(const Header& h, void* table, int64_t tokens) {
    stride = (h.cols + kPeriod - 1) / kPeriod * kDigits * kPeriod;
    group_stride = (h.groups() + kLanes - 1) / kLanes * kLanes;
    digits = static_cast<int8_t*>(table);
    unit = reinterpret_cast<float*>(digits + stride * tokens);
    sum = unit + group_stride * tokens;
  }
  int64_t size(int64_t tokens) const { return (stride + 2 * group_stride * int64_t(sizeof(float))) * tokens; }
};

inline bool in_bytes(const Header& h) {
  // four vectors of one bit do not hold 16 neighbouring columns
  const bool halved = h.bits > 1 || h.group % kPeriod == 0;
  return h.kind == kCodes && h.stats != kReal && h.group % 16 == 0 && h.group <= kWidestGroup && halved;
}

inline Table bytes_table(const Header& h, int64_t tokens) {
  if (!in_bytes(h)) return {0, 0};
  return {Bytes(h, nullptr, tokens).size(tokens), tokens};
}

// Sixteen inputs of one token from column k on.
INLINE F inputs_at(const Product& p, int64_t k, int64_t t) {
  if (p.tokens == 1) return load(p.stored + k);
  alignas(64) float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = p.stored[(k + i) * p.tokens + t];
  return load(lanes);
}

// The tokens from `begin` to `end`.
inline void fill_bytes(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  const Bytes to(h, p.table, p.tokens);
  alignas(32) uint8_t column[kPeriod];  // the column of each byte of a period
  for (int v = 0; v < kVectors; ++v) {
    for (int b = 0; b < 4; ++b) column[v * 4 + b] = uint8_t(column_of(int(h.bits), v, b));
  }
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(column));
  for (int64_t t = begin; t < end; ++t) {
    int8_t* digits = to.digits + t * to.stride;
    std::memset(digits + to.stride - kDigits * kPeriod, 0, kDigits * kPeriod);
    for (int64_t g = 0; g < h.groups(); ++g) {
      __m512 magnitudes = _mm512_setzero_ps(), signs = _mm512_setzero_ps();
      for (int64_t k = g * h.group; k < (g + 1) * h.group; k += kLanes) {
        const __m512 x = inputs_at(p, k, t).v;
        magnitudes = _mm512_max_ps(magnitudes, _mm512_abs_ps(x));
        signs = _mm512_add_ps(signs, _mm512_sub_ps(x, x));  // not a number where an input is infinite or none
      }
      const float most = _mm512_reduce_max_ps(magnitudes), finite = _mm512_reduce_add_ps(signs);
      // below, the reciprocal of the unit would overflow: there the unit is the smallest normal number
      const bool tiny = !(most >= 0x1p-102f);
      const float unit = tiny ? 0x1p-126f : most / kLargestInput, inverse = tiny ? 0x1p126f : kLargestInput / most;
      __m512 sum = _mm512_setzero_ps();
      for (int64_t k = g * h.group; k < (g + 1) * h.group; k += kLanes) {
        __m512i rest = _mm512_cvtps_epi32(mul(inputs_at(p, k, t), splat(inverse)).v);
        sum = _mm512_add_ps(sum, _mm512_cvtepi32_ps(rest));
        int8_t* place = digits + k / kPeriod * kDigits * kPeriod + k % kPeriod;
        each<kDigits>([&](auto d) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(place + d * kPeriod), _mm512_cvtepi32_epi8(rest));
          // what stays after a digit between -128 and 127 is taken off
          rest = _mm512_srai_epi32(_mm512_add_epi32(rest, _mm512_set1_epi32(128)), 8);
        });
      }
      to.unit[t * to.group_stride + g] = unit + finite;
      to.sum[t * to.group_stride + g] = -_mm512_reduce_add_ps(sum);
    }
    for (int64_t i = 0; i < to.stride; i += kPeriod) {
      __m256i* bytes = reinterpret_cast<__m256i*>(digits + i);
      _mm256_storeu_si256(bytes, _mm256_permutexvar_epi8(order, _mm256_loadu_si256(bytes)));
    }
  }
}

// The four codes of each row that make vector V, one in each byte.
template <int BITS, int V, int DONE = 0>
INLINE __m512i codes_of(const I* words) {
  constexpr int kField = DONE ? next_field(BITS - DONE) : widest_field(BITS);
  constexpr int kShift = shift_of(kField, V) - DONE;
  const __m512i word = words[DONE + word_of(kField, V)].v;
  const __m512i moved = kShift == 0 ? word
                        : kShift > 0 ? _mm512_srli_epi32(word, unsigned(kShift > 0 ? kShift : 0))
                                     : _mm512_slli_epi32(word, unsigned(kShift < 0 ? -kShift : 0));
  if constexpr (kField == 8) {
    return moved;
  } else {
    const __m512i mask = _mm512_set1_epi8(char(((1 << kField) - 1) << DONE));
    if constexpr (DONE + kField == BITS) {
      return _mm512_and_si512(moved, mask);
    } else {
      // (moved & mask) | rest in one instruction
      return _mm512_ternarylogic_epi32(moved, mask, codes_of<BITS, V, DONE + kField>(words), 0xea);
    }
  }
}

// Integer sums of T tokens for one group; two chains do not wait for each other.
template <int T, int CHAINS>
struct Sums {
  __m512i digits[T][kDigits][CHAINS];

  INLINE Sums() {
    each<T>([&](auto t) {
      each<kDigits>([&](auto d) {
        each<CHAINS>([&](auto c) { digits[t][d][c] = _mm512_setzero_si512(); });
      });
    });
  }

  // Adds COUNT vectors of a period from FIRST on.
  template <int BITS, int FIRST, int COUNT>
  INLINE void add_codes(const I* word, const int8_t* bytes, int64_t stride) {
    each<COUNT>([&](auto i) {
      constexpr int kVector = FIRST + decltype(i)::value;
      const __m512i codes = codes_of<BITS, kVector>(word);
      each<T>([&](auto t) {
        each<kDigits>([&](auto d) {
          int32_t four;
          std::memcpy(&four, bytes + t * stride + d * kPeriod + kVector * 4, 4);
          __m512i& chain = digits[t][d][kVector % CHAINS];
          chain = _mm512_dpbusd_epi32(chain, codes, _mm512_set1_epi32(four));
        });
      });
    });
  }

  // Σ code · x for one token, in units of its inputs.
  template <int TOKEN>
  INLINE F total() const {
    F digit[kDigits];
    each<kDigits>([&](auto d) {
      __m512i whole = digits[TOKEN][d][0];
      if constexpr (CHAINS == 2) whole = _mm512_add_epi32(whole, digits[TOKEN][d][1]);
      digit[d] = to_float(I{whole});
    });
    return fma(digit[2], splat(65536), fma(digit[1], splat(256), digit[0]));
  }
};

// One tile for T tokens from `token` on: acc [T, 16]. Groups are whole periods for RUN 32, 16 columns for RUN 16, and
// any multiple of 16 columns for RUN 0.
template <int BITS, int RUN, class Groups, int T>
void multiply_tile(const Product& p, const Bytes& x, int64_t tile, int64_t token, float* acc) {
  using GroupSums = Sums<T, RUN == kPeriod && T == 1 ? 2 : 1>;
  const Header& h = *p.weight;
  const Groups groups(h, tile, false);
  const uint32_t* words = words_of(h, tile);
  const int8_t* bytes = x.digits + token * x.stride;
  const float *unit = x.unit + token * x.group_stride, *sum = x.sum + token * x.group_stride;
  const int64_t last = h.groups();
  F total[T];
  each<T>([&](auto t) { total[t] = splat(0); });
  auto add_group = [&](int64_t g, const GroupSums& sums) __attribute__((always_inline)) {
    const Statistic s = groups.rough(g);
    each<T>([&](auto t) {
      const int64_t i = t * x.group_stride + g;
      const F value = fma(s.zero, splat(sum[i]), sums.template total<decltype(t)::value>());
      total[t] = fma(mul(s.scale, splat(unit[i])), value, total[t]);
    });
  };
  I word[BITS];
  auto next_period = [&]() __attribute__((always_inline)) { words += BITS * kLanes, bytes += kDigits * kPeriod; };
  if constexpr (RUN == kPeriod) {
    for (int64_t g = 0; g < last; ++g) {
      GroupSums sums;
      for (int64_t k = 0; k < h.group; k += kPeriod, next_period()) {
        fetch<BITS>(words, word);
        sums.template add_codes<BITS, 0, kVectors>(word, bytes, x.stride);
      }
      add_group(g, sums);
    }
  } else if constexpr (RUN == 16) {
    for (int64_t g = 0; g < last; next_period()) {
      fetch<BITS>(words, word);
      GroupSums first, second;
      first.template add_codes<BITS, 0, kVectors / 2>(word, bytes, x.stride);
      add_group(g++, first);
      if (g == last) break;
      second.template add_codes<BITS, kVectors / 2, kVectors / 2>(word, bytes, x.stride);
      add_group(g++, second);
    }
  } else {
    GroupSums sums;
    int64_t g = 0, left = h.group;
    auto end_run = [&]() __attribute__((always_inline)) {
      left -= 16;
      if (left || g == last) return;
      add_group(g++, sums);
      sums = GroupSums();
      left = h.group;
    };
    for (; g < last; next_period()) {
      fetch<BITS>(words, word);
      sums.template add_codes<BITS, 0, kVectors / 2>(word, bytes, x.stride);
      end_run();
      sums.template add_codes<BITS, kVectors / 2, kVectors / 2>(word, bytes, x.stride);
      end_run();
    }
  }
  each<T>([&](auto t) { store(acc + t * kLanes, mul(total[t], splat(groups.rough_unit()))); });
}

template <int BITS, int RUN, class Groups>
void multiply_tiles(const Product& p, int64_t begin, int64_t end) {
  const Bytes x(*p.weight, p.table, p.tokens);
  alignas(64) float acc[kFewTokens * kLanes];
  for (int64_t tile = begin; tile < end; ++tile) {
    int64_t t = 0;
    for (; t + 4 <= p.tokens; t += 4) multiply_tile<BITS, RUN, Groups, 4>(p, x, tile, t, acc + t * kLanes);
    for (; t < p.tokens; ++t) multiply_tile<BITS, RUN, Groups, 1>(p, x, tile, t, acc + t * kLanes);
    finish(p, tile, acc);
  }
}

// What is stored most often has a form of its own: wide groups of integers, and SpQR's narrow ones.
template <int BITS>
void multiply_width(const Product& p, int64_t begin, int64_t end) {
  const int64_t group = p.weight->group;
  if (p.weight->stats == kBilevel) {
    if (group == 16) return multiply_tiles<BITS, 16, Bilevel>(p, begin, end);
    return multiply_tiles<BITS, 0, Bilevel>(p, begin, end);
  }
  if (group % kPeriod == 0) return multiply_tiles<BITS, kPeriod, Integers>(p, begin, end);
  return multiply_tiles<BITS, 0, Integers>(p, begin, end);
}

inline void multiply_bytes(const Product& p, int64_t begin, int64_t end) {
  switch (p.weight->bits) {
    case 1: return multiply_width<1>(p, begin, end);
    case 2: return multiply_width<2>(p, begin, end);
    case 3: return multiply_width<3>(p, begin, end);
    case 4: return multiply_width<4>(p, begin, end);
    case 5: return multiply_width<5>(p, begin, end);
    case 6: return multiply_width<6>(p, begin, end);
    case 7: return multiply_width<7>(p, begin, end);
    default: return multiply_width<8>(p, begin, end);
  }
}

#else

inline Table bytes_table(const Header&, int64_t) { return {0, 0}; }
inline void fill_bytes(const Product&, int64_t, int64_t) {}
inline void multiply_bytes(const Product&, int64_t, int64_t) {}

#endif

}  // namespace
