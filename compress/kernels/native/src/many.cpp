// Products of many tokens in bfloat16: 64 rows at a time are decoded to pairs of columns, as the instruction for dot
// products takes them, and stay in the caches while the tokens pass. Sums are float32 and rounded once; the instruction
// takes subnormal numbers for zero.
#include "many.h"

#include "scratch.h"
#include "simd_avx512.h"
#include "tiles.h"

namespace compress_native {
namespace {

constexpr int kTiles = kUnitRows / kLanes;
constexpr int kTokens = 6;          // at once: 24 sums, 4 vectors of weights and an input fill 29 of 32 registers
constexpr int64_t kChunk = 510;     // tokens whose sums are kept, [510, 64]
constexpr int64_t kPairs = 1024;    // pairs of columns that pass before sums go back to memory
constexpr int64_t kColumns = 128;   // decoded at once where columns stand in order

// The pairs of one tile to `panel`, [pairs, 4, 16]: the first of two columns in the lower half of a lane.
void pair_up(const float* block, int64_t columns, __m512i* panel) {
  alignas(64) uint16_t places[2 * kLanes];
  for (int i = 0; i < 2 * kLanes; ++i) places[i] = uint16_t(i / 2 + i % 2 * kLanes);
  const __m512i order = _mm512_load_si512(places);
  for (int64_t k = 0; k < columns; k += 2, panel += kTiles) {
    const F second = k + 1 < columns ? load(block + (k + 1) * kLanes) : splat(0);
    const __m512i both = __m512i(_mm512_cvtne2ps_pbh(second.v, load(block + k * kLanes).v));
    *panel = _mm512_permutexvar_epi16(order, both);
  }
}

void fill(const Many& m, int64_t unit, float* block, __m512i* panel) {
  const Header& h = *m.weight;
  // what is permuted, or has entries to be added, is decoded as a whole
  const bool whole = h.offset[kPerm] || h.entries;
  const int64_t step = whole ? h.cols : kColumns;
  for (int64_t i = 0; i < kTiles; ++i) {
    const int64_t tile = unit * kTiles + i;
    for (int64_t k = 0; k < h.cols; k += step) {
      const int64_t to = k + step < h.cols ? k + step : h.cols;
      if (tile >= h.tiles()) {
        for (int64_t pair = k / 2; pair < (to + 1) / 2; ++pair) panel[pair * kTiles + i] = _mm512_setzero_si512();
        continue;
      }
      if (whole) {
        m.unit->decode({&h, tile * kLanes, block, kFloat, kLanes}, tile, tile + 1);
      } else {
        m.unit->columns(h, tile, k, to, block);
      }
      pair_up(block, to - k, panel + k / 2 * kTiles + i);
    }
  }
}

// sums [T, 64] += T tokens times some pairs; FIRST starts from zero.
template <int T, bool FIRST>
INLINE void multiply(const uint16_t* x, int64_t stride, const __m512i* panel, int64_t pairs, float* sums) {
  __m512 sum[T][kTiles];
  each<T>([&](auto t) {
    each<kTiles>([&](auto i) {
      sum[t][i] = FIRST ? _mm512_setzero_ps() : _mm512_load_ps(sums + t * kUnitRows + i * kLanes);
    });
  });
  for (int64_t k = 0; k < pairs; ++k, panel += kTiles) {
    each<T>([&](auto t) {
      int32_t two;
      std::memcpy(&two, x + t * stride + 2 * k, sizeof two);
      const __m512bh input = __m512bh(_mm512_set1_epi32(two));
      each<kTiles>([&](auto i) { sum[t][i] = _mm512_dpbf16_ps(sum[t][i], input, __m512bh(panel[i])); });
    });
  }
  each<T>([&](auto t) {
    each<kTiles>([&](auto i) { _mm512_store_ps(sums + t * kUnitRows + i * kLanes, sum[t][i]); });
  });
}

template <bool FIRST>
void multiply_all(const uint16_t* x, int64_t stride, int64_t tokens, const __m512i* panel, int64_t pairs, float* sums) {
  int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens) {
    multiply<kTokens, FIRST>(x + t * stride, stride, panel, pairs, sums + t * kUnitRows);
  }
  for (; t < tokens; ++t) multiply<1, FIRST>(x + t * stride, stride, panel, pairs, sums + t * kUnitRows);
}

void write(const Many& m, int64_t unit, int64_t first, int64_t tokens, const float* sums) {
  const Header& h = *m.weight;
  const int64_t row = unit * kUnitRows, rows = h.rows - row < kUnitRows ? h.rows - row : kUnitRows;
  alignas(64) float bias[kUnitRows] = {};
  for (int64_t i = 0; m.bias && i < rows; ++i) bias[i] = read_number(m.bias, m.bias_type, row + i);
  for (int64_t t = 0; t < tokens; ++t, sums += kUnitRows) {
    uint16_t* out = m.out + (first + t) * h.rows + row;
    int64_t i = 0;
    for (; i + kLanes <= rows; i += kLanes) store_bfloat(out + i, add(load(sums + i), load(bias + i)));
    for (; i < rows; ++i) out[i] = to_bfloat(sums[i] + bias[i]);
  }
}

}  // namespace

void multiply_many(const Many& m, int64_t begin, int64_t end) {
  thread_local Scratch scratch;
  const Header& h = *m.weight;
  const int64_t pairs = (h.cols + 1) / 2, block = (h.cols > kColumns ? h.cols : kColumns) * kLanes;
  float* sums = scratch.floats(kChunk * kUnitRows + block + pairs * kUnitRows);
  if (!sums) {
    *m.failed = true;
    return;
  }
  float* decoded = sums + kChunk * kUnitRows;
  __m512i* panel = reinterpret_cast<__m512i*>(decoded + block);
  for (int64_t part = begin; part < end; ++part) {
    const int64_t unit = part / m.splits, split = part % m.splits;
    const int64_t last = (split + 1) * m.tokens / m.splits;
    fill(m, unit, decoded, panel);
    for (int64_t t = split * m.tokens / m.splits; t < last; t += kChunk) {
      const int64_t tokens = last - t < kChunk ? last - t : kChunk;
      for (int64_t k = 0; k < pairs; k += kPairs) {
        const int64_t count = pairs - k < kPairs ? pairs - k : kPairs;
        const uint16_t* x = m.x + t * m.stride + 2 * k;
        auto pass = k ? multiply_all<false> : multiply_all<true>;
        pass(x, m.stride, tokens, panel + k * kTiles, count, sums);
      }
      write(m, unit, t, tokens, sums);
    }
  }
}

}  // namespace compress_native
