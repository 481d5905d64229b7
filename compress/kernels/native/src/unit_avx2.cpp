#include "simd_avx2.h"

#include "unit.h"

const compress_native::Unit compress_native::unit_avx2 = {
    "avx2", table, fill_table, product, decode, columns, kFourWords, round_inputs, product_rounded};
