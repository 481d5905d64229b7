#include "simd_avx512.h"

#include "unit.h"

const compress_native::Unit compress_native::unit_avx512vnni = {
    "avx512vnni", table, fill_table, product, decode, columns, kFourWords, round_inputs, product_rounded};
