/* Tiles of bytes in registers of LANES fours. */
#pragma once
#include "dot.h"
#include "tiles.h"

#ifndef expand_fours
static void expand_fours(const uint8_t *bits, int64_t fours, int8_t *to) {
    for (; fours > 0; fours--, bits += DOT_BYTES, to += 4 * LANES)
        for (int k = 0; k < 4 * LANES; k++) to[k] = bits[k / 8] >> k % 8 & 1 ? 1 : -1;
}
#endif

ALWAYS void dot_fixed(const int R, const int P, const uint8_t *const *a, const segment_t *segments, int count,
                      const int8_t *b, int64_t panel, int32_t *sums, int stride) {
    vec part[8][4];
    int room = DOT_STEPS;
    const int flushed = DOT_STEPS != INT32_MAX;
    TILE(part[m][p] = vec_zero())
    if (flushed) TILE(vec_store(sums + m * stride + p * LANES, vec_zero()))
    for (int k = 0; k < count; k++) {
        const int8_t *w = b + segments[k].b * LANES * 4;
        int64_t at = segments[k].a;
        for (int left = segments[k].words; left > 0;) {
            int steps = left < room ? left : room;
            left -= steps, room -= steps;
            for (; steps; steps--, at += 4, w += LANES * 4) {
                vec weights[4];
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) weights[p] = vec_load(w + p * panel);
#pragma GCC unroll 8
                for (int m = 0; m < R; m++) {
                    uint32_t four;
                    memcpy(&four, a[m] + at, 4);
                    vec x = vec_broadcast(four);
#pragma GCC unroll 4
                    for (int p = 0; p < P; p++) part[m][p] = vec_dot(part[m][p], x, weights[p]);
                }
            }
            if (flushed && !room) {
                TILE(int32_t *to = sums + m * stride + p * LANES;
                     vec_store(to, vec_add(vec_load(to), vec_lanes(part[m][p]))); part[m][p] = vec_zero())
                room = DOT_STEPS;
            }
        }
    }
    if (flushed)
        TILE(int32_t *to = sums + m * stride + p * LANES;
             vec_store(to, vec_add(vec_load(to), vec_lanes(part[m][p]))))
    else
        TILE(vec_store(sums + m * stride + p * LANES, part[m][p]))
}

#define CASE(R, P)                                                              \
    case 8 * R + P:                                                             \
        if (R <= DOT_REGISTERS(P) && P <= TILE_PANELS)                          \
            dot_fixed(R, P, a, segments, count, b, panel, sums, panels *LANES); \
        break;

static void dot_tile(int rows, int panels, const uint8_t *const *a, const segment_t *segments, int count,
                     const int8_t *b, int64_t panel, int32_t *sums) {
    for (int many; rows > 0; rows -= many, a += many, sums += many * panels * LANES) {
        int most = DOT_REGISTERS(panels);
        many = rows >= most ? most : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
        switch (8 * many + panels) {
            TILE_SIZES(CASE)
            CASE(6, 1) CASE(6, 2) CASE(6, 3) CASE(6, 4)
        }
    }
}
#undef CASE
