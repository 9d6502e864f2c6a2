/* Sums of table entries of a tile, where one instruction looks up the entries of all lanes of a panel. */
#pragma once
#include "matmul.h"
#include "tiles.h"

/* Adds one entry per row, lane and panel; the index in each lane begins at bit `shift`. */
ALWAYS void lookup(const int R, const int P, const int shift, const int32_t *const *table, const vec *index,
                   vec (*sum)[4]) {
    vec chosen[4];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) chosen[p] = shift ? vec_shift(index[p], shift) : index[p];
    TILE(sum[m][p] =
             vec_add(sum[m][p], vec_choose(vec_load(table[m] + shift / LUT_INPUTS * TABLE), chosen[p])))
}

ALWAYS void lut_fixed(const int R, const int P, const int32_t *const *tables, const segment_t *segments,
                      int count, const uint32_t *b, int64_t panel, int most, int64_t *wide,
                      int64_t wide_stride, int32_t *sums) {
    vec sum[8][4];
    int done = 0;
    TILE(sum[m][p] = vec_zero())
    for (int k = 0; k < count; k++) {
        const int32_t *table[8];
        const uint32_t *w = b + segments[k].b * LANES;
#pragma GCC unroll 8
        for (int m = 0; m < R; m++) table[m] = tables[m] + segments[k].a;
        for (int left = segments[k].groups; left > 0; left -= LUT_GROUPS, w += LANES) {
            int groups = left < LUT_GROUPS ? left : LUT_GROUPS;
            if ((done += groups) > most) {
                TILE(widen(wide + m * wide_stride + p * LANES, sum[m][p]); sum[m][p] = vec_zero())
                done = groups;
            }
            vec index[4]; /* of table entries, lowest bits first */
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) {
                index[p] = vec_load(w + p * panel);
                /* a single row uses each weight once: fetch those of the next tile meanwhile */
                if (R == 1) __builtin_prefetch(w + (P + p) * panel);
            }
            int g = 0;
            if (P <= 2) /* more panels would need too many registers */
                for (; g + 4 <= groups; g += 4) {
                    lookup(R, P, 0, table, index, sum);
                    lookup(R, P, LUT_INPUTS, table, index, sum);
                    lookup(R, P, 2 * LUT_INPUTS, table, index, sum);
                    lookup(R, P, 3 * LUT_INPUTS, table, index, sum);
#pragma GCC unroll 8
                    for (int m = 0; m < R; m++) table[m] += 4 * TABLE;
#pragma GCC unroll 4
                    for (int p = 0; p < P; p++) index[p] = vec_shift(index[p], 4 * LUT_INPUTS);
                }
#pragma GCC unroll 1
            for (; g < groups; g++) {
                lookup(R, P, 0, table, index, sum);
#pragma GCC unroll 8
                for (int m = 0; m < R; m++) table[m] += TABLE;
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) index[p] = vec_shift(index[p], LUT_INPUTS);
            }
        }
    }
    if (wide)
        TILE(widen(wide + m * wide_stride + p * LANES, sum[m][p]))
    else
        TILE(vec_store(sums + (m * P + p) * LANES, sum[m][p]))
}

#define CASE(R, P)                                                                             \
    case 8 * R + P:                                                                            \
        if (R <= LUT_ROWS(P))                                                                  \
            lut_fixed(R, P, tables, segments, count, b, panel, most, wide, wide_stride, sums); \
        break;

static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride,
                     int32_t *sums) {
    switch (8 * rows + panels) { TILE_SIZES(CASE) }
}
#undef CASE
