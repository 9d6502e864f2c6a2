/* Products of bytes in the tile registers of AMX: 16 rows of inputs times 16 outputs, 64 inputs an
 * instruction.
 *
 * Four tiles of sums, of 32 rows and 32 outputs, are computed at once from two tiles of inputs and two of
 * weights. A tile of inputs has a row of 64 bytes for each row; a tile of weights has the weights of 4 inputs
 * in a row, output by output. The instruction names a tile by a literal.
 */
#pragma once
#define BYTE_TILES 16
#define DOT_FEW 3
#include "avx512.h"
/* in this order: the first has the vectors of the others */
#include "attention.h"
#include "dot_few.h"

#define DOT_MANY 8     /* pixels of a run, and */
#define DOT_LEAST 2048 /* bytes of a panel, 128 inputs, from which on tiles are faster */

#define STEP OB_AMX_INPUTS /* inputs of a tile */
#define TILE_BYTES OB_AMX_BYTES
#define MAX_ROWS OB_AMX_ROWS     /* of inputs at once */
#define MAX_PLANES OB_AMX_PLANES /* bytes of an int32 */
#define DENSE_STEPS \
    OB_AMX_STEPS /* tiles of inputs of a dense layer whose weights are bytes at the same time */
#define DENSE_ROWS OB_AMX_DENSE_ROWS /* of a dense layer with sums at the same time */

/* Tiles 0 to 3: sums of the first and second rows, each of the first and second outputs; 4, 5: inputs; 6, 7:
 * weights. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16]; /* per tile */
    uint8_t rows[16];
} tile_shapes_t;

/* The compiler does not know which memory tiles read, and might write it too late or not at all. */
#define WRITTEN(to) __asm__ volatile("" : : "r"(to) : "memory")

/* Shapes for `rows` rows of inputs, up to MAX_ROWS. */
static void shape_tiles(int rows) {
    tile_shapes_t shapes = {.palette = 1};
    int first = rows < 16 ? rows : 16, second = rows > 16 ? rows - 16 : 1; /* no tile is empty */
    const int of_tile[8] = {first, first, second, second, first, second, 16, 16};
    for (int t = 0; t < 8; t++) shapes.row_bytes[t] = 64, shapes.rows[t] = (uint8_t)of_tile[t];
    WRITTEN(&shapes);
    _tile_loadconfig(&shapes);
    WRITTEN(&shapes);
}

#define PRODUCT(sum, x, w)           \
    do {                             \
        if (is_signed)               \
            _tile_dpbssd(sum, x, w); \
        else                         \
            _tile_dpbusd(sum, x, w); \
    } while (0)

/* The tiles of sums: rows and outputs before each. */
#define EACH_SUM(DO)               \
    DO(0, 0, 0)                    \
    if (more_outputs) DO(1, 0, 16) \
    if (more_rows) DO(2, 16, 0)    \
    if (more_rows && more_outputs) DO(3, 16, 16)
#define LOAD(t, row, output) _tile_loadd(t, sums + row * stride + output, 4 * stride);
#define ZERO(t, row, output) _tile_zero(t);
#define STORE(t, row, output) _tile_stored(t, sums + row * stride + output, 4 * stride);

/* sums[row][output], of one panel of 16 outputs or two. Rows of unsigned or signed bytes are `step` bytes
 * apart, in each segment whole tiles. b: weights, four by four of each panel; those of the second begin at b
 * + panel. With `adds`, what `sums` holds is added. */
ALWAYS void tile_sums(const int is_signed, const int more_rows, const int more_outputs, const uint8_t *rows,
                      int64_t step, const segment_t *segments, int count, const uint8_t *b, int64_t panel,
                      int adds, int32_t *sums, int64_t stride) {
    WRITTEN(rows);
    WRITTEN(b);
    if (adds) {
        WRITTEN(sums);
        EACH_SUM(LOAD)
    } else {
        EACH_SUM(ZERO)
    }
    for (int k = 0; k < count; k++) {
        const uint8_t *x = rows + segments[k].a, *w = b + segments[k].b * LANES * 4;
        for (int left = segments[k].words; left > 0; left -= STEP / 4, x += STEP, w += TILE_BYTES) {
            _tile_loadd(4, x, step);
            _tile_loadd(6, w, 64);
            if (more_outputs) _tile_loadd(7, w + panel, 64);
            PRODUCT(0, 4, 6);
            if (more_outputs) PRODUCT(1, 4, 7);
            if (more_rows) _tile_loadd(5, x + 16 * step, step);
            if (more_rows) PRODUCT(2, 5, 6);
            if (more_rows && more_outputs) PRODUCT(3, 5, 7);
        }
    }
    EACH_SUM(STORE)
}
#undef EACH_SUM
#undef LOAD
#undef ZERO
#undef STORE
#undef PRODUCT

/* The tiles have shapes for these rows. */
static void multiply_tiles(int is_signed, int many, int panels, const uint8_t *rows, int64_t step,
                           const segment_t *segments, int count, const uint8_t *b, int64_t panel, int adds,
                           int32_t *sums, int64_t stride) {
    switch (4 * is_signed + 2 * (many > 16) + (panels > 1)) {
#define CASE(S, R, P)                                                                  \
    case 4 * S + 2 * R + P:                                                            \
        tile_sums(S, R, P, rows, step, segments, count, b, panel, adds, sums, stride); \
        break;
        CASE(0, 0, 0)
        CASE(0, 0, 1) CASE(0, 1, 0) CASE(0, 1, 1) CASE(1, 0, 0) CASE(1, 0, 1) CASE(1, 1, 0) CASE(1, 1, 1)
#undef CASE
    }
}

static void release_tiles(void) { _tile_release(); } /* the system no longer saves those of this thread */

/* Copies a row with its segments at the offsets of their weights, and zeros between them and up to `padded`
 * bytes. */
static void pack_row(const uint8_t *from, const segment_t *segments, int count, uint8_t *to, int64_t padded) {
    int64_t done = 0;
    for (int k = 0; k < count; k++) {
        int64_t begin = 4 * segments[k].b, size = 4 * (int64_t)segments[k].words;
        if (begin > done) memset(to + done, 0, (size_t)(begin - done));
        for (int64_t n = 0; n < size; n += 64) {
            __mmask64 some = size - n < 64 ? ((__mmask64)1 << (size - n)) - 1 : ~(__mmask64)0;
            _mm512_mask_storeu_epi8(to + begin + n, some,
                                    _mm512_maskz_loadu_epi8(some, from + segments[k].a + n));
        }
        done = begin + size;
    }
    memset(to + done, 0, (size_t)(padded - done));
}

/* See dot.h. Rows whose segments are whole tiles are read in place, if they are equally far apart. Others are
 * packed, an odd number of cache lines apart, so that 16 of them are not all in one set; weights after the
 * last are multiplied by 0. */
static int tiles_run(dot_t *dot, const run_t *at, int group, position_t position, int64_t left,
                     const uint8_t *from, int64_t image) {
    const ob_call *call = dot->call;
    int padded = (call->outputs + LANES - 1) / LANES, found = dot_segments(dot, at->i, at->run), straight = 1,
        saw_nan = 0;
    int64_t apart = (int64_t)at->run[3] * call->in_pixel, fours = dot->panel / (LANES * 4);
    int64_t steps = (4 * fours + STEP - 1) / STEP, stride = (steps | 1) * STEP;
    uint8_t *packed = dot->rows + padded_bytes(call);
    const segment_t all = {0, 0, (int32_t)steps * (STEP / 4), 0};
    _Alignas(64) int32_t sums[MAX_ROWS * TILE_OUTPUTS];
    packed += -(uintptr_t)packed % STEP;
    for (int k = 0; k < found; k++) straight &= dot->segments[k].words % (STEP / 4) == 0;
    dot_base(dot, group, at->i, at->run);
    for (position_t ahead; left > 0; position = ahead) {
        int many = left < MAX_ROWS ? (int)left : MAX_ROWS, even = straight;
        const uint8_t *a[MAX_ROWS];
        ahead = position;
        for (int m = 0; m < many; m++, ahead = next_position(at, ahead)) {
            a[m] = from + ahead.n * image + ahead.t * apart + (int64_t)group * call->tap_channels;
            if (m > 1) even &= a[m] - a[m - 1] == a[1] - a[0];
        }
        if (!even)
            for (int m = 0; m < many; m++)
                pack_row(a[m], dot->segments, found, packed + m * stride, steps * STEP);
        if (dot->shaped != many) shape_tiles(dot->shaped = many);
        for (int tile = dot->tiles.begin; tile < dot->tiles.end; tile++) {
            int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
            const uint8_t *b =
                (const uint8_t *)dot->bytes + (tile - dot->tiles.begin) * TILE_PANELS * dot->panel;
            for (int q = 0; q < panels; q += 2, b += 2 * dot->panel) {
                int32_t *to = sums + q * LANES;
                if (even)
                    multiply_tiles(0, many, panels - q, a[0], many > 1 ? a[1] - a[0] : 0, dot->segments,
                                   found, b, dot->panel, 0, to, panels * LANES);
                else
                    multiply_tiles(0, many, panels - q, packed, stride, &all, 1, b, dot->panel, 0, to,
                                   panels * LANES);
            }
            saw_nan |= finish_rows(dot, at, position, many, group, tile, sums, panels * LANES);
        }
        left -= many;
    }
    return saw_nan;
}

/* `count` words of a panel from word `from` on as tiles of weights: a byte of 1 or -1 for each bit. Inputs
 * beyond the panel, which has `words`, are 0, so that their weights may be anything. */
static void expand_panel(const uint32_t *w, int64_t from, int count, int64_t words, uint8_t *tiles) {
    uint32_t bytes[16]; /* of 4 weights */
    for (int bits = 0; bits < 16; bits++) {
        bytes[bits] = 0;
        for (int k = 0; k < 4; k++) bytes[bits] |= (bits >> k & 1 ? 1u : 255u) << 8 * k;
    }
    const __m512i table = _mm512_loadu_si512(bytes);
    if (count > words - from) count = (int)(words - from);
    for (w += from * LANES; count > 0; count--, w += LANES) {
        __m512i index = _mm512_loadu_si512(w);
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++, tiles += 64)
            _mm512_storeu_si512(tiles, _mm512_permutexvar_epi32(_mm512_srli_epi32(index, 4 * k), table));
    }
}

/* Bytes that hold the integers of some images, the highest with a sign if one of them is negative. */
static int planes_for(const int32_t *x, int64_t image, int64_t count, int channels, int *is_signed) {
    int32_t all = 0;
    uint32_t used = 0; /* bits of the magnitudes */
    int planes = 1;
    for (int64_t n = 0; n < count; n++, x += image)
        for (int k = 0; k < channels; k++) {
            all |= x[k];
            used |= (uint32_t)(x[k] ^ x[k] >> 31);
        }
    *is_signed = all < 0;
    while (planes < MAX_PLANES && used >> (8 * planes - *is_signed)) planes++;
    return planes;
}

/* Byte 0 of each integer, then byte 1, …, `plane` bytes apart; zeros after the last one, up to `padded`.
 * Bytes of which `signs` has the highest bit get signs: they are less than 128, and the next byte has the
 * rest. */
static void split_row(const int32_t *x, int count, int planes, int32_t signs, uint8_t *to, int64_t plane,
                      int64_t padded) {
    const __m512i half = _mm512_set1_epi32(signs);
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i fours = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int64_t k = 0; k < padded; k += 16) {
        __mmask16 inside = first_of(count - k), written = first_of(padded - k);
        __m512i number = _mm512_add_epi32(_mm512_maskz_loadu_epi32(inside, x + k), half);
        __m512i value =
            _mm512_permutexvar_epi32(fours, _mm512_shuffle_epi8(_mm512_xor_si512(number, half), bytes));
        _mm_mask_storeu_epi8(to + k, written, _mm512_castsi512_si128(value));
        if (planes > 1) _mm_mask_storeu_epi8(to + plane + k, written, _mm512_extracti32x4_epi32(value, 1));
        if (planes > 2)
            _mm_mask_storeu_epi8(to + 2 * plane + k, written, _mm512_extracti32x4_epi32(value, 2));
        if (planes > 3)
            _mm_mask_storeu_epi8(to + 3 * plane + k, written, _mm512_extracti32x4_epi32(value, 3));
    }
}

/* Sums of planes, `apart` from each other: those of plane k times 2^(8 k). */
static void add_planes(const int32_t *sums, int64_t apart, int planes, int64_t *wide) {
    for (int half = 0; half < LANES; half += 8) {
        __m512i total = _mm512_setzero_si512();
        for (int plane = planes - 1; plane >= 0; plane--) {
            __m256i part = _mm256_loadu_si256((const __m256i *)(sums + plane * apart + half));
            total = _mm512_add_epi64(_mm512_slli_epi64(total, 8), _mm512_cvtepi32_epi64(part));
        }
        _mm512_storeu_si512(wide + half, total);
    }
}

/* Sums of `count` rows of bytes, `step` bytes apart, with the weights of up to DENSE_STEPS tiles: of two
 * panels of outputs, or one. sums[row][output] are TILE_OUTPUTS apart. */
static void dense_sums(int is_signed, int panels, const uint8_t *rows, int64_t step, int64_t count, int steps,
                       const uint8_t *weights, int adds, int32_t *sums, int *shaped) {
    const segment_t all = {0, 0, steps * (STEP / 4), 0};
    for (int64_t row = 0; row < count; row += MAX_ROWS) {
        int many = count - row < MAX_ROWS ? (int)(count - row) : MAX_ROWS;
        if (many != *shaped) shape_tiles(*shaped = many);
        multiply_tiles(is_signed, many, panels, rows + row * step, step, &all, 1, weights,
                       DENSE_STEPS * TILE_BYTES, adds, sums + row * TILE_OUTPUTS, TILE_OUTPUTS);
    }
}

/* A dense layer of more than DOT_FEW rows of bytes. The weights of 32 outputs become bytes for a block of
 * inputs that stays, as the inputs of 32 rows do, in the first-level cache; all rows are multiplied by them.
 * A row may be read up to a tile. */
static int dense_tiles(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    static const int32_t one[4] = {0, 1, 1, 0};
    dot_t dot = dot_room(call, arena + call->scratch + share->scratch);
    run_t at = {.call = call, .arena = arena, .i = 0, .run = one};
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int padded = (call->outputs + LANES - 1) / LANES, saw_nan = 0;
    int steps = (call->tap_words * 4 + STEP - 1) / STEP;
    uint8_t *weights = (uint8_t *)dot.bytes;
    int32_t *sums = (int32_t *)(weights + 2 * DENSE_STEPS * TILE_BYTES);
    for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
        int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
        dot.tiles.begin = tile, dot.tiles.end = tile + 1, dot.base_run = NULL;
        memset(dot.base, 0, TILE_OUTPUTS * sizeof *dot.base);
        dot_base(&dot, 0, 0, one);
        for (int64_t row = 0; row < count; row += DENSE_ROWS) {
            int many = count - row < DENSE_ROWS ? (int)(count - row) : DENSE_ROWS;
            const uint8_t *rows = (const uint8_t *)(arena + call->in + row * call->in_size);
            for (int q = 0; q < panels; q += 2)
                for (int from = 0; from < steps; from += DENSE_STEPS) {
                    int some = steps - from < DENSE_STEPS ? steps - from : DENSE_STEPS;
                    for (int half = 0; half < 2 && q + half < panels; half++)
                        expand_part(call, 0, p + q + half, from * (STEP / 4), some * (STEP / 4),
                                    (int8_t *)weights + half * DENSE_STEPS * TILE_BYTES);
                    dense_sums(0, panels - q, rows + from * STEP, 4 * call->in_size, many, some, weights,
                               from > 0, sums + q * LANES, &dot.shaped);
                }
            position_t position = {row, 0};
            saw_nan |= finish_rows(&dot, &at, position, many, 0, tile, sums, TILE_OUTPUTS);
        }
    }
    if (dot.shaped) release_tiles();
    return saw_nan;
}

#define PLANES_OUTPUTS OB_AMX_OUTPUTS /* whose sums are finished together: whole tiles */

/* A dense layer of int32 inputs, or one for each pixel of a row, exact for each of them: their bytes times
 * the weights, plane by plane, as dense_tiles does. Rows of bytes are an odd number of cache lines apart, so
 * that 16 of them are not all in one set. */
static int matmul_planes(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    static const int32_t one[4] = {0, 1, 1, 0};
    int64_t steps = (call->tap_channels + STEP - 1) / STEP, stride = (steps | 1) * STEP,
            saved = call->block * stride;
    int padded = (call->outputs + LANES - 1) / LANES, shaped = 0, saw_nan = 0;
    uint8_t *weights = (uint8_t *)(arena + call->scratch + share->scratch),
            *bytes = weights + 2 * DENSE_STEPS * TILE_BYTES;
    int64_t *wide = (int64_t *)(bytes + MAX_PLANES * saved);
    int32_t *sums = (int32_t *)(wide + call->block * PLANES_OUTPUTS);
    work_t work = work_of(call, share, TILE_OUTPUTS);
    if (work.outputs.begin == work.outputs.end) return 0;
    const int single = call->out_width == 1;
    const int64_t rows = single ? count : call->out_width, apart = single ? call->in_size : call->in_pixel;
    run_t at = {.call = call, .arena = arena, .i = 0, .run = single ? one : call->runs};
    for (int64_t item = 0; item < call->groups * (single ? 1 : count); item++)
        for (int64_t row = 0; row < rows; row += call->block) {
            const int group = (int)(item % call->groups);
            const int64_t image = item / call->groups,
                          many = rows - row < call->block ? rows - row : call->block;
            const int32_t *x = (const int32_t *)arena + call->in + image * call->in_size + row * apart +
                               (int64_t)group * call->tap_channels;
            int is_signed, planes = planes_for(x, apart, many, call->tap_channels, &is_signed);
            int64_t plane = many * stride, lower = (planes - is_signed) * many;
            for (int64_t n = 0; n < many; n++)
                split_row(x + n * apart, call->tap_channels, planes, 0, bytes + n * stride, plane,
                          steps * STEP);
            for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
                int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS,
                    first = p * LANES;
                int part = call->outputs - first < panels * LANES ? call->outputs - first : panels * LANES;
                const uint32_t *b =
                    (const uint32_t *)call->weights + ((int64_t)group * padded + p) * call->panel;
                int64_t *of_tile = wide + first % PLANES_OUTPUTS;
                for (int q = 0; q < panels; q += 2) {
                    for (int64_t from = 0; from < steps; from += DENSE_STEPS) {
                        int some = steps - from < DENSE_STEPS ? (int)(steps - from) : DENSE_STEPS;
                        for (int half = 0; half < 2 && q + half < panels; half++)
                            expand_panel(b + (q + half) * call->panel, from * 2, some * 2, call->tap_words,
                                         weights + half * DENSE_STEPS * TILE_BYTES);
                        dense_sums(0, panels - q, bytes + from * STEP, stride, lower, some, weights, from > 0,
                                   sums, &shaped);
                        if (is_signed)
                            dense_sums(1, panels - q, bytes + lower * stride + from * STEP, stride, many,
                                       some, weights, from > 0, sums + lower * TILE_OUTPUTS, &shaped);
                    }
                    for (int64_t m = 0; m < many; m++)
                        for (int k = q; k < panels && k < q + 2; k++)
                            add_planes(sums + m * TILE_OUTPUTS + (k - q) * LANES, many * TILE_OUTPUTS, planes,
                                       of_tile + m * PLANES_OUTPUTS + k * LANES);
                }
                const int begin = first - first % PLANES_OUTPUTS,
                          end = first + part; /* outputs that are finished together */
                if (end % PLANES_OUTPUTS && tile + 1 < work.outputs.end) continue;
                const int from =
                    begin > work.outputs.begin * TILE_OUTPUTS ? begin : work.outputs.begin * TILE_OUTPUTS;
                for (int64_t m = 0; m < many; m++) {
                    position_t position = {single ? row + m : image, single ? 0 : (int32_t)(row + m)};
                    saw_nan |= finish_sums(&at, position, group, from, end - from, NULL,
                                           wide + m * PLANES_OUTPUTS + from % PLANES_OUTPUTS);
                }
            }
        }
    release_tiles();
    return saw_nan;
}

#define PAIRS (2 * MAX_PLANES - 1)
#define SUMS_TILE (16 * LANES)
#define PRODUCT_LEAST 24   /* terms from which on bytes are faster than doubles, */
#define PRODUCT_MOST 16384 /* and up to which an int32 holds the sums of four pairs of bytes */

/* sums[k]: 16 rows times 16 outputs, of all bytes i of x and j of w with i + j = k; tiles 0 to 3 have four of
 * them at the same time. Bytes are signed, but those of the last of `planes` only with `is_signed`. */
static void multiply_planes(const uint8_t *x, int64_t stride, int planes, int is_signed, const uint8_t *w,
                            int steps, int32_t *sums) {
    WRITTEN(x);
    WRITTEN(w);
    for (int low = 0; low < PAIRS; low += 4) {
#define EACH_TILE(DO) DO(0) DO(1) DO(2) DO(3)
#define ZERO(T) _tile_zero(T);
        EACH_TILE(ZERO)
        for (int step = 0; step < steps; step++)
            for (int i = low < MAX_PLANES ? 0 : low - MAX_PLANES + 1; i < planes; i++) {
                const int is_last = i == planes - 1 && !is_signed, begin = i < low ? low - i : 0,
                          end = low + 4 - i < MAX_PLANES ? low + 4 - i : MAX_PLANES;
                _tile_loadd(4, x + i * 16 * stride + step * STEP, stride);
                for (int j = begin; j < end; j++) {
                    _tile_loadd(6, w + (j * steps + step) * TILE_BYTES, 64);
                    switch (4 * is_last + i + j - low) {
#define CASE(T)                           \
    case T: _tile_dpbssd(T, 4, 6); break; \
    case 4 + T: _tile_dpbusd(T, 4, 6); break;
                        EACH_TILE(CASE)
#undef CASE
                    }
                }
            }
#define STORE(T) _tile_stored(T, sums + (low + T) * SUMS_TILE, 64);
        EACH_TILE(STORE)
#undef STORE
#undef ZERO
#undef EACH_TILE
    }
    WRITTEN(sums);
}

/* multiply_values, with the bytes of both values in tiles. */
static int multiply_bytes(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int terms = call->tap_channels, columns = call->out_width, outputs = call->channels,
              steps = (terms + STEP - 1) / STEP, panels = (outputs + LANES - 1) / LANES;
    if (terms < PRODUCT_LEAST || terms > PRODUCT_MOST) return multiply_values(call, share, count, arena);
    const int64_t width = (int64_t)steps * STEP, stride = (steps | 1) * STEP,
                  a_size = (int64_t)call->out_height * columns * terms,
                  b_size = (int64_t)call->out_height * outputs * terms, panel = MAX_PLANES * 16 * width;
    const int32_t signs = 0x808080;
    const int tiles = (columns + 15) / 16;
    const span_t mine = span_of(share, (int64_t)call->out_height * tiles);
    uint8_t *w = (uint8_t *)(arena + call->scratch + share->scratch), *x = w + panels * panel,
            *of_b = x + MAX_PLANES * 16 * stride;
    int32_t *sums = (int32_t *)(of_b + MAX_PLANES * 16 * stride);
    int saw_nan = 0;
    block_t y[16];
    const int64_t filled = outputs < LANES ? outputs : LANES; /* of a panel */
    memset(w, 0, (size_t)panel);
    memset(x, 0, (size_t)(2 * MAX_PLANES * 16 * stride));
    shape_tiles(MAX_ROWS);
    for (int64_t n = 0; n < count; n++) {
        const int32_t *a = (const int32_t *)arena + call->in + n * call->in_size,
                      *b = (const int32_t *)arena + call->in2 + n * call->in2_size;
        const float a_unit = float_of_bits((uint32_t)a[a_size]), b_unit = float_of_bits((uint32_t)b[b_size]);
        for (int item = mine.begin, made = -1; item < mine.end; item++) {
            const int row = item / tiles, column = item % tiles * 16,
                      many = columns - column < 16 ? columns - column : 16;
            const int64_t pixel = (int64_t)row * columns + column;
            for (int p = 0; p < panels && made != row; p++) {
                for (int o = 0; o < LANES && p * LANES + o < outputs; o++)
                    split_row(b + ((int64_t)row * outputs + p * LANES + o) * terms, terms, MAX_PLANES, signs,
                              of_b + o * stride, 16 * stride, width);
                for (int plane = 0; plane < MAX_PLANES; plane++)
                    turn_units((const uint32_t *)(of_b + plane * 16 * stride), stride / 4, filled, width / 4,
                               (uint32_t *)(w + p * panel + plane * 16 * width), LANES);
            }
            made = row;
            uint32_t used = 0;
            for (int64_t k = 0; k < (int64_t)many * terms; k++)
                used |= (uint32_t)(a[pixel * terms + k] + 0x8080);
            const int is_signed = used >> 24 != 0, planes = 3 + is_signed; /* probabilities take three */
            for (int m = 0; m < many; m++)
                split_row(a + (pixel + m) * terms, terms, planes, is_signed ? signs : 0x8080, x + m * stride,
                          16 * stride, width);
            for (int first = 0; first < outputs; first += BLOCK) {
                const int part = outputs - first < BLOCK ? outputs - first : BLOCK;
                for (int from = 0; from < part; from += LANES) {
                    multiply_planes(x, stride, planes, is_signed, w + (first + from) / LANES * panel, steps,
                                    sums);
                    for (int m = 0; m < many; m++) {
                        int64_t wide[LANES];
                        add_planes(sums + m * LANES, SUMS_TILE, MAX_PLANES + planes - 1, wide);
                        for (int l = 0; l < LANES; l++) y[m].f[from + l] = (float)wide[l] * a_unit * b_unit;
                    }
                }
                for (int m = 0; m < many; m++) {
                    site_t site = {arena, n, pixel + m, first};
                    saw_nan |= finish_block(call, y + m, &site, first, part, 0);
                }
            }
        }
    }
    release_tiles();
    return saw_nan;
}

static int dot_or_tiles_run(dot_t *dot, const run_t *at, int group, position_t position, int64_t left,
                            const uint8_t *from, int64_t image) {
    int large = left >= DOT_MANY && dot->panel >= DOT_LEAST;
    return (large ? tiles_run : dot_run)(dot, at, group, position, left, from, image);
}

static int dot_or_tiles(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    if (is_dense(call)) return (count <= DOT_FEW ? dot_or_few : dense_tiles)(call, share, count, arena);
    dot_t dot = dot_room(call, arena + call->scratch + share->scratch);
    dot.run_pixels = dot_or_tiles_run;
    int saw_nan = dot_blocks(&dot, share, count, arena);
    if (dot.shaped) release_tiles();
    return saw_nan;
}

static int lut_or_planes(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    const int64_t rows = call->out_width == 1 ? count : call->out_width;
    return (call->planes && rows >= call->planes ? matmul_planes : lut)(call, share, count, arena);
}
#undef RUN_DOT
#define RUN_DOT dot_or_tiles
#undef RUN_LUT
#define RUN_LUT lut_or_planes
#undef RUN_PRODUCT
#define RUN_PRODUCT multiply_bytes
