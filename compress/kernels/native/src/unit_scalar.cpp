#include "simd_scalar.h"

#include "unit.h"

const compress_native::Unit compress_native::unit_scalar = {
    "scalar", table, fill_table, product, decode, columns, kFourWords, round_inputs, product_rounded};
