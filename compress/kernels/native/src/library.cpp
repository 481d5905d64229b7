// The C interface of the library: which unit runs, and the calls on prepared weights.
#include <cstdlib>
#include <cstring>

#include "abi.h"
#include "numbers.h"
#include "pool.h"

using namespace compress_native;

namespace {

const Unit* const kUnits[] = {
#if defined(COMPRESS_X86)
    &unit_avx512,
    &unit_avx2,
#endif
    &unit_scalar,
};
const Unit* unit = nullptr;

bool runs_here(const Unit* candidate) {
#if defined(COMPRESS_X86)
  __builtin_cpu_init();
  if (candidate == &unit_avx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
  if (candidate == &unit_avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }
#endif
  return candidate == &unit_scalar;
}

// Memory of the calling thread that grows to what its largest product needed.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float* floats(int64_t count) {
    if (count > capacity_) {
      std::free(data_);
      capacity_ = (count + 15) / 16 * 16;
      data_ = std::aligned_alloc(64, size_t(capacity_) * sizeof(float));
      if (!data_) capacity_ = 0;
    }
    return static_cast<float*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t capacity_ = 0;
};
thread_local Scratch scratch;

// x [T, K] of any type to float32 [padded, T] with zeros below; `perm` takes stored columns from input features.
void transpose_inputs(const Header& h, const void* x, int64_t type, int64_t tokens, int64_t padded, float* to) {
  for (int64_t t = 0; t < tokens; ++t) {
    if (type == kFloat) {
      const float* row = static_cast<const float*>(x) + t * h.cols;
      for (int64_t k = 0; k < h.cols; ++k) to[k * tokens + t] = row[k];
    } else if (type == kBfloat) {
      const uint16_t* row = static_cast<const uint16_t*>(x) + t * h.cols;
      for (int64_t k = 0; k < h.cols; ++k) to[k * tokens + t] = from_bfloat(row[k]);
    } else {
      const uint16_t* row = static_cast<const uint16_t*>(x) + t * h.cols;
      for (int64_t k = 0; k < h.cols; ++k) to[k * tokens + t] = from_half(row[k]);
    }
  }
  std::memset(to + h.cols * tokens, 0, size_t((padded - h.cols) * tokens) * sizeof(float));
}

void run_product(const void* context, int64_t begin, int64_t end) {
  unit->product(*static_cast<const Product*>(context), begin, end);
}

void run_decode(const void* context, int64_t begin, int64_t end) {
  const Decode& d = *static_cast<const Decode*>(context);
  unit->decode(d, d.first / kLanes + begin, d.first / kLanes + end);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int64_t cn_abi() { return kAbi; }

// Returns the i-th unit by preference, or null after the last; `cn_runs` whether this processor can run it.
const char* cn_unit(int i) { return i >= 0 && i < int(sizeof kUnits / sizeof *kUnits) ? kUnits[i]->name : nullptr; }
int cn_runs(int i) { return runs_here(kUnits[i]); }
void cn_use(int i) { unit = kUnits[i]; }
void cn_openmp(void* entry) { use_openmp(reinterpret_cast<OpenMp>(entry)); }

// out [T, N] = x [T, K] · weightᵀ + bias for 1 to kFewTokens tokens. Returns 0, or what is wrong.
int cn_linear(const void* weight, const void* x, int64_t x_type, int64_t tokens, const void* bias, int64_t bias_type,
              void* out, int64_t out_type, int threads) {
  const Header& h = *static_cast<const Header*>(weight);
  if (h.magic != kMagic || !unit) return 1;
  if (tokens < 1 || tokens > kFewTokens) return 2;
  const int64_t padded = (h.cols + kPeriod - 1) / kPeriod * kPeriod, size = (padded * tokens + 15) / 16 * 16;
  const bool permuted = h.offset[kPerm] != 0, summed = tokens == 1 && h.kind == kCodes && h.offset[kZero];
  float* memory = scratch.floats(size * (permuted ? 2 : 1) + (summed ? h.groups() : 0));
  if (!memory) return 3;
  float *stored = memory, *sums = memory + size * (permuted ? 2 : 1);
  transpose_inputs(h, x, x_type, tokens, padded, memory);
  if (permuted) {
    stored = memory + size;
    const uint16_t* narrow = h.at<uint16_t>(kPerm);
    const int32_t* wide = h.at<int32_t>(kPerm);
    for (int64_t k = 0; k < h.cols; ++k) {
      const int64_t from = h.col_bytes == 2 ? int64_t(narrow[k]) : wide[k];
      for (int64_t t = 0; t < tokens; ++t) stored[k * tokens + t] = memory[from * tokens + t];
    }
    std::memset(stored + h.cols * tokens, 0, size_t((padded - h.cols) * tokens) * sizeof(float));
  }
  if (summed) {
    for (int64_t g = 0; g < h.groups(); ++g) {
      float part[4] = {0, 0, 0, 0};
      for (int64_t k = 0; k < h.group; ++k) part[k % 4] += stored[g * h.group + k];
      sums[g] = (part[0] + part[1]) + (part[2] + part[3]);
    }
  }
  const Product p{&h, memory, stored, sums, nullptr, tokens, out, out_type, bias, bias_type};
  run(run_product, &p, h.tiles(), threads);
  return 0;
}

// Rows `first` to `first + 16·tiles` as out [K, stride], values exactly those of the layout's unpack. Returns as above.
int cn_decode(const void* weight, int64_t first, int64_t tiles, void* out, int64_t out_type, int64_t stride,
              int threads) {
  const Header& h = *static_cast<const Header*>(weight);
  if (h.magic != kMagic || !unit) return 1;
  if (first % kLanes || first / kLanes + tiles > h.tiles() || stride < tiles * kLanes) return 2;
  const Decode d{&h, first, out, out_type, stride};
  run(run_decode, &d, tiles, threads);
  return 0;
}

}  // extern "C"
#pragma GCC visibility pop
