/* Epilogue operations (OB_EPILOGUE_*) on a block of channels of one pixel. */
#pragma once
#include "barrier.h"
#include "isa.h"

#define BLOCK OB_BLOCK /* blocks begin at multiples of 32 */

typedef union {
    int32_t i[BLOCK + 32]; /* word_of reads 32 flags, of which all but the first few may be of no channel */
    float f[BLOCK];
} block_t;

/* Loops over channels, OB_VECTOR at a time up to a whole multiple: blocks and parameters have room for that.
 */
#define CHANNELS(body)                                  \
    for (int from = 0; from < count; from += OB_VECTOR) \
        for (int k = from; k < from + OB_VECTOR; k++) { \
            body;                                       \
        }

/* Computed in double and rounded once. */
#define AFFINE(value)                                            \
    if (op->p && op->q)                                          \
        CHANNELS(x->f[k] = affine_of(value, slope[k], shift[k])) \
    else if (op->p)                                              \
        CHANNELS(x->f[k] = (float)((double)(value) * slope[k]))  \
    else                                                         \
        CHANNELS(x->f[k] = (float)((double)(value) + shift[k]))

/* Where the channels of a block are: from channel `from` of a pixel of image n on. */
typedef struct {
    uint32_t *arena;
    int64_t n, pixel;
    int from;
} site_t;

/* `requantized` of plain/numbers.h in double: multipliers and offset are multiples of 2^-shift, and so are
 * all sums, which are at most 2^53 of them, so that nothing is rounded. Up to a multiple of WIDE channels are
 * computed, as in CHANNELS. `others`: how many values are added, 1 only for bytes, or MANY. The integers
 * become bytes if there is room for them, plus `zero`. */
#define MANY 2
static inline void requantize_with(const int others, const ob_epilogue_op *op, const site_t *at,
                                   block_t *restrict x, int first, int count, uint8_t *bytes, int zero) {
    const double *scale = (const double *)op->p + first, *offset = (const double *)op->q + first,
                 *second = scale + op->stride;
    const wide least = wide_all(op->least), most = wide_all(op->most);
    const uint8_t *other = NULL;
    if (others == 1) {
        const ob_more *more = op->more;
        other = (const uint8_t *)(at->arena + more->place + at->n * more->size) + at->pixel * more->pixel +
                at->from;
    }
    for (int k = 0; k < count; k += WIDE) {
        wide sum = wide_add_product(wide_load(offset + k), wide_ints(x->i + k), wide_load(scale + k));
        if (others == 1) sum = wide_add_product(sum, wide_bytes(other + k), wide_load(second + k));
        for (int64_t n = 0; others == MANY && n < op->more_count; n++) {
            const ob_more *more = &op->more[n];
            const uint32_t *image = at->arena + more->place + at->n * more->size;
            int64_t offset = at->pixel * more->pixel + at->from + k;
            wide factor = wide_load(scale + k + (n + 1) * op->stride);
            if (more->bytes)
                sum = wide_add_product(sum, wide_bytes((const uint8_t *)image + offset), factor);
            else
                sum = wide_add_product(sum, wide_ints((const int32_t *)image + offset), factor);
        }
        if (bytes)
            wide_floor_bytes(bytes + k, sum, least, most, zero);
        else
            wide_floor(x->i + k, sum, least, most);
    }
}

static inline void requantize(const ob_epilogue_op *op, const site_t *at, block_t *restrict x, int first,
                              int count, uint8_t *bytes, int zero) {
    if (!op->more_count)
        requantize_with(0, op, at, x, first, count, bytes, zero);
    else if (op->more_count == 1 && op->more->bytes)
        requantize_with(1, op, at, x, first, count, bytes, zero);
    else
        requantize_with(MANY, op, at, x, first, count, bytes, zero);
}

static inline int run_epilogue_op(const ob_epilogue_op *op, const site_t *at, block_t *restrict x, int first,
                                  int count, float total) {
    const float *restrict p = op->p ? (const float *)op->p + first : NULL;
    const double *restrict slope = op->p ? (const double *)op->p + first : NULL;
    const double *restrict shift = op->q ? (const double *)op->q + first : NULL;
    const int32_t *restrict least = (const int32_t *)p, *restrict flip =
                                                            op->q ? (const int32_t *)op->q + first : NULL;
    int saw_nan = 0;
#define ON_CHANNELS(name, body) \
    case OB_EPILOGUE_##name: CHANNELS(body) break;
    switch (op->code) {
        ON_CHANNELS(REAL, x->f[k] = (float)x->i[k])
        ON_CHANNELS(SCALE, x->f[k] *= p[k])
        ON_CHANNELS(SHIFT, x->f[k] += p[k])
        ON_CHANNELS(CENTER, x->f[k] += total * p[k])
        ON_CHANNELS(RELU, x->f[k] = relu_of(x->f[k]))
        ON_CHANNELS(RELU_INT, x->i[k] = x->i[k] < 0 ? 0 : x->i[k])
        ON_CHANNELS(PRELU, x->f[k] = prelu_of(x->f[k], p[k]))
        ON_CHANNELS(HARDTANH, x->f[k] = clamp_of(x->f[k], -1, 1))
        ON_CHANNELS(HARDTANH_INT, x->i[k] = clamp_int(x->i[k], -1, 1))
#define ON_ACTIVATION(NAME, of) ON_CHANNELS(NAME, x->f[k] = of(x->f[k]))
        ACTIVATIONS(ON_ACTIVATION)
        ON_CHANNELS(THRESHOLD, x->i[k] = threshold_of(x->i[k], flip[k], least[k]))
    case OB_EPILOGUE_AFFINE: AFFINE(x->f[k]) break;
    case OB_EPILOGUE_AFFINE_INT: AFFINE(x->i[k]) break;
    case OB_EPILOGUE_CLAMP: {
        float low = *(const float *)op->p, high = *(const float *)op->q;
        CHANNELS(x->f[k] = clamp_of(x->f[k], low, high))
        break;
    }
    case OB_EPILOGUE_SIGN:
        if (p) CHANNELS(x->f[k] -= p[k])
        for (int k = 0; k < count; k++) saw_nan |= x->f[k] != x->f[k];
        CHANNELS(x->i[k] = x->f[k] >= 0)
        break;
    case OB_EPILOGUE_REQUANTIZE: requantize(op, at, x, first, count, NULL, 0); break;
    case OB_EPILOGUE_QUANTIZE:
        for (int k = 0; k < count; k++) saw_nan |= x->f[k] != x->f[k];
        CHANNELS(x->i[k] = quantized(x->f[k], op->least, op->most))
        break;
    }
    return saw_nan;
}
#undef ON_CHANNELS

/* Words of `bits` flags each; tail bits are 0. */
static inline void write_bits(uint32_t *out, const block_t *x, int count, int bits) {
    for (int k = 0; k < count; k += bits) {
        int width = count - k < bits ? count - k : bits;
        *out++ = word_of(x->i + k) & (width < 32 ? (1u << width) - 1 : ~0u);
    }
}

/* Runs the epilogue of a call on `count` channels, whose parameters begin at `first`, and writes them; 1 for
 * a NaN that has no sign or integer. */
static int finish_block(const ob_call *call, block_t *x, const site_t *at, int first, int count,
                        float total) {
    int saw_nan = 0;
    uint32_t *image = at->arena + call->out + at->n * call->out_size;
    const ob_epilogue_op *op = call->epilogue, *end = op + call->epilogue_count;
    uint8_t *bytes = call->out_bytes ? (uint8_t *)image + at->pixel * call->out_pixel + at->from : NULL;
    for (; op < end; op++)
        if (bytes && op + 1 == end && op->code == OB_EPILOGUE_REQUANTIZE && count % WIDE == 0) {
            requantize(op, at, x, first, count, bytes, call->out_zero);
            return saw_nan;
        } else
            saw_nan |= run_epilogue_op(op, at, x, first, count, total);
    if (bytes) {
        uint8_t *out = bytes;
        int32_t zero = call->out_zero;
        if (count % OB_VECTOR == 0)
            CHANNELS(out[k] = (uint8_t)(x->i[k] + zero))
        else
            for (int k = 0; k < count; k++) out[k] = (uint8_t)(x->i[k] + zero);
        return saw_nan;
    }
    uint32_t *out = image + at->pixel * call->out_pixel;
    if (call->bits) /* to divide by a constant is a shift */
        write_bits(out + (call->bits == 32 ? at->from / 32 : at->from / call->bits), x, count, call->bits);
    else if (count % OB_VECTOR == 0) { /* unlike memcpy, no function call */
        out += at->from;
        CHANNELS(out[k] = (uint32_t)x->i[k])
    } else
        memcpy(out + at->from, x->i, (size_t)count * 4);
    return saw_nan;
}

/* Reads a block of one value, or of the sum or product of two. */
static inline void read_block(const ob_call *call, block_t *x, const uint32_t *in, const uint32_t *in2,
                              int64_t begin, int count) {
    const uint32_t *a = in + begin, *b = in2 + begin;
    const float *f = (const float *)a, *g = (const float *)b;
    if (call->in_factor) {
        const uint8_t *bytes = (const uint8_t *)in + begin;
        int32_t factor = call->in_factor, zero = call->in_zero;
        for (int k = 0; k < count; k++) x->i[k] = bytes[k] * factor - zero;
    } else if (call->kernel == OB_KERNEL_ADD)
        for (int k = 0; k < count; k++) x->f[k] = f[k] + g[k];
    else if (call->kernel == OB_KERNEL_MULTIPLY)
        for (int k = 0; k < count; k++) x->f[k] = f[k] * g[k];
    else if (call->kernel == OB_KERNEL_ADD_INT)
        for (int k = 0; k < count; k++) x->i[k] = (int32_t)(a[k] + b[k]);
    else
        memcpy(x->i, a, (size_t)count * 4);
}

/* The epilogue on every pixel of one value, or of the sum or product of two. */
static int pointwise(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    block_t x;
    int64_t pixels = (int64_t)call->out_height * call->out_width;
    int blocks = (call->channels + BLOCK - 1) / BLOCK, saw_nan = 0;
    /* threads share the pixels, or the blocks of a single pixel */
    const span_t all = {0, pixels == 1 ? 1 : blocks}, mine = span_of(share, pixels == 1 ? blocks : pixels);
    const span_t of_pixels = pixels == 1 ? all : mine, of_blocks = pixels == 1 ? mine : all;
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + call->in + n * call->in_size,
                       *in2 = arena + call->in2 + n * call->in2_size;
        for (int64_t at = of_pixels.begin; at < of_pixels.end; at++)
            for (int block = of_blocks.begin; block < of_blocks.end; block++) {
                int first = block * BLOCK,
                    part = call->channels - first < BLOCK ? call->channels - first : BLOCK;
                site_t site = {arena, n, at, first};
                read_block(call, &x, in, in2, at * call->in_pixel + first, part);
                saw_nan |= finish_block(call, &x, &site, call->together ? 0 : first, part, 0);
            }
    }
    return saw_nan;
}
