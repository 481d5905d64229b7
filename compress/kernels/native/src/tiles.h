// What the layouts share: unrolling, the statistics of groups, the product of a decoded block, and the end of a tile.
#pragma once
#include <type_traits>
#include <utility>

#include "abi.h"
#include "numbers.h"

#define INLINE inline __attribute__((always_inline))

namespace {

using namespace compress_native;

template <class Call, int... J>
INLINE void each_of(Call&& call, std::integer_sequence<int, J...>) {
  (call(std::integral_constant<int, J>{}), ...);
}
// Calls call(integral_constant<int, j>) for j = 0 … COUNT − 1, unrolled.
template <int COUNT, class Call>
INLINE void each(Call&& call) {
  each_of(static_cast<Call&&>(call), std::make_integer_sequence<int, COUNT>{});
}

// Asks for what is read a page later: weights are read once, in order, and the prefetchers of processors stop where a page
// ends. An address behind the weight is no error. LEVEL 3 is the first cache, 2 the second.
template <int LEVEL = 3>
INLINE void ask_ahead(const void* from) {
  __builtin_prefetch(static_cast<const char*>(from) + 4096, 0, LEVEL);
}

INLINE F load_number(const void* from, int64_t type, int64_t i) {
  if (type == kHalf) return load_half(static_cast<const uint16_t*>(from) + i);
  if (type == kBfloat) return load_bfloat(static_cast<const uint16_t*>(from) + i);
  return load(static_cast<const float*>(from) + i);
}

INLINE void store_number(void* to, int64_t type, int64_t i, F value) {
  if (type == kHalf) {
    store_half(static_cast<uint16_t*>(to) + i, value);
  } else if (type == kBfloat) {
    store_bfloat(static_cast<uint16_t*>(to) + i, value);
  } else {
    store(static_cast<float*>(to) + i, value);
  }
}

// A dense weight, or kept weights of a sparse one, as they are: WORDS [tiles, width, 16] of value_type.
struct Plain {
  const Header& h;
  const char* values;
  Plain(const Header& header, int64_t tile)
      : h(header),
        values(header.at<char>(kWords) + tile * header.width * kLanes * (header.value_type == kFloat ? 4 : 2)) {}
  INLINE F operator[](int64_t j) const { return at(h.value_type, j); }
  INLINE F at(int64_t type, int64_t j) const {
    ask_ahead(values + j * kLanes * (type == kFloat ? 4 : 2));
    return load_number(values, type, j * kLanes);
  }
};

// acc[t] += Σ_k block[k] · x[k, t] for the columns of one decoded block [columns, 16] and T of `stride` tokens.
template <int T>
INLINE void multiply(const float* block, int64_t columns, const float* x, int64_t stride, float* acc) {
  F sums[T];
  each<T>([&](auto t) { sums[t] = load(acc + t * kLanes); });
  for (int64_t k = 0; k < columns; ++k) {
    const F weight = load(block + k * kLanes);
    each<T>([&](auto t) { sums[t] = fma(weight, splat(x[k * stride + t]), sums[t]); });
  }
  each<T>([&](auto t) { store(acc + t * kLanes, sums[t]); });
}

INLINE void multiply_all(const float* block, int64_t columns, const float* x, int64_t tokens, float* acc) {
  for (int64_t t = 0; t < tokens;) {
    const int64_t left = tokens - t;
    if (kTokensAtOnce >= 16 && left >= 16) {
      multiply<16>(block, columns, x + t, tokens, acc + t * kLanes), t += 16;
    } else if (kTokensAtOnce >= 8 && left >= 8) {
      multiply<8>(block, columns, x + t, tokens, acc + t * kLanes), t += 8;
    } else if (left >= 4) {
      multiply<4>(block, columns, x + t, tokens, acc + t * kLanes), t += 4;
    } else if (left >= 2) {
      multiply<2>(block, columns, x + t, tokens, acc + t * kLanes), t += 2;
    } else {
      multiply<1>(block, columns, x + t, tokens, acc + t * kLanes), t += 1;
    }
  }
}

// The sparse part of a tile: steps ROWPTR[tile] to ROWPTR[tile + 1], each with one entry for every row, COL and VAL
// [steps, 16]; rows with fewer entries than the fullest one of the tile have zeros at the end.
struct Entries {
  const Header& h;
  const uint16_t* values;
  Entries(const Header& header) : h(header), values(header.at<uint16_t>(kVal)) {}
  INLINE I columns(int64_t step) const {
    return h.col_bytes == 2 ? load(h.at<uint16_t>(kCol) + step * kLanes) : load(h.at<uint32_t>(kCol) + step * kLanes);
  }
  INLINE F value(int64_t step) const { return load_half(values + step * kLanes); }
};

// acc[t] += Σ value · 2^exponent · x[column, t].
inline void add_entries(const Product& p, int64_t tile, float* acc) {
  const Header& h = *p.weight;
  const Entries entries(h);
  const int32_t* steps = h.at<int32_t>(kRowptr) + tile;
  for (int64_t t = 0; t < p.tokens; ++t) {
    F sums[2] = {splat(0), splat(0)};
    for (int64_t step = steps[0]; step < steps[1]; ++step) {
      const I column = p.tokens == 1 ? entries.columns(step) : times(entries.columns(step), int(p.tokens));
      sums[step % 2] = fma(entries.value(step), gather(p.x + t, column), sums[step % 2]);
    }
    const F sum = mul(add(sums[0], sums[1]), splat(power_of_two(h.exponent)));
    store(acc + t * kLanes, add(load(acc + t * kLanes), sum));
  }
}

// Sparse part, bias and conversion for a tile whose sums are acc [T, 16].
inline void finish(const Product& p, int64_t tile, float* acc) {
  const Header& h = *p.weight;
  const int64_t first = tile * kLanes, rows = h.rows - first < kLanes ? h.rows - first : kLanes;
  if (h.entries) add_entries(p, tile, acc);
  for (int64_t t = 0; t < p.tokens; ++t) {
    for (int64_t i = 0; i < rows; ++i) {
      const float bias = p.bias ? read_number(p.bias, p.bias_type, first + i) : 0.0f;
      write_number(p.out, p.out_type, t * h.rows + first + i, acc[t * kLanes + i] + bias);
    }
  }
}

// Adds the sparse part to a decoded tile, which is float32 while it is added.
inline void add_entries(const Header& h, int64_t tile, float* column_major, int64_t stride) {
  const Entries entries(h);
  const int32_t* steps = h.at<int32_t>(kRowptr) + tile;
  const F unit = splat(power_of_two(h.exponent));
  float value[kLanes];
  for (int64_t step = steps[0]; step < steps[1]; ++step) {
    store(value, mul(entries.value(step), unit));
    for (int64_t i = 0; i < kLanes; ++i) {
      const int64_t at = step * kLanes + i;
      const int64_t column = h.col_bytes == 2 ? int64_t(h.at<uint16_t>(kCol)[at]) : h.at<int32_t>(kCol)[at];
      column_major[column * stride + i] += value[i];
    }
  }
}

}  // namespace
