// n of every 4 inputs: INDEX uint32 [tiles, words, 16], two bits for each kept value, beside codes or plain values.
#pragma once
#include "code_kernels.h"
#include "dense.h"

namespace {

constexpr int kOf = 4;                    // m of n:m
constexpr int kPlaces = 32 / 2;           // places in one word
constexpr int64_t kSparseBlock = 128;     // columns decoded at once

INLINE const uint32_t* index_of(const Header& h, int64_t tile) {
  return h.at<uint32_t>(kIndex) + tile * ((h.width + kPeriod - 1) / kPeriod * 2) * kLanes;
}

// The inputs of one period of kept values at 2:4, which span 64 columns and are others in every row.
template <bool SUMMED>
struct KeptInputs {
  static constexpr bool kSummed = SUMMED;
  const float* x;
  const uint32_t* index;
  I places[2];
  KeptInputs(const Product& p, int64_t tile) : x(p.stored), index(index_of(*p.weight, tile)) {}
  INLINE void start_period() { places[0] = load(index), places[1] = load(index + kLanes); }
  INLINE void next_period() { x += kPeriod * 2, index += 2 * kLanes; }
  template <int PLACE>
  INLINE F at() const {
    constexpr int kShift = PLACE % kPlaces * 2;
    const I place = kShift ? right(places[PLACE / kPlaces], kShift) : places[PLACE / kPlaces];
    return pick(x + PLACE / 2 * kOf, place);
  }
};

INLINE bool has_codes(const Header& h) { return h.bits <= 8; }

inline void decode_sparse(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  alignas(64) float kept[kSparseBlock * kLanes];
  const int64_t n = h.keep, first = from / kOf * n, last = to / kOf * n;
  if (has_codes(h)) {
    code_kernel(h).decode(h, tile, first, last, kept);
  } else {
    decode_dense(h, tile, first, last, kept);
  }
  const uint32_t* index = index_of(h, tile);
  for (int64_t j = first; j < last; j += n, block += kOf * kLanes) {
    F column[kOf];
    each<kOf>([&](auto c) { column[c] = splat(0); });
    for (int64_t i = j; i < j + n; ++i) {
      const I place = right(load(index + i / kPlaces * kLanes), int(i % kPlaces) * 2);
      const F value = load(kept + (i - first) * kLanes);
      each<kOf>([&](auto c) { column[c] = where(place, c, value, column[c]); });
    }
    each<kOf>([&](auto c) { store(block + c * kLanes, column[c]); });
  }
}

template <int64_t TYPE>
void one_token_kept(const Product& p, int64_t tile, float* out) {
  const Header& h = *p.weight;
  const Plain values(h, tile);
  const uint32_t* index = index_of(h, tile);
  F sums[4];
  each<4>([&](auto c) { sums[c] = splat(0); });
  int64_t j = 0;
  for (; j + kPlaces <= h.width; j += kPlaces, index += kLanes) {
    const I places = load(index);
    each<kPlaces>([&](auto i) {
      const F x = pick(p.stored + (j + i) / 2 * kOf, right(places, i * 2));
      sums[i % 4] = fma(values.at(TYPE, j + i), x, sums[i % 4]);
    });
  }
  for (; j < h.width; ++j) {
    sums[0] = fma(values[j], pick(p.stored + j / 2 * kOf, right(load(index), int(j % kPlaces) * 2)), sums[0]);
  }
  store(out, add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

template <int BITS>
OneToken kept_of_width(const Header& h) {
  if (h.group % 16) return nullptr;
  // a zero point is multiplied by the sum of the inputs of its group
  if constexpr (!kFewForms) {
    if (h.stats == kScaleOnly) return one_token<BITS, 16, Integers, KeptInputs<false>>;
  }
  return one_token<BITS, 16, Integers, KeptInputs<true>>;
}

// The fused product of one token, or null where weights are decoded first.
inline OneToken sparse_one_token(const Header& h) {
  if (h.keep != 2) return nullptr;
  if (!has_codes(h)) {
    if (h.value_type == kHalf) return one_token_kept<kHalf>;
    return h.value_type == kBfloat ? one_token_kept<kBfloat> : one_token_kept<kFloat>;
  }
  if (h.stats == kReal || h.stats == kBilevel) return nullptr;
  switch (h.bits) {
    case 2: return kept_of_width<2>(h);
    case 3: return kept_of_width<3>(h);
    case 4: return kept_of_width<4>(h);
    case 8: return kept_of_width<8>(h);
    default: return nullptr;
  }
}

}  // namespace
