/* Products of real rows with rows of signs, in float32, by lookups: a table has the sums of a few inputs with
 * each choice of their signs, and a panel of FLOAT_LANES outputs looks up one of them in each lane. See
 * ob_product.
 *
 * An output is a sum of blocks, each a sum of lookups in order, whatever the tile and the number of threads.
 */
#pragma once
#include "signs.h"

#if defined(__AVX512F__)
#define looked_up(table, index) (floats_t) _mm512_permutexvar_ps((__m512i)(index), (__m512)(table))
#else
#define looked_up(table, index) (floats_t) _mm256_permutevar8x32_ps((__m256)(table), (__m256i)(index))
#endif
enum {
    BLOCK_WORDS = 8,
    BLOCK_INPUTS = BLOCK_WORDS * SIGN_WORD,
    BLOCK_TABLES = BLOCK_WORDS * SIGN_GROUPS,
    EDGE = 4
};

/* `to`: the tables of `count` inputs, with 0 behind them. */
ALWAYS void sum_tables(const float *x, int64_t count, floats_t *to) {
    words_t sides[SIGN_INPUTS];
    for (int k = 0; k < SIGN_INPUTS; k++)
        for (int lane = 0; lane < FLOAT_LANES; lane++) sides[k][lane] = lane >> k & 1 ? 0 : 0x80000000u;
    for (int64_t c = 0; c < count; c += SIGN_INPUTS) {
        floats_t sum[2] = {{0}};
        for (int k = 0; k < SIGN_INPUTS; k++)
            sum[k & 1] += (floats_t)((words_t)((floats_t){0} + x[c + k]) ^ sides[k]);
        *to++ = sum[0] + sum[1];
    }
}

/* Sums of R rows and P panels, of `tables` lookups. */
ALWAYS void add_chosen(const int R, const int P, const floats_t *tables, int64_t count, const uint32_t *words,
                       int64_t panel, floats_t (*sum)[EDGE]) {
    /* every other sum in the units that multiply: the others are busy with lookups */
    const floats_t one = (floats_t){0} + 1;
    for (; count > 0; count -= SIGN_GROUPS, words += FLOAT_LANES) {
        words_t index[EDGE];
        int groups = count < SIGN_GROUPS ? (int)count : SIGN_GROUPS;
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) memcpy(&index[p], words + p * panel, sizeof index[p]);
#pragma GCC unroll 1
        for (int g = 0; g < groups; g++, tables++) {
#pragma GCC unroll 4
            for (int m = 0; m < R; m++) {
                floats_t table = tables[m * BLOCK_TABLES];
#pragma GCC unroll 4
                for (int p = 0; p < P; p++)
                    sum[m][p] = p & 1 ? fused_add(looked_up(table, index[p]), one, sum[m][p])
                                      : sum[m][p] + looked_up(table, index[p]);
            }
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) index[p] >>= SIGN_INPUTS;
        }
    }
}

/* A tile of a block. sums: of earlier blocks, [row][panel], read and written. */
ALWAYS void product_tile(const int R, const int P, const floats_t *tables, int64_t count,
                         const uint32_t *words, int64_t panel, floats_t *sums, int64_t row) {
    floats_t sum[EDGE][EDGE];
#pragma GCC unroll 4
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sum[m][p] = (floats_t){0};
    add_chosen(R, P, tables, count, words, panel, sum);
#pragma GCC unroll 4
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sums[m * row + p] += sum[m][p];
}

static void any_tile(int R, int P, const floats_t *tables, int64_t count, const uint32_t *words,
                     int64_t panel, floats_t *sums, int64_t row) {
#define PRODUCT_TILE(r, p) \
    case EDGE *(r) + (p): product_tile(r, p, tables, count, words, panel, sums, row); break;
#define PRODUCT_TILES(r) PRODUCT_TILE(r, 1) PRODUCT_TILE(r, 2) PRODUCT_TILE(r, 3) PRODUCT_TILE(r, 4)
    switch (EDGE * R + P) { PRODUCT_TILES(1) PRODUCT_TILES(2) PRODUCT_TILES(3) PRODUCT_TILES(4) }
}

/* y of a row from its sums. */
static void store_row(const ob_product *call, int64_t row, int cut, const floats_t *sums, int64_t panels) {
    const int64_t words = (call->rows + SIGN_WORD - 1) / SIGN_WORD;
    for (int64_t p = 0; p < panels; p++) {
        const int64_t left = call->outputs - p * FLOAT_LANES, some = left < FLOAT_LANES ? left : FLOAT_LANES;
        const int64_t at = row * call->outputs + p * FLOAT_LANES;
        floats_t y = sums[p];
        if (call->scale) y *= load_ordered(call->scale, p * FLOAT_LANES, some, 0);
        if (cut) y = within_bound(y, call->latent, at, some, call->bound);
        if (call->mean) y += with_signs(call->mean[row], call->signs + p * words * FLOAT_LANES, row);
        if (call->stream)
            store_past_cache((float *)call->y + at, some, y);
        else
            store_ordered(call->y, at, some, y, call->y_bf16);
    }
}

#ifdef __AVX512VPOPCNTDQ__
/* Sums of R rows of signs times those of a panel. */
ALWAYS void count_tile(const int R, const uint32_t *x, const uint32_t *words, int64_t count, float inputs,
                       floats_t *sums, int64_t panels) {
    words_t ones[EDGE];
#pragma GCC unroll 4
    for (int m = 0; m < R; m++) ones[m] = (words_t){0};
    for (int64_t k = 0; k < count; k++, x += FLOAT_LANES, words += FLOAT_LANES) {
        words_t w;
        memcpy(&w, words, sizeof w);
#pragma GCC unroll 4
        for (int m = 0; m < R; m++) ones[m] += (words_t)_mm512_popcnt_epi32((__m512i)(w ^ x[m]));
    }
#pragma GCC unroll 4
    for (int m = 0; m < R; m++) sums[m * panels] = inputs - 2 * __builtin_convertvector(ones[m], floats_t);
}

static void count_signs(const ob_product *call, int R, int64_t row, int64_t panels, int64_t words,
                        floats_t *sums) {
    const uint32_t *x = call->x_panels + row / FLOAT_LANES * words * FLOAT_LANES + row % FLOAT_LANES;
    for (int64_t p = 0; p < panels; p++) {
        const uint32_t *w = call->panels + p * words * FLOAT_LANES;
        if (R == EDGE)
            count_tile(EDGE, x, w, words, (float)call->inputs, sums + p, panels);
        else
            for (int m = 0; m < R; m++)
                count_tile(1, x + m, w, words, (float)call->inputs, sums + m * panels + p, panels);
    }
}
#define COUNTS_SIGNS 1
#else
#define COUNTS_SIGNS 0
#define count_signs(...)
#endif

/* Sums of R rows of reals. */
static void sum_reals(const ob_product *call, int R, int64_t row, int64_t panels, int64_t words,
                      floats_t *sums, floats_t *tables) {
    float *x = (float *)(tables + EDGE * BLOCK_TABLES);
    memset(sums, 0, (size_t)(R * panels) * sizeof(floats_t));
    for (int64_t c = 0; c < call->inputs; c += BLOCK_INPUTS) {
        const int64_t count = call->inputs - c < BLOCK_INPUTS ? call->inputs - c : BLOCK_INPUTS;
        for (int m = 0; m < R; m++) {
            for (int64_t k = 0; k < count; k += FLOAT_LANES) {
                floats_t some = load_ordered(call->x, (row + m) * call->inputs + c + k,
                                             count - k < FLOAT_LANES ? count - k : FLOAT_LANES, call->x_bf16);
                memcpy(x + k, &some, sizeof some);
            }
            memset(x + count, 0, SIGN_INPUTS * sizeof(float));
            sum_tables(x, count, tables + m * BLOCK_TABLES);
        }
        for (int64_t p = 0; p < panels; p += EDGE)
            any_tile(R, panels - p < EDGE ? (int)(panels - p) : EDGE, tables,
                     (count + SIGN_INPUTS - 1) / SIGN_INPUTS,
                     call->panels + (p * words + c / SIGN_WORD) * FLOAT_LANES, words * FLOAT_LANES, sums + p,
                     panels);
    }
}

/* See ob_isa. Parts share tiles of rows. */
static int64_t run_product(const ob_product *call, int32_t stage, int32_t part, int32_t parts) {
    const int64_t panels = (call->outputs + FLOAT_LANES - 1) / FLOAT_LANES,
                  words = (call->inputs + SIGN_WORD - 1) / SIGN_WORD;
    const int64_t own = EDGE * (panels + BLOCK_TABLES) + BLOCK_INPUTS / FLOAT_LANES + 1;
    if (stage == 0) return parts * own * (int64_t)sizeof(floats_t);
    floats_t *sums = (floats_t *)call->scratch + part * own, *tables = sums + EDGE * panels;
    const int64_t tiles = (call->rows + EDGE - 1) / EDGE, begin = tiles * part / parts * EDGE,
                  stop = tiles * (part + 1) / parts * EDGE;
    const int cut = call->latent && any_beyond(call->most, call->most_count, call->bound);
    for (int64_t row = begin; row < stop && row < call->rows; row += EDGE) {
        const int R = call->rows - row < EDGE ? (int)(call->rows - row) : EDGE;
        if (COUNTS_SIGNS && call->x_panels)
            count_signs(call, R, row, panels, words, sums);
        else
            sum_reals(call, R, row, panels, words, sums, tables);
        for (int m = 0; m < R; m++) store_row(call, row + m, cut, sums + m * panels, panels);
    }
    _mm_sfence(); /* after stores past the caches */
    return 0;
}
