// Weights stored as they are: parts of composite layouts.
#pragma once
#include "tiles.h"

namespace {

inline void decode_dense(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  const Plain values(h, tile);
  for (int64_t k = from; k < to; ++k) store(block + (k - from) * kLanes, values[k]);
}

template <int64_t TYPE>
void one_token_dense(const Product& p, int64_t tile, float* out) {
  const Header& h = *p.weight;
  const Plain values(h, tile);
  F sums[4];
  each<4>([&](auto c) { sums[c] = splat(0); });
  int64_t k = 0;
  for (; k + 4 <= h.width; k += 4) {
    each<4>([&](auto c) {
      sums[c] = fma(values.at(TYPE, k + c), splat(p.stored[k + c]), sums[c]);
    });
  }
  for (; k < h.width; ++k) sums[0] = fma(values[k], splat(p.stored[k]), sums[0]);
  store(out, add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

inline void one_token_dense(const Product& p, int64_t tile, float* out) {
  switch (p.weight->value_type) {
    case kHalf: return one_token_dense<kHalf>(p, tile, out);
    case kBfloat: return one_token_dense<kBfloat>(p, tile, out);
    default: return one_token_dense<kFloat>(p, tile, out);
  }
}

}  // namespace
