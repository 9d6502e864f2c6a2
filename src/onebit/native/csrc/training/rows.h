/* Rows of channels, float32 or bfloat16 that is computed in float32, in vectors of GNU C, and the order of
 * sums over them.
 *
 * Sums have one accumulator per slot of a period, which is a whole number of rows and of groups of 32 values:
 * their order depends neither on the width of the registers nor on the number of threads. They are float32
 * for at most CHAIN terms and double after that. Blocks have sums of their own. */
#pragma once
#include "vector.h"

enum {
    GROUP = 32,
    PAIR = 2 * FLOAT_LANES,
    CHAIN = 64,
    BLOCK_VALUES = 1 << 15,
    MAX_NUMBERS = 5,
    MAX_SUMS = 3
};

/* PAIR values: of bfloat16 the even and the odd ones, of float32 the first and the second half. */
typedef struct {
    floats_t a, b;
} pair_t;

/* Copies the first `count` of PAIR float32; whole registers do not go through memory. */
ALWAYS void copy_floats(float *to, const float *from, int64_t count) {
    floats_t half;
    for (int k = 0; count == PAIR && k < PAIR; k += FLOAT_LANES) {
        memcpy(&half, from + k, sizeof half);
        memcpy(to + k, &half, sizeof half);
    }
    if (count < PAIR) memcpy(to, from, (size_t)count * 4);
}

/* `count` values, up to PAIR, with 0 behind them. */
ALWAYS pair_t load_values(const void *from, int64_t offset, int64_t count, int bf16) {
    pair_t pair = {{0}, {0}};
    words_t words = {0};
    if (bf16) {
        memcpy(&words, (const uint16_t *)from + offset, (size_t)count * 2);
        return (pair_t){(floats_t)(words << 16), (floats_t)(words & 0xffff0000u)};
    }
    copy_floats((float *)&pair, (const float *)from + offset, count);
    return pair;
}

/* Stores values, and returns them as stored. */
ALWAYS pair_t store_values(void *to, int64_t offset, int64_t count, pair_t pair, int bf16) {
    if (bf16) {
        words_t a = nearest_bf16(pair.a), b = nearest_bf16(pair.b), words = a >> 16 | b;
        memcpy((uint16_t *)to + offset, &words, (size_t)count * 2);
        return (pair_t){(floats_t)a, (floats_t)b};
    }
    copy_floats((float *)to + offset, (const float *)&pair, count);
    return pair;
}

/* The slot of value number `i` of a period among numbers in the order of pairs. */
static int64_t pair_slot(int64_t i, int bf16) {
    if (!bf16) return i;
    return i / PAIR * PAIR + (i & 1) * FLOAT_LANES + i % PAIR / 2;
}

/* The smallest number of values that is one of whole rows and of whole groups. */
static int64_t period_of(int32_t channels) {
    int32_t common = GROUP;
    while (channels % common) common /= 2;
    return (int64_t)channels * (GROUP / common);
}

/* Values of a block, a number of whole chains of periods. */
static int64_t block_of(int64_t period) {
    int64_t periods = BLOCK_VALUES / period / CHAIN * CHAIN;
    return period * (periods ? periods : CHAIN);
}

/* The values of a call, rows of channels, and its scratch memory: numbers per slot of a period, in the order
 * of pairs, sums per slot, and the sums of each block, one after the other per channel. */
typedef struct {
    int64_t period, block, blocks, values; /* `block` is a number of whole periods */
    int32_t channels, bf16;
    float *numbers[MAX_NUMBERS];
    double *sums[MAX_SUMS], *of_blocks;
} rows_t;

/* Divides scratch memory among `parts`; returns its size in numbers. */
static int64_t divide_rows(rows_t *work, int64_t rows, int sums, int numbers, double *scratch, int32_t part,
                           int32_t parts) {
    work->period = period_of(work->channels);
    work->block = block_of(work->period);
    work->values = rows * work->channels;
    work->blocks = (work->values + work->block - 1) / work->block;
    int64_t shared = sums * work->blocks * work->channels,
            own = sums * work->period + numbers * work->period / 2;
    for (int k = 0; scratch && k < sums; k++)
        work->sums[k] = scratch + shared + part * own + k * work->period;
    for (int k = 0; scratch && k < numbers; k++)
        work->numbers[k] = (float *)(work->sums[0] + sums * work->period) + k * work->period;
    work->of_blocks = scratch;
    return shared + parts * own;
}

ALWAYS pair_t number_at(const rows_t *work, int number, int64_t offset) {
    pair_t pair;
    copy_floats((float *)&pair, work->numbers[number] + offset, PAIR);
    return pair;
}

/* Values of block `b`. */
static int64_t values_of(const rows_t *work, int64_t b) {
    int64_t left = work->values - b * work->block;
    return left < work->block ? left : work->block;
}

/* One number per channel to one per slot of a period. */
static void broadcast(const rows_t *work, const double *numbers, float *to) {
    for (int64_t i = 0, c = 0; i < work->period; i++, c = c + 1 == work->channels ? 0 : c + 1) {
        float number = (float)numbers[c];
        to[pair_slot(i, work->bf16)] = number == number ? number : NAN; /* one with the lower half 0 */
    }
}

/* Sums of a period to sums of a channel. */
static void gathered(const rows_t *work, const double *sums, double *to) {
    for (int32_t c = 0; c < work->channels; c++) to[c] = 0;
    for (int64_t i = 0, c = 0; i < work->period; i++, c = c + 1 == work->channels ? 0 : c + 1)
        to[c] += sums[pair_slot(i, work->bf16)];
}

/* Adds the float32 sums of `count` slots. */
ALWAYS void add_pair(double *to, pair_t pair, int64_t count, int bf16) {
    float terms[PAIR];
    memcpy(terms, &pair, sizeof terms);
    if (count == PAIR)
        for (int k = 0; k < PAIR; k++) to[k] += terms[k];
    else
        for (int k = 0; k < count; k++) to[pair_slot(k, bf16)] += terms[pair_slot(k, bf16)];
}

/* Calls `pass` for the values from `begin`, where a period begins, to `end`: for those at slot `p` of up to
 * `chain` periods from value `from` on, before value `stop`. Values of a last period that is not whole are a
 * chain of their own; then `count` values of a pair may be fewer than PAIR. */
#define EACH_PLACE(chain, pass)         \
    if (work->bf16) {                   \
        const int bf16 = 1;             \
        EACH_PLACE_OF_KIND(chain, pass) \
    } else {                            \
        const int bf16 = 0;             \
        EACH_PLACE_OF_KIND(chain, pass) \
    }
#define EACH_PLACE_OF_KIND(chain, pass)                                                   \
    const int64_t period = work->period, whole = begin + (end - begin) / period * period; \
    for (int64_t from = begin, stop; from < whole; from = stop) {                         \
        const int64_t count = PAIR;                                                       \
        stop = whole - from < (chain) * period ? whole : from + (chain) * period;         \
        for (int64_t p = 0; p < period; p += PAIR) pass;                                  \
    }                                                                                     \
    for (int64_t from = whole, stop = end, p = 0; from + p < stop; p += PAIR) {           \
        const int64_t count = end - from - p < PAIR ? end - from - p : PAIR;              \
        pass;                                                                             \
    }
