// The C interface of the library: which unit runs, and the calls on prepared weights.
#include <cstring>

#include "abi.h"
#include "fields.h"
#if defined(COMPRESS_X86)
#include "many.h"
#endif
#include "numbers.h"
#include "pool.h"
#include "scratch.h"

using namespace compress_native;

namespace {

const Unit* const kUnits[] = {
#if defined(COMPRESS_X86)
    &unit_avx512vnni,
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
  const bool bytes = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  if (candidate == &unit_avx512 || (bytes && candidate == &unit_avx512vnni)) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }
#endif
  return candidate == &unit_scalar;
}

// Of the calling thread.
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

void run_table(const void* context, int64_t begin, int64_t end) {
  unit->fill_table(*static_cast<const Product*>(context), begin, end);
}

#if defined(COMPRESS_X86)
void run_many(const void* context, int64_t begin, int64_t end) {
  multiply_many(*static_cast<const Many*>(context), begin, end);
}
#endif

void run_round(const void* context, int64_t begin, int64_t end) {
  unit->round_inputs(*static_cast<const Rounded*>(context), begin, end);
}

void run_rounded(const void* context, int64_t begin, int64_t end) {
  unit->product_rounded(*static_cast<const Rounded*>(context), begin, end);
}

void run_decode(const void* context, int64_t begin, int64_t end) {
  const Decode& d = *static_cast<const Decode*>(context);
  unit->decode(d, d.first / kLanes + begin, d.first / kLanes + end);
}

struct Fields {
  const uint32_t* in;
  int64_t words, width;
  int bits;
  uint32_t* out;
};

void run_fields(const void* context, int64_t begin, int64_t end) {
  const Fields& f = *static_cast<const Fields*>(context);
  const int64_t periods = (f.width + kPeriod - 1) / kPeriod;
  const uint32_t mask = (1u << f.bits) - 1;
  for (int64_t row = begin; row < end; ++row) {
    const uint32_t* in = f.in + row * f.words;
    for (int64_t period = 0; period < periods; ++period) {
      uint32_t* out = f.out + (row * periods + period) * f.bits;
      for (int w = 0; w < f.bits; ++w) out[w] = 0;
      const int64_t first = period * kPeriod, left = f.width - first < kPeriod ? f.width - first : kPeriod;
      for (int j = 0; j < left; ++j) {
        const int64_t bit = (first + j) * f.bits, word = bit / 32;
        uint64_t both = in[word];
        if (bit % 32 + f.bits > 32) both |= uint64_t(in[word + 1]) << 32;
        uint32_t code = uint32_t(both >> bit % 32) & mask;
        const Place place = place_of(f.bits, j);
        for (int done = 0; done < f.bits;) {
          const int field = done ? next_field(f.bits - done) : widest_field(f.bits);
          const int shift = place.byte * 8 + shift_of(field, place.vector);
          out[done + word_of(field, place.vector)] |= (code & ((1u << field) - 1)) << shift;
          code >>= field, done += field;
        }
      }
    }
  }
}

enum Error { kNotAWeight = 1, kNotInRange = 2, kNoMemory = 3, kNoInstructions = 4 };

int64_t size_of(int64_t type) { return type == kFloat ? 4 : 2; }

int multiply(const Header& h, const void* x, int64_t x_type, int64_t tokens, const void* bias, int64_t bias_type,
             void* out, int64_t out_type, int threads) {
  constexpr int64_t kPadding = 2 * kPeriod;  // columns of one period of kept values at 2:4
  const int64_t padded = (h.cols + kPadding - 1) / kPadding * kPadding, size = padded * tokens;
  const bool permuted = h.offset[kPerm] != 0, summed = tokens == 1 && h.kind == kCodes && h.offset[kZero];
  const Table wanted = unit->table(h, tokens);
  const int64_t table = (wanted.bytes + 63) / 64 * 16;
  float* memory = scratch.floats(table + size * (permuted ? 2 : 1) + (summed ? h.groups() : 0));
  if (!memory) return kNoMemory;
  float *natural = memory + table, *stored = natural, *sums = natural + size * (permuted ? 2 : 1);
  transpose_inputs(h, x, x_type, tokens, padded, natural);
  if (permuted) {
    stored = natural + size;
    const uint16_t* narrow = h.at<uint16_t>(kPerm);
    const int32_t* wide = h.at<int32_t>(kPerm);
    for (int64_t k = 0; k < h.cols; ++k) {
      const int64_t from = h.col_bytes == 2 ? int64_t(narrow[k]) : wide[k];
      for (int64_t t = 0; t < tokens; ++t) stored[k * tokens + t] = natural[from * tokens + t];
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
  const Product p{&h, natural, stored, sums, table ? memory : nullptr, tokens, out, out_type, bias, bias_type};
  if (table) run(run_table, &p, wanted.parts, threads);
  // every part of a product by look-up reads all tables
  run(run_product, &p, h.pieces(), threads, h.looked_up() ? 2 : kParts);
  return 0;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int64_t cn_abi() { return kAbi; }

// What the library was built from, so that an installation sees whether it has to build it again.
#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
const char* cn_build() { return TEXT(COMPRESS_BUILD); }

// Returns the i-th unit by preference, or null after the last; `cn_runs` whether this processor can run it.
const char* cn_unit(int i) { return i >= 0 && i < int(sizeof kUnits / sizeof *kUnits) ? kUnits[i]->name : nullptr; }
int cn_runs(int i) { return runs_here(kUnits[i]); }
void cn_use(int i) { unit = kUnits[i]; }
void cn_openmp(void* entry) { use_openmp(reinterpret_cast<OpenMp>(entry)); }

// out [T, N] = x [T, K] · weightᵀ + bias for 1 to kFewTokens tokens. Returns 0, or what is wrong.
int cn_linear(const void* weight, const void* x, int64_t x_type, int64_t tokens, const void* bias, int64_t bias_type,
              void* out, int64_t out_type, int threads) {
  const Header& h = *static_cast<const Header*>(weight);
  if (h.magic != kMagic || !unit) return kNotAWeight;
  if (tokens < 1 || tokens > kFewTokens) return kNotInRange;
  if (!h.looked_up()) return multiply(h, x, x_type, tokens, bias, bias_type, out, out_type, threads);
  // a table belongs to one token; looking up costs no more than multiplying a decoded weight
  for (int64_t t = 0; t < tokens; ++t) {
    const char* row = static_cast<const char*>(x) + t * h.cols * size_of(x_type);
    char* to = static_cast<char*>(out) + t * h.rows * size_of(out_type);
    if (const int error = multiply(h, row, x_type, 1, bias, bias_type, to, out_type, threads)) return error;
  }
  return 0;
}

// Whether the unit in use multiplies many tokens of bfloat16 by itself.
int cn_has_many() {
#if defined(COMPRESS_X86)
  return unit == &unit_avx512vnni && __builtin_cpu_supports("avx512bf16");
#else
  return 0;
#endif
}

// The same for any number of tokens, x and out in bfloat16.
int cn_many(const void* weight, const void* x, int64_t x_type, int64_t tokens, const void* bias, int64_t bias_type,
            void* out, int64_t out_type, int threads) {
#if defined(COMPRESS_X86)
  const Header& h = *static_cast<const Header*>(weight);
  if (h.magic != kMagic || !unit) return kNotAWeight;
  if (!cn_has_many()) return kNoInstructions;
  if (x_type != kBfloat || out_type != kBfloat) return kNotInRange;
  const uint16_t* inputs = static_cast<const uint16_t*>(x);
  const int64_t stride = h.cols + h.cols % 2;
  if (stride != h.cols) {  // columns are read in pairs
    uint16_t* padded = reinterpret_cast<uint16_t*>(scratch.floats(tokens * stride / 2));
    if (!padded) return kNoMemory;
    for (int64_t t = 0; t < tokens; ++t) {
      std::memcpy(padded + t * stride, inputs + t * h.cols, size_t(h.cols) * sizeof *inputs);
      padded[t * stride + h.cols] = 0;
    }
    inputs = padded;
  }
  int64_t splits = 1;  // each decodes the weight: more of them only where threads would have nothing to do
  while (h.units() * splits < threads && tokens / splits >= 128) splits *= 2;
  std::atomic<bool> failed{false};
  const Many m{&h, unit, inputs, stride, tokens, splits, bias, bias_type, static_cast<uint16_t*>(out), &failed};
  run(run_many, &m, h.units() * splits, threads);
  return failed ? kNoMemory : 0;
#else
  return kNoInstructions;
#endif
}

// The same for any number of tokens whose inputs are rounded to 8 bits, each token with a scale of its own. The weight
// has codes of 8 bits with one scale for each row.
int cn_rounded(const void* weight, const void* x, int64_t x_type, int64_t tokens, const void* bias, int64_t bias_type,
               void* out, int64_t out_type, int threads) {
  constexpr int64_t kAtOnce = 512, kWidest = 65536;  // columns whose products with codes fit into 32 bits
  const Header& h = *static_cast<const Header*>(weight);
  if (h.magic != kMagic || !unit || h.kind != kRounded) return kNotAWeight;
  if (h.bits != 8 || h.stats != kScaleOnly || h.group != h.cols || h.entries || h.cols > kWidest) return kNotInRange;
  const int64_t steps = (h.cols + kPeriod - 1) / kPeriod * (kPeriod / 4), size = steps * unit->four_words;
  const int64_t most = tokens < kAtOnce ? tokens : kAtOnce;
  float* memory = scratch.floats(most * (size + 2));
  if (!memory) return kNoMemory;
  int32_t* fours = reinterpret_cast<int32_t*>(memory);
  for (int64_t t = 0; t < tokens; t += most) {
    const int64_t count = tokens - t < most ? tokens - t : most;
    int64_t splits = 1;  // each reads the weight: more of them only where threads would have nothing to do
    while (h.units() * splits < threads && count / splits >= 16) splits *= 2;
    const Rounded r{&h, static_cast<const char*>(x) + t * h.cols * size_of(x_type), x_type, count, splits, steps, fours,
                    fours + most * size, memory + most * (size + 1), bias, bias_type,
                    static_cast<char*>(out) + t * h.rows * size_of(out_type), out_type};
    run(run_round, &r, count, threads);
    run(run_rounded, &r, h.units() * splits, threads);
  }
  return 0;
}

// Codes of one stored bit stream per row, `words` 32-bit words each, to the fields of the kernels: out [rows, periods, bits].
void cn_fields(const uint32_t* rows_in, int64_t rows, int64_t words, int64_t width, int64_t bits, uint32_t* out,
               int threads) {
  const Fields f{rows_in, words, width, int(bits), out};
  run(run_fields, &f, rows, threads);
}

// Rows `first` to `first + 16·tiles` as out [K, stride], values exactly those of the layout's unpack. Returns as above.
int cn_decode(const void* weight, int64_t first, int64_t tiles, void* out, int64_t out_type, int64_t stride,
              int threads) {
  const Header& h = *static_cast<const Header*>(weight);
  if (h.magic != kMagic || !unit) return kNotAWeight;
  if (first % kLanes || first / kLanes + tiles > h.tiles() || stride < tiles * kLanes) return kNotInRange;
  const Decode d{&h, first, out, out_type, stride};
  run(run_decode, &d, tiles, threads);
  return 0;
}

}  // extern "C"
#pragma GCC visibility pop
