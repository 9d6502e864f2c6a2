/* Dense layers of up to DOT_FEW rows of bytes with AVX2 or AVX-512: their weights stay bits, four of which
 * look up a sum for 32 outputs at once, and a register has those of FEW_FOURS fours of inputs.
 *
 * The table of four bytes has the sums of some of them, which fit 10 bits: two planes of 5, so that 8 entries
 * can be added in a byte. Twice the sum of the bytes whose weight is +1, minus the sum of all bytes, is the
 * product.
 */
#pragma once
#ifdef __AVX512F__
#include "avx512.h"
#else
#include "avx2.h"
#endif
#include "dot.h"

#define FEW_STEPS 2048 /* registers: 2048 * 31 fits 16 bits */
#define FEW_ADDED 8    /* 8 * 31 fits a byte */

#define FEW_FOURS (LANES / 4)
#define FEW_BYTES (FEW_FOURS * 4)
#define FEW_TABLES (FEW_FOURS * 32) /* bytes of the tables of a register */

typedef uint8_t few_bytes_t __attribute__((vector_size(4 * LANES)));
typedef uint16_t few_shorts_t __attribute__((vector_size(4 * LANES)));
#if LANES == 16
#define few_choose(table, index) _mm512_shuffle_epi8(table, index)
#else
#define few_choose(table, index) _mm256_shuffle_epi8(table, index)
#endif

/* tables[register][plane][four of the register][16] of `count` bytes. Returns their sum. */
static int32_t few_tables(const uint8_t *x, int64_t count, uint8_t *tables) {
    const __m256i order = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i chosen[4];
    uint32_t total = 0; /* wraps, as all sums do */
    for (int k = 0; k < 4; k++) {
        __m256i bit = _mm256_set1_epi16((int16_t)(1 << k));
        chosen[k] = _mm256_cmpeq_epi16(_mm256_and_si256(order, bit), bit);
    }
    for (int64_t c = 0; c < (count + FEW_BYTES - 1) / FEW_BYTES * FEW_BYTES; c += 4) {
        uint8_t four[4] = {0};
        __m256i sum = _mm256_setzero_si256();
        if (c < count) memcpy(four, x + c, (size_t)(count - c < 4 ? count - c : 4));
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            sum = _mm256_add_epi16(sum, _mm256_and_si256(_mm256_set1_epi16(four[k]), chosen[k]));
        __m256i planes =
            _mm256_packus_epi16(_mm256_and_si256(sum, _mm256_set1_epi16(31)), _mm256_srli_epi16(sum, 5));
        planes = _mm256_permute4x64_epi64(planes, 0xd8);
        uint8_t *to = tables + c / FEW_BYTES * FEW_TABLES + c / 4 % FEW_FOURS * 16;
        _mm_store_si128((__m128i *)to, _mm256_castsi256_si128(planes));
        _mm_store_si128((__m128i *)(to + FEW_TABLES / 2), _mm256_extracti128_si256(planes, 1));
        total += (uint32_t)(four[0] + four[1] + four[2] + four[3]);
    }
    return (int32_t)total;
}

/* Adds the lanes of 8 sums of 16 bits. */
ALWAYS __m256i few_halves(__m256i x) {
    return _mm256_add_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                            _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}

/* Sums of the even (h = 0) or odd bytes of all lanes of a register, from what was added in 16 bits. */
ALWAYS __m256i few_lanes(const few_shorts_t *all, int h) {
    vec x = (vec)(h ? all[1] : all[0] - (all[1] << 8));
#if LANES == 16
    return _mm256_add_epi32(few_halves(_mm512_castsi512_si256(x)),
                            few_halves(_mm512_extracti64x4_epi64(x, 1)));
#else
    return few_halves(x);
#endif
}

/* Adds to the sums of 32 outputs those of up to FEW_STEPS registers. The last one has weights of `last`
 * fours. */
static void few_sums(const uint8_t *tables, const uint8_t *bits, int64_t steps, int last, int32_t *sums) {
    few_shorts_t all[2][2][2]; /* [outputs][plane]: in 16 bits the even bytes plus 256 times the odd ones, and
                                  the odd ones */
    uint8_t end[FEW_FOURS * DOT_BYTES] = {0};
    memset(all, 0, sizeof all);
    memcpy(end, bits + (steps - 1) * FEW_FOURS * DOT_BYTES, (size_t)(last * DOT_BYTES));
    for (int64_t from = 0; from < steps; from += FEW_ADDED) {
        int64_t to = steps - from < FEW_ADDED ? steps : from + FEW_ADDED;
        few_bytes_t added[2][2] = {{{0}, {0}}, {{0}, {0}}};
        for (int64_t step = from; step < to; step++) {
            const uint8_t *w = step == steps - 1 ? end : bits + step * FEW_FOURS * DOT_BYTES,
                          *table = tables + step * FEW_TABLES;
            few_bytes_t weights = (few_bytes_t)vec_load(w), index[2] = {weights & 15, weights >> 4};
#pragma GCC unroll 2
            for (int plane = 0; plane < 2; plane++) {
                vec entries = vec_load(table + FEW_TABLES / 2 * plane);
#pragma GCC unroll 2
                for (int q = 0; q < 2; q++)
                    added[q][plane] += (few_bytes_t)few_choose(entries, (vec)index[q]);
            }
        }
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            all[k / 2][k % 2][0] += (few_shorts_t)added[k / 2][k % 2];
            all[k / 2][k % 2][1] += (few_shorts_t)added[k / 2][k % 2] >> 8;
        }
    }
    int32_t found[4][8]; /* output 4i + r is found[r][i] */
    for (int r = 0; r < 4; r++) {
        __m256i low = few_lanes(all[r % 2][0], r / 2), high = few_lanes(all[r % 2][1], r / 2);
        _mm256_storeu_si256((__m256i *)found[r], _mm256_add_epi32(low, _mm256_slli_epi32(high, 5)));
    }
    for (int o = 0; o < DOT_OUTPUTS; o++)
        sums[o] = (int32_t)((uint32_t)sums[o] + (uint32_t)found[o % 4][o / 4]);
}

/* Threads share the outputs. */
static int dot_few(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    static const int32_t one[4] = {0, 1, 1, 0};
    dot_t dot = dot_room(call, arena + call->scratch + share->scratch);
    run_t at = {.call = call, .arena = arena, .i = 0, .run = one};
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int64_t steps = (call->tap_words + FEW_FOURS - 1) / FEW_FOURS;
    int saw_nan = 0, rest = call->tap_words - (int)(steps - 1) * FEW_FOURS;
    memset(dot.base, 0, TILE_OUTPUTS * sizeof *dot.base);
    for (int64_t n = 0; n < count && work.outputs.begin < work.outputs.end; n++) {
        const uint8_t *x = (const uint8_t *)(arena + call->in + n * call->in_size),
                      *tables = (const uint8_t *)dot.bytes;
        int32_t total = few_tables(x, call->tap_channels, (uint8_t *)dot.bytes);
        position_t position = {n, 0};
        for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
            int32_t sums[TILE_OUTPUTS] = {0};
            for (int q = 0; q < TILE_OUTPUTS && tile * TILE_OUTPUTS + q < call->outputs; q += DOT_OUTPUTS) {
                const uint8_t *bits =
                    (const uint8_t *)call->weights + (tile * TILE_OUTPUTS + q) / DOT_OUTPUTS * call->panel;
                for (int64_t step = 0; step < steps; step += FEW_STEPS) {
                    int64_t some = steps - step < FEW_STEPS ? steps - step : FEW_STEPS;
                    few_sums(tables + step * FEW_TABLES, bits + step * FEW_FOURS * DOT_BYTES, some,
                             step + some == steps ? rest : FEW_FOURS, sums + q);
                }
            }
            for (int o = 0; o < TILE_OUTPUTS; o++)
                sums[o] = (int32_t)(2 * (uint32_t)sums[o] - (uint32_t)total);
            dot.tiles.begin = tile, dot.tiles.end = tile + 1, dot.base_run = NULL;
            dot_base(&dot, 0, 0, one);
            saw_nan |= finish_rows(&dot, &at, position, 1, 0, tile, sums, TILE_OUTPUTS);
        }
    }
    return saw_nan;
}

static int dot_or_few(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    return (count <= DOT_FEW && is_dense(call) ? dot_few : dot)(call, share, count, arena);
}
#undef RUN_DOT
#define RUN_DOT dot_or_few
