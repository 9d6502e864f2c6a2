/* Dense layers and convolutions of bytes with one-bit weights by lookups, with AVX-512. A table is a
 * register: the 32 sums in 16 bits of some of five bytes. One instruction chooses for each of 32 outputs the
 * sum of the bytes whose weight is +1. Twice that sum, minus the sum of all bytes, is the product.
 *
 * Weights: of each output 15 in 16 bits, three lookups: of neighboring bytes, or in a row of three taps of
 * one pixel each. In a panel of 32 outputs, 0 and 16 are neighbors, then 1 and 17, …, so that sums come in
 * order when the even ones and the odd ones become 32 bits.
 */
#pragma once
#include "avx512.h"
#include "dot.h"
#include "tiles.h"

#define DOT_LUT_INPUTS OB_DOT_LUT_INPUTS
#define DOT_LUT_GROUPS OB_DOT_LUT_GROUPS
#define DOT_LUT_LANES DOT_LUT
#define DOT_LUT_TABLE OB_DOT_LUT_TABLE
#define DOT_LUT_WORDS OB_DOT_LUT_WORDS /* 51 lookups: 255 bytes of 255 still fit 16 bits */
#define DOT_LUT_ROWS(panels) ((panels) < 3 ? 8 : 4)
#define DOT_LUT_PANELS (TILE_PANELS * LANES / DOT_LUT_LANES) /* of a tile of finish_rows */

/* Adds to 16 int32 twice the even (odd) ones of 32 sums in 16 bits. */
#ifdef __AVX512VNNI__
#define add_pairs(sum, x, twice) _mm512_dpwssd_epi32(sum, x, twice)
#else
#define add_pairs(sum, x, twice) _mm512_add_epi32(sum, _mm512_madd_epi16(x, twice))
#endif

/* The table of the bytes 0 and 1 in every lane of `first`, 2 and 3 in `second`, and 3 and 4 in `third`. */
ALWAYS void dot_lut_table(__m256i first, __m256i second, __m256i third, uint16_t *table) {
    const __m256i one_two = _mm256_set1_epi64x(0x0101010000010000), five = _mm256_set1_epi16(256);
    const __m256i three_four =
        _mm256_setr_epi64x(0, 0x0001000100010001, 0x0100010001000100, 0x0101010101010101);
    __m256i low =
        _mm256_add_epi16(_mm256_maddubs_epi16(first, one_two), _mm256_maddubs_epi16(second, three_four));
    _mm256_store_si256((__m256i *)table, low);
    _mm256_store_si256((__m256i *)(table + 16), _mm256_add_epi16(low, _mm256_maddubs_epi16(third, five)));
}

/* tables[group] of the bytes of a pixel; the last group is filled up with 0. Returns the sum of the bytes. */
ALWAYS int32_t dot_lut_tables(const uint8_t *x, int channels, uint16_t *tables) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i total = zero;
    int c = 0;
    for (; c + DOT_LUT_INPUTS <= channels; c += DOT_LUT_INPUTS, tables += DOT_LUT_TABLE) {
        int16_t first, second, third;
        memcpy(&first, x + c, 2), memcpy(&second, x + c + 2, 2), memcpy(&third, x + c + 3, 2);
        dot_lut_table(_mm256_set1_epi16(first), _mm256_set1_epi16(second), _mm256_set1_epi16(third), tables);
    }
    if (c < channels) {
        __m128i last = _mm_maskz_loadu_epi8((__mmask16)((1 << (channels - c)) - 1), x + c);
        dot_lut_table(_mm256_broadcastw_epi16(last), _mm256_broadcastw_epi16(_mm_srli_si128(last, 2)),
                      _mm256_broadcastw_epi16(_mm_srli_si128(last, 3)), tables);
    }
    for (c = 0; c + 64 <= channels; c += 64)
        total = _mm512_add_epi64(total, _mm512_sad_epu8(_mm512_loadu_si512(x + c), zero));
    if (c < channels) {
        __m512i last = _mm512_maskz_loadu_epi8(((__mmask64)1 << (channels - c)) - 1, x + c);
        total = _mm512_add_epi64(total, _mm512_sad_epu8(last, zero));
    }
    return (int32_t)_mm512_reduce_add_epi64(total);
}

/* Where the tables of a tile are: rows are `row` apart, the three lookups of a word `lookup`, and words
 * `word`. */
typedef struct {
    const uint16_t *tables;
    int64_t row, lookup, word;
} dot_lut_tables_t;

/* Adds the sum that each output of a panel chooses. gcc would add in another order, which needs more
 * registers. */
#define DOT_LUT_CHOOSE(sum, index, entries)                                \
    sum = _mm512_add_epi16(sum, _mm512_permutexvar_epi16(index, entries)); \
    __asm__("" : "+v"(sum))

/* Adds the products of R rows, minus the sum of all their bytes in `totals`, to `sums`, or begins them. With
 * `shared`, lookup k of row m and lookup 0 of row m + k have the same table. sums: in the order of
 * finish_rows, tile by tile. Accumulators stay in registers only if every loop over them is unrolled. */
ALWAYS void dot_lut_fixed(const int R, const int P, const int shared, const dot_lut_tables_t *at,
                          const segment_t *segments, int count, const uint16_t *b, int64_t panel,
                          const int32_t *totals, int begins, int32_t *sums) {
    const __m512i least =
        _mm512_set1_epi16(INT16_MIN); /* sums without a sign, moved to where 16 bits have one */
    const __m512i even = _mm512_set1_epi32(2), odd = _mm512_set1_epi32(2 << 16);
    const int64_t row = at->row, lookup = shared ? at->row : at->lookup;
    __m512i sum[8][4];
    int room = DOT_LUT_WORDS, adds = !begins;
    TILE(sum[m][p] = least)
    for (int k = 0; k < count; k++) {
        const uint16_t *table = at->tables + segments[k].a, *w = b + segments[k].b * DOT_LUT_LANES;
        for (int left = segments[k].words; left > 0;) {
            int words = left < room ? left : room;
            left -= words, room -= words;
#pragma GCC unroll 1
            for (; words; words--, w += DOT_LUT_LANES, table += at->word) {
                __m512i index[3][4]; /* only its lowest 5 bits choose */
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) {
                    index[0][p] = _mm512_loadu_si512(w + p * panel);
                    __asm__("" : "+v"(index[0][p])); /* gcc would load it for each shift */
                    index[1][p] = _mm512_srli_epi16(index[0][p], DOT_LUT_INPUTS);
                    index[2][p] = _mm512_srli_epi16(index[0][p], 2 * DOT_LUT_INPUTS);
                    if (R == 1) __builtin_prefetch(w + (P + p) * panel); /* of the next tile */
                }
                if (shared) {
#pragma GCC unroll 10
                    for (int m = 0; m < R + 2; m++) {
                        __m512i entries = _mm512_load_si512(table + m * row);
#pragma GCC unroll 3
                        for (int g = 0; g < DOT_LUT_GROUPS; g++)
#pragma GCC unroll 4
                            for (int p = 0; p < P; p++)
                                if (m >= g && m - g < R) {
                                    DOT_LUT_CHOOSE(sum[m - g][p], index[g][p], entries);
                                }
                    }
                    continue;
                }
#pragma GCC unroll 3
                for (int g = 0; g < DOT_LUT_GROUPS; g++)
#pragma GCC unroll 8
                    for (int m = 0; m < R; m++) {
                        __m512i entries = _mm512_load_si512(table + g * lookup + m * row);
#pragma GCC unroll 4
                        for (int p = 0; p < P; p++) {
                            DOT_LUT_CHOOSE(sum[m][p], index[g][p], entries);
                        }
                    }
            }
            if (room && (left || k < count - 1)) continue;
#pragma GCC unroll 8
            for (int m = 0; m < R; m++) {
                __m512i moved = _mm512_set1_epi32(-2 * INT16_MIN - (totals ? totals[m] : 0));
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) {
                    int width = p / DOT_LUT_PANELS < P / DOT_LUT_PANELS ? TILE_OUTPUTS
                                                                        : P % DOT_LUT_PANELS * DOT_LUT_LANES;
                    int32_t *to = sums + p / DOT_LUT_PANELS * R * TILE_OUTPUTS + m * width +
                                  p % DOT_LUT_PANELS * DOT_LUT_LANES;
                    __m512i low = moved, high = moved;
                    if (adds) {
                        low = _mm512_add_epi32(low, _mm512_loadu_si512(to));
                        high = _mm512_add_epi32(high, _mm512_loadu_si512(to + 16));
                    }
                    _mm512_storeu_si512(to, add_pairs(low, sum[m][p], even));
                    _mm512_storeu_si512(to + 16, add_pairs(high, sum[m][p], odd));
                    sum[m][p] = least;
                }
            }
            room = DOT_LUT_WORDS, adds = 1, totals = NULL;
        }
    }
}

#define CASE(R, P)                                                                           \
    case 8 * R + P:                                                                          \
        if (R > 1 && at->lookup == at->row)                                                  \
            dot_lut_fixed(R, P, R > 1, at, segments, count, b, panel, totals, begins, sums); \
        else                                                                                 \
            dot_lut_fixed(R, P, 0, at, segments, count, b, panel, totals, begins, sums);     \
        break;

static void dot_lut_tile(int rows, int panels, const dot_lut_tables_t *at, const segment_t *segments,
                         int count, const uint16_t *b, int64_t panel, const int32_t *totals, int begins,
                         int32_t *sums) {
    switch (8 * rows + panels) {
        TILE_SIZES(CASE)
        CASE(8, 2)
    }
}
#undef CASE

/* The scratch memory of a call. */
typedef struct {
    dot_t dot; /* of all outputs that a thread makes */
    int panels;
    int32_t *sums, *totals; /* totals: of each pixel that has tables */
    uint16_t *tables;
} dot_lut_t;

/* The products of `many` rows with all outputs, tile by tile. */
static void dot_lut_sums(const dot_lut_t *lut, int many, const dot_lut_tables_t *at,
                         const segment_t *segments, int count, const int32_t *totals, int begins) {
    const ob_call *call = lut->dot.call;
    const uint16_t *weights = call->weights;
    const int step = many == 8 ? 2 : 4, begin = lut->dot.tiles.begin * DOT_LUT_PANELS;
    int end =
        lut->dot.tiles.end * DOT_LUT_PANELS < lut->panels ? lut->dot.tiles.end * DOT_LUT_PANELS : lut->panels;
    for (int p = begin; p < end; p += step)
        dot_lut_tile(many, end - p < step ? end - p : step, at, segments, count, weights + p * call->panel,
                     call->panel, totals, begins, lut->sums + (int64_t)many * (p - begin) * DOT_LUT_LANES);
}

/* Runs the epilogue on the sums of `many` rows. */
static int dot_lut_finish(const dot_lut_t *lut, const run_t *at, position_t position, int many) {
    const dot_t *dot = &lut->dot;
    int32_t *sums = lut->sums;
    int saw_nan = 0;
    for (int tile = dot->tiles.begin; tile < dot->tiles.end; tile++, sums += many * TILE_OUTPUTS) {
        int width = lut->panels * DOT_LUT_LANES - tile * TILE_OUTPUTS;
        saw_nan |=
            finish_rows(dot, at, position, many, 0, tile, sums, width < TILE_OUTPUTS ? width : TILE_OUTPUTS);
    }
    return saw_nan;
}

/* The last word of weights may have lookups without inputs, which choose entry 0 of the tables after the last
 * one. */
static inline void end_tables(uint16_t *tables) { tables[0] = tables[DOT_LUT_TABLE] = 0; }

/* A dense layer, or a convolution of one pixel to one pixel: makes the tables of a block of inputs of some
 * images. */
static int dot_lut_dense(dot_lut_t *lut, int64_t count, uint32_t *arena) {
    const ob_call *call = lut->dot.call;
    const int block = DOT_LUT_WORDS * DOT_LUT_GROUPS, inputs = block * DOT_LUT_INPUTS,
              stride = (block + 2) * DOT_LUT_TABLE;
    static const int32_t one[4] = {0, 1, 1, 0};
    int saw_nan = 0;
    run_t at = {.call = call, .arena = arena, .i = 0, .run = one};
    dot_base(&lut->dot, 0, 0, one);
    for (int64_t n = 0; n < count;) {
        int many = tile_rows(count - n, DOT_LUT_ROWS(lut->panels));
        position_t position = {n, 0};
        for (int from = 0; from < call->tap_channels; from += inputs) {
            int part = call->tap_channels - from < inputs ? call->tap_channels - from : inputs;
            int groups = (part + DOT_LUT_INPUTS - 1) / DOT_LUT_INPUTS,
                words = (groups + DOT_LUT_GROUPS - 1) / DOT_LUT_GROUPS;
            segment_t segment = {0, from / inputs * DOT_LUT_WORDS, words, 0};
            int32_t totals[8];
            for (int m = 0; m < many; m++) {
                const uint8_t *x = (const uint8_t *)(arena + call->in + (n + m) * call->in_size) + from;
                totals[m] = dot_lut_tables(x, part, lut->tables + m * stride);
                end_tables(lut->tables + m * stride + groups * DOT_LUT_TABLE);
            }
            dot_lut_tables_t tables = {lut->tables, stride, DOT_LUT_TABLE, DOT_LUT_GROUPS * DOT_LUT_TABLE};
            dot_lut_sums(lut, many, &tables, &segment, 1, totals, !from);
        }
        saw_nan |= dot_lut_finish(lut, &at, position, many);
        n += many;
    }
    return saw_nan;
}

/* A convolution whose rows are padded: makes the tables of each input row once and keeps those that an output
 * row needs. */
static int dot_lut_conv(dot_lut_t *lut, span_t mine, int64_t count, uint32_t *arena) {
    const ob_call *call = lut->dot.call;
    const int32_t *run = call->runs;
    int channels = call->in_pixel, across = call->tap_channels / channels; /* a tap is a row of pixels */
    int groups = (channels + DOT_LUT_INPUTS - 1) / DOT_LUT_INPUTS,
        words = (across * groups + DOT_LUT_GROUPS - 1) / DOT_LUT_GROUPS;
    int three = across == DOT_LUT_GROUPS; /* a word has lookups of three pixels, else of one */
    int width = call->table_width, right = call->table_left + call->in_width, saw_nan = 0;
    int64_t pixel = (int64_t)groups * DOT_LUT_TABLE, row_units = width * pixel + 2 * DOT_LUT_TABLE;
    int32_t *down =
        lut->totals + (int64_t)call->table_rows * width; /* of a column under the taps of an output row */
    memset(lut->dot.rows, call->table_byte, (size_t)channels);
    for (int row = 0; row < call->table_rows; row++) {
        for (int j = 0; j < width; j++)
            if (j < call->table_left || j >= right)
                lut->totals[row * width + j] =
                    dot_lut_tables(lut->dot.rows, channels, lut->tables + row * row_units + j * pixel);
        end_tables(lut->tables + row * row_units + width * pixel);
    }
    for (int64_t n = 0; n < count; n++) {
        const uint8_t *in = (const uint8_t *)(arena + call->in + n * call->in_size);
        int made = -1; /* the last row with tables */
        for (int i = mine.begin; i < mine.end; i++) {
            run_t at = {.call = call, .arena = arena, .i = i, .run = run};
            int found = 0;
            for (int row; (row = next_row(call, i, &made)) >= 0;) {
                const uint8_t *x = in + (int64_t)row * call->in_width * channels;
                uint16_t *tables = lut->tables + row % call->table_rows * row_units;
                int32_t *totals = lut->totals + row % call->table_rows * width;
                for (int j = call->table_left; j < right; j++, x += channels)
                    totals[j] = dot_lut_tables(x, channels, tables + j * pixel);
            }
            memset(down, 0, (size_t)width * sizeof *down);
            for (int a = 0; a < call->taps_down; a++) {
                int row = call->rows[i * call->taps_down + a], slot = row % call->table_rows;
                if (row < 0) continue;
                segment_t segment = {slot * row_units, (int64_t)a * words, words, 0};
                lut->dot.segments[found++] = segment;
                for (int j = 0; j < width; j++) down[j] += lut->totals[slot * width + j];
            }
            dot_base(&lut->dot, 0, i, run);
            for (int t = 0, many; t < run[2]; t += many) {
                int first = t * run[3] + call->columns[0];
                int32_t totals[8] = {0};
                position_t position = {n, t};
                many = tile_rows(run[2] - t, DOT_LUT_ROWS(lut->panels));
                for (int b = 0; b < across; b++)
                    if (run[3] == 1)
                        for (int m = 0; m < 8; m++)
                            totals[m] += down[first + b + m]; /* of 8 pixels, if there are fewer too */
                    else
                        for (int m = 0; m < many; m++) totals[m] += down[first + b + m * run[3]];
                dot_lut_tables_t tables = {lut->tables + first * pixel, run[3] * pixel,
                                           three ? pixel : DOT_LUT_TABLE,
                                           three ? DOT_LUT_TABLE : DOT_LUT_GROUPS * DOT_LUT_TABLE};
                if (found)
                    dot_lut_sums(lut, many, &tables, lut->dot.segments, found, totals, 1);
                else
                    memset(lut->sums, 0, (size_t)(lut->panels * DOT_LUT_LANES * many) * sizeof *lut->sums);
                saw_nan |= dot_lut_finish(lut, &at, position, many);
            }
        }
    }
    return saw_nan;
}

static int dot_lut(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    uint32_t *scratch = arena + call->scratch + share->scratch;
    work_t work = work_of(call, share, TILE_OUTPUTS);
    dot_lut_t lut = {{.call = call, .tiles = work.outputs}, 0, NULL, NULL, NULL};
    int64_t outputs = (call->outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS * TILE_OUTPUTS,
            base = outputs < BLOCK ? BLOCK : outputs;
    if (work.outputs.begin == work.outputs.end) return 0;
    lut.panels = (call->outputs + DOT_LUT_LANES - 1) / DOT_LUT_LANES;
    lut.dot.base = (int32_t *)scratch;
    lut.sums = lut.dot.base + base;
    lut.tables = (uint16_t *)(lut.sums + DOT_LUT_ROWS(lut.panels) * outputs);
    memset(lut.dot.base, 0, (size_t)base * sizeof *lut.dot.base);
    if (!call->table_rows) return dot_lut_dense(&lut, count, arena);
    int groups = (call->in_pixel + DOT_LUT_INPUTS - 1) / DOT_LUT_INPUTS;
    lut.dot.segments =
        (segment_t *)(lut.tables + call->table_rows * (call->table_width * groups + 2) * DOT_LUT_TABLE);
    lut.totals = (int32_t *)(lut.dot.segments + call->taps_down);
    lut.dot.rows = (uint8_t *)(lut.totals + (call->table_rows + 1) * call->table_width + 8);
    return dot_lut_conv(&lut, work.rows, count, arena);
}
#undef RUN_DOT_LUT
#define RUN_DOT_LUT dot_lut
