// Products through a table that is made of the inputs once for all rows: of sums (additive.h), or of bytes (bytes.h).
#pragma once
#include "additive.h"
#include "bytes.h"

namespace {

inline Table table(const Header& h, int64_t tokens) {
  return h.looked_up() ? sums_table(h) : bytes_table(h, tokens);
}

inline void fill_table(const Product& p, int64_t begin, int64_t end) {
  p.weight->looked_up() ? fill_sums(p, begin, end) : fill_bytes(p, begin, end);
}

inline void multiply_by_table(const Product& p, int64_t begin, int64_t end) {
  p.weight->looked_up() ? add_up(p, begin, end) : multiply_bytes(p, begin, end);
}

}  // namespace
