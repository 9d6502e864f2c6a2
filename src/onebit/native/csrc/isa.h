/* The contract of an instruction set: every name that its file may define, before it includes a kernel. A
 * name that it lacks has the portable meaning below, so that the file says what it does better. For word_of,
 * vec and tiles it also has `#define NAME NAME`.
 *
 * Sizes                portable
 * LANES                16  outputs per panel: it holds one unit of each of them, then the next unit of each,
 * … LUT_INPUTS           4   inputs per lookup; another number needs another lut_tables LUT_GROUPS 8 lookups
 * per word of weights TILE_ROWS            4   rows of the largest tile TILE_PANELS          2   its panels:
 * a multiple of 32 outputs WORD_ROWS            4   most rows of a tile of words_tile; a tile has that many,
 * or 4, 2 or 1 LUT_ROWS(panels)     4   the same of lut_tile
 *
 * Pieces of kernels
 * word_of                  the lowest bits of 32 flags
 * WIDE                 1   doubles at once in an epilogue, of the type `wide`. With it come
 * wide_load wide_all wide_ints wide_bytes   from doubles, one number, int32, bytes
 * wide_add_product         sum + x * y, of which no part is rounded
 * wide_floor               integers from `least` to `most`
 * wide_floor_bytes         the same plus `zero`, as bytes
 * vec                      a register of LANES int32. With it come, for words.h, lookups.h and dot_tiles.h,
 * vec_zero vec_load vec_store vec_add vec_broadcast   the last: a word in every lane
 * vec_xor vec_ones         bits of two registers that differ; the number of bits set in each lane, or in each
 * byte vec_add_ones             adds such numbers COUNTED                  how many of them fit a byte;
 * INT32_MAX: lanes are counted, which do not overflow vec_lane_sums            sums of the four bytes of each
 * lane, if bytes are counted vec_three                any bitwise function of three registers, where that is
 * faster than counting; else not defined vec_shift vec_choose     lanes to the right by some bits; for each
 * lane the table entry at its lowest LUT_INPUTS bits widen                    adds a register to LANES int64
 * vec_dot                  adds products of a broadcast four of bytes and weights of 1 and -1 to partial sums
 * DOT_STEPS                how often, before they overflow; INT32_MAX: never
 * vec_lanes                a sum per lane of the partial sums
 * DOT_REGISTERS(panels)    4   rows whose partial sums stay in registers
 *
 * Tiles, where pieces are not enough
 * words_tile lut_tile      see matmul.h; otherwise words.h and lookups.h
 * lut_tables               the tables of the channels of a pixel; with the portable vec those of
 * plain/tables.h, else there is no other expand_fours dot_tile    see dot.h; otherwise dot_tiles.h
 *
 * Kernels that an instruction set may have
 * DOT_FOURS            0   tap_fours is a multiple of this number; 0: there are no products of bytes (dot.h)
 * DOT_ROWS             16  most rows of a tile of bytes
 * DOT_SHIFT            0   dot_tile multiplies byte - DOT_SHIFT
 * DOT_FEW              0   rows up to which dot_few.h multiplies bytes; it needs AVX2 or AVX-512
 * DOT_LUT              0   outputs per panel of dot_lut.h; it needs AVX-512
 * BYTE_TILES           0   smallest batch for which amx.h multiplies int32 byte by byte
 * ROW_LANES            8   rows at once of lut_rows.h; 0: lookups in registers are faster, or there are no
 * vectors of GNU C ROW_BITS             4   inputs of its tables; a word of weights has a whole number of
 * them ROW_LEAST            2   rows that take as long one by one USES_NEON                the file has the
 * types of arm_neon.h
 *
 * The kernels of training/ and of decoder.h are in vectors of GNU C. They look at __AVX2__, __AVX512F__ and
 * the like themselves.
 */
#pragma once
#include "base.h"

#ifndef LANES
#define LANES 16
#endif
#ifndef LUT_INPUTS
#define LUT_INPUTS 4
#endif
#ifndef LUT_GROUPS
#define LUT_GROUPS 8
#endif
#ifndef TILE_ROWS
#define TILE_ROWS 4
#endif
#ifndef TILE_PANELS
#define TILE_PANELS 2
#endif
#ifndef WORD_ROWS
#define WORD_ROWS 4
#endif
#ifndef LUT_ROWS
#define LUT_ROWS(panels) 4
#endif
#ifndef DOT_FOURS
#define DOT_FOURS 0
#endif
#ifndef DOT_ROWS
#define DOT_ROWS 16
#endif
#ifndef DOT_SHIFT
#define DOT_SHIFT 0
#endif
#ifndef DOT_FEW
#define DOT_FEW 0
#endif
#ifndef DOT_LUT
#define DOT_LUT 0
#endif
#ifndef BYTE_TILES
#define BYTE_TILES 0
#endif
#if !defined(ROW_LANES) && defined(__GNUC__)
#define ROW_LANES 8
#define ROW_BITS 4
#define ROW_LEAST 2
#elif !defined(ROW_LANES)
#define ROW_LANES 0
#endif

#define TABLE (1 << LUT_INPUTS) /* entries of a lookup table */
#define TILE_OUTPUTS (TILE_PANELS * LANES)

/* Kernels of ob_isa. A header that has one, or a faster way for some shapes, defines the name again. */
#define RUN_DOT NULL
#define RUN_DOT_LUT NULL
#define RUN_WEIGHT_GRADIENT NULL
#define RUN_CONVOLUTION NULL
#define RUN_PRODUCT multiply_values
#define ROW_UNITS 0

#ifndef word_of
static inline uint32_t word_of(const int32_t *flags) {
    uint32_t word = 0;
    for (int k = 0; k < 32; k++) word |= (uint32_t)(flags[k] & 1) << k;
    return word;
}
#endif

#ifndef WIDE
#define WIDE 1
typedef double wide;
#define wide_load(from) (*(from))
#define wide_all(x) (x)
#define wide_ints(from) ((double)*(from))
#define wide_bytes(from) ((double)*(from))
#define wide_add_product(sum, x, y) ((sum) + (x) * (y))

static inline void wide_floor(int32_t *to, double x, double least, double most) {
    double near = x < least ? least : x > most ? most : x;
    int32_t whole = (int32_t)near;
    *to = whole - ((double)whole > near);
}

static inline void wide_floor_bytes(uint8_t *to, double x, double least, double most, int zero) {
    int32_t whole;
    wide_floor(&whole, x, least, most);
    *to = (uint8_t)(whole + zero);
}
#endif

#ifndef vec
#include "../plain/tables.h"

typedef struct {
    uint32_t of[LANES];
} vec;

#define EACH_LANE(body)                                  \
    {                                                    \
        vec to;                                          \
        for (int l = 0; l < LANES; l++) to.of[l] = body; \
        return to;                                       \
    }

ALWAYS vec vec_broadcast(uint32_t word) EACH_LANE(word) ALWAYS vec vec_add(vec x, vec y)
    EACH_LANE(x.of[l] + y.of[l]) ALWAYS vec vec_xor(vec x, vec y) EACH_LANE(x.of[l] ^ y.of[l]) ALWAYS vec
    vec_ones(vec x) EACH_LANE(ones(x.of[l])) ALWAYS vec vec_shift(vec x, int bits)
        EACH_LANE(x.of[l] >> bits) ALWAYS vec vec_choose(vec table, vec index)
            EACH_LANE(table.of[index.of[l] % TABLE])
#define vec_zero() vec_broadcast(0)
#define vec_add_ones(x, y) vec_add(x, y)
#define vec_lanes(sum) sum

                ALWAYS vec vec_load(const void *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

ALWAYS void vec_store(void *to, vec x) { memcpy(to, &x, sizeof x); }

ALWAYS void widen(int64_t *to, vec x) {
    for (int l = 0; l < LANES; l++) to[l] += (int32_t)x.of[l];
}

ALWAYS vec vec_dot(vec sum, vec x, vec w) {
    for (int l = 0; l < LANES; l++)
        for (int bit = 0; bit < 32; bit += 8)
            sum.of[l] += (x.of[l] >> bit & 255) * (uint32_t)(int8_t)(w.of[l] >> bit);
    return sum;
}
#endif

#ifndef COUNTED
#define COUNTED INT32_MAX
#define vec_lane_sums(x) x
#endif
#ifndef DOT_STEPS
#define DOT_STEPS INT32_MAX
#endif
#ifndef DOT_REGISTERS
#define DOT_REGISTERS(panels) 4
#endif
