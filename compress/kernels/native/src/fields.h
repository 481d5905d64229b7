// Where a code of 1 to 8 bits stands. A period of 32 codes is cut into fields of 8, 4, 2 or 1 bits: 3 = 2 + 1,
// 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. The first, widest fields are a plain bit stream, as they are stored. In every part
// vector v of 8 holds four codes of each row, one in each byte: shifted by a constant and masked they are ready for an
// instruction that multiplies bytes.
#pragma once
#include <cstdint>

#include "abi.h"

namespace {

constexpr int widest_field(int bits) { return bits == 8 ? 8 : bits >= 4 ? 4 : bits >= 2 ? 2 : 1; }

struct Place {
  int vector, byte;
};

// The vector and byte of the code at `place` of a period.
constexpr Place place_of(int bits, int place) {
  const int field = widest_field(bits), per_byte = 8 / field, per_word = 32 / field, rest = place % per_word;
  return {place / per_word * per_byte + rest % per_byte, rest / per_byte};
}

// The column of byte `byte` of vector `vector`, the inverse of `place_of`.
constexpr int column_of(int bits, int vector, int byte) {
  const int field = widest_field(bits), per_byte = 8 / field;
  return vector / per_byte * (32 / field) + byte * per_byte + vector % per_byte;
}

// The word of a part of `field` bits that holds vector v, and how far its codes are shifted within their bytes.
constexpr int word_of(int field, int vector) { return vector / (8 / field); }
constexpr int shift_of(int field, int vector) { return vector % (8 / field) * field; }

// The next part after one of `field` bits where `left` bits of the code are still to come.
constexpr int next_field(int left) { return left >= 4 ? 4 : left >= 2 ? 2 : left; }

}  // namespace
