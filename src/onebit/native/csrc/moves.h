/* Kernels that convert or copy values, and pooling. */
#pragma once
#include "barrier.h"
#include "base.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

/* Rounds real values to a grid of 2^-e: e = min(126, 24 - p), with the largest magnitude in [2^(p-1), 2^p);
 * with `constant`, a padding of 1 or -1 is on the grid too. Every thread finds the largest of all values and
 * rounds its share. The grid's unit and an upper bound of all magnitudes follow the integers. */
static int to_grid(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int64_t size = call->in_size; /* compilers read a field again for each value */
    const span_t mine = span_of(share, size);
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + call->in + n * size;
        const float *x = (const float *)in;
        int32_t *out = (int32_t *)arena + call->out + n * call->out_size;
        uint32_t largest = call->constant ? bits_of_float(1) : 0, most = 0;
        float unit = float_of_bits(0x7fc00000u);
        for (int64_t k = 0; k < size; k++) {
            uint32_t magnitude = in[k] & 0x7fffffffu;
            largest = magnitude > largest ? magnitude : largest;
        }
        if (largest >= 0x7f800000u) { /* infinite, or NaN */
            memset(out + mine.begin, 0, (size_t)(mine.end - mine.begin) * 4);
        } else {
            int e = grid_exponent(largest);
            float power = power_of_two(e);
#if defined(__SSE4_1__) || defined(__ARM_NEON)
            for (int64_t k = mine.begin; k < mine.end; k++) out[k] = (int32_t)rintf(x[k] * power);
#else /* without a rounding instruction */
            for (int64_t k = mine.begin; k < mine.end; k++) out[k] = rounded(x[k] * power);
#endif
            most = (uint32_t)(float_of_bits(largest) * power) + 1, unit = power_of_two(-e);
        }
        if (share->part == 0) memcpy(out + size, &unit, 4), memcpy(out + size + 1, &most, 4);
    }
    return 0;
}

static int expand_bits(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + call->in + n * call->in_size;
        int32_t *out = (int32_t *)(arena + call->out + n * call->out_size);
        span_t mine = span_of(share, (int64_t)call->out_height * call->out_width);
        for (int64_t at = mine.begin; at < mine.end; at++)
            for (int k = 0; k < call->channels; k += 32) { /* word by word, which compilers vectorize */
                uint32_t word = in[at * call->in_pixel + k / 32];
                int32_t *to = out + at * call->out_pixel + k;
                int width = call->channels - k < 32 ? call->channels - k : 32;
                for (int l = 0; l < width; l++) to[l] = (int32_t)(word >> l & 1) * 2 - 1;
            }
    }
    return 0;
}

/* Two real values that bits encode, on the grid of an image: difference and sum of their integers, and the
 * grid's unit. A value that the image does not have counts as the other one, because the grid is that of the
 * values in it. */
typedef struct {
    int32_t difference, sum;
    float unit;
} levels_t;

static int levels_to_grid(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    int64_t pixels = (int64_t)call->in_height * call->in_width;
    int last = call->in_pixel - 1;
    uint32_t tail =
        call->tap_channels % 32 ? (1u << call->tap_channels % 32) - 1 : ~0u; /* of the last word of a pixel */
    span_t mine = span_of(share, count);
    for (int64_t n = mine.begin; n < mine.end; n++) {
        const uint32_t *in = arena + call->in + n * call->in_size;
        uint32_t ones = 0, zeros = 0;
        for (int64_t at = 0; at < pixels; at++, in += call->in_pixel) {
            for (int k = 0; k < last; k++) ones |= in[k], zeros |= ~in[k];
            ones |= in[last], zeros |= ~in[last] & tail;
        }
        float low = zeros ? call->low : call->high, high = ones ? call->high : call->low;
        levels_t levels;
        levels_on_grid(low, high, &levels.difference, &levels.sum, &levels.unit);
        memcpy(arena + call->out + n * call->out_size, &levels, sizeof levels);
    }
    return 0;
}

static int fill(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    for (int64_t n = 0; n < count; n++) {
        uint32_t *out = arena + call->out + n * call->out_size;
        span_t mine = span_of(share, call->out_size);
        for (int64_t k = mine.begin; k < mine.end; k++) out[k] = (uint32_t)call->constant;
    }
    return 0;
}

#define COPY_ROW                                                         \
    if (from_stride == 1 && to_stride == 1)                              \
        memcpy(out, in, (size_t)size * sizeof *in);                      \
    else if (from_stride == 1)                                           \
        for (int64_t k = 0; k < size; k++) out[k * to_stride] = in[k];   \
    else if (to_stride == 1)                                             \
        for (int64_t k = 0; k < size; k++) out[k] = in[k * from_stride]; \
    else                                                                 \
        for (int64_t k = 0; k < size; k++) out[k * to_stride] = in[k * from_stride];

static void copy_units(const uint32_t *in, int64_t from_stride, uint32_t *out, int64_t to_stride,
                       int64_t size) {
    COPY_ROW
}
static void copy_bytes(const uint8_t *in, int64_t from_stride, uint8_t *out, int64_t to_stride,
                       int64_t size) {
    COPY_ROW
}

/* to[column][row] = from[row][column]; strides: from one row to the next, in both. */
static void turn_units(const uint32_t *from, int64_t from_stride, int64_t rows, int64_t columns, uint32_t *to,
                       int64_t to_stride) {
    int64_t whole = 0;
#ifdef __AVX2__
    for (; whole + 8 <= rows; whole += 8) {
        const uint32_t *in = from + whole * from_stride;
        uint32_t *out = to + whole;
        int64_t column = 0;
        for (; column + 8 <= columns; column += 8, in += 8, out += 8 * to_stride) {
            __m256i row[8], pair[8], four[8];
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++) row[k] = _mm256_loadu_si256((const __m256i *)(in + k * from_stride));
#pragma GCC unroll 4
            for (int k = 0; k < 8; k += 2) {
                pair[k] = _mm256_unpacklo_epi32(row[k], row[k + 1]);
                pair[k + 1] = _mm256_unpackhi_epi32(row[k], row[k + 1]);
            }
#pragma GCC unroll 2
            for (int k = 0; k < 8; k += 4) {
                four[k] = _mm256_unpacklo_epi64(pair[k], pair[k + 2]);
                four[k + 1] = _mm256_unpackhi_epi64(pair[k], pair[k + 2]);
                four[k + 2] = _mm256_unpacklo_epi64(pair[k + 1], pair[k + 3]);
                four[k + 3] = _mm256_unpackhi_epi64(pair[k + 1], pair[k + 3]);
            }
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                __m256i low = _mm256_permute2x128_si256(four[k], four[k + 4], 0x20);
                __m256i high = _mm256_permute2x128_si256(four[k], four[k + 4], 0x31);
                _mm256_storeu_si256((__m256i *)(out + k * to_stride), low);
                _mm256_storeu_si256((__m256i *)(out + (k + 4) * to_stride), high);
            }
        }
        for (; column < columns; column++, in++, out += to_stride)
            for (int k = 0; k < 8; k++) out[k] = in[k * from_stride];
    }
#endif
    for (int64_t row = whole; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            to[column * to_stride + row] = from[row * from_stride + column];
}

static int copy_box(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int32_t *box = call->box, *from_stride = call->from_stride, *to_stride = call->to_stride;
    span_t mine = span_of(share, box[1]);
    int64_t rows = 1;
    for (int axis = 2; axis < OB_AXES; axis++) rows *= box[axis];
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *image = arena + call->in + n * call->in_size;
        uint32_t *made = arena + call->out + n * call->out_size;
        if (rows == 1 && !call->in_factor && from_stride[0] == 1 && to_stride[1] == 1) {
            turn_units(image + call->from + mine.begin * (int64_t)from_stride[1], from_stride[1],
                       mine.end - mine.begin, box[0], made + call->to + mine.begin, to_stride[0]);
            continue;
        }
        if (rows == 1 && !call->in_factor && from_stride[1] == 1 && to_stride[0] == 1) {
            turn_units(image + call->from + mine.begin, from_stride[0], box[0], mine.end - mine.begin,
                       made + call->to + mine.begin * (int64_t)to_stride[1], to_stride[1]);
            continue;
        }
        for (int64_t i = mine.begin; i < mine.end; i++) {
            int64_t in = call->from + (int64_t)i * from_stride[1], out = call->to + (int64_t)i * to_stride[1];
            int32_t at[OB_AXES] = {0};
            for (int64_t row = 0; row < rows; row++) {
                if (call->in_factor)
                    copy_bytes((const uint8_t *)image + in, from_stride[0], (uint8_t *)made + out,
                               to_stride[0], box[0]);
                else
                    copy_units(image + in, from_stride[0], made + out, to_stride[0], box[0]);
                for (int axis = 2; axis < OB_AXES; axis++) { /* to the next row */
                    in += from_stride[axis], out += to_stride[axis];
                    if (++at[axis] < box[axis]) break;
                    in -= (int64_t)box[axis] * from_stride[axis], out -= (int64_t)box[axis] * to_stride[axis];
                    at[axis] = 0;
                }
            }
        }
    }
    return 0;
}

#define COMBINE(name, body)                   \
    case OB_KERNEL_##name:                    \
        for (int k = 0; k < units; k++) body; \
        break;

/* Pooling: combines the taps of each window that are inside the image, channel by channel. */
static int pool(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int kernel = call->kernel, bytes = call->in_factor != 0,
              adds = kernel == OB_KERNEL_SUM || kernel == OB_KERNEL_SUM_INT;
    const int units = kernel == OB_KERNEL_MAX_BITS ? call->in_pixel : call->channels,
              size = bytes && !adds ? 1 : 4;
    const int down = call->taps_down, across = call->taps_across;
    const int64_t pixel = (int64_t)call->in_pixel * (bytes ? 1 : 4), row_bytes = call->in_width * pixel;
    span_t mine = span_of(share, call->out_height);
    for (int64_t n = 0; n < count; n++)
        for (int i = mine.begin; i < mine.end; i++)
            for (int j = 0; j < call->out_width; j++) {
                const uint8_t *in = (const uint8_t *)(arena + call->in + n * call->in_size);
                const int32_t *rows = call->rows + i * down, *columns = call->columns + j * across;
                int64_t window = (int64_t)i * call->out_width + j;
                uint8_t *out_bytes =
                    (uint8_t *)(arena + call->out + n * call->out_size) + window * call->out_pixel * size;
                uint32_t *out = (uint32_t *)out_bytes, seen = 0;
                float *reals = (float *)out;
                if (adds) memset(out, 0, (size_t)units * 4);
                for (int a = 0; a < down; a++)
                    for (int b = 0; b < across; b++) {
                        if (rows[a] < 0 || columns[b] < 0) continue;
                        const uint8_t *x_bytes = in + rows[a] * row_bytes + columns[b] * pixel;
                        const uint32_t *x = (const uint32_t *)x_bytes;
                        const float *f = (const float *)x;
                        if (!seen++ && !adds) {
                            memcpy(out, x, (size_t)(units * size));
                            continue;
                        }
                        switch (kernel) {
                            COMBINE(MAX, reals[k] = larger_of(reals[k], f[k]))
                            COMBINE(MAX_INT, if ((int32_t)x[k] > (int32_t)out[k]) out[k] = x[k])
                            COMBINE(MAX_BITS, out[k] |= x[k])
                            COMBINE(MAX_BYTES,
                                    out_bytes[k] = x_bytes[k] > out_bytes[k] ? x_bytes[k] : out_bytes[k])
                            COMBINE(SUM, reals[k] += f[k])
                        case OB_KERNEL_SUM_INT:
                            if (bytes)
                                for (int k = 0; k < units; k++) out[k] += x_bytes[k];
                            else
                                for (int k = 0; k < units; k++) out[k] += x[k];
                        }
                    }
                if (kernel == OB_KERNEL_MAX) /* of 0 and -0, neither is the larger */
                    for (int k = 0; k < units; k++) reals[k] += 0.0f;
                if (bytes && adds)
                    for (int k = 0; k < units; k++)
                        out[k] = (uint32_t)call->in_factor * out[k] - (uint32_t)call->in_zero * seen;
                if (call->divisor && kernel == OB_KERNEL_SUM)
                    for (int k = 0; k < units; k++) reals[k] /= call->divisor[window];
                else if (call->divisor) /* integers give a float32 quotient */
                    for (int k = 0; k < units; k++) reals[k] = (float)(int32_t)out[k] / call->divisor[window];
            }
    return 0;
}

/* Adaptive pooling: window (i, j) spans rows[2i] to rows[2i + 1] and columns[2j] to columns[2j + 1]. */
static int adaptive_average(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    span_t mine = span_of(share, call->out_height);
    for (int64_t n = 0; n < count; n++)
        for (int i = mine.begin; i < mine.end; i++)
            for (int j = 0; j < call->out_width; j++) {
                const uint32_t *in = arena + call->in + n * call->in_size;
                int64_t window = (int64_t)i * call->out_width + j;
                float *out = (float *)(arena + call->out + n * call->out_size + window * call->out_pixel);
                for (int first = 0; first < call->channels; first += OB_VECTOR) {
                    const int n = call->channels - first < OB_VECTOR ? call->channels - first : OB_VECTOR;
                    double total[OB_VECTOR], down[OB_VECTOR];
                    int64_t whole[OB_VECTOR] = {0};
                    for (int c = 0; c < OB_VECTOR; c++) total[c] = -0.0; /* with which -0 stays -0 */
                    for (int column = call->columns[2 * j]; column < call->columns[2 * j + 1]; column++) {
                        for (int c = 0; c < OB_VECTOR; c++) down[c] = -0.0;
                        for (int row = call->rows[2 * i]; row < call->rows[2 * i + 1]; row++) {
                            const uint32_t *x =
                                in + ((int64_t)row * call->in_width + column) * call->in_pixel + first;
                            if (call->real)
                                for (int c = 0; c < n; c++) down[c] += float_of_bits(x[c]);
                            else
                                for (int c = 0; c < n; c++) whole[c] += (int32_t)x[c];
                        }
                        for (int c = 0; c < OB_VECTOR; c++) total[c] += down[c];
                    }
                    for (int c = 0; c < n; c++)
                        out[first + c] =
                            (call->real ? (float)total[c] : (float)whole[c]) / call->divisor[window];
                }
            }
    return 0;
}
