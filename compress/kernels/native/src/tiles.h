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
  INLINE F operator[](int64_t j) const { return load_number(values, h.value_type, j * kLanes); }
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

// Adds the sparse part of a row: acc[t] += value · 2^exponent · x[column, t].
template <class Column>
INLINE void add_row(const Product& p, const Column* column, int64_t row, float* acc, int64_t acc_stride) {
  const Header& h = *p.weight;
  const int32_t* rowptr = h.at<int32_t>(kRowptr);
  const uint16_t* values = h.at<uint16_t>(kVal);
  const float unit = power_of_two(h.exponent);
  alignas(64) float value[kLanes];
  float sums[4] = {0, 0, 0, 0};
  const int64_t end = rowptr[row + 1];
  for (int64_t z = rowptr[row]; z < end; z += kLanes) {
    store(value, load_half(values + z));  // the last ones may reach into the next row or the padding of the section
    if (p.tokens == 1 && z + kLanes <= end) {
      for (int i = 0; i < kLanes; ++i) sums[i % 4] += value[i] * p.x[column[z + i]];
    } else if (p.tokens == 1) {
      for (int i = 0; i < end - z; ++i) sums[i % 4] += value[i] * p.x[column[z + i]];
    } else {
      for (int64_t i = 0; i < kLanes && z + i < end; ++i) {
        const float* x = p.x + int64_t(column[z + i]) * p.tokens;
        const float entry = value[i] * unit;
        for (int64_t t = 0; t < p.tokens; ++t) acc[t * acc_stride] += entry * x[t];
      }
    }
  }
  if (p.tokens == 1) acc[0] += unit * ((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

inline void add_entries(const Product& p, int64_t first, int64_t rows, float* acc) {
  const Header& h = *p.weight;
  for (int64_t i = 0; i < rows; ++i) {
    if (h.col_bytes == 2) {
      add_row(p, h.at<uint16_t>(kCol), first + i, acc + i, kLanes);
    } else {
      add_row(p, h.at<int32_t>(kCol), first + i, acc + i, kLanes);
    }
  }
}

// Sparse part, bias and conversion for a tile whose sums are acc [T, 16].
inline void finish(const Product& p, int64_t tile, float* acc) {
  const Header& h = *p.weight;
  const int64_t first = tile * kLanes, rows = h.rows - first < kLanes ? h.rows - first : kLanes;
  if (h.entries) add_entries(p, first, rows, acc);
  for (int64_t t = 0; t < p.tokens; ++t) {
    for (int64_t i = 0; i < rows; ++i) {
      const float bias = p.bias ? read_number(p.bias, p.bias_type, first + i) : 0.0f;
      write_number(p.out, p.out_type, t * h.rows + first + i, acc[t * kLanes + i] + bias);
    }
  }
}

// Adds the sparse part to decoded rows; what was stored is float32 while it is added.
inline void add_entries(const Header& h, int64_t tile, float* column_major, int64_t stride) {
  const int32_t* rowptr = h.at<int32_t>(kRowptr);
  const float unit = power_of_two(h.exponent);
  for (int64_t i = 0; i < kLanes && tile * kLanes + i < h.rows; ++i) {
    for (int64_t z = rowptr[tile * kLanes + i]; z < rowptr[tile * kLanes + i + 1]; ++z) {
      const int64_t column = h.col_bytes == 2 ? int64_t(h.at<uint16_t>(kCol)[z]) : h.at<int32_t>(kCol)[z];
      column_major[column * stride + i] += from_half(h.at<uint16_t>(kVal)[z]) * unit;
    }
  }
}

}  // namespace
