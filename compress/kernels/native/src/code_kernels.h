// Weights of codes decoded, and multiplied by one token in float32.
#pragma once
#include "codes.h"

namespace {

// The bits of a code from bit DONE upwards, in their place.
template <int BITS, int J, int DONE>
INLINE I rest_of(const I* words) {
  constexpr int kField = next_field(BITS - DONE);
  constexpr Place kPlace = place_of(BITS, J);
  constexpr int kShift = kPlace.byte * 8 + shift_of(kField, kPlace.vector);
  const I code = left(low(right(words[DONE + word_of(kField, kPlace.vector)], kShift), kField), DONE);
  if constexpr (DONE + kField == BITS) {
    return code;
  } else {
    return either(code, rest_of<BITS, J, DONE + kField>(words));
  }
}

// The code at place J of a period, in the low bits of each lane; what stands above them is not cleared where the width
// is a power of two.
template <int BITS, int J>
INLINE I code_of(const I* words) {
  constexpr int kField = widest_field(BITS);
  const I code = right(words[J * kField / 32], J * kField % 32);
  if constexpr (kField == BITS) {
    return code;
  } else {
    return either(low(code, kField), rest_of<BITS, J, kField>(words));
  }
}

// The code at any column, for groups that have no unrolled form.
INLINE I code_at(const uint32_t* words, int64_t column, int bits) {
  words += column / kPeriod * bits * kLanes;
  const int j = int(column % kPeriod), first = widest_field(bits);
  const Place place = place_of(bits, j);
  I code = low(right(load(words + j * first / 32 * kLanes), j * first % 32), first);
  for (int done = first; done < bits;) {
    const int field = next_field(bits - done), shift = place.byte * 8 + shift_of(field, place.vector);
    const I part = low(right(load(words + (done + word_of(field, place.vector)) * kLanes), shift), field);
    code = either(code, left(part, done));
    done += field;
  }
  return code;
}

// Writes columns `from` to `to` of the tile as [columns, 16], each value exactly as the layout's unpack makes it.
// Groups are multiples of RUN columns; `from` is a multiple of kPeriod.
template <int BITS, int RUN, class Groups>
void decode_codes(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  const Groups groups(h, tile, false);
  const Value<BITS, false> value;
  const uint32_t* words = words_of(h, tile) + from / kPeriod * BITS * kLanes;
  int64_t g = from / h.group, left = (g + 1) * h.group - from;  // the group, and its columns from here on
  Statistic s = groups.at(g);
  for (int64_t k = from; k < to; k += kPeriod, words += BITS * kLanes, block += kPeriod * kLanes) {
    I word[BITS];
    fetch<BITS>(words, word);
    each<kPeriod / RUN>([&](auto run) {
      if (k + run * RUN < to) {
        if (left == 0) s = groups.at(++g), left = h.group;
        left -= RUN;
        each<RUN>([&](auto j) {
          constexpr int kPlace = decltype(run)::value * RUN + decltype(j)::value;
          const F code = value(code_of<BITS, kPlace>(word));
          store(block + kPlace * kLanes, mul(sub(code, s.zero), s.scale));
        });
      }
    });
  }
}

// The input of each place of a period where all are kept.
struct EveryInput {
  static constexpr bool kSummed = false;
  const float* x;
  EveryInput(const Product& p, int64_t) : x(p.stored) {}
  INLINE void start_period() {}
  INLINE void next_period() { x += kPeriod; }
  template <int PLACE>
  INLINE F at() const { return splat(x[PLACE]); }
};

template <class Groups>
void decode_any(const Header& h, int64_t tile, int64_t from, int64_t to, float* block) {
  const Groups groups(h, tile, false);
  const uint32_t* words = words_of(h, tile);
  for (int64_t k = from; k < to;) {
    const int64_t g = k / h.group, end = (g + 1) * h.group < to ? (g + 1) * h.group : to;
    const Statistic s = groups.at(g);
    for (; k < end; ++k, block += kLanes) {
      store(block, mul(sub(to_float(code_at(words, k, int(h.bits))), s.zero), s.scale));
    }
  }
}

// One token: the sums of a group are made on bare codes, then scaled once:
// y = Σ_g scale_g · (Σ_k x_k · code_k − zero_g · Σ_k x_k).
// Inputs gives the input of each stored code. The sums of the inputs of a group are known where all rows have the same
// ones, and are made here where they have not (kSummed).
template <int BITS, int RUN, class Groups, class Inputs = EveryInput>
void one_token(const Product& p, int64_t tile, float* out) {
  constexpr bool kCentred = std::is_same<Groups, Integers>::value;
  constexpr int kChains = 4;
  const Header& h = *p.weight;
  constexpr bool kAny = std::is_same<Groups, Either>::value;  // whether codes are centred shows at the weight
  const Groups groups(h, tile, kCentred || kAny);
  const Value<BITS, kCentred> value;
  const uint32_t* words = words_of(h, tile);
  Inputs inputs(p, tile);
  F middle = splat(0);
  if constexpr (kAny) middle = splat(groups.middle());
  const int64_t last = h.groups();
  const bool shifted = groups.has_zero();
  F total = splat(0), sums[kChains], seen[kChains];
  auto clear = [&]() __attribute__((always_inline)) {
    each<kChains>([&](auto c) { sums[c] = seen[c] = splat(0); });
  };
  auto all = [](const F* parts) { return add(add(parts[0], parts[1]), add(parts[2], parts[3])); };
  clear();
  int64_t g = 0, left = h.group;
  for (; g < last; words += BITS * kLanes, inputs.next_period()) {
    I word[BITS];
    inputs.start_period();
    fetch<BITS>(words, word);
    each<kPeriod / RUN>([&](auto run) {
      each<RUN>([&](auto j) {
        constexpr int kPlace = decltype(run)::value * RUN + decltype(j)::value;
        F code = value(code_of<BITS, kPlace>(word));
        if constexpr (kAny) code = sub(code, middle);
        const F x = inputs.template at<kPlace>();
        sums[j % kChains] = fma(code, x, sums[j % kChains]);
        if constexpr (Inputs::kSummed) seen[j % kChains] = add(seen[j % kChains], x);
      });
      left -= RUN;
      if (left == 0 && g < last) {
        const Statistic s = groups.at(g);
        F sum = all(sums);
        if (shifted) sum = sub(sum, mul(s.zero, Inputs::kSummed ? all(seen) : splat(p.sums[g])));
        total = fma(s.scale, sum, total);
        clear();
        ++g, left = h.group;
      }
    });
  }
  store(out, total);
}

template <class Groups>
void one_token_any(const Product& p, int64_t tile, float* out) {
  const Header& h = *p.weight;
  const Groups groups(h, tile, false);
  const uint32_t* words = words_of(h, tile);
  F total = splat(0);
  for (int64_t g = 0; g < h.groups(); ++g) {
    const Statistic s = groups.at(g);
    for (int64_t k = g * h.group; k < (g + 1) * h.group; ++k) {
      const F weight = mul(sub(to_float(code_at(words, k, int(h.bits))), s.zero), s.scale);
      total = fma(weight, splat(p.stored[k]), total);
    }
  }
  store(out, total);
}

using DecodeCodes = void (*)(const Header&, int64_t, int64_t, int64_t, float*);
using OneToken = void (*)(const Product&, int64_t, float*);

struct CodeKernel {
  DecodeCodes decode;
  OneToken one_token;
};

// Runs of 16 columns serve groups of 32, too: sums are made in the same order, and each form less is a second less of
// compiling. Where products are made in bytes, a group of more than 65,536 columns is left to decoding.
template <int BITS>
CodeKernel kernel_of_width(const Header& h) {
  constexpr DecodeCodes kDecode = decode_codes<BITS, 16, Either>;
  if constexpr (kFewForms) {
    return {kDecode, one_token<BITS, 16, Either>};
  } else if constexpr (BITS == 1 || BITS > kByteBits) {
    return {kDecode, h.stats == kBilevel ? one_token<BITS, 16, Bilevel> : one_token<BITS, 16, Integers>};
  } else {
    return {kDecode, nullptr};
  }
}

inline CodeKernel code_kernel(const Header& h) {
  if (h.stats == kReal) return {decode_any<Reals>, one_token_any<Reals>};
  if (h.group % 16) return {decode_any<Either>, one_token_any<Either>};
  switch (h.bits) {
    case 1: return kernel_of_width<1>(h);
    case 2: return kernel_of_width<2>(h);
    case 3: return kernel_of_width<3>(h);
    case 4: return kernel_of_width<4>(h);
    case 5: return kernel_of_width<5>(h);
    case 6: return kernel_of_width<6>(h);
    case 7: return kernel_of_width<7>(h);
    default: return kernel_of_width<8>(h);
  }
}

}  // namespace
