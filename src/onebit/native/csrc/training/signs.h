/* The signs of rows of latents as bits, in panels of both orientations: one pass over the latents. See
 * ob_signs. */
#pragma once
#include "vector.h"

#if defined(__AVX512F__)
#define SIGN_INPUTS 4 /* of a lookup */
#define SIGN_GROUPS 8 /* lookups of a word */
#define past_cache(to, x) _mm512_stream_ps(to, (__m512)(x))
#define below_bits(below) ((uint32_t)_mm512_movepi32_mask((__m512i)(below)))
#else
#define SIGN_INPUTS 3
#define SIGN_GROUPS 10
#define past_cache(to, x) _mm256_stream_ps(to, (__m256)(x))
#define below_bits(below) ((uint32_t)_mm256_movemask_ps((__m256)(below)))
#endif
enum {
    SIGN_WORD = SIGN_INPUTS * SIGN_GROUPS,
    SIGN_ROWS = SIGN_WORD * (SIGN_WORD % FLOAT_LANES ? FLOAT_LANES / 2 : 1)
};

/* Uniform in [-2^23, 2^23), a hash of the index and the seed: two rounds of xorshift and multiply, with the
 * constants of lowbias32 (github.com/skeeto/hash-prospector). The second word of the seed keeps the streams
 * of two steps apart. */
ALWAYS floats_t draw_of(words_t index, const int32_t *seed) {
    words_t x = (index + (uint32_t)seed[0]) * 0x9e3779b1u;
    x = (x ^ x >> 15) * 0x7feb352du;
    x = (x ^ x >> 16) + (uint32_t)seed[1];
    return __builtin_convertvector((ints_t)(x * 0x846ca68bu) >> 8, floats_t);
}

/* One row: a bit a value to `bits`, FLOAT_LANES at a time, and to bit `bit` of the words of `down`. NaN is
 * +1. */
ALWAYS void signs_of_row(const ob_signs *call, const int random, const int bf16, int64_t row, int bit,
                         uint8_t *bits, words_t *down, floats_t *most) {
    const int64_t offset = row * call->columns;
    words_t index = {0};
    for (int k = 0; k < FLOAT_LANES; k++) index[k] = (uint32_t)(offset + k);
    for (int64_t c = 0; c < call->columns; c += FLOAT_LANES, index += FLOAT_LANES) {
        const int64_t left = call->columns - c;
        floats_t x = load_ordered(call->x, offset + c, left < FLOAT_LANES ? left : FLOAT_LANES, bf16);
        const floats_t size = magnitude(x);
        floats_t least = random ? draw_of(index, call->seed) : (floats_t){0},
                 value = random ? x * call->steepness : x;
        if (random == 2) { /* tanh |x| = (1 - e) / (1 + e) */
            const floats_t e = decay(2 * size);
            least *= 1 + e;
            value = (floats_t)((words_t)((1 - e) * call->steepness) ^ ((words_t)x & 0x80000000u));
        }
        const words_t below = (words_t)(value < least);
        words_t more = (words_t)(size > *most);
        *most = (floats_t)(((words_t)size & more) | ((words_t)*most & ~more));
        uint32_t mask = ~below_bits(below);
        memcpy(bits + c / 8, &mask, FLOAT_LANES / 8);
        down[c / FLOAT_LANES] |= ~below & (1u << bit);
    }
}

/* See ob_isa. Parts share blocks of rows that begin both a panel and a word. */
static int64_t run_signs(const ob_signs *call, int32_t stage, int32_t part, int32_t parts) {
    const int64_t across = (call->columns + FLOAT_LANES - 1) / FLOAT_LANES,
                  words = (call->columns + SIGN_WORD - 1) / SIGN_WORD;
    const int64_t down_words = (call->rows + SIGN_WORD - 1) / SIGN_WORD,
                  bytes = (words * SIGN_WORD / 8 + 64 + 63) / 64 * 64;
    const int64_t own = bytes + across * (int64_t)sizeof(words_t);
    if (stage == 0) return parts * own;
    uint8_t *bits = (uint8_t *)call->scratch + part * own;
    words_t *down = (words_t *)(bits + bytes);
    const int64_t blocks = (call->rows + SIGN_ROWS - 1) / SIGN_ROWS,
                  begin = blocks * part / parts * SIGN_ROWS;
    const int64_t stop = blocks * (part + 1) / parts * SIGN_ROWS, end = stop < call->rows ? stop : call->rows;
    floats_t most = {0};
    for (int64_t row = begin; row < end; row++) {
        const int bit = (int)(row % SIGN_WORD);
        if (row % SIGN_ROWS == 0) most = (floats_t){0};
        if (bit == 0) memset(down, 0, (size_t)across * sizeof(words_t));
        if (call->of_tanh)
            signs_of_row(call, 2, 0, row, bit, bits, down, &most);
        else if (call->steepness != 0)
            signs_of_row(call, 1, 0, row, bit, bits, down, &most);
        else if (call->bf16)
            signs_of_row(call, 0, 1, row, bit, bits, down, &most);
        else
            signs_of_row(call, 0, 0, row, bit, bits, down, &most);
        if ((row + 1) % SIGN_ROWS == 0 || row + 1 == call->rows) {
            float *to = call->most + row / SIGN_ROWS;
            *to = 0;
            for (int k = 0; k < FLOAT_LANES; k++) *to = most[k] > *to ? most[k] : *to;
        }
        uint32_t *to = call->panels + row / FLOAT_LANES * words * FLOAT_LANES + row % FLOAT_LANES;
        for (int64_t k = 0; k < words; k++, to += FLOAT_LANES) {
            uint64_t word;
            memcpy(&word, bits + k * SIGN_WORD / 8, 8);
            const int64_t left = call->columns - k * SIGN_WORD;
            *to = (uint32_t)(word >> k * SIGN_WORD % 8) &
                  (uint32_t)(((uint64_t)1 << (left < SIGN_WORD ? left : SIGN_WORD)) - 1);
        }
        if (bit == SIGN_WORD - 1 || row == call->rows - 1)
            for (int64_t c = 0; c < across; c++)
                memcpy(call->transposed + (c * down_words + row / SIGN_WORD) * FLOAT_LANES, &down[c],
                       sizeof(words_t));
    }
    return 0;
}

/* Whether a latent is beyond +-bound. */
static int any_beyond(const float *most, int64_t count, float bound) {
    for (int64_t k = 0; k < count; k++)
        if (most[k] > bound) return 1;
    return 0;
}

/* 0 where the latent beside a value is beyond +-bound. */
ALWAYS floats_t within_bound(floats_t x, const float *latent, int64_t i, int64_t count, float bound) {
    return (floats_t)((words_t)x & ~(words_t)(magnitude(load_ordered(latent, i, count, 0)) > bound));
}

/* `mean` with the signs of latents of a row, bits of the panel of their columns. */
ALWAYS floats_t with_signs(float mean, const uint32_t *panel, int64_t row) {
    words_t word;
    memcpy(&word, panel + row / SIGN_WORD * FLOAT_LANES, sizeof word);
    return (floats_t)((words_t)((floats_t){0} + mean) ^ (~word << (31 - row % SIGN_WORD) & 0x80000000u));
}

ALWAYS void store_past_cache(float *to, int64_t count, floats_t x) {
    if (count == FLOAT_LANES && (uintptr_t)to % sizeof x == 0)
        past_cache(to, x);
    else
        store_ordered(to, 0, count, x, 0);
}
