/* Depthwise convolutions: each output channel sums the taps of its own input channel, so that channels are
 * neighbors in memory on both sides and need no panels.
 *
 * With one-bit weights, inputs may be bytes, and sums are int32: of up to 127 taps of values on a grid, or of
 * integers whose sums fit. With real weights, sums of up to 32 products of 24-bit integers are exact in
 * double. The plan checks that. */
#pragma once
#include "matmul.h"

#define DEPTHWISE_LANES 16

/* The sums of n channels: x are the inputs under a tap, of the pixel at segments[k].a, and w its weights, at
 * segments[k].b. */
#define DEPTHWISE_SUMS(name, input_t, weight_t, sum_t, term)                                              \
    static inline void name##_of(const ob_call *call, const input_t *in, const segment_t *segments,       \
                                 int found, const weight_t *weights, int n, sum_t *sums) {                \
        const int32_t factor = call->in_factor, zero = call->in_zero;                                     \
        sum_t total[DEPTHWISE_LANES] = {0};                                                               \
        (void)factor, (void)zero;                                                                         \
        for (int k = 0; k < found; k++) {                                                                 \
            const input_t *x = in + segments[k].a;                                                        \
            const weight_t *w = weights + segments[k].b;                                                  \
            for (int c = 0; c < n; c++) total[c] += term;                                                 \
        }                                                                                                 \
        for (int c = 0; c < n; c++) sums[c] = total[c];                                                   \
    }                                                                                                     \
    static inline void name(const ob_call *call, const input_t *in, const segment_t *segments, int found, \
                            const weight_t *weights, int n, sum_t *sums) {                                \
        if (n == DEPTHWISE_LANES) /* constants, for whole registers */                                    \
            name##_of(call, in, segments, found, weights, DEPTHWISE_LANES, sums);                         \
        else if (n == DEPTHWISE_LANES / 2)                                                                \
            name##_of(call, in, segments, found, weights, DEPTHWISE_LANES / 2, sums);                     \
        else                                                                                              \
            name##_of(call, in, segments, found, weights, n, sums);                                       \
    }
DEPTHWISE_SUMS(sum_signs, int32_t, int32_t, int32_t, (x[c] ^ w[c]) - w[c]) /* -x[c] where w[c] is -1 */
DEPTHWISE_SUMS(sum_bytes, uint8_t, int32_t, int32_t, ((x[c] * factor - zero) ^ w[c]) - w[c])
DEPTHWISE_SUMS(sum_products, int32_t, double, double, (double)x[c] * w[c])

/* The sums of channels `first` to `first + count` of one pixel, in a block: as integers, or as real values.
 */
static void depthwise_block(const run_t *at, position_t position, const segment_t *segments, int found,
                            int first, int count, block_t *block) {
    const ob_call *call = at->call;
    const uint32_t *image = at->arena + call->in + position.n * call->in_size;
    const int64_t pixel = position.t * at->run[3] * call->in_pixel;
    const int32_t *x = (const int32_t *)image + pixel;
    const uint8_t *bytes = call->in_factor ? (const uint8_t *)image + pixel : NULL;
    float unit = unit_of(at, position);
    int64_t padding = call->constant ? padding_of(call, unit) : 0;
    int bits = call->kernel == OB_KERNEL_DEPTHWISE;
    double products[BLOCK];
    const int lanes = count < DEPTHWISE_LANES ? DEPTHWISE_LANES / 2 : DEPTHWISE_LANES,
              n = count < lanes ? count : lanes;
    for (int done = 0; done < count; done += n) {
        const int k = count - done < n ? count - n : done, c = first + k; /* the last ones again, not fewer */
        const int32_t *flips = (const int32_t *)call->weights + c;
        const double *weights = (const double *)call->weights + c;
        if (bytes)
            sum_bytes(call, bytes + c, segments, found, flips, n, block->i + k);
        else if (bits)
            sum_signs(call, x + c, segments, found, flips, n, block->i + k);
        else
            sum_products(call, x + c, segments, found, weights, n, products + k);
    }
    for (int a = 0; padding && a < call->taps_down; a++)
        for (int b = 0; b < call->taps_across; b++) {
            if (call->rows[at->i * call->taps_down + a] >= 0 &&
                call->columns[at->run[0] * call->taps_across + b] >= 0)
                continue;
            int64_t tap = (int64_t)(a * call->taps_across + b) * call->tap_words + first;
            const int32_t *flips = (const int32_t *)call->weights + tap;
            const double *weights = (const double *)call->weights + tap;
            for (int k = 0; k < count; k++)
                if (bits)
                    block->i[k] += flips[k] ? -(int32_t)padding : (int32_t)padding;
                else
                    products[k] += (double)padding * weights[k];
        }
    for (int k = 0; !bits && k < count; k++)
        block->f[k] = (float)products[k] * unit * call->weight_units[first + k];
    for (int k = 0; bits && call->real && k < count; k++) block->f[k] = (float)block->i[k] * unit;
}

/* Threads share the rows, or the channels of a single row: 32 at a time, because bits are written as words.
 */
static int depthwise(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    segment_t *segments = (segment_t *)(arena + call->scratch + share->scratch);
    int64_t row_units = (int64_t)call->in_width * call->in_pixel;
    int words = (call->channels + 31) / 32, saw_nan = 0;
    span_t rows = {0, 1}, parts = {0, words};
    if (call->out_height > 1)
        rows = span_of(share, call->out_height);
    else
        parts = span_of(share, words);
    int end = parts.end * 32 < call->channels ? parts.end * 32 : call->channels;
    for (int i = rows.begin; i < rows.end; i++)
        for (int r = 0; r < call->run_count; r++) {
            run_t at = {.call = call, .arena = arena, .i = i, .run = call->runs + 4 * r};
            int found = gather(call, i, at.run, row_units, call->in_pixel, 1 << 30, segments, &at.terms);
            for (position_t position = {0, 0}; position.n < count; position = next_position(&at, position))
                for (int first = parts.begin * 32; first < end; first += BLOCK) {
                    block_t block;
                    int part = end - first < BLOCK ? end - first : BLOCK;
                    depthwise_block(&at, position, segments, found, first, part, &block);
                    site_t site = site_of(&at, position, first);
                    saw_nan |= finish_block(call, &block, &site, first, part, 0);
                }
        }
    return saw_nan;
}
