// The entry points of one unit, over the lanes of the simd header that was included before.
#pragma once
#include <cstdlib>

#include "code_kernels.h"
#include "dense.h"
#include "rounded.h"
#include "sparse.h"
#include "tables.h"

namespace {

constexpr int64_t kBlock = kSparseBlock;  // columns decoded at once: 8 KiB, a quarter of a first-level cache

struct Kernel {
  void (*decode)(const Header&, int64_t tile, int64_t from, int64_t to, float* block);
  void (*one_token)(const Product&, int64_t tile, float* out);  // null: decode, then multiply
};

inline Kernel kernel_of(const Header& h) {
  if (h.kind == kDense) return {decode_dense, one_token_dense};
  if (h.kind == kSparse) return {decode_sparse, sparse_one_token(h)};
  if (h.kind == kAdditive) return {decode_additive, h.bits > 8 && h.group % 8 == 0 ? one_token_vectors : nullptr};
  const CodeKernel codes = code_kernel(h);
  return {codes.decode, codes.one_token};
}

void product(const Product& p, int64_t begin, int64_t end) {
  const Header& h = *p.weight;
  if (p.table) return multiply_by_table(p, begin, end);
  const Kernel kernel = kernel_of(h);
  alignas(64) float acc[kFewTokens * kLanes], block[kBlock * kLanes];
  for (int64_t tile = begin; tile < end; ++tile) {
    if (p.tokens == 1 && kernel.one_token) {
      kernel.one_token(p, tile, acc);
    } else {
      for (int64_t i = 0; i < p.tokens * kLanes; ++i) acc[i] = 0;
      for (int64_t k = 0; k < h.cols; k += kBlock) {
        const int64_t to = k + kBlock < h.cols ? k + kBlock : h.cols;
        kernel.decode(h, tile, k, to, block);
        multiply_all(block, to - k, p.stored + k * p.tokens, p.tokens, acc);
      }
    }
    finish(p, tile, acc);
  }
}

void columns(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  kernel_of(h).decode(h, tile, from, to, block);
}

void decode_tile(const Header& h, const Kernel& kernel, int64_t tile, void* out, int64_t out_type, int64_t stride) {
  const uint16_t* narrow = h.at<uint16_t>(kPerm);
  const int32_t* wide = h.at<int32_t>(kPerm);
  alignas(64) float block[kBlock * kLanes];
  for (int64_t k = 0; k < h.cols; k += kBlock) {
    const int64_t to = k + kBlock < h.cols ? k + kBlock : h.cols;
    kernel.decode(h, tile, k, to, block);
    for (int64_t j = k; j < to; ++j) {
      const int64_t column = !narrow ? j : h.col_bytes == 2 ? int64_t(narrow[j]) : wide[j];
      store_number(out, out_type, column * stride, load(block + (j - k) * kLanes));
    }
  }
}

void decode(const Decode& d, int64_t begin, int64_t end) {
  const Header& h = *d.weight;
  const Kernel kernel = kernel_of(h);
  const int64_t size = d.out_type == kFloat ? 4 : 2;
  // a sparse part is added to float32 before anything is rounded
  const bool aside = h.entries && d.out_type != kFloat;
  float* whole = aside ? static_cast<float*>(std::aligned_alloc(64, size_t(h.cols) * kLanes * sizeof(float))) : nullptr;
  for (int64_t tile = begin; tile < end; ++tile) {
    char* out = static_cast<char*>(d.out) + (tile * kLanes - d.first) * size;
    if (!aside) {
      decode_tile(h, kernel, tile, out, d.out_type, d.stride);
      if (h.entries) add_entries(h, tile, reinterpret_cast<float*>(out), d.stride);
    } else {
      decode_tile(h, kernel, tile, whole, kFloat, kLanes);
      add_entries(h, tile, whole, kLanes);
      for (int64_t k = 0; k < h.cols; ++k) store_number(out, d.out_type, k * d.stride, load(whole + k * kLanes));
    }
  }
  std::free(whole);
}

}  // namespace
