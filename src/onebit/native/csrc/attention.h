/* Normalizations, softmax, and products of two values. */
#pragma once
#include "epilogue.h"
#include "moves.h"

#define TOTAL_LANES 16

/* The sum of 16 lanes: halves are added. */
static inline double total_of_lanes(double *lanes) {
    for (int half = TOTAL_LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

/* The sum of every 16th number, one after the other, then of these. */
static double lane_sum(const double *x, int count) {
    double lanes[TOTAL_LANES] = {0};
    int k = 0;
    for (; k + TOTAL_LANES <= count; k += TOTAL_LANES)
        for (int l = 0; l < TOTAL_LANES; l++) lanes[l] += x[k + l];
    for (int l = 0; k + l < count; l++) lanes[l] += x[k + l];
    return total_of_lanes(lanes);
}

/* Mean and 1 / deviation of each channel of `block` pixels, which are those of its group. */
static void moments_of(const ob_call *call, const float *x, double *restrict sums, float *restrict mean,
                       float *restrict factor) {
    const int channels = call->channels, size = channels / call->groups;
    const double numbers = (double)size * call->block;
    memset(mean, 0, (size_t)channels * sizeof *mean);
    for (int squares = !call->center; squares < 2; squares++) {
        memset(sums, 0, (size_t)channels * sizeof *sums);
        for (int at = 0; at < call->block; at++) {
            const float *pixel = x + (int64_t)at * call->in_pixel;
            if (squares)
                for (int k = 0; k < channels; k++) {
                    double d = pixel[k] - mean[k];
                    sums[k] += d * d;
                }
            else
                for (int k = 0; k < channels; k++) sums[k] += pixel[k];
        }
        for (int first = 0; first < channels; first += size) {
            double average = lane_sum(sums + first, size) / numbers;
            float *to = squares ? factor : mean, number = (float)average;
            if (squares) number = (float)(1 / sqrt(average + (double)call->low));
            for (int k = first; k < first + size; k++) to[k] = number;
        }
    }
}

static int normalize_groups(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int channels = call->channels;
    double *sums = (double *)(arena + call->scratch + share->scratch);
    float *mean = (float *)(sums + channels), *factor = mean + channels;
    const span_t mine = span_of(share, (int64_t)call->out_height * call->out_width);
    int saw_nan = 0;
    block_t y;
    for (int64_t n = 0; n < count; n++)
        for (int at = mine.begin; at < mine.end; at++) {
            const float *image = (const float *)(arena + call->in + n * call->in_size);
            const float *x = image + (int64_t)at * call->in_pixel;
            if (at == mine.begin || call->block == 1)
                moments_of(call, call->block == 1 ? x : image, sums, mean, factor);
            for (int first = 0; first < channels; first += BLOCK) {
                int part = channels - first < BLOCK ? channels - first : BLOCK;
                site_t site = {arena, n, at, first};
                for (int k = 0; k < part; k++) y.f[k] = (x[first + k] - mean[first + k]) * factor[first + k];
                saw_nan |= finish_block(call, &y, &site, first, part, 0);
            }
        }
    return saw_nan;
}

static int softmax(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int channels = call->channels, whole = channels - channels % TOTAL_LANES;
    const span_t mine = span_of(share, (int64_t)call->out_height * call->out_width);
    for (int64_t n = 0; n < count; n++)
        for (int at = mine.begin; at < mine.end; at++) {
            const float *restrict x =
                (const float *)(arena + call->in + n * call->in_size) + (int64_t)at * call->in_pixel;
            float *restrict y =
                (float *)(arena + call->out + n * call->out_size) + (int64_t)at * call->out_pixel;
            float most[TOTAL_LANES], largest = x[0], factor;
            double lanes[TOTAL_LANES] = {0};
            for (int l = 0; l < TOTAL_LANES; l++) most[l] = x[0];
            for (int k = 0; k < whole; k += TOTAL_LANES)
                for (int l = 0; l < TOTAL_LANES; l++) most[l] = x[k + l] > most[l] ? x[k + l] : most[l];
            for (int k = whole; k < channels; k++) largest = x[k] > largest ? x[k] : largest;
            for (int l = 0; l < TOTAL_LANES; l++) largest = most[l] > largest ? most[l] : largest;
            for (int k = 0; k < channels; k++) y[k] = exp_less(x[k] - largest, 0);
            for (int k = 0; k < whole; k += TOTAL_LANES)
                for (int l = 0; l < TOTAL_LANES; l++) lanes[l] += y[k + l];
            for (int k = whole; k < channels; k++) lanes[k - whole] += y[k];
            factor = (float)(1 / total_of_lanes(lanes));
            for (int k = 0; k < channels; k++) y[k] *= factor;
        }
    return 0;
}

/* Sums of 32 products of 24-bit integers are exact in double, fused or not. */
#define PRODUCT_TERMS 32
#if defined(__FMA__) || (defined(__aarch64__) && defined(__GNUC__))
#define fused_sum(x, y, sum) __builtin_fma(x, y, sum)
#else
#define fused_sum(x, y, sum) ((x) * (y) + (sum))
#endif
#define PRODUCT_LANES OB_PRODUCT_LANES
#define PRODUCT_ROWS OB_PRODUCT_ROWS

/* Sums of `terms` products for a tile: x has rows of numbers, w a panel. */
static void values_tile(const double *restrict x, const double *restrict w, int terms,
                        int64_t sums[PRODUCT_ROWS][PRODUCT_LANES]) {
    memset(sums, 0, sizeof(int64_t) * PRODUCT_ROWS * PRODUCT_LANES);
    for (int from = 0; from < terms; from += PRODUCT_TERMS) {
        const int to = from + PRODUCT_TERMS < terms ? from + PRODUCT_TERMS : terms;
        double tile[PRODUCT_ROWS][PRODUCT_LANES] = {{0}};
        for (int k = from; k < to; k++)
            for (int m = 0; m < PRODUCT_ROWS; m++)
                for (int l = 0; l < PRODUCT_LANES; l++)
                    tile[m][l] = fused_sum(x[m * terms + k], w[k * PRODUCT_LANES + l], tile[m][l]);
        for (int m = 0; m < PRODUCT_ROWS; m++)
            for (int l = 0; l < PRODUCT_LANES; l++) sums[m][l] += (int64_t)tile[m][l];
    }
}

static void to_doubles(const int32_t *restrict x, int64_t count, double *restrict to) {
    for (int64_t k = 0; k < count; k++) to[k] = x[k];
}

static int multiply_values(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int terms = call->tap_channels, columns = call->out_width, outputs = call->channels;
    const int panels = (outputs + PRODUCT_LANES - 1) / PRODUCT_LANES;
    const int64_t a_size = (int64_t)call->out_height * columns * terms,
                  b_size = (int64_t)call->out_height * outputs * terms,
                  panel = (int64_t)terms * PRODUCT_LANES;
    const int tiles = (columns + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    const span_t mine = span_of(share, (int64_t)call->out_height * tiles);
    double *w = (double *)(arena + call->scratch + share->scratch), *x = w + panels * panel;
    uint32_t *turned = (uint32_t *)(x + terms * PRODUCT_ROWS);
    int64_t sums[PRODUCT_ROWS][PRODUCT_LANES];
    int saw_nan = 0;
    block_t y[PRODUCT_ROWS];
    memset(turned, 0, (size_t)panel * sizeof *turned);
    memset(x, 0, (size_t)terms * PRODUCT_ROWS * sizeof *x);
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *a = arena + call->in + n * call->in_size, *b = arena + call->in2 + n * call->in2_size;
        const float a_unit = float_of_bits(a[a_size]), b_unit = float_of_bits(b[b_size]);
        for (int item = mine.begin, made = -1; item < mine.end; item++) {
            const int row = item / tiles, column = item % tiles * PRODUCT_ROWS,
                      many = columns - column < PRODUCT_ROWS ? columns - column : PRODUCT_ROWS;
            const int64_t pixel = (int64_t)row * columns + column;
            for (int p = 0; p < panels && made != row; p++) {
                const int first = p * PRODUCT_LANES,
                          part = outputs - first < PRODUCT_LANES ? outputs - first : PRODUCT_LANES;
                turn_units(b + ((int64_t)row * outputs + first) * terms, terms, part, terms, turned,
                           PRODUCT_LANES);
                to_doubles((const int32_t *)turned, panel, w + p * panel);
            }
            made = row;
            to_doubles((const int32_t *)a + pixel * terms, many * terms, x);
            for (int first = 0; first < outputs; first += BLOCK) {
                const int part = outputs - first < BLOCK ? outputs - first : BLOCK;
                for (int from = 0; from < part; from += PRODUCT_LANES) {
                    values_tile(x, w + (first + from) / PRODUCT_LANES * panel, terms, sums);
                    for (int m = 0; m < PRODUCT_ROWS; m++) /* of rows beyond the last, what was there */
                        for (int l = 0; l < PRODUCT_LANES; l++)
                            y[m].f[from + l] = (float)sums[m][l] * a_unit * b_unit;
                }
                for (int m = 0; m < many; m++) {
                    site_t site = {arena, n, pixel + m, first};
                    saw_nan |= finish_block(call, y + m, &site, first, part, 0);
                }
            }
        }
    }
    return saw_nan;
}
