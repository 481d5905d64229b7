// Where the processor multiplies bytes, too, what goes through tables and what rounds its inputs has a form of its own;
// the rest is that of the unit for AVX-512.
#include "simd_avx512.h"

#include "rounded.h"
#include "tables.h"

namespace {

void product(const Product& p, int64_t begin, int64_t end) {
  p.table ? multiply_by_table(p, begin, end) : unit_avx512.product(p, begin, end);
}

void decode(const Decode& d, int64_t begin, int64_t end) { unit_avx512.decode(d, begin, end); }

void columns(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  unit_avx512.columns(h, tile, from, to, block);
}

}  // namespace

const compress_native::Unit compress_native::unit_avx512vnni = {
    "avx512vnni", table, fill_table, product, decode, columns, kFourWords, round_inputs, product_rounded};
