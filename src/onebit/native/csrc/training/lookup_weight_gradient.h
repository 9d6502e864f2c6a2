/* The gradient to the weights of a convolution whose inputs are signs, by lookups. See ob_convolution and
 * integer_tables.h.
 *
 * Inputs of a table are gradients to one output, of eight pixels that follow each other in a row. What looks
 * them up are the signs of x that a tap multiplies with these pixels, of 16 channels. Where a tap is left or
 * right of the image, x counts as -1, and `outside` has the gradients that are taken from sums for it.
 *
 * Rows of gradients are divided into units with a power of each output, and units into blocks with sums of
 * their own, whatever the number of threads; the blocks are added in order. */
#pragma once
#include "integer_tables.h"

enum { MOST_OUTPUTS = 8, MOST_COLUMNS = 3, /* of a tile */ SIGN_BLOCKS = 8, UNIT_PIXELS = 512 };

typedef struct {
    values_t x, gradient;
    int64_t rows, unit, blocks; /* rows of all images, of a unit */
    int64_t piece, slots;       /* numbers of the tables of a piece; rows of x of a unit */
    int64_t sums;               /* of a block */
    int pieces, groups, output_tiles, channel_tiles, taps,
        pixels;                /* groups of pixels; places of a row of x, or beside it, that taps read */
    int begin, end, together;  /* output tiles that have tables at the same time, and how many */
    float *totals;             /* [block][output][tap][channel] */
    int16_t *tables;           /* [piece][output tile][row][group][output] */
    uint16_t *indices, *masks; /* [row of x][channel tile][group][tap across]; a mask for each pixel */
    int32_t *outside;          /* [piece][tap][output] */
    float *powers;             /* [output] */
    int64_t *at;               /* [row][tap down]: the row of indices, or -1 above or below the image */
} signs_gradient_t;

/* Lays out the work; returns the scratch memory of all parts in bytes. */
static int64_t plan_signs_gradient(const ob_convolution *call, int32_t part, int32_t parts,
                                   signs_gradient_t *work) {
    work->x = (values_t){call->x, NULL, call->channels, call->bf16};
    work->gradient = (values_t){call->gradient, NULL, call->outputs, call->bf16};
    work->taps = call->kernel[0] * call->kernel[1], work->pieces = call->bf16 ? 1 : 2;
    work->groups = (call->out_size[1] + TABLE_INPUTS - 1) / TABLE_INPUTS;
    work->output_tiles = (call->outputs + 15) / 16, work->channel_tiles = (call->channels + 15) / 16;
    work->pixels = (work->groups * TABLE_INPUTS - 1) * call->stride[1] + call->kernel[1];
    work->rows = call->images * call->out_size[0];
    work->unit = at_least(UNIT_PIXELS / (work->groups * TABLE_INPUTS), 1);
    work->unit = work->unit < work->rows ? work->unit : work->rows;
    const int64_t tables_of = work->unit * work->groups * 16 * TABLE_SUMS;
    work->together = (int)at_least(NEAR_TABLES / (2 * work->pieces * tables_of), 1);
    work->together = work->together < work->output_tiles ? work->together : work->output_tiles;
    work->piece = work->together * tables_of;
    const int64_t units = (work->rows + work->unit - 1) / work->unit;
    work->blocks = units < SIGN_BLOCKS ? units : SIGN_BLOCKS;
    work->slots = work->unit * call->stride[0] + (work->unit / call->out_size[0] + 2) * call->kernel[0];
    work->sums = (int64_t)work->output_tiles * 16 * work->taps * work->channel_tiles * 16;
    const int64_t tables = work->pieces * work->piece * 2, masks = whole_lines(2 * work->pixels),
                  indices =
                      work->slots * work->channel_tiles * work->groups * call->kernel[1] * TABLE_SUMS * 2,
                  powers = work->output_tiles * 64, outside = work->pieces * work->taps * powers,
                  own = tables + indices + outside + powers + masks +
                        whole_lines(work->unit * call->kernel[0] * 8),
                  totals = work->blocks * work->sums * 4;
    if (call->scratch) {
        char *to = (char *)call->scratch + totals + part * own;
        work->totals = (float *)call->scratch;
        work->tables = (int16_t *)to;
        work->indices = (uint16_t *)(to += tables);
        work->outside = (int32_t *)(to += indices);
        work->powers = (float *)(to += outside);
        work->masks = (uint16_t *)(to += powers);
        work->at = (int64_t *)(to + masks);
    }
    return totals + parts * own;
}

/* The row of x that a tap of a row of gradients reads, or -1 above or below the image. */
static int64_t row_of_x(const ob_convolution *call, int64_t row, int tap) {
    const int64_t i = row % call->out_size[0] * call->stride[0] + tap - call->padding[0];
    return i < 0 || i >= call->in_size[0] ? -1 : row / call->out_size[0] * call->in_size[0] + i;
}

/* Where the signs of a row of x look up. */
static void write_indices(const ob_convolution *call, const signs_gradient_t *work, int64_t row,
                          uint16_t *to) {
    memset(work->masks, 0, (size_t)work->pixels * 2);
    for (int tile = 0; tile < work->channel_tiles; tile++) {
        for (int64_t j = 0; j < call->in_size[1] && j + call->padding[1] < work->pixels; j++) {
            const __m512 x = some_of(&work->x, row * call->in_size[1] + j, tile * 16);
            work->masks[j + call->padding[1]] = is_plus(_mm512_sub_ps(x, _mm512_set1_ps(call->x_middle)));
        }
        for (int64_t group = 0; group < work->groups; group++)
            for (int tap = 0; tap < call->kernel[1]; tap++, to += TABLE_SUMS) {
                const uint16_t *masks = work->masks + group * TABLE_INPUTS * call->stride[1] + tap;
                __m512i index = FIRST_INDEX;
#pragma GCC unroll 8
                for (int k = 0; k < TABLE_INPUTS; k++) index = index_of(index, k, masks[k * call->stride[1]]);
                _mm512_store_si512(to, index);
            }
    }
}

/* Tables of eight pixels and 16 outputs: of a piece of their gradients. */
ALWAYS void write_tables(const __m512i *x, int16_t *to) {
    __m512i pairs[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        pairs[k] = _mm512_mask_blend_epi16(0xaaaaaaaa, x[2 * k], _mm512_slli_epi32(x[2 * k + 1], 16));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        const __m512i some = k < 2 ? _mm512_unpacklo_epi32(pairs[0], pairs[1])
                                   : _mm512_unpackhi_epi32(pairs[0], pairs[1]),
                      rest = k < 2 ? _mm512_unpacklo_epi32(pairs[2], pairs[3])
                                   : _mm512_unpackhi_epi32(pairs[2], pairs[3]);
        lookup_tables(k % 2 ? _mm512_unpackhi_epi64(some, rest) : _mm512_unpacklo_epi64(some, rest), 4,
                      4 * TABLE_SUMS, to + k * TABLE_SUMS);
    }
}

/* Adds the gradients to eight pixels and 16 outputs to `outside`, for the taps that are beside the image. */
static void add_outside(const ob_convolution *call, const signs_gradient_t *work, int64_t n, int64_t group,
                        int tile, const __m512i *x, int32_t *outside) {
    const int64_t left = group * TABLE_INPUTS * call->stride[1] - call->padding[1];
    for (int across = 0; across < call->kernel[1]; across++)
        for (int k = 0; k < TABLE_INPUTS; k++) {
            const int64_t at = left + k * call->stride[1] + across;
            for (int down = 0; (at < 0 || at >= call->in_size[1]) && down < call->kernel[0]; down++) {
                int32_t *to = outside + ((down * call->kernel[1] + across) * work->output_tiles + tile) * 16;
                if (work->at[n * call->kernel[0] + down] >= 0)
                    _mm512_store_si512(to, _mm512_add_epi32(_mm512_load_si512(to), x[k]));
            }
        }
}

/* The tables of row number n of a unit. */
ALWAYS void write_gradients(const int pieces, const ob_convolution *call, const signs_gradient_t *work,
                            int64_t row, int64_t n) {
    const int64_t columns = call->out_size[1];
    for (int tile = work->begin; tile < work->end; tile++) {
        const __m512 power = _mm512_load_ps(work->powers + tile * 16);
        for (int64_t group = 0; group < work->groups; group++) {
            const int64_t first = group * TABLE_INPUTS, left = first * call->stride[1] - call->padding[1];
            __m512i x[2][TABLE_INPUTS];
#pragma GCC unroll 8
            for (int k = 0; k < TABLE_INPUTS; k++) {
                __m512 value = _mm512_setzero_ps();
                if (first + k < columns)
                    value = some_of(&work->gradient, row * columns + first + k, tile * 16);
                x[pieces - 1][k] = _mm512_cvtps_epi32(_mm512_mul_ps(value, power));
                if (pieces > 1) x[0][k] = upper_of(&x[1][k]);
            }
#pragma GCC unroll 2
            for (int piece = 0; piece < pieces; piece++) {
                write_tables(x[piece], work->tables + piece * work->piece +
                                           (((tile - work->begin) * work->unit + n) * work->groups + group) *
                                               16 * TABLE_SUMS);
                if (left >= 0 &&
                    left + (TABLE_INPUTS - 1) * call->stride[1] + call->kernel[1] <= call->in_size[1])
                    continue;
                __m512i copy[TABLE_INPUTS];
                for (int k = 0; k < TABLE_INPUTS; k++) copy[k] = x[piece][k];
                add_outside(call, work, n, group, tile, copy,
                            work->outside + piece * work->taps * work->output_tiles * 16);
            }
        }
    }
}

/* Sums of MOST_OUTPUTS outputs, C taps of a row of taps, and 16 channels. */
ALWAYS void signs_sums(const int C, const ob_convolution *call, const signs_gradient_t *work, int64_t rows,
                       int down, const int16_t *tables, const uint16_t *indices, __m512i *sums) {
    const int64_t group = (int64_t)call->kernel[1] * TABLE_SUMS;
    __m512i sum[MOST_OUTPUTS][MOST_COLUMNS];
#pragma GCC unroll 8
    for (int m = 0; m < MOST_OUTPUTS; m++)
        for (int c = 0; c < C; c++) sum[m][c] = _mm512_setzero_si512();
    for (int64_t n = 0; n < rows; n++) {
        const int64_t at = work->at[n * call->kernel[0] + down];
        if (at < 0) continue;
        const int16_t *table = tables + n * work->groups * 16 * TABLE_SUMS;
        const uint16_t *from = indices + at * work->channel_tiles * work->groups * group;
#pragma GCC unroll 1
        for (int64_t g = 0; g < work->groups; g++, from += group, table += 16 * TABLE_SUMS) {
            __m512i index[MOST_COLUMNS];
#pragma GCC unroll 3
            for (int c = 0; c < C; c++) index[c] = _mm512_load_si512(from + c * TABLE_SUMS);
#pragma GCC unroll 8
            for (int m = 0; m < MOST_OUTPUTS; m++) {
                const __m512i entries = _mm512_load_si512(table + m * TABLE_SUMS);
#pragma GCC unroll 3
                for (int c = 0; c < C; c++) sum[m][c] = add_looked_up(sum[m][c], index[c], entries);
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < MOST_OUTPUTS; m++)
        for (int c = 0; c < C; c++) sums[m * MOST_COLUMNS + c] = sum[m][c];
}

/* The indices of a unit, which is `rows` from `row` on. */
static void write_unit(const ob_convolution *call, const signs_gradient_t *work, int64_t row, int64_t rows) {
    const int64_t of_row = work->channel_tiles * work->groups * call->kernel[1] * TABLE_SUMS;
    for (int64_t n = 0, first = 0, written = 0; n < rows; n++, first += call->stride[0]) {
        if ((row + n) % call->out_size[0] == 0) first = written;
        for (int down = 0; down < call->kernel[0]; down++) {
            const int64_t x = row_of_x(call, row + n, down), to = first + down;
            work->at[n * call->kernel[0] + down] = x < 0 ? -1 : to;
            if (to < written) continue;
            written = to + 1;
            if (x >= 0) write_indices(call, work, x, work->indices + to * of_row);
        }
    }
}

/* Adds the products of a unit with those outputs whose tables are there to the sums of a block. */
static void add_unit(const ob_convolution *call, const signs_gradient_t *work, int64_t rows, float *totals) {
    const int end = work->end * 16 < call->outputs ? work->end * 16 : call->outputs;
    for (int output = work->begin * 16; output < end; output += MOST_OUTPUTS)
        for (int tile = 0; tile < work->channel_tiles; tile++)
            for (int tap = 0, many; tap < work->taps; tap += many) {
                const int down = tap / call->kernel[1], across = tap % call->kernel[1];
                many = call->kernel[1] - across < MOST_COLUMNS ? call->kernel[1] - across : MOST_COLUMNS;
                const int64_t group = (output / 16 - work->begin) * work->unit * work->groups;
                const int16_t *tables = work->tables + (group * 16 + output % 16) * TABLE_SUMS;
                const uint16_t *indices =
                    work->indices + (tile * work->groups * call->kernel[1] + across) * TABLE_SUMS;
                __m512i sums[2][MOST_OUTPUTS * MOST_COLUMNS];
                for (int piece = 0; piece < work->pieces; piece++, tables += work->piece) {
                    switch (many) {
                    case 1: signs_sums(1, call, work, rows, down, tables, indices, sums[piece]); break;
                    case 2: signs_sums(2, call, work, rows, down, tables, indices, sums[piece]); break;
                    case 3: signs_sums(3, call, work, rows, down, tables, indices, sums[piece]); break;
                    }
                    const int32_t *outside =
                        work->outside + (piece * work->taps + tap) * work->output_tiles * 16;
                    for (int c = 0; c < many; c++, outside += work->output_tiles * 16)
                        for (int m = 0; m < MOST_OUTPUTS; m++) {
                            __m512i *sum = &sums[piece][m * MOST_COLUMNS + c];
                            *sum = _mm512_add_epi32(*sum, _mm512_set1_epi32(outside[output + m]));
                        }
                }
                for (int m = 0; m < MOST_OUTPUTS; m++) {
                    const __m512 unit = _mm512_set1_ps(1 / work->powers[output + m]);
                    for (int c = 0; c < many; c++) {
                        float *to = totals +
                                    (((output + m) * work->taps + tap + c) * work->channel_tiles + tile) * 16;
                        const __m512 sum = whole_sum(work->pieces, sums[0] + m * MOST_COLUMNS + c,
                                                     MOST_OUTPUTS * MOST_COLUMNS);
                        _mm512_store_ps(to, _mm512_fmadd_ps(sum, unit, _mm512_load_ps(to)));
                    }
                }
            }
}

/* Adds the products of a block, which is `rows` from `row` on, to its sums. */
static void add_units(const ob_convolution *call, signs_gradient_t *work, int64_t row, int64_t end,
                      float *totals) {
    const int64_t columns = call->out_size[1];
    for (int64_t rows; row < end; row += rows) {
        rows = end - row < work->unit ? end - row : work->unit;
        for (int tile = 0; tile < work->output_tiles; tile++) {
            const __m512i largest = largest_of(&work->gradient, row * columns, rows * columns, tile * 16);
            _mm512_store_ps(work->powers + tile * 16, powers_of(largest, TOP_BITS * work->pieces));
        }
        memset(work->outside, 0, (size_t)(work->pieces * work->taps * work->output_tiles) * 64);
        write_unit(call, work, row, rows);
        for (work->begin = 0; work->begin < work->output_tiles; work->begin = work->end) {
            const int left = work->output_tiles - work->begin;
            work->end = work->begin + (left < work->together ? left : work->together);
            for (int64_t n = 0; n < rows; n++)
                if (work->pieces > 1)
                    write_gradients(2, call, work, row + n, n);
                else
                    write_gradients(1, call, work, row + n, n);
            add_unit(call, work, rows, totals);
        }
    }
}

/* See ob_isa. Parts share blocks, then outputs. */
static int64_t run_signs_gradient(const ob_convolution *call, int32_t stage, int32_t part, int32_t parts) {
    signs_gradient_t work;
    const int64_t bytes = plan_signs_gradient(call, part, parts, &work);
    if (!call->scratch) return bytes;
    if (stage == OB_WEIGHT_SUMS) {
        const int64_t units = (work.rows + work.unit - 1) / work.unit;
        for (int64_t b = work.blocks * part / parts; b < work.blocks * (part + 1) / parts; b++) {
            const int64_t row = units * b / work.blocks * work.unit,
                          end = units * (b + 1) / work.blocks * work.unit,
                          last = end < work.rows ? end : work.rows;
            float *totals = work.totals + b * work.sums;
            memset(totals, 0, (size_t)work.sums * 4);
            add_units(call, &work, row, last, totals);
        }
        return bytes;
    }
    const __m512i lanes = lanes_apart((int)call->to_stride[1]);
    for (int64_t o = call->outputs * (int64_t)part / parts; o < call->outputs * (part + 1) / parts; o++)
        for (int tap = 0; tap < work.taps; tap++)
            for (int tile = 0; tile < work.channel_tiles; tile++) {
                const float *from = work.totals + ((o * work.taps + tap) * work.channel_tiles + tile) * 16;
                __m512 all = _mm512_setzero_ps();
                for (int64_t b = 0; b < work.blocks; b++)
                    all = _mm512_add_ps(all, _mm512_load_ps(from + b * work.sums));
                float *to = call->to + o * call->to_stride[0] + tap / call->kernel[1] * call->to_stride[2] +
                            tap % call->kernel[1] * call->to_stride[3] + tile * 16 * call->to_stride[1];
                _mm512_mask_i32scatter_ps(to, first_of(call->channels - tile * 16), lanes, all, 4);
            }
    return bytes;
}
#undef RUN_WEIGHT_GRADIENT
#define RUN_WEIGHT_GRADIENT run_signs_gradient
