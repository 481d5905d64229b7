// Sums of vectors of codebooks. WORDS: codes [units, tables, 64] of one byte, or two above 8 bits; SCALE float32 [rows].
// BOOKS float32: [M, g, V] up to 8 bits, [M, V, g] above.
//
// A product needs Σ of table[j, m][code]: the products of all vectors with the inputs are made once for all rows.
#pragma once
#include "tiles.h"

namespace {

INLINE I load_codes(const Header& h, int64_t tile, int64_t table) {
  const int64_t i = (tile * kLanes / kUnitRows * h.tables() + table) * kUnitRows + tile * kLanes % kUnitRows;
  return h.bits <= 8 ? load(h.at<uint8_t>(kWords) + i) : load(h.at<uint16_t>(kWords) + i);
}

inline void decode_additive(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  const float* books = h.at<float>(kBooks);
  const F scale = load(h.at<float>(kScale) + tile * kLanes);
  const int64_t book = h.vectors() * h.group, inner = h.bits <= 8 ? h.vectors() : 1;
  for (int64_t k = from; k < to;) {
    const int64_t j = k / h.group, start = k;
    const int64_t end = (j + 1) * h.group < to ? (j + 1) * h.group : to;
    for (int64_t m = 0; m < h.books; ++m) {
      const I codes = load_codes(h, tile, j * h.books + m);
      const I at = h.bits <= 8 ? codes : times(codes, int(h.group));
      for (int64_t c = start; c < end; ++c) {
        const F value = gather(books + m * book + (c - j * h.group) * inner, at);
        float* sum = block + (c - from) * kLanes;
        store(sum, m ? add(load(sum), value) : value);
      }
    }
    for (; k < end; ++k) store(block + (k - from) * kLanes, mul(load(block + (k - from) * kLanes), scale));
  }
}

// The products of the vectors of one codebook with the inputs of one group, [V].
INLINE void products(const Product& p, int64_t table, float* to) {
  const Header& h = *p.weight;
  const int64_t vectors = h.vectors();
  const float* book = h.at<float>(kBooks) + table % h.books * vectors * h.group;
  const float* x = p.stored + table / h.books * h.group;
  for (int64_t v = 0; v < vectors; v += kLanes) {
    F sum = mul(load(book + v), splat(x[0]));
    for (int64_t i = 1; i < h.group; ++i) sum = fma(load(book + i * vectors + v), splat(x[i]), sum);
    store(to + v, sum);
  }
}

INLINE void finish_unit(const Product& p, int64_t unit, float* sums) {
  const Header& h = *p.weight;
  for (int64_t tile = unit * 4; tile < unit * 4 + 4 && tile * kLanes < h.rows; ++tile, sums += kLanes) {
    store(sums, mul(load(sums), load(h.at<float>(kScale) + tile * kLanes)));
    finish(p, tile, sums);
  }
}

#if defined(__AVX512VNNI__)

// The tables are block floating point: kLookups of them share a unit, and a product is 24 bits in three planes of 256
// bytes, which a permutation of bytes looks up for 64 rows at once. A product is off by half a unit of 2^-23 of the
// largest one of its set, which is no more than the float32 sum of the set may lose.
constexpr int kPlanes = 3;
constexpr int64_t kTable = 256 * kPlanes;
constexpr float kMiddle = 8388608.0f;  // 2^23 is added so that all bytes count up
constexpr float kLargest = kMiddle - 16;  // less what rounding the factors may add

struct Set {
  alignas(64) uint8_t bytes[kLookups * kTable];
  float unit;
};

INLINE Table sums_table(const Header& h) {
  const int64_t sets = (h.tables() + kLookups - 1) / kLookups;
  return {sets * int64_t(sizeof(Set)), sets};
}

void fill_sums(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  alignas(64) float values[kLookups][256] = {};
  alignas(64) uint8_t fourth[64];
  for (int i = 0; i < 64; ++i) fourth[i] = uint8_t(i * 4);
  __m512i index[kPlanes];
  each<kPlanes>([&](auto plane) { index[plane] = _mm512_add_epi8(_mm512_load_si512(fourth), _mm512_set1_epi8(plane)); });
  for (int64_t set = begin; set < end; ++set) {
    Set& to = static_cast<Set*>(p.table)[set];
    const int64_t first = set * kLookups, count = h.tables() - first < kLookups ? h.tables() - first : kLookups;
    const int64_t vectors = h.vectors();
    __m512 largest = _mm512_setzero_ps();
    __mmask16 wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
      products(p, first + i, values[i]);
      for (int64_t v = 0; v < vectors; v += kLanes) {
        const __m512 value = _mm512_load_ps(values[i] + v);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(value));
        wrong |= _mm512_fpclass_ps_mask(value, 0x01 | 0x80 | 0x08 | 0x10);  // not a number, or infinite
      }
    }
    const float most = _mm512_reduce_max_ps(largest);
    const bool none = !(most > 0x1p-103f);  // the reciprocal of a unit would overflow
    to.unit = wrong ? float_of(0x7fc00000) : none ? 0.0f : most / kLargest;
    const __m512 inverse = _mm512_set1_ps(none || wrong ? 0.0f : kLargest / most);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t v = 0; v < vectors; v += 2 * kLanes) {
        __m512i fixed[2];
        each<2>([&](auto part) {
          const __m512 value = _mm512_mul_ps(_mm512_load_ps(values[i] + v + part * kLanes), inverse);
          fixed[part] = _mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(int(kMiddle)));
        });
        for (int plane = 0; plane < kPlanes; ++plane) {
          const __m512i bytes = _mm512_permutex2var_epi8(fixed[0], index[plane], fixed[1]);
          uint8_t* place = to.bytes + i * kTable + plane * 256 + v;
          _mm256_store_si256(reinterpret_cast<__m256i*>(place), _mm512_castsi512_si256(bytes));
        }
      }
    }
  }
}

// Sums of bytes, in 16 bits: of even rows and of odd rows.
struct Halves {
  __m512i even, odd;
};

INLINE void look_up(const __m512i* planes, __m512i codes, Halves* sums) {
  const __mmask64 upper = _mm512_movepi8_mask(codes);
  each<kPlanes>([&](auto plane) {
    const __m512i* t = planes + plane * 4;
    const __m512i below = _mm512_permutex2var_epi8(t[0], codes, t[1]);
    const __m512i above = _mm512_permutex2var_epi8(t[2], codes, t[3]);
    const __m512i found = _mm512_mask_blend_epi8(upper, below, above);
    sums[plane].even = _mm512_add_epi16(sums[plane].even, _mm512_and_si512(found, _mm512_set1_epi16(255)));
    sums[plane].odd = _mm512_add_epi16(sums[plane].odd, _mm512_srli_epi16(found, 8));
  });
}

// Adds the sums of one set to 64 rows: sums [64], even rows first.
INLINE void flush(const Halves* halves, float unit, int64_t count, float* to) {
  const __m512i offset = _mm512_set1_epi32(-int32_t(count) * int32_t(kMiddle));  // at most 2^28
  for (int half = 0; half < 4; ++half, to += kLanes) {
    __m512i whole = offset;
    each<kPlanes>([&](auto plane) {
      const __m512i all = half / 2 ? halves[plane].odd : halves[plane].even;
      const __m256i part = half % 2 ? _mm512_extracti64x4_epi64(all, 1) : _mm512_castsi512_si256(all);
      whole = _mm512_add_epi32(whole, _mm512_slli_epi32(_mm512_cvtepu16_epi32(part), plane * 8));
    });
    store(to, fma(to_float(I{whole}), splat(unit), load(to)));
  }
}

void add_up(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  constexpr int64_t kMost = 16;  // units whose sums are kept while a set of tables stays in the first-level cache
  alignas(64) float sums[kMost * kUnitRows];
  for (int64_t from = begin; from < end; from += kMost) {
    const int64_t to = from + kMost < end ? from + kMost : end;
    for (int64_t i = 0; i < (to - from) * kUnitRows; ++i) sums[i] = 0;
    for (int64_t first = 0; first < h.tables(); first += kLookups) {
      const Set& set = static_cast<const Set*>(p.table)[first / kLookups];
      const int64_t count = h.tables() - first < kLookups ? h.tables() - first : kLookups;
      for (int64_t unit = from; unit < to; ++unit) {
        const uint8_t* codes = h.at<uint8_t>(kWords) + (unit * h.tables() + first) * kUnitRows;
        Halves halves[kPlanes];
        each<kPlanes>([&](auto plane) { halves[plane] = {_mm512_setzero_si512(), _mm512_setzero_si512()}; });
        for (int64_t i = 0; i < count; ++i) {
          const uint8_t* table = set.bytes + i * kTable;
          __m512i planes[kPlanes * 4];
          each<kPlanes * 4>([&](auto q) { planes[q] = _mm512_load_si512(table + q * 64); });
          look_up(planes, _mm512_loadu_si512(codes + i * kUnitRows), halves);
        }
        flush(halves, set.unit, count, sums + (unit - from) * kUnitRows);
      }
    }
    for (int64_t unit = from; unit < to; ++unit) {
      const float* halves = sums + (unit - from) * kUnitRows;
      alignas(64) float rows[kUnitRows];
      for (int i = 0; i < kUnitRows; ++i) rows[i] = halves[i % 2 * (kUnitRows / 2) + i / 2];
      finish_unit(p, unit, rows);
    }
  }
}

#else

INLINE Table sums_table(const Header& h) {
  return {h.tables() * h.vectors() * int64_t(sizeof(float)), (h.tables() + kLookups - 1) / kLookups};
}

void fill_sums(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  for (int64_t table = begin * kLookups; table < end * kLookups && table < h.tables(); ++table) {
    products(p, table, static_cast<float*>(p.table) + table * h.vectors());
  }
}

void add_up(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  alignas(64) float sums[kUnitRows];
  for (int64_t unit = begin; unit < end; ++unit) {
    F sum[4];
    each<4>([&](auto i) { sum[i] = splat(0); });
    const uint8_t* codes = h.at<uint8_t>(kWords) + unit * h.tables() * kUnitRows;
    const float* table = static_cast<const float*>(p.table);
    for (int64_t t = 0; t < h.tables(); ++t, codes += kUnitRows, table += h.vectors()) {
      each<4>([&](auto i) { sum[i] = add(sum[i], gather(table, load(codes + i * kLanes))); });
    }
    each<4>([&](auto i) { store(sums + i * kLanes, sum[i]); });
    finish_unit(p, unit, sums);
  }
}

#endif

}  // namespace
