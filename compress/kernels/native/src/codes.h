// Codes of 1 to 8 bits and the statistics of their groups: WORDS [tiles, words, 16], see fields.h.
#pragma once
#include "fields.h"
#include "tiles.h"

namespace {

struct Statistic {
  F scale, zero;
};

// Scale and zero point of a tile's groups; the zero point is in codes, less `middle`.
struct Integers {
  const Header& h;
  const void* scale;
  const uint8_t* zero;
  int64_t first;
  float middle, symmetric;

  Integers(const Header& header, int64_t tile, bool centred)
      : h(header), scale(header.at<void>(kScale)), zero(header.at<uint8_t>(kZero)),
        first(tile * header.groups() * kLanes), middle(centred ? float(1 << (header.bits - 1)) : 0.0f),
        symmetric(float(1 << (header.bits - 1)) - middle) {}
  INLINE bool has_zero() const { return h.stats == kScaleZero; }
  INLINE Statistic at(int64_t g) const {
    const int64_t i = first + g * kLanes;
    return {load_number(scale, h.scale_type, i),
            has_zero() ? sub(to_float(load(zero + i)), splat(middle)) : splat(symmetric)};
  }
  INLINE Statistic rough(int64_t g) const { return at(g); }
  INLINE float rough_unit() const { return 1; }
};

// Two-level statistics: least + step · code, the codes of scale and zero in one byte.
struct Bilevel {
  const uint8_t* codes;
  const float* steps;
  int64_t first, run;  // of the codes and of the steps
  float unit;
  Value<4, false> value;

  Bilevel(const Header& h, int64_t tile, bool)
      : codes(h.at<uint8_t>(kZero)), steps(h.at<float>(kSteps)), first(tile * h.groups() * kLanes),
        run(h.run_tiles ? tile / h.run_tiles * h.groups() * 4 : 0), unit(power_of_two(h.exponent)) {}
  INLINE bool has_zero() const { return true; }
  INLINE Statistic at(int64_t g) const {
    const I both = load(codes + first + g * kLanes);
    const float* s = steps + run + g * 4;
    // a product and a sum, each rounded, as the layout defines it
    const F scale = add(splat(s[1]), mul(splat(s[0]), value(both)));
    const F zero = add(splat(s[3]), mul(splat(s[2]), value(right(both, 4))));
    return {mul(scale, splat(unit)), zero};
  }
  // The same in units of `rough_unit`, rounded once less: for sums, which are not exact anyway.
  INLINE Statistic rough(int64_t g) const {
    const I both = load(codes + first + g * kLanes);
    const float* s = steps + run + g * 4;
    return {fma(splat(s[0]), value(both), splat(s[1])), fma(splat(s[2]), value(right(both, 4)), splat(s[3]))};
  }
  INLINE float rough_unit() const { return unit; }
};

// Either of the two, told apart at each group: for what would not gain by a form for each.
struct Either {
  bool two_levels;
  Integers integers;
  Bilevel bilevel;

  Either(const Header& h, int64_t tile, bool centred)
      : two_levels(h.stats == kBilevel), integers(h, tile, centred), bilevel(h, tile, centred) {}
  INLINE bool has_zero() const { return two_levels || integers.has_zero(); }
  INLINE float middle() const { return two_levels ? 0 : integers.middle; }
  INLINE Statistic at(int64_t g) const { return two_levels ? bilevel.at(g) : integers.at(g); }
  INLINE Statistic rough(int64_t g) const { return two_levels ? bilevel.rough(g) : integers.rough(g); }
  INLINE float rough_unit() const { return two_levels ? bilevel.rough_unit() : integers.rough_unit(); }
};

// Statistics as real numbers, for whatever has no form of its own.
struct Reals {
  const float *scale, *zero;
  Reals(const Header& h, int64_t tile, bool)
      : scale(h.at<float>(kScale) + tile * h.groups() * kLanes),
        zero(h.at<float>(kZero) + tile * h.groups() * kLanes) {}
  INLINE bool has_zero() const { return true; }
  INLINE Statistic at(int64_t g) const { return {load(scale + g * kLanes), load(zero + g * kLanes)}; }
};

INLINE const uint32_t* words_of(const Header& h, int64_t tile) {
  const int64_t words = (h.width + kPeriod - 1) / kPeriod * h.bits;
  return h.at<uint32_t>(kWords) + tile * words * kLanes;
}

// The words of one period.
template <int BITS>
INLINE void fetch(const uint32_t* from, I* words) {
  each<BITS>([&](auto w) {
    ask_ahead(from + w * kLanes);
    words[w] = load(from + w * kLanes);
  });
}

// The widest codes whose products are made in bytes (bytes.h), for groups of whole 16 columns.
#if !defined(MULTIPLIES_BYTES)
constexpr int kByteBits = 0;
#elif defined(__AVX512VNNI__)
constexpr int kByteBits = 8;
#else
constexpr int kByteBits = 7;
#endif

}  // namespace
