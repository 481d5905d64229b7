// Products of many tokens, for processors that multiply bfloat16 (AVX512_BF16).
#pragma once
#include <atomic>

#include "abi.h"

namespace compress_native {

// out [T, N] = x [T, K] · weightᵀ + bias, x and out in bfloat16; columns beyond K up to `stride` are zeros.
struct Many {
  const Header* weight;
  const Unit* unit;        // which decodes
  const uint16_t* x;
  int64_t stride;          // of a token, even
  int64_t tokens, splits;  // parts that the tokens are cut into
  const void* bias;        // [N] of bias_type, or null
  int64_t bias_type;
  uint16_t* out;
  std::atomic<bool>* failed;  // set where a thread gets no memory
};

// Parts `begin` to `end` of units() · splits.
void multiply_many(const Many& m, int64_t begin, int64_t end);

}  // namespace compress_native
