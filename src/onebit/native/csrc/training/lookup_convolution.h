/* Convolutions of values, or of their signs, with weights of one magnitude per output, by lookups. See
 * ob_signed_convolution and integer_tables.h: inputs of a table are channels of a pixel, and an image has a
 * power of its own. */
#pragma once
#include "integer_tables.h"

enum { MOST_PIXELS = 8 /* of a tile */ };

typedef struct {
    values_t values;
    int64_t together; /* pixels whose values are one row of `values`, and whose tables follow each other */
    int64_t pitch, band,
        piece; /* pixels of a row of tables, rows of outputs at a time, sums of their tables */
    int groups, pieces, output_tiles; /* groups: tables of a pixel */
    uint16_t *weights;
    int16_t *tables;
} lookup_t;

/* Weights of an output tile. */
static int64_t lookups_of(const ob_signed_convolution *call, const lookup_t *work) {
    return (int64_t)call->kernel[0] * call->kernel[1] * work->groups * TABLE_SUMS;
}

/* Lays out the work; returns the scratch memory of all parts in bytes. */
static int64_t plan_lookups(const ob_signed_convolution *call, int32_t part, int32_t parts, lookup_t *work) {
    const int scaled = is_scaled(call);
    const int whole = !scaled && call->spread[1] == 1 && call->channels % TABLE_INPUTS == 0;
    work->together = whole ? call->in_size[1] : 1;
    work->values =
        (values_t){call->x, scaled ? call->x_scale : NULL, call->channels * work->together, call->bf16};
    work->groups = (call->channels + TABLE_INPUTS - 1) / TABLE_INPUTS;
    work->pieces = call->bf16 || call->x_signs ? 1 : 2;
    work->output_tiles = (call->outputs + 15) / 16;
    work->pitch = at_least((call->out_size[1] - 1) * call->stride[1] + call->kernel[1],
                           call->padding[1] + (call->in_size[1] - 1) * call->spread[1] + 1);
    const int64_t row = work->pitch * work->groups * TABLE_SUMS,
                  near = NEAR_TABLES / (2 * row * work->pieces);
    work->band = at_least((near - call->kernel[0]) / call->stride[0] + 1, 1);
    work->band = work->band < call->out_size[0] ? work->band : call->out_size[0];
    /* the last tile reads behind the rows */
    const int64_t behind = (int64_t)MOST_PIXELS * call->stride[1] * work->groups * TABLE_SUMS;
    work->piece = ((work->band - 1) * call->stride[0] + call->kernel[0]) * row + behind;
    const int64_t weights = work->output_tiles * lookups_of(call, work) * 2,
                  own = work->piece * work->pieces * 2;
    if (call->scratch) {
        work->weights = (uint16_t *)call->scratch;
        work->tables = (int16_t *)((char *)call->scratch + weights + part * own);
    }
    return weights + parts * own;
}

/* Where the outputs of a tile look up: [tap][group][output][half of the table], a bit for each channel whose
 * weight is not below 0. */
static void pack_lookups(const ob_signed_convolution *call, const lookup_t *work, int64_t tile) {
    const weights_t weights = weights_of(call, tile);
    uint16_t *to = work->weights + tile * lookups_of(call, work);
    for (int64_t tap = 0; tap < (int64_t)call->kernel[0] * call->kernel[1]; tap++)
        for (int64_t first = 0; first < call->channels; first += TABLE_INPUTS, to += TABLE_SUMS) {
            __m512i index = FIRST_INDEX;
            for (int k = 0; k < TABLE_INPUTS && first + k < call->channels; k++)
                index = index_of(index, k, is_plus(weights_at(&weights, tap, first + k)));
            _mm512_store_si512(to, index);
        }
}

/* The tables of a row of pixels with the padding around it; what is between the pixels stays 0. */
static void write_row(const ob_signed_convolution *call, const lookup_t *work, int64_t image, int64_t row,
                      float power, int16_t *to) {
    const int64_t pixel = (int64_t)work->groups * TABLE_SUMS, inside = row - call->padding[0],
                  i = inside / call->spread[0];
    if (inside < 0 || inside % call->spread[0] || i >= call->in_size[0]) {
        for (int k = 0; k < work->pieces; k++)
            memset(to + k * work->piece, 0, (size_t)(work->pitch * pixel) * 2);
        return;
    }
    to += call->padding[1] * pixel;
    const int64_t columns = call->in_size[1] / work->together, groups = work->groups * work->together;
    for (int64_t j = 0; j < columns; j++, to += call->spread[1] * pixel)
        for (int64_t k = 0; k < groups; k += 4) {
            __m512i x[2], upper[2];
#pragma GCC unroll 2
            for (int side = 0; side < 2; side++) {
                const int64_t channel = k * TABLE_INPUTS + 16 * side;
                const __m512 value =
                    some_of(&work->values, (image * call->in_size[0] + i) * columns + j, channel);
                x[side] = _mm512_cvtps_epi32(_mm512_mul_ps(value, _mm512_set1_ps(power)));
                if (call->x_signs) {
                    const __m512i ones = _mm512_mask_set1_epi32(_mm512_set1_epi32(-1), is_plus(value), 1);
                    x[side] = _mm512_maskz_mov_epi32(first_of(work->values.channels - channel), ones);
                }
                if (work->pieces > 1) upper[side] = upper_of(&x[side]);
            }
            const int64_t left = groups - k, tables = left < 4 ? left : 4;
            int16_t *at = to + k * TABLE_SUMS;
            lookup_tables(shorts_of(x), tables, TABLE_SUMS, at + (work->pieces - 1) * work->piece);
            if (work->pieces > 1) lookup_tables(shorts_of(upper), tables, TABLE_SUMS, at);
        }
}

/* Sums of P pixels, `step` apart, and B output tiles. */
ALWAYS void lookup_sums(const int P, const int B, const ob_signed_convolution *call, const lookup_t *work,
                        const int16_t *tables, const uint16_t *weights, __m512i *sums) {
    const int64_t pixel = (int64_t)work->groups * TABLE_SUMS, step = call->stride[1] * pixel;
    const int64_t panel = lookups_of(call, work), many = call->kernel[1] * work->groups;
    __m512i sum[MOST_PIXELS][2];
#pragma GCC unroll 8
    for (int m = 0; m < P; m++)
        for (int b = 0; b < B; b++) sum[m][b] = _mm512_setzero_si512();
    for (int i = 0; i < call->kernel[0]; i++, tables += work->pitch * pixel) {
        const int16_t *table = tables;
#pragma GCC unroll 1
        for (int64_t n = 0; n < many; n++, table += TABLE_SUMS, weights += TABLE_SUMS) {
            const __m512i first = _mm512_load_si512(weights),
                          second = B > 1 ? _mm512_load_si512(weights + panel) : first;
#pragma GCC unroll 8
            for (int m = 0; m < P; m++) {
                const __m512i entries = _mm512_load_si512(table + m * step);
#pragma GCC unroll 2
                for (int b = 0; b < B; b++) sum[m][b] = add_looked_up(sum[m][b], b ? second : first, entries);
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < P; m++)
        for (int b = 0; b < B; b++) sums[m * B + b] = sum[m][b];
}

/* Outputs of a tile of pixels. */
static void lookup_tile(const ob_signed_convolution *call, const lookup_t *work, const int16_t *tables,
                        int64_t to, int64_t pixels, int tile, float unit) {
    const int wide = pixels > MOST_PIXELS / 2, tiles = tile + 1 < work->output_tiles ? 2 : 1;
    const uint16_t *weights = work->weights + tile * lookups_of(call, work);
    __m512i sums[2][MOST_PIXELS * 2];
    __m512 y[MOST_PIXELS * 2];
    for (int k = 0; k < work->pieces; k++, tables += work->piece) switch (2 * wide + tiles) {
        case 1: lookup_sums(4, 1, call, work, tables, weights, sums[k]); break;
        case 2: lookup_sums(4, 2, call, work, tables, weights, sums[k]); break;
        case 3: lookup_sums(8, 1, call, work, tables, weights, sums[k]); break;
        case 4: lookup_sums(8, 2, call, work, tables, weights, sums[k]); break;
        }
    for (int m = 0; m < pixels * tiles; m++)
        y[m] = _mm512_mul_ps(whole_sum(work->pieces, sums[0] + m, MOST_PIXELS * 2), _mm512_set1_ps(unit));
    for (int b = 0; b < tiles; b++)
        store_outputs(call, (const float *)(y + b), tiles * 16, pixels, to, (tile + b) * 16);
}

/* See ob_isa. Parts share tiles of weights, then images. */
static int64_t run_lookup_convolution(const ob_signed_convolution *call, int32_t stage, int32_t part,
                                      int32_t parts) {
    lookup_t work;
    const int64_t bytes = plan_lookups(call, part, parts, &work);
    if (!call->scratch) return bytes;
    if (stage == OB_CONVOLUTION_PACK) {
        for (int64_t tile = work.output_tiles * (int64_t)part / parts;
             tile < work.output_tiles * (part + 1) / parts; tile++)
            pack_lookups(call, &work, tile);
        return bytes;
    }
    const int64_t pixel = (int64_t)work.groups * TABLE_SUMS, row = work.pitch * pixel;
    const int64_t rows = call->in_size[0] * (call->in_size[1] / work.together);
    const int bits = TOP_BITS * work.pieces;
    memset(work.tables, 0, (size_t)(work.piece * work.pieces) * 2);
    for (int64_t image = call->images * part / parts; image < call->images * (part + 1) / parts; image++) {
        __m512i largest = _mm512_setzero_si512();
        for (int64_t k = 0; k < work.values.channels; k += 16)
            largest = _mm512_max_epu32(largest, largest_of(&work.values, image * rows, rows, k));
        largest = _mm512_set1_epi32((int)_mm512_reduce_max_epu32(largest));
        const float power = call->x_signs ? 1 : _mm512_cvtss_f32(powers_of(largest, bits)), unit = 1 / power;
        for (int64_t i = 0; i < call->out_size[0]; i++) {
            const int64_t down = i % work.band;
            for (int64_t k = 0; down == 0 && k < (work.band - 1) * call->stride[0] + call->kernel[0]; k++)
                write_row(call, &work, image, i * call->stride[0] + k, power, work.tables + k * row);
            const int16_t *tables = work.tables + down * call->stride[0] * row;
            for (int64_t j = 0, many; j < call->out_size[1]; j += many) {
                many = call->out_size[1] - j < MOST_PIXELS ? call->out_size[1] - j : MOST_PIXELS;
                const int64_t to = ((image * call->out_size[0] + i) * call->out_size[1] + j) * call->outputs;
                for (int tile = 0; tile < work.output_tiles; tile += 2)
                    lookup_tile(call, &work, tables + j * call->stride[1] * pixel, to, many, tile, unit);
            }
        }
    }
    return bytes;
}
#undef RUN_CONVOLUTION
#define RUN_CONVOLUTION run_lookup_convolution
