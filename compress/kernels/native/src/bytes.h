// Products of codes with inputs in bytes.
//
// The inputs of a group become integers of 24 bits in units of their largest magnitude over 8355700, and these three
// digits of a signed byte each, so that Σ code · x is three exact integer sums. An input is off by at most 2^-24 of the
// largest in its group, as much as a float32 sum of the group loses. Nothing is rounded to 8 bits.
#pragma once
#include <cstring>

#include "codes.h"

namespace {

#if defined(MULTIPLIES_BYTES)

#if defined(__AVX512VNNI__)
constexpr int kByteTokens = 16;  // up to here products are in bytes
constexpr int kBytesAtOnce = 4;  // tokens that share the codes
constexpr int kChains = 2;       // sums that do not wait for each other

// Sums of four products in each lane.
template <int BITS>
struct Dots {
  I sum = zeros();

  template <int PLACE, int COUNT>
  INLINE void add(I codes, int32_t four) {
    sum = add_dot(sum, codes, four);
  }
};
#else
constexpr int kByteTokens = 4, kBytesAtOnce = 1, kChains = 1;

// The same in steps: sums of pairs are added in 16 bits as long as they fit. PLACE counts to COUNT.
template <int BITS>
struct Dots {
  static constexpr int kMost = 32767 / (((1 << BITS) - 1) * 256);
  I sum = zeros(), pairs;

  template <int PLACE, int COUNT>
  INLINE void add(I codes, int32_t four) {
    const I found = dot_pairs(codes, four);
    pairs = PLACE % kMost ? plus_halves(pairs, found) : found;
    if constexpr (PLACE % kMost == kMost - 1 || PLACE == COUNT - 1) sum = add_halves(sum, pairs);
  }
};
#endif

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
  const bool fits = h.bits <= kByteBits && h.group % 16 == 0 && h.group <= kWidestGroup;
  return h.kind == kCodes && h.stats != kReal && fits && halved;
}

inline Table bytes_table(const Header& h, int64_t tokens) {
  if (!in_bytes(h) || tokens > kByteTokens) return {0, 0};
  return {Bytes(h, nullptr, tokens).size(tokens), tokens};
}

// Sixteen inputs of one token from column k on.
INLINE F inputs_at(const Product& p, int64_t k, int64_t t) {
  if (p.tokens == 1) return load(p.stored + k);
  alignas(64) float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = p.stored[(k + i) * p.tokens + t];
  return load(lanes);
}

// bytes[i] = bytes[column[i]] for a period.
INLINE void reorder(int8_t* bytes, const uint8_t* column) {
  const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i*>(column));
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  const __m256i below = _mm256_shuffle_epi8(_mm256_permute2x128_si256(all, all, 0x00), from);
  const __m256i above = _mm256_shuffle_epi8(_mm256_permute2x128_si256(all, all, 0x11), from);
  const __m256i upper = _mm256_slli_epi16(from, 3);  // bit 4 to bit 7, which chooses
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), _mm256_blendv_epi8(below, above, upper));
}

// The tokens from `begin` to `end`.
inline void fill_bytes(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  const Bytes to(h, p.table, p.tokens);
  alignas(32) uint8_t column[kPeriod];  // the column of each byte of a period
  for (int v = 0; v < kVectors; ++v) {
    for (int b = 0; b < 4; ++b) column[v * 4 + b] = uint8_t(column_of(int(h.bits), v, b));
  }
  for (int64_t t = begin; t < end; ++t) {
    int8_t* digits = to.digits + t * to.stride;
    std::memset(digits + to.stride - kDigits * kPeriod, 0, kDigits * kPeriod);
    for (int64_t g = 0; g < h.groups(); ++g) {
      F magnitudes = splat(0), signs = splat(0);
      for (int64_t k = g * h.group; k < (g + 1) * h.group; k += kLanes) {
        const F x = inputs_at(p, k, t);
        magnitudes = maximum(magnitudes, magnitude(x));
        signs = add(signs, sub(x, x));  // not a number where an input is infinite or none
      }
      const float most = largest(magnitudes), finite = total(signs);
      // below, the reciprocal of the unit would overflow: there the unit is the smallest normal number
      const bool tiny = !(most >= 0x1p-102f);
      const float unit = tiny ? 0x1p-126f : most / kLargestInput, inverse = tiny ? 0x1p126f : kLargestInput / most;
      F sum = splat(0);
      for (int64_t k = g * h.group; k < (g + 1) * h.group; k += kLanes) {
        I rest = rounded(mul(inputs_at(p, k, t), splat(inverse)));
        sum = add(sum, to_float(rest));
        int8_t* place = digits + k / kPeriod * kDigits * kPeriod + k % kPeriod;
        each<kDigits>([&](auto d) {
          store_bytes(place + d * kPeriod, rest);
          rest = next_digit(rest);
        });
      }
      to.unit[t * to.group_stride + g] = unit + finite;
      to.sum[t * to.group_stride + g] = -total(sum);
    }
    for (int64_t i = 0; i < to.stride; i += kPeriod) reorder(digits + i, column);
  }
}

// The four codes of each row that make vector V, one in each byte.
template <int BITS, int V, int DONE = 0>
INLINE I codes_of(const I* words) {
  constexpr int kField = DONE ? next_field(BITS - DONE) : widest_field(BITS);
  constexpr int kMask = ((1 << kField) - 1) << DONE;
  const I part = moved<shift_of(kField, V) - DONE>(words[DONE + word_of(kField, V)]);
  if constexpr (kField == 8) {
    return part;
  } else if constexpr (DONE + kField == BITS) {
    return masked(part, kMask);
  } else {
    return masked_or(part, kMask, codes_of<BITS, V, DONE + kField>(words));
  }
}

// Integer sums of T tokens for one group; chains do not wait for each other.
template <int BITS, int T, int CHAINS>
struct Sums {
  Dots<BITS> digits[T][kDigits][CHAINS];

  // Adds COUNT vectors of a period from FIRST on.
  template <int FIRST, int COUNT>
  INLINE void add_codes(const I* word, const int8_t* bytes, int64_t stride) {
    each<COUNT>([&](auto i) {
      constexpr int kVector = FIRST + decltype(i)::value;
      const I codes = codes_of<BITS, kVector>(word);
      each<T>([&](auto t) {
        each<kDigits>([&](auto d) {
          int32_t four;
          std::memcpy(&four, bytes + t * stride + d * kPeriod + kVector * 4, 4);
          digits[t][d][kVector % CHAINS].template add<decltype(i)::value, COUNT>(codes, four);
        });
      });
    });
  }

  // Σ code · x for one token, in units of its inputs.
  template <int TOKEN>
  INLINE F total() const {
    F digit[kDigits];
    each<kDigits>([&](auto d) {
      I whole = digits[TOKEN][d][0].sum;
      if constexpr (CHAINS == 2) whole = plus(whole, digits[TOKEN][d][1].sum);
      digit[d] = to_float(whole);
    });
    return fma(digit[2], splat(65536), fma(digit[1], splat(256), digit[0]));
  }
};

// One tile for T tokens from `token` on: acc [T, 16]. Groups are whole periods for RUN 32, 16 columns for RUN 16, and
// any multiple of 16 columns for RUN 0.
template <int BITS, int RUN, class Groups, int T>
void multiply_tile(const Product& p, const Bytes& x, int64_t tile, int64_t token, float* acc) {
  using GroupSums = Sums<BITS, T, RUN == kPeriod && T == 1 ? kChains : 1>;
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
        sums.template add_codes<0, kVectors>(word, bytes, x.stride);
      }
      add_group(g, sums);
    }
  } else if constexpr (RUN == 16) {
    for (int64_t g = 0; g < last; next_period()) {
      fetch<BITS>(words, word);
      GroupSums first, second;
      first.template add_codes<0, kVectors / 2>(word, bytes, x.stride);
      add_group(g++, first);
      if (g == last) break;
      second.template add_codes<kVectors / 2, kVectors / 2>(word, bytes, x.stride);
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
      sums.template add_codes<0, kVectors / 2>(word, bytes, x.stride);
      end_run();
      sums.template add_codes<kVectors / 2, kVectors / 2>(word, bytes, x.stride);
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
    if constexpr (kBytesAtOnce > 1) {
      for (; t + kBytesAtOnce <= p.tokens; t += kBytesAtOnce) {
        multiply_tile<BITS, RUN, Groups, kBytesAtOnce>(p, x, tile, t, acc + t * kLanes);
      }
    }
    for (; t < p.tokens; ++t) multiply_tile<BITS, RUN, Groups, 1>(p, x, tile, t, acc + t * kLanes);
    finish(p, tile, acc);
  }
}

// What is stored most often has a form of its own: wide groups of integers, and SpQR's narrow ones.
template <int BITS>
void multiply_width(const Product& p, int64_t begin, int64_t end) {
  static_assert(BITS <= kByteBits);
  const int64_t group = p.weight->group;
  const bool two_levels = p.weight->stats == kBilevel;
  if constexpr (BITS > 1) {  // groups of codes of one bit are whole periods (in_bytes)
    if (two_levels && group == 16) return multiply_tiles<BITS, 16, Bilevel>(p, begin, end);
  }
  if (two_levels || group % kPeriod) return multiply_tiles<BITS, 0, Either>(p, begin, end);
  return multiply_tiles<BITS, kPeriod, Integers>(p, begin, end);
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
    default: return multiply_width<kByteBits>(p, begin, end);
  }
}

#else

inline Table bytes_table(const Header&, int64_t) { return {0, 0}; }
inline void fill_bytes(const Product&, int64_t, int64_t) {}
inline void multiply_bytes(const Product&, int64_t, int64_t) {}

#endif

}  // namespace
