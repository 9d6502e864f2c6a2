/* Dense layers and convolutions: products of input rows with rows of weights.
 *
 * A row is the receptive field of one output pixel: `segments` of units, each at an offset from the start of
 * the row.
 */
#pragma once
#include "epilogue.h"
#include "isa.h"
#include "moves.h"

/* One tap, or several contiguous ones: input offset `a`, weight offset `b`, and `words` units or `groups`
 * lookups. */
typedef struct {
    int64_t a, b;
    int32_t words, groups;
} segment_t;

#define DENSE_WORDS 16 /* a block of a dense layer: the tables of 4 rows stay in the first-level cache */

/* sums[m][panel][lane]: bits in which row m differs from that row of weights. */
static void words_tile(int rows, int panels, const uint32_t *const *a, const segment_t *segments, int count,
                       const uint32_t *b, int64_t panel, int32_t *sums);
/* Sums of table entries; with `wide`, added to wide[m][panel][lane] after at most `most` lookups. */
static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride,
                     int32_t *sums);
static void lut_tables(const int32_t *x, int channels, int32_t *tables);

/* Fills in the segments of output row `i` and run `run`: the taps inside the image. Returns their number;
 * `terms`: their weights. */
static int gather(const ob_call *call, int i, const int32_t *run, int64_t row_units, int64_t pixel_units,
                  int tall, segment_t *segments, int64_t *terms) {
    int count = 0;
    *terms = 0;
    for (int a = 0; a < call->taps_down; a++) {
        int row = call->rows[i * call->taps_down + a];
        if (row < 0) continue;
        int64_t begin = (int64_t)(tall ? row % tall : row) * row_units;
        for (int b = 0; b < call->taps_across; b++) {
            int column = call->columns[run[0] * call->taps_across + b];
            if (column < 0) continue;
            segment_t next = {begin + (int64_t)column * pixel_units,
                              (int64_t)(a * call->taps_across + b) * call->tap_words, call->tap_words, 0};
            segment_t *last = count ? segments + count - 1 : NULL;
            *terms += call->tap_channels;
            /* taps that are neighbors in both image and weights make one longer segment, except for lookups
             */
            if (!tall && last && last->a + last->words == next.a && last->b + last->words == next.b)
                last->words += next.words;
            else
                segments[count++] = next;
        }
    }
    return count;
}

/* The next input row under the taps of output row `i`, after `made`, which it becomes; -1 if all are made.
 * `table_rows` are kept. */
static inline int next_row(const ob_call *call, int i, int *made) {
    for (int a = 0; a < call->taps_down; a++) {
        int row = call->rows[i * call->taps_down + a];
        if (row - *made > call->table_rows) *made = row - call->table_rows;
        if (row > *made) return ++*made;
    }
    return -1;
}

/* What the taps outside the image add to the sum of output `o` for a padding of `value`. */
static int64_t outside(const ob_call *call, int i, const int32_t *run, int o, int64_t value) {
    int64_t sum = 0;
    for (int a = 0; a < call->taps_down; a++)
        for (int b = 0; b < call->taps_across; b++)
            if (call->rows[i * call->taps_down + a] < 0 || call->columns[run[0] * call->taps_across + b] < 0)
                sum +=
                    call->tap_sums[(int64_t)(a * call->taps_across + b) * call->groups * call->outputs + o];
    return sum * value;
}

/* Output pixels with the same taps inside the image: one run of an output row, in every image. */
typedef struct {
    const ob_call *call;
    uint32_t *arena;
    int i;
    const int32_t *run;
    int64_t terms;         /* weights of the taps inside the image */
    const double *weights; /* their sum for each output of all groups, if `levels` */
} run_t;

/* One of these pixels: pixel t of the run in image n. */
typedef struct {
    int64_t n;
    int32_t t;
} position_t;

static inline position_t next_position(const run_t *at, position_t position) {
    position_t next = {position.n, position.t + 1};
    if (next.t == at->run[2]) next.n++, next.t = 0;
    return next;
}

static site_t site_of(const run_t *at, position_t position, int from) {
    site_t site = {at->arena, position.n,
                   (int64_t)at->i * at->call->out_width + at->run[0] + position.t * at->run[1], from};
    return site;
}

/* The grid unit of an image, which is stored after its values; 1 without a grid. */
static float unit_of(const run_t *at, position_t position) {
    const ob_call *call = at->call;
    float unit = 1;
    if (call->real) memcpy(&unit, at->arena + call->in + (position.n + 1) * call->in_size - 2, 4);
    return unit;
}

/* Number of lookups whose sum fits an int32; without a grid a whole row does, as the plan has checked. */
static int safe_lookups(const ob_call *call, const uint32_t *arena, int64_t image, int64_t images) {
    uint32_t largest = 0;
    if (!call->real) return INT32_MAX;
    for (int64_t n = image; n < image + images; n++) {
        uint32_t of_image =
            arena[call->in + (n + 1) * call->in_size - 1]; /* behind the unit: see row_to_grid */
        largest = of_image > largest ? of_image : largest;
    }
    return largest ? (int)(INT32_MAX / ((int64_t)LUT_INPUTS * largest)) : INT32_MAX;
}

/* The padding value as an integer on the grid of the image. */
static int64_t padding_of(const ob_call *call, float unit) {
    if (!call->real) return call->constant;
    if (unit != unit || unit > 2) return 0; /* rounds to 0 */
    return (int64_t)(unit > 1 ? 0 : call->constant / unit);
}

/* sum(x) over the receptive field of an output pixel, padding included, as a real value. */
static float total_of(const run_t *at, position_t position, int group, int64_t padding, float unit) {
    const ob_call *call = at->call;
    const uint32_t *in = at->arena + call->in + position.n * call->in_size;
    int64_t total = 0;
    for (int a = 0; a < call->taps_down; a++)
        for (int b = 0; b < call->taps_across; b++) {
            int64_t i = call->rows[at->i * call->taps_down + a],
                    j = call->columns[at->run[0] * call->taps_across + b];
            if (i < 0 || j < 0) {
                total += padding * call->tap_channels;
                continue;
            }
            j += position.t * at->run[3];
            const uint32_t *x = in + (i * call->in_width + j) * call->in_pixel;
            for (int c = group * call->tap_channels; c < (group + 1) * call->tap_channels; c++)
                total += call->kernel == OB_KERNEL_XNOR ? (int64_t)(x[c / 32] >> (c % 32) & 1) * 2 - 1
                                                        : (int32_t)x[c];
        }
    return call->real ? (float)total * unit : (float)total;
}

/* An integer below 2^51 in magnitude, rounded once; converting int64 to double is slow or not vectorized. */
static inline float float_of(int64_t x) {
    uint64_t bits = (uint64_t)x + 0x4338000000000000u; /* the bits of 1.5 * 2^52, plus x */
    double sum;
    memcpy(&sum, &bits, 8);
    return (float)(sum - 6755399441055744.0);
}

/* The sums of the weights of the taps inside the image, for each output of all groups. */
static void sum_weights(const run_t *at, double *weights) {
    const ob_call *call = at->call;
    int outputs = call->groups * call->outputs;
    for (int o = 0; o < outputs; o++) weights[o] = 0;
    for (int a = 0; a < call->taps_down; a++)
        for (int b = 0; b < call->taps_across; b++) {
            if (call->rows[at->i * call->taps_down + a] < 0 ||
                call->columns[at->run[0] * call->taps_across + b] < 0)
                continue;
            const int64_t *tap = call->tap_sums + (int64_t)(a * call->taps_across + b) * outputs;
            for (int o = 0; o < outputs; o++) weights[o] += (double)tap[o];
        }
}

/* The same as read_sums of bits that mean two levels: an input is (difference * sign + sum) / 2, on the grid
 * of its image. No product and no sum in double is rounded. `first`: the output of sums[0]. */
static inline void read_levels(const run_t *at, position_t position, int first, float *real, int count,
                               const int32_t *sums) {
    levels_t levels;
    memcpy(&levels, at->arena + at->call->in2 + position.n * at->call->in2_size, sizeof levels);
    const double difference = levels.difference * 0.5, sum = levels.sum * 0.5, *weights = at->weights + first;
    int32_t terms = (int32_t)at->terms;
    for (int k = 0; k < count; k++) /* + 0.0 makes -0.0 positive */
        real[k] = (float)(difference * (terms - 2 * sums[k]) + sum * weights[k] + 0.0) * levels.unit;
}

/* Writes sums (`wide` if not NULL) to a block from index `start` on: as integers, or as real values in units
 * of `unit`. */
static inline void read_sums(const run_t *at, block_t *x, int start, int count, const int32_t *sums,
                             const int64_t *wide, float unit) {
    const ob_call *call = at->call;
    int32_t *whole = x->i + start;
    uint32_t terms = (uint32_t)at->terms; /* unsigned, because the loop may run past the last sum */
    float *real = x->f + start;
    if (wide && call->real)
        for (int k = 0; k < count; k++) real[k] = float_of(wide[k]) * unit;
    else if (wide)
        for (int k = 0; k < count; k++) whole[k] = (int32_t)wide[k];
    else if (call->kernel == OB_KERNEL_XNOR) /* `sums` of the terms have different signs */
        CHANNELS(whole[k] = (int32_t)(terms - 2 * (uint32_t)sums[k]))
    else if (call->real && !call->scaled) /* else they are real already */
        CHANNELS(real[k] = (float)sums[k] * unit)
    else
        CHANNELS(whole[k] = sums[k])
}

/* Runs the epilogue on the sums of outputs `first` to `first + count` of a group. */
static int finish_sums(const run_t *at, position_t position, int group, int first, int count,
                       const int32_t *sums, const int64_t *wide) {
    const ob_call *call = at->call;
    block_t x;
    int offset = group * call->outputs + first;
    float unit = unit_of(at, position);
    int64_t padding = call->constant ? padding_of(call, unit) : 0;
    if (call->levels)
        read_levels(at, position, offset, x.f, count, sums);
    else if (!padding && wide &&
             call->weight_units) /* the loop below without its branches: compilers vectorize it */
        for (int k = 0; k < count; k++) x.f[k] = (float)wide[k] * unit * call->weight_units[offset + k];
    else if (padding || call->weight_units) {
        for (int k = 0; k < count; k++) {
            int64_t sum = wide ? wide[k] : call->kernel == OB_KERNEL_XNOR ? at->terms - 2 * sums[k] : sums[k];
            if (padding) sum += outside(call, at->i, at->run, offset + k, padding);
            if (!call->real && !call->weight_units) {
                x.i[k] = (int32_t)sum;
                continue;
            }
            x.f[k] = (float)sum * unit;
            if (call->weight_units) x.f[k] *= call->weight_units[offset + k];
        }
    } else
        read_sums(at, &x, 0, count, sums, wide, unit);
    float total = call->center ? total_of(at, position, group, padding, unit) : 0;
    site_t site = site_of(at, position, offset);
    return finish_block(call, &x, &site, offset, count, total);
}

/* Runs the epilogue on all outputs of neighboring pixels, or of images of one pixel, as one block; their
 * parameters are repeated to fill a block. */
static int finish_pixels(const run_t *at, position_t position, int many, const int32_t *sums,
                         int64_t sums_stride, const int64_t *wide, int64_t wide_stride) {
    const ob_call *call = at->call;
    block_t x;
    site_t site = site_of(at, position, 0);
    if (call->levels)
        for (int m = 0; m < many; m++, position = next_position(at, position))
            read_levels(at, position, 0, x.f + m * call->outputs, call->outputs, sums + m * sums_stride);
    else if (at->run[2] > 1 && !wide && sums_stride == call->outputs) /* contiguous in one image */
        read_sums(at, &x, 0, many * call->outputs, sums, NULL, unit_of(at, position));
    else
        for (int m = 0; m < many; m++, position = next_position(at, position))
            read_sums(at, &x, m * call->outputs, call->outputs, sums + m * sums_stride,
                      wide ? wide + m * wide_stride : NULL, unit_of(at, position));
    return finish_block(call, &x, &site, 0, many * call->outputs, 0);
}

/* What a thread computes: some rows of the image, or if it has one row, some tiles of `lanes` outputs. */
typedef struct {
    span_t rows, outputs;
} work_t;

static inline work_t work_of(const ob_call *call, const share_t *share, int lanes) {
    int tiles = (call->outputs + lanes - 1) / lanes;
    work_t work = {{0, call->out_height}, {0, tiles}};
    if (call->out_height > 1)
        work.rows = span_of(share, call->out_height);
    else
        work.outputs = span_of(share, tiles);
    return work;
}

/* Number of rows in the next tile. */
static inline int tile_rows(int64_t left, int most) {
    return left >= most ? most : left >= 4 && most > 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Products of words of bits. */
static int matmul_words(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    segment_t *segments = (segment_t *)(arena + call->scratch + share->scratch);
    double *weights = (double *)(segments + (int64_t)call->taps_down * call->taps_across);
    int64_t row_units = (int64_t)call->in_width * call->in_pixel;
    int padded = (call->outputs + LANES - 1) / LANES, saw_nan = 0;
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int32_t sums[WORD_ROWS * TILE_OUTPUTS];
    for (int i = work.rows.begin; i < work.rows.end; i++)
        for (int r = 0; r < call->run_count; r++) {
            run_t at = {.call = call, .arena = arena, .i = i, .run = call->runs + 4 * r};
            int found = gather(call, i, at.run, row_units, call->in_pixel, 0, segments, &at.terms);
            if (call->levels) at.weights = weights, sum_weights(&at, weights);
            for (int group = 0; group < call->groups; group++)
                for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
                    int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
                    int first = p * LANES, width = panels * LANES;
                    int part = call->outputs - first < width ? call->outputs - first : width;
                    const uint32_t *b =
                        (const uint32_t *)call->weights + ((int64_t)group * padded + p) * call->panel;
                    position_t position = {0, 0}, ahead = position;
                    for (int64_t left = count * at.run[2]; left > 0;) {
                        int many = tile_rows(left, WORD_ROWS);
                        const uint32_t *a[WORD_ROWS];
                        for (int m = 0; m < many; m++, ahead = next_position(&at, ahead))
                            a[m] = arena + call->in + ahead.n * call->in_size +
                                   ahead.t * at.run[3] * call->in_pixel + (int64_t)group * call->tap_words;
                        words_tile(many, panels, a, segments, found, b, call->panel, sums);
                        if (call->together && at.run[1] == 1 && position.t + many <= at.run[2])
                            saw_nan |= finish_pixels(&at, position, many, sums, width, NULL, 0);
                        else
                            for (int m = 0; m < many; m++, position = next_position(&at, position))
                                saw_nan |=
                                    finish_sums(&at, position, group, first, part, sums + m * width, NULL);
                        position = ahead;
                        left -= many;
                    }
                }
        }
    return saw_nan;
}

/* All outputs of a group for some rows, tile by tile. */
static int lut_outputs(const run_t *at, span_t tiles, position_t position, int many, int group,
                       const int32_t *const *tables, const segment_t *segments, int found, int most,
                       int64_t *wide, int begins, int ends) {
    const ob_call *call = at->call;
    int padded = (call->outputs + LANES - 1) / LANES, saw_nan = 0;
    int64_t stride = (int64_t)padded * LANES, groups = 0;
    int32_t sums[TILE_ROWS * TILE_OUTPUTS];
    for (int k = 0; k < found; k++) groups += segments[k].groups;
    int narrow = begins && ends && groups <= most;
    if (!narrow && begins) memset(wide, 0, (size_t)(many * stride) * sizeof *wide);
    for (int tile = tiles.begin; tile < tiles.end; tile++) {
        int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
        int first = p * LANES, width = panels * LANES;
        int part = call->outputs - first < width ? call->outputs - first : width;
        const uint32_t *b = (const uint32_t *)call->weights + ((int64_t)group * padded + p) * call->panel;
        lut_tile(many, panels, tables, segments, found, b, call->panel, most, narrow ? NULL : wide + first,
                 stride, sums);
        if (ends && call->together && at->run[1] == 1)
            saw_nan |= finish_pixels(at, position, many, sums, width, narrow ? NULL : wide, stride);
        else if (ends) {
            position_t of_row = position;
            for (int m = 0; m < many; m++, of_row = next_position(at, of_row))
                saw_nan |= finish_sums(at, of_row, group, first, part, sums + m * width,
                                       narrow ? NULL : wide + m * stride + first);
        }
    }
    return saw_nan;
}

/* A dense layer, or a convolution with one tap that is always inside: calls `run` on up to `most` rows at
 * once. Rows are images of one pixel, or pixels of a row of an image, and `stride` units apart. */
static int lut_rows(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena, int most,
                    int (*run)(const run_t *at, span_t tiles, position_t position, int many, const int32_t *x,
                               int64_t stride, void *room)) {
    void *room = arena + call->scratch + share->scratch;
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int single = call->out_height * call->out_width == 1, saw_nan = 0;
    int64_t rows = single ? count : call->runs[2],
            stride = single ? call->in_size : (int64_t)call->runs[3] * call->in_pixel;
    if (work.outputs.begin == work.outputs.end) return 0;
    for (int i = work.rows.begin; i < work.rows.end; i++)
        for (int64_t n = 0; n < (single ? 1 : count); n++)
            for (int64_t row = 0, many; row < rows; row += many) {
                run_t at = {.call = call, .arena = arena, .i = i, .run = call->runs};
                position_t position = {single ? row : n, single ? 0 : (int32_t)row};
                int64_t pixel = (int64_t)call->rows[i] * call->in_width + call->columns[0];
                const int32_t *x = (const int32_t *)arena + call->in + n * call->in_size +
                                   pixel * call->in_pixel + row * stride;
                /* more rows than a tile are lanes, which need not all be filled; a tile has one of a few
                 * sizes */
                many = most > TILE_ROWS && rows - row < most ? rows - row : tile_rows(rows - row, most);
                saw_nan |= run(&at, work.outputs, position, (int)many, x, stride, room);
            }
    return saw_nan;
}

/* Makes the tables of a block of inputs of several rows. */
static int lut_block(const run_t *at, span_t tiles, position_t position, int many, const int32_t *x,
                     int64_t stride, void *room) {
    const ob_call *call = at->call;
    int64_t *wide = room;
    int32_t *all = (int32_t *)(wide + (int64_t)TILE_ROWS * ((call->outputs + LANES - 1) / LANES * LANES)),
            saw_nan = 0;
    int block_units = DENSE_WORDS * LUT_GROUPS * TABLE, inputs = DENSE_WORDS * LUT_GROUPS * LUT_INPUTS;
    int most = safe_lookups(call, at->arena, position.n, at->run[2] == 1 ? many : 1);
    for (int group = 0; group < call->groups; group++, x += call->tap_channels)
        for (int from = 0; from < call->tap_channels; from += inputs) {
            int part = call->tap_channels - from < inputs ? call->tap_channels - from : inputs;
            int groups = (part + LUT_INPUTS - 1) / LUT_INPUTS;
            segment_t segment = {0, from / inputs * DENSE_WORDS, (groups + LUT_GROUPS - 1) / LUT_GROUPS,
                                 groups};
            const int32_t *tables[TILE_ROWS];
            for (int m = 0; m < many; m++) {
                tables[m] = all + (int64_t)m * block_units;
                lut_tables(x + m * stride + from, part, (int32_t *)tables[m]);
            }
            saw_nan |= lut_outputs(at, tiles, position, many, group, tables, &segment, 1, most, wide,
                                   from == 0, from + part == call->tap_channels);
        }
    return saw_nan;
}

/* A dense layer with scales for groups of inputs: sums of a group fit an int32, and are scaled and added in
 * float32. */
static int lut_scaled(const run_t *at, span_t tiles, position_t position, int many, const int32_t *x,
                      int64_t stride, void *room) {
    const ob_call *call = at->call;
    int padded = (call->outputs + LANES - 1) / LANES, width = padded * LANES, size = call->scaled,
        words = call->tap_words;
    /* a single row has the room of all, so that it reads weights and scales in long runs */
    int block = (many == 1 ? TILE_ROWS : 1) * DENSE_WORDS / words, groups = call->tap_channels / size,
        saw_nan = 0;
    float *real = room, units[TILE_ROWS];
    int32_t *all = (int32_t *)((int64_t *)room + TILE_ROWS * width), sums[TILE_ROWS * TILE_OUTPUTS];
    const int32_t *tables[TILE_ROWS];
    position_t positions[TILE_ROWS];
    memset(real, 0, (size_t)(many * width) * sizeof *real);
    for (int m = 0; m < many; m++, position = next_position(at, position)) {
        positions[m] = position, units[m] = unit_of(at, position);
        tables[m] = all + m * DENSE_WORDS * LUT_GROUPS * TABLE;
    }
    for (int from = 0; from < groups; from += block) {
        int end = from + block < groups ? from + block : groups;
        for (int m = 0; m < many; m++)
            for (int g = from; g < end; g++)
                lut_tables(x + m * stride + g * size, size,
                           (int32_t *)tables[m] + (g - from) * words * LUT_GROUPS * TABLE);
        for (int tile = tiles.begin; tile < tiles.end; tile++) {
            int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
            int first = p * LANES, lanes = panels * LANES;
            const uint32_t *b = (const uint32_t *)call->weights + p * call->panel;
            for (int g = from; g < end; g++) {
                segment_t segment = {(int64_t)(g - from) * words * LUT_GROUPS * TABLE, (int64_t)g * words,
                                     words, (size + LUT_INPUTS - 1) / LUT_INPUTS};
                lut_tile(many, panels, tables, &segment, 1, b, call->panel, INT32_MAX, NULL, 0, sums);
                const float *scales = call->scales + ((int64_t)p * groups + g) * LANES;
                for (int m = 0; m < many; m++)
                    for (int q = 0; q < panels; q++) {
                        float *to = real + m * width + first + q * LANES;
                        const int32_t *sum = sums + m * lanes + q * LANES;
                        const float *scale = scales + (int64_t)q * groups * LANES;
                        for (int k = 0; k < LANES; k++) to[k] += (float)sum[k] * units[m] * scale[k];
                    }
            }
            int part = call->outputs - first < lanes ? call->outputs - first : lanes;
            for (int m = 0; m < many && end == groups; m++)
                saw_nan |= finish_sums(at, positions[m], 0, first, part,
                                       (const int32_t *)(real + m * width + first), NULL);
        }
    }
    return saw_nan;
}

/* A convolution: makes the tables of each input row once and keeps those that an output row needs. */
static int lut_conv(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    int64_t stride = (int64_t)(call->outputs + LANES - 1) / LANES * LANES;
    int groups = (call->tap_channels + LUT_INPUTS - 1) / LUT_INPUTS, rows = LUT_ROWS(stride / LANES),
        saw_nan = 0;
    int64_t pixel_units = (int64_t)call->groups * groups * TABLE, row_units = call->table_width * pixel_units;
    int64_t *wide = (int64_t *)(arena + call->scratch + share->scratch);
    segment_t *segments = (segment_t *)(wide + TILE_ROWS * stride);
    /* 8 segments are 3 cache lines: tables are aligned to cache lines, so that reading one does not touch two
     */
    int32_t *room = (int32_t *)(segments + ((int64_t)call->taps_down * call->taps_across + 7) / 8 * 8);
    int64_t right = call->table_left + call->in_width;
    work_t work = work_of(call, share, TILE_OUTPUTS);
    for (int row = 0; row < call->table_rows; row++) {
        memset(room + row * row_units, 0, (size_t)(call->table_left * pixel_units) * 4);
        memset(room + row * row_units + right * pixel_units, 0,
               (size_t)((call->table_width - right) * pixel_units) * 4);
    }
    for (int64_t n = 0; n < count; n++) {
        const int32_t *in = (const int32_t *)arena + call->in + n * call->in_size;
        int most = safe_lookups(call, arena, n, 1);
        int made = -1; /* the last input row with tables */
        for (int i = work.rows.begin; i < work.rows.end; i++) {
            for (int row; (row = next_row(call, i, &made)) >= 0;) {
                const int32_t *x = in + (int64_t)row * call->in_width * call->in_pixel;
                int32_t *tables = room + row % call->table_rows * row_units + call->table_left * pixel_units;
                for (int j = 0; j < call->in_width; j++, x += call->in_pixel)
                    for (int group = 0; group < call->groups; group++, tables += groups * TABLE)
                        lut_tables(x + (int64_t)group * call->tap_channels, call->tap_channels, tables);
            }
            for (int r = 0; r < call->run_count; r++) {
                run_t at = {.call = call, .arena = arena, .i = i, .run = call->runs + 4 * r};
                int found =
                    gather(call, i, at.run, row_units, pixel_units, call->table_rows, segments, &at.terms);
                for (int k = 0; k < found; k++) segments[k].groups = call->tap_lookups;
                for (int group = 0; group < call->groups; group++)
                    for (int t = 0; t < at.run[2];) {
                        int many = tile_rows(at.run[2] - t, rows);
                        const int32_t *tables[TILE_ROWS];
                        for (int m = 0; m < many; m++)
                            tables[m] = room + (int64_t)(t + m) * at.run[3] * pixel_units +
                                        (int64_t)group * groups * TABLE;
                        position_t position = {n, t};
                        saw_nan |= lut_outputs(&at, work.outputs, position, many, group, tables, segments,
                                               found, most, wide, 1, 1);
                        t += many;
                    }
            }
        }
    }
    return saw_nan;
}

static int lut(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    if (call->table_rows) return lut_conv(call, share, count, arena);
    if (call->scaled)
        return lut_rows(call, share, count, arena, LUT_ROWS((call->outputs + LANES - 1) / LANES), lut_scaled);
    return lut_rows(call, share, count, arena, LUT_ROWS((call->outputs + LANES - 1) / LANES), lut_block);
}
#define RUN_LUT lut

/* Real weights: panels of REAL_LANES float64 integers. Sums of 32 products of 24-bit integers are exact in
 * double. */
#define REAL_LANES OB_REAL_LANES
#define REAL_PANELS 2 /* a multiple of 32 outputs, because bits are written as words */
#define EXACT_TERMS 32

static void real_sums(const ob_call *call, const int32_t *x, const segment_t *segments, int found,
                      const double *b, int64_t *wide) {
    double sums[REAL_LANES] = {0};
    int left = EXACT_TERMS; /* terms that the sums can take */
    for (int k = 0; k < found; k++)
        for (int from = 0; from < call->tap_channels;) {
            int to = call->tap_channels - from < left ? call->tap_channels : from + left;
            left -= to - from;
            for (; from < to; from++) {
                double value = x[segments[k].a + from];
                const double *w = b + (segments[k].b + from) * REAL_LANES;
                for (int l = 0; l < REAL_LANES; l++) sums[l] += value * w[l];
            }
            if (left && (k + 1 < found || from < call->tap_channels)) continue;
            for (int l = 0; l < REAL_LANES; l++) wide[l] += (int64_t)sums[l], sums[l] = 0;
            left = EXACT_TERMS;
        }
}

static int matmul_real(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    segment_t *segments = (segment_t *)(arena + call->scratch + share->scratch);
    int64_t row_units = (int64_t)call->in_width * call->in_pixel;
    int padded = (call->outputs + REAL_LANES - 1) / REAL_LANES, saw_nan = 0;
    work_t work = work_of(call, share, REAL_PANELS * REAL_LANES);
    for (int i = work.rows.begin; i < work.rows.end; i++)
        for (int r = 0; r < call->run_count; r++) {
            run_t at = {.call = call, .arena = arena, .i = i, .run = call->runs + 4 * r};
            int found = gather(call, i, at.run, row_units, call->in_pixel, 1 << 30, segments, &at.terms);
            for (int group = 0; group < call->groups; group++)
                for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
                    int p = tile * REAL_PANELS, first = p * REAL_LANES,
                        panels = padded - p < REAL_PANELS ? padded - p : REAL_PANELS;
                    int part = call->outputs - first < panels * REAL_LANES ? call->outputs - first
                                                                           : panels * REAL_LANES;
                    const double *b =
                        (const double *)call->weights + ((int64_t)group * padded + p) * call->panel;
                    for (position_t position = {0, 0}; position.n < count;
                         position = next_position(&at, position)) {
                        int64_t wide[REAL_PANELS * REAL_LANES] = {0};
                        const int32_t *x = (const int32_t *)arena + call->in + position.n * call->in_size +
                                           position.t * at.run[3] * call->in_pixel +
                                           (int64_t)group * call->tap_channels;
                        for (int q = 0; q < panels; q++)
                            real_sums(call, x, segments, found, b + q * call->panel, wide + q * REAL_LANES);
                        saw_nan |= finish_sums(&at, position, group, first, part, NULL, wide);
                    }
                }
        }
    return saw_nan;
}
