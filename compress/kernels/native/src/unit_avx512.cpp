#include "simd_avx512.h"

#include "unit.h"

const compress_native::Unit compress_native::unit_avx512 = {
    "avx512", table, fill_table, product, decode, columns, kFourWords, round_inputs, product_rounded};
