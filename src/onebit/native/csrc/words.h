/* Bits in which the rows and weights of a tile differ, in registers. */
#pragma once
#include "matmul.h"
#include "tiles.h"

#ifdef vec_three
/* AVX-512 without VPOPCNTDQ: with vec_three (any bitwise function of three operands), carry-save adders add
 * the bits of four words (Harley and Seal), so that only one word in four is counted. */
#define SUM_OF_THREE 0x96   /* a ^ b ^ c */
#define CARRY_OF_THREE 0xe8 /* majority */

typedef struct {
    vec ones, twos, fours; /* bits of weight 1 and 2; of weight 4, their number per byte */
} counts_t;

/* Adds the differing bits of up to four words. */
ALWAYS void add_words(const int words, counts_t *sum, const uint32_t *a, const uint32_t *w) {
    vec x[4];
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++)
        x[n] = n < words ? vec_xor(vec_broadcast(a[n]), vec_load(w + n * LANES)) : vec_zero();
    vec first = vec_three(sum->ones, x[0], x[1], CARRY_OF_THREE);
    sum->ones = vec_three(sum->ones, x[0], x[1], SUM_OF_THREE);
    vec second = vec_three(sum->ones, x[2], x[3], CARRY_OF_THREE);
    sum->ones = vec_three(sum->ones, x[2], x[3], SUM_OF_THREE);
    vec four = vec_three(sum->twos, first, second, CARRY_OF_THREE);
    sum->twos = vec_three(sum->twos, first, second, SUM_OF_THREE);
    sum->fours = vec_add_ones(sum->fours, vec_ones(four));
}

ALWAYS void count_fixed(const int R, const int P, const uint32_t *const *a, const segment_t *segments,
                        int count, const uint32_t *b, int64_t panel, int32_t *sums) {
    counts_t sum[2][4];
    int room = COUNTED;
    TILE(sum[m][p].ones = sum[m][p].twos = sum[m][p].fours = vec_zero();
         vec_store(sums + (m * P + p) * LANES, vec_zero()))
    for (int k = 0; k < count; k++) {
        const uint32_t *w = b + segments[k].b * LANES;
        int64_t n = segments[k].a;
        for (int left = segments[k].words; left > 0;) {
            int whole = left / 4 < room ? left / 4 : room;
            room -= whole, left -= 4 * whole;
            for (; whole; whole--, n += 4, w += 4 * LANES)
                TILE(add_words(4, &sum[m][p], a[m] + n, w + p * panel))
            if (left > 0 && left < 4 && room) {
                TILE(add_words(left, &sum[m][p], a[m] + n, w + p * panel))
                room--, left = 0;
            }
            if (!room) {
                TILE(int32_t *to = sums + (m * P + p) * LANES;
                     vec_store(to, vec_add(vec_load(to), vec_lane_sums(sum[m][p].fours)));
                     sum[m][p].fours = vec_zero())
                room = COUNTED;
            }
        }
    }
    TILE(int32_t *to = sums + (m * P + p) * LANES;
         vec fours = vec_add(vec_load(to), vec_lane_sums(sum[m][p].fours));
         vec twos = vec_add(vec_add(fours, fours), vec_lane_sums(vec_ones(sum[m][p].twos)));
         vec_store(to, vec_add(vec_add(twos, twos), vec_lane_sums(vec_ones(sum[m][p].ones)))))
}

#define CASE(R, P)                                                         \
    case 8 * R + P:                                                        \
        if (R <= 2) count_fixed(R, P, a, segments, count, b, panel, sums); \
        break;

static void words_tile(int rows, int panels, const uint32_t *const *a, const segment_t *segments, int count,
                       const uint32_t *b, int64_t panel, int32_t *sums) {
    for (int m = 0; m < rows; m += 2, a += 2, sums += 2 * panels * LANES) {
        switch (8 * (rows == 1 ? 1 : 2) + panels) { /* rows: 1, 2 or 4 */
            TILE_SIZES(CASE)
        }
    }
}
#undef CASE
#else
ALWAYS void words_fixed(const int R, const int P, const uint32_t *const *a, const segment_t *segments,
                        int count, const uint32_t *b, int64_t panel, int32_t *sums) {
    const int flushed = COUNTED != INT32_MAX; /* whether `sum` would overflow and is flushed to `sums` */
    vec sum[4][4];
    int room = COUNTED;
    TILE(sum[m][p] = vec_zero())
    if (flushed) TILE(vec_store(sums + (m * P + p) * LANES, vec_zero()))
    for (int k = 0; k < count; k++) {
        const uint32_t *w = b + segments[k].b * LANES;
        for (int n = 0; n < segments[k].words;) {
            int end = segments[k].words;
            if (flushed) {
                if (end - n > room) end = n + room;
                room -= end - n;
            }
            for (; n < end; n++, w += LANES) {
                vec weights[4];
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) weights[p] = vec_load(w + p * panel);
#pragma GCC unroll 4
                for (int m = 0; m < R; m++) {
                    vec x = vec_broadcast(a[m][segments[k].a + n]);
#pragma GCC unroll 4
                    for (int p = 0; p < P; p++)
                        sum[m][p] = vec_add_ones(sum[m][p], vec_ones(vec_xor(x, weights[p])));
                }
            }
            if (flushed && !room) {
                TILE(int32_t *to = sums + (m * P + p) * LANES;
                     vec_store(to, vec_add(vec_load(to), vec_lane_sums(sum[m][p]))); sum[m][p] = vec_zero())
                room = COUNTED;
            }
        }
    }
    if (flushed)
        TILE(int32_t *to = sums + (m * P + p) * LANES;
             vec_store(to, vec_add(vec_load(to), vec_lane_sums(sum[m][p]))))
    else
        TILE(vec_store(sums + (m * P + p) * LANES, sum[m][p]))
}

#define CASE(R, P)                                                                                     \
    case 8 * R + P:                                                                                    \
        if (R <= WORD_ROWS && P <= TILE_PANELS) words_fixed(R, P, a, segments, count, b, panel, sums); \
        break;

static void words_tile(int rows, int panels, const uint32_t *const *a, const segment_t *segments, int count,
                       const uint32_t *b, int64_t panel, int32_t *sums) {
    switch (8 * rows + panels) { TILE_SIZES(CASE) }
}
#undef CASE
#endif
