#include "simd_avx512.h"

#include "unit.h"

const compress_native::Unit compress_native::unit_avx512vbmi = {"avx512vbmi", table_bytes, fill_table, product, decode};
