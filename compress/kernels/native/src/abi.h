// What the Python side and the units agree on: one prepared weight is one block of memory, a Header and its sections.
// Shape letters: N out features, K in features, G groups; a tile is 16 rows, which stand in the 16 lanes of a vector.
#pragma once
#include <cstdint>

namespace compress_native {

constexpr int64_t kAbi = 7;         // changes with anything below; a library of another version is not used
constexpr int64_t kMagic = 0x6b636f6c62706d63;
constexpr int kLanes = 16;          // rows of a tile
constexpr int kPeriod = 32;         // codes that end on a word boundary whatever their width is
constexpr int kUnitRows = 64;     // rows whose codes of additive codebooks stand side by side
constexpr int kLookups = 32;      // tables of an additive weight that are used together
constexpr int kFewTokens = 16;      // up to here the product is fused with decoding

enum Kind : int64_t { kCodes = 0, kDense = 1, kSparse = 2, kAdditive = 3, kRounded = 4 };  // kRounded: codes whose inputs are rounded
enum Stats : int64_t {
  kScaleOnly = 0,   // symmetric: SCALE [tiles, G, 16] in scale_type, the zero point is the middle code
  kScaleZero = 1,   // ZERO uint8 [tiles, G, 16] beside it
  kBilevel = 2,     // ZERO uint8 [tiles, G, 16]: scale code low, zero code high; STEPS float32 [runs, G, 4]
  kReal = 3,        // SCALE and ZERO float32 [tiles, G, 16]
};
enum Type : int64_t { kFloat = 0, kHalf = 1, kBfloat = 2 };
enum Section { kWords = 0, kScale, kZero, kSteps, kIndex, kPerm, kRowptr, kCol, kVal, kBooks, kReach, kVectors, kSections = 16 };

struct Header {
  int64_t magic, kind, rows, cols;
  int64_t bits, group, stats, scale_type;
  int64_t value_type;   // Type of stored values where they are not codes
  int64_t width;        // stored values of a row; cols except where the weight is sparse
  int64_t keep;         // n of n:4
  int64_t books;        // codebooks
  int64_t exponent;     // scales and sparse entries are times 2^exponent
  int64_t entries;      // of the sparse delta part
  int64_t col_bytes;    // 2 or 4
  int64_t run_tiles;    // tiles of one run of second-level statistics
  int64_t offset[kSections];  // bytes from the start of the block; 0 where there is no such section

  template <class T>
  const T* at(Section section) const {
    if (!offset[section]) return nullptr;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(this) + offset[section]);
  }
  int64_t groups() const { return width / group; }
  int64_t tiles() const { return (rows + kLanes - 1) / kLanes; }
  int64_t units() const { return (rows + kUnitRows - 1) / kUnitRows; }
  // Pieces of work of a product.
  int64_t pieces() const { return looked_up() ? units() : tiles(); }
  int64_t tables() const { return cols / group * books; }
  // Whether products go through tables of sums instead of decoded weights.
  bool looked_up() const { return kind == kAdditive && bits <= 8; }
  int64_t vectors() const { return int64_t(1) << (bits < 4 ? 4 : bits); }  // padded to the lanes of a vector
};
static_assert(sizeof(Header) == 32 * 8, "the Python side writes 32 integers");

// One product. Inputs are float32, padded with zeros to a multiple of kPeriod columns, columns outside, tokens inside.
struct Product {
  const Header* weight;
  const float* x;        // [K, T] in the order of input features
  const float* stored;   // [K, T] in the order of stored columns; the same where there is no permutation
  const float* sums;     // [G] of `stored` over each group, for one token
  void* table;           // what the unit makes of the inputs once for all rows, or null
  int64_t tokens;
  void* out;             // [T, N] of out_type
  int64_t out_type;
  const void* bias;      // [N] of bias_type, or null
  int64_t bias_type;
};

// The memory of that table, and in how many parts it may be filled; none where there is no byte of it.
struct Table {
  int64_t bytes, parts;
};

// One product with inputs rounded to 8 bits and codes of 8 bits, one scale for each row, no zero points.
struct Rounded {
  const Header* weight;
  const void* x;           // [T, K] of x_type
  int64_t x_type;
  int64_t tokens, splits;  // parts that the tokens are cut into
  int64_t steps;           // of four columns, those of whole periods
  int32_t* fours;          // [T, steps · four_words]: the codes of the inputs as the unit takes them
  int32_t* sums;           // [T]: 128 · Σ code
  float* scale;            // [T]
  const void* bias;        // [N] of bias_type, or null
  int64_t bias_type;
  void* out;               // [T, N] of out_type
  int64_t out_type;
};

// Rows `first` to `last` as a block with columns outside: out [K, stride], columns in the order of input features.
struct Decode {
  const Header* weight;
  int64_t first;
  void* out;
  int64_t out_type;
  int64_t stride;
};

// What every unit offers: work on parts begin to end.
struct Unit {
  const char* name;
  Table (*table)(const Header&, int64_t tokens);
  void (*fill_table)(const Product&, int64_t begin, int64_t end);  // parts of the table
  void (*product)(const Product&, int64_t begin, int64_t end);     // pieces
  void (*decode)(const Decode&, int64_t begin, int64_t end);       // tiles
  // Columns `from` to `to`, 128 at most, of a tile that has neither a permutation nor a sparse part: [columns, 16].
  void (*columns)(const Header&, int64_t tile, int64_t from, int64_t to, float* block);
  int64_t four_words;                                              // of `Rounded`
  void (*round_inputs)(const Rounded&, int64_t begin, int64_t end);     // tokens
  void (*product_rounded)(const Rounded&, int64_t begin, int64_t end);  // units() · splits
};

extern const Unit unit_scalar;
#if defined(COMPRESS_X86)
extern const Unit unit_avx2;
extern const Unit unit_avx512;
extern const Unit unit_avx512vnni;
#endif

}  // namespace compress_native
