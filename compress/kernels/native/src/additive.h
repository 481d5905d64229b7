// Sums of vectors of codebooks. WORDS: codes [sets, units, 32, 64] of one byte, or two above 8 bits, for sets of 32
// tables and units of 64 rows: what is looked up in a set stands together. SCALE float32 [rows]. VECTORS float16
// [M, V, g], and 8 numbers more; up to 8 bits BOOKS float32 [M, g, V] as well.
//
// Up to 8 bits a product is Σ of table[j, m][code]: products of all vectors with the inputs are made once for all rows.
#pragma once
#include <cmath>

#include "tiles.h"

namespace {

// Where the codes of a tile in one table begin.
INLINE int64_t place_of_codes(const Header& h, int64_t tile, int64_t table) {
  const int64_t unit = table / kLookups * h.units() + tile * kLanes / kUnitRows;
  return (unit * kLookups + table % kLookups) * kUnitRows + tile * kLanes % kUnitRows;
}

// Eight columns of the vectors that 16 rows have in one table, a row at a time, which are added where SUM.
template <class Code, bool SUM>
INLINE void add_vectors(const Code* codes, const uint16_t* book, int64_t size, Eight* rows) {
  each<kLanes>([&](auto i) {
    const Eight vector = load_eight(book + codes[i] * size);
    rows[i] = SUM ? add(rows[i], vector) : vector;
  });
}

template <class Code>
void decode_vectors(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  const uint16_t* vectors = h.at<uint16_t>(kVectors);
  const Code* words = h.at<Code>(kWords);
  const F scale = load(h.at<float>(kScale) + tile * kLanes);
  const int64_t size = h.group, book = size << h.bits;
  for (int64_t j = from / size; j * size < to; ++j) {
    for (int64_t part = 0; part < size; part += 8) {
      const int64_t first = j * size + part, end = first - part + size;
      Eight rows[kLanes];
      F columns[8];
      add_vectors<Code, false>(words + place_of_codes(h, tile, j * h.books), vectors + part, size, rows);
      for (int64_t m = 1; m < h.books; ++m) {
        const Code* codes = words + place_of_codes(h, tile, j * h.books + m);
        add_vectors<Code, true>(codes, vectors + m * book + part, size, rows);
      }
      turn(rows, columns);
      each<8>([&](auto c) {
        // the last of a vector may be fewer than eight, and a block may begin or end within one
        const int64_t k = first + c;
        if (k >= from && k < to && k < end) store(block + (k - from) * kLanes, mul(columns[c], scale));
      });
    }
  }
}

inline void decode_additive(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  (h.bits <= 8 ? decode_vectors<uint8_t> : decode_vectors<uint16_t>)(h, tile, from, to, block);
}

// The product of one token where vectors are too many for a table of sums; they are multiplied as they are stored.
inline void one_token_vectors(const Product& p, int64_t tile, float* out) {
  const Header& h = *p.weight;
  const uint16_t *vectors = h.at<uint16_t>(kVectors), *words = h.at<uint16_t>(kWords);
  const int64_t size = h.group, book = size << h.bits;
  Eight sums[kLanes];
  each<kLanes>([&](auto i) { sums[i] = zero_eight(); });
  for (int64_t table = 0; table < h.tables(); ++table) {
    const uint16_t* codes = words + place_of_codes(h, tile, table);
    const float* x = p.stored + table / h.books * size;
    ask_ahead(codes);
    for (int64_t part = 0; part < size; part += 8, x += 8) {
      const uint16_t* from = vectors + table % h.books * book + part;
      const Eight input = load_eight(x);
      each<kLanes>([&](auto i) { sums[i] = fma(load_eight(from + codes[i] * size), input, sums[i]); });
    }
  }
  F columns[8];
  turn(sums, columns);
  each<3>([&](auto step) {  // eight to four to two to one
    constexpr int kHalf = 4 >> decltype(step)::value;
    each<kHalf>([&](auto c) { columns[c] = add(columns[c], columns[c + kHalf]); });
  });
  store(out, mul(columns[0], load(h.at<float>(kScale) + tile * kLanes)));
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
// bytes, which a permutation of bytes looks up for 64 rows at once. A product is off by 2^-24 of the largest that a group
// of the set can have, about what the float32 sum of the set may lose.
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

// The largest magnitude of the products of one group is at most Σ |x_i| · reach_i.
inline void fill_sums(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  const int64_t vectors = h.vectors(), size = h.group;
  const float* books = h.at<float>(kBooks);
  alignas(64) uint8_t fourth[64];
  for (int i = 0; i < 64; ++i) fourth[i] = uint8_t(i * 4);
  __m512i index[kPlanes];
  each<kPlanes>([&](auto plane) {
    index[plane] = _mm512_add_epi8(_mm512_load_si512(fourth), _mm512_set1_epi8(plane));
  });
  for (int64_t set = begin; set < end; ++set) {
    Set& to = static_cast<Set*>(p.table)[set];
    const int64_t first = set * kLookups, count = h.tables() - first < kLookups ? h.tables() - first : kLookups;
    float most = 0, finite = 0;
    for (int64_t table = first; table < first + count; ++table) {
      const float *x = p.stored + table / h.books * size, *reach = h.at<float>(kReach) + table % h.books * size;
      float sum = 0;
      for (int64_t i = 0; i < size; ++i) sum += std::fabs(x[i]) * reach[i], finite += x[i] - x[i];
      most = most < sum ? sum : most;
    }
    finite += most - most;
    const bool none = !(most > 0x1p-103f);  // the reciprocal of a unit would overflow
    to.unit = none ? finite : most / kLargest + finite;
    const F inverse = splat(none || finite != 0 ? 0.0f : kLargest / most);
    for (int64_t i = 0; i < count; ++i) {
      const float* book = books + (first + i) % h.books * vectors * size;
      const float* x = p.stored + (first + i) / h.books * size;
      for (int64_t v = 0; v < vectors; v += 2 * kLanes) {
        const int64_t next = v + kLanes < vectors ? v + kLanes : v;
        F sums[2] = {splat(0), splat(0)};
        auto add_column = [&](int64_t k) __attribute__((always_inline)) {
          sums[0] = fma(load(book + k * vectors + v), splat(x[k]), sums[0]);
          sums[1] = fma(load(book + k * vectors + next), splat(x[k]), sums[1]);
        };
        if (size == 8) {
          each<8>([&](auto k) { add_column(k); });
        } else {
          for (int64_t k = 0; k < size; ++k) add_column(k);
        }
        __m512i fixed[2];
        each<2>([&](auto part) {
          const __m512i whole = _mm512_cvtps_epi32(mul(sums[part], inverse).v);
          fixed[part] = _mm512_add_epi32(whole, _mm512_set1_epi32(int(kMiddle)));
        });
        each<kPlanes>([&](auto plane) {
          const __m512i bytes = _mm512_permutex2var_epi8(fixed[0], index[plane], fixed[1]);
          uint8_t* place = to.bytes + i * kTable + plane * 256 + v;
          _mm256_store_si256(reinterpret_cast<__m256i*>(place), _mm512_castsi512_si256(bytes));
        });
      }
    }
  }
}

// Sums of bytes, in 16 bits: of even rows and of odd rows.
struct Halves {
  __m512i even, odd;
};

INLINE void look_up(const __m512i* table, __m512i codes, __mmask64 upper, Halves& sums) {
  const __m512i below = _mm512_permutex2var_epi8(table[0], codes, table[1]);
  const __m512i above = _mm512_permutex2var_epi8(table[2], codes, table[3]);
  const __m512i found = _mm512_mask_blend_epi8(upper, below, above);
  sums.even = _mm512_add_epi16(sums.even, _mm512_and_si512(found, _mm512_set1_epi16(255)));
  sums.odd = _mm512_add_epi16(sums.odd, _mm512_srli_epi16(found, 8));
}

// Adds the sums of one set to 64 rows: sums [64], even rows first. All is unrolled, or the sums would live in memory.
INLINE void flush(const Halves* halves, float unit, int64_t count, float* to) {
  const __m512i offset = _mm512_set1_epi32(-int32_t(count) * int32_t(kMiddle));  // at most 2^28
  each<4>([&](auto half) {
    __m512i whole = offset;
    each<kPlanes>([&](auto plane) {
      const __m512i all = half / 2 ? halves[plane].odd : halves[plane].even;
      const __m256i part = half % 2 ? _mm512_extracti64x4_epi64(all, 1) : _mm512_castsi512_si256(all);
      whole = _mm512_add_epi32(whole, _mm512_slli_epi32(_mm512_cvtepu16_epi32(part), plane * 8));
    });
    store(to + half * kLanes, fma(to_float(I{whole}), splat(unit), load(to + half * kLanes)));
  });
}

// Adds what one set gives for UNITS units, which share the loads of its tables.
template <int UNITS>
INLINE void add_set(const Set& set, const uint8_t* codes, int64_t count, float* sums) {
  Halves halves[UNITS][kPlanes];
  each<UNITS>([&](auto u) {
    each<kPlanes>([&](auto plane) { halves[u][plane] = {_mm512_setzero_si512(), _mm512_setzero_si512()}; });
  });
  for (int64_t i = 0; i < count; ++i, codes += kUnitRows) {
    __m512i code[UNITS];
    __mmask64 upper[UNITS];
    each<UNITS>([&](auto u) {
      code[u] = _mm512_loadu_si512(codes + u * kLookups * kUnitRows);
      ask_ahead<2>(codes + u * kLookups * kUnitRows);  // the tables of the set fill most of the first
      upper[u] = _mm512_movepi8_mask(code[u]);
    });
    each<kPlanes>([&](auto plane) {
      __m512i table[4];
      each<4>([&](auto q) { table[q] = _mm512_load_si512(set.bytes + i * kTable + plane * 256 + q * 64); });
      each<UNITS>([&](auto u) { look_up(table, code[u], upper[u], halves[u][plane]); });
    });
  }
  each<UNITS>([&](auto u) { flush(halves[u], set.unit, count, sums + u * kUnitRows); });
}

void add_up(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  constexpr int64_t kMost = 64;  // units whose sums are kept while a set of tables stays in the first-level cache
  alignas(64) float sums[kMost * kUnitRows];
  for (int64_t from = begin; from < end; from += kMost) {
    const int64_t to = from + kMost < end ? from + kMost : end;
    for (int64_t i = 0; i < (to - from) * kUnitRows; ++i) sums[i] = 0;
    for (int64_t first = 0; first < h.tables(); first += kLookups) {
      const Set& set = static_cast<const Set*>(p.table)[first / kLookups];
      const int64_t count = h.tables() - first < kLookups ? h.tables() - first : kLookups;
      const uint8_t* codes = h.at<uint8_t>(kWords) + (first * h.units() + from * kLookups) * kUnitRows;
      float* sum = sums;
      int64_t unit = from;
      for (; unit + 2 <= to; unit += 2, codes += 2 * kLookups * kUnitRows, sum += 2 * kUnitRows) {
        add_set<2>(set, codes, count, sum);
      }
      if (unit < to) add_set<1>(set, codes, count, sum);
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

// The products of the vectors of one codebook with the inputs of one group, [V]; GROUP 0 is any length.
template <int GROUP>
INLINE void products(const float* book, const float* x, int64_t group, int64_t vectors, float* to) {
  for (int64_t v = 0; v < vectors; v += kLanes) {
    F sum = mul(load(book + v), splat(x[0]));
    for (int64_t i = 1; i < (GROUP ? GROUP : group); ++i) sum = fma(load(book + i * vectors + v), splat(x[i]), sum);
    store(to + v, sum);
  }
}

INLINE Table sums_table(const Header& h) {
  return {h.tables() * h.vectors() * int64_t(sizeof(float)), (h.tables() + kLookups - 1) / kLookups};
}

void fill_sums(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  for (int64_t table = begin * kLookups; table < end * kLookups && table < h.tables(); ++table) {
    const float* book = h.at<float>(kBooks) + table % h.books * h.vectors() * h.group;
    const float* x = p.stored + table / h.books * h.group;
    float* to = static_cast<float*>(p.table) + table * h.vectors();
    h.group == 8 ? products<8>(book, x, 8, h.vectors(), to) : products<0>(book, x, h.group, h.vectors(), to);
  }
}

// Adds what some tables, [count, vectors], give for the rows of one unit: codes [count, 64], sums [64].
INLINE void add_tables(const float* table, int64_t vectors, const uint8_t* codes, int64_t count, float* sums) {
  F sum[4];
  each<4>([&](auto i) { sum[i] = load(sums + i * kLanes); });
  for (int64_t t = 0; t < count; ++t, table += vectors, codes += kUnitRows) {
    ask_ahead<2>(codes);
    each<4>([&](auto i) { sum[i] = add(sum[i], gather(table, load(codes + i * kLanes))); });
  }
  each<4>([&](auto i) { store(sums + i * kLanes, sum[i]); });
}

void add_up(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  constexpr int64_t kMost = 64;     // units whose sums are kept while some tables stay in the first-level cache
  constexpr int64_t kTogether = 16;  // tables of 1 KiB that do so: half of a first-level cache of 32 KiB
  static_assert(kLookups % kTogether == 0, "the codes of these tables stand together");
  alignas(64) float sums[kMost * kUnitRows];
  for (int64_t from = begin; from < end; from += kMost) {
    const int64_t to = from + kMost < end ? from + kMost : end;
    for (int64_t i = 0; i < (to - from) * kUnitRows; ++i) sums[i] = 0;
    for (int64_t first = 0; first < h.tables(); first += kTogether) {
      const float* table = static_cast<const float*>(p.table) + first * h.vectors();
      const int64_t count = h.tables() - first < kTogether ? h.tables() - first : kTogether;
      for (int64_t unit = from; unit < to; ++unit) {
        const uint8_t* codes = h.at<uint8_t>(kWords) + place_of_codes(h, unit * 4, first);
        add_tables(table, h.vectors(), codes, count, sums + (unit - from) * kUnitRows);
      }
    }
    for (int64_t unit = from; unit < to; ++unit) finish_unit(p, unit, sums + (unit - from) * kUnitRows);
  }
}

#endif

}  // namespace
