/* The gradient to the weights of a convolution in the tile registers of AMX: sums in float32. See
 * ob_convolution. A float32 is the sum of three bfloat16; of the nine products of two, the three smallest are
 * below the rounding of the largest and left out.
 *
 * The pixels of all images are positions of one line, with zeros between rows and between images, so that a
 * tap is a shift along the line: to[output][tap][channel] = sum over positions p of gradient[p][output] * x[p
 * + shift of the tap][channel]. With a stride, x is divided into phases of pixels that far apart, each a line
 * of its own. A stretch of the line is packed at a time: gradients output by output, one position after the
 * other, and x in pairs of positions, channel by channel. A pair begins at an even position; for an odd shift
 * the gradients are read one position to the left instead.
 *
 * Images are divided into blocks with sums of their own, whatever the number of threads, and the blocks are
 * added in order. A block is computed for as many outputs at a time as have their sums near. */
#pragma once
#include "pieces.h"

enum {
    TAPS_TOGETHER = 5, /* tiles of sums; the others hold gradients and, twice, x */
    POSITIONS = 32,    /* of a tile */
    STRETCH = 8,       /* most tiles of positions of a stretch, an even number */
    MAX_BLOCKS = 8,
    NEAR_SUMS = 1 << 20, /* bytes that stay in the second-level cache */
    TILE_SUMS = 256,     /* 16 outputs times 16 channels */
    GRADIENT_ROW = (STRETCH + 1) *
        POSITIONS, /* of one output; the stretch begins after a tile, whose end is the position before.
                      An odd number of cache lines, so that 16 rows are not all in one set. */
};

typedef struct {
    int phase, shift, tap;
} shift_t;

/* Pixels on the line: the rows and columns that are inside, and their distances in bytes. */
typedef struct {
    const char *from;
    int64_t images, rows, columns, image, row, pixel;
} pixels_t;

/* What the next stretch reads, of x and of gradients: fetched into the second-level cache while tiles
 * multiply. */
typedef struct {
    const char *from[2], *end[2];
    int64_t lines[2]; /* at a time */
} ahead_t;

typedef struct {
    int64_t pitch, rows; /* positions of a row, rows of an image */
    int64_t before,
        around; /* positions of x that a stretch needs in front of it, and there and behind it: even */
    int64_t blocks, pairs;           /* pairs: of a stretch of x */
    int64_t begin, end, together;    /* tiles of outputs that are computed at the same time, and how many */
    int64_t gradient_piece, x_piece; /* numbers of a piece */
    int taps, output_tiles, channel_tiles, phases, pieces, size; /* size: bytes of a value */
    int x_pieces[2];             /* that are not all 0, of this stretch and the one before */
    shift_t shifts[OB_MAX_TAPS]; /* by phase, even before odd */
    /* scratch memory: sums of all blocks, then of each part */
    float *sums;
    uint16_t *gradients;
    uint32_t *pairs_of_x;
    const char *zeros, **at;
} wgrad_t;

/* Pixels of a phase along an axis. */
static int64_t phase_size(int64_t size, int stride, int phase) {
    return size > phase ? (size - phase - 1) / stride + 1 : 0;
}

/* Taps of one group are multiplied together. */
static int group_of(shift_t tap) { return 2 * tap.phase + (tap.shift & 1); }

/* Where taps go along an axis, and the positions that its pixels need: nonzero x of one row is never
 * multiplied by the gradient of another. */
static int64_t axis_taps(const ob_convolution *call, int axis, int *shift, int *phase) {
    const int stride = call->stride[axis];
    int64_t positions = call->out_size[axis];
    for (int k = 0; k < call->kernel[axis]; k++) {
        phase[k] = ((k - call->padding[axis]) % stride + stride) % stride;
        shift[k] = (k - call->padding[axis] - phase[k]) / stride;
        positions = at_least(positions, call->out_size[axis] + shift[k]);
        positions = at_least(positions, phase_size(call->in_size[axis], stride, phase[k]) -
                                            (shift[k] < 0 ? shift[k] : 0));
    }
    return positions;
}

/* Lays out the work; returns the scratch memory of all parts in bytes. */
static int64_t plan_wgrad(const ob_convolution *call, int32_t part, int32_t parts, wgrad_t *work) {
    int down[OB_MAX_TAPS], across[OB_MAX_TAPS], down_phase[OB_MAX_TAPS], across_phase[OB_MAX_TAPS];
    int64_t first = 0, last = 0;
    work->rows = axis_taps(call, 0, down, down_phase);
    work->pitch = axis_taps(call, 1, across, across_phase);
    work->taps = 0;
    work->pieces = call->bf16 ? 1 : PIECES, work->size = call->bf16 ? 2 : 4;
    for (int i = 0; i < call->kernel[0]; i++)
        for (int j = 0; j < call->kernel[1]; j++) {
            shift_t tap = {down_phase[i] * call->stride[1] + across_phase[j],
                           (int)(down[i] * work->pitch) + across[j], work->taps};
            int index = work->taps++;
            for (; index > 0 && group_of(tap) < group_of(work->shifts[index - 1]); index--)
                work->shifts[index] = work->shifts[index - 1];
            work->shifts[index] = tap;
            first = tap.shift < first ? tap.shift : first;
            last = at_least(last, tap.shift);
        }
    work->phases = 1;
    for (int k = 1; k < work->taps; k++) work->phases += work->shifts[k].phase != work->shifts[k - 1].phase;
    work->before = (2 - first) & ~(int64_t)1;
    work->around = work->before + ((last + 1) & ~(int64_t)1);
    work->pairs = (work->around + STRETCH * POSITIONS) / 2;
    work->output_tiles = (call->outputs + 15) / 16, work->channel_tiles = (call->channels + 15) / 16;
    int64_t tiles = (int64_t)work->output_tiles * work->channel_tiles * work->taps;
    const int64_t bytes = work->channel_tiles * (int64_t)work->taps * TILE_SUMS * 4; /* of an output tile */
    work->together = at_least(NEAR_SUMS / bytes, 1);
    work->blocks = at_least(16 * NEAR_SUMS / (bytes * work->output_tiles), 1);
    if (work->blocks > MAX_BLOCKS) work->blocks = MAX_BLOCKS;
    if (work->blocks > call->images) work->blocks = call->images;
    int64_t sums = work->blocks * tiles * TILE_SUMS * 4;
    work->gradient_piece = (int64_t)work->output_tiles * 16 * GRADIENT_ROW;
    work->x_piece = work->phases * work->channel_tiles * work->pairs * 16;
    int64_t zeros = 64 * at_least(work->output_tiles, work->channel_tiles);
    int64_t gradients = work->pieces * work->gradient_piece * 2, pairs = work->pieces * work->x_piece * 4;
    int64_t at = whole_lines(2 * work->pairs * 8), own = zeros + gradients + pairs + at;
    if (call->scratch) {
        char *memory = (char *)call->scratch + sums + part * own;
        work->sums = (float *)call->scratch;
        memset(memory, 0, (size_t)zeros);
        work->zeros = memory;
        work->gradients = (uint16_t *)(memory += zeros);
        work->pairs_of_x = (uint32_t *)(memory += gradients);
        work->at = (const char **)(memory + pairs);
    }
    return sums + parts * own;
}

/* The addresses of the pixels at `count` positions from `begin` on. */
static void find_pixels(const wgrad_t *work, const pixels_t *pixels, int64_t begin, int64_t count) {
    const char **at = work->at;
    int64_t v = begin >= 0 ? begin / work->pitch : -1 - (-1 - begin) / work->pitch,
            column = begin - v * work->pitch;
    int64_t n = v >= 0 ? v / work->rows : -1, row = v - n * work->rows;
    while (count > 0) {
        int64_t left = work->pitch - column, k = 0;
        left = left < count ? left : count;
        if (n >= 0 && n < pixels->images && row < pixels->rows) {
            const char *from = pixels->from + n * pixels->image + row * pixels->row + column * pixels->pixel;
            int64_t inside = pixels->columns - column < left ? pixels->columns - column : left;
            for (; k < inside; k++) at[k] = from + k * pixels->pixel;
        }
        for (; k < left; k++) at[k] = work->zeros;
        at += left, count -= left, column = 0;
        if (++row == work->rows) row = 0, n++; /* before the first image, n stays -1 until its rows begin */
    }
}

/* The values of two positions, each pair a word: signs of what is inside, bfloat16, or the pieces of float32.
 */
ALWAYS void pairs_at(const int bf16, const int signs, const wgrad_t *work, const char *const *at,
                     int64_t first, __mmask16 some, __m512i *to) {
    __m512i pieces[2][PIECES];
    for (int k = 0; k < 2; k++) {
        const __m512 value = load_row(at[k], first, some, bf16);
        pieces[k][0] = _mm512_castps_si512(value);
        if (signs) pieces[k][0] = _mm512_maskz_mov_epi32(at[k] == work->zeros ? 0 : some, sign_of(value));
        if (!bf16 && !signs) split(value, pieces[k]);
    }
    for (int k = 0; k < (bf16 || signs ? 1 : PIECES); k++)
        to[k] = _mm512_or_si512(_mm512_srli_epi32(pieces[0][k], 16), pieces[1][k]);
}

/* A stretch of x from position `at` on, of one phase. What the stretch before had around it comes first. */
ALWAYS void pack_x(const int bf16, const int signs, const ob_convolution *call, wgrad_t *work,
                   const pixels_t *pixels, int64_t at, int64_t steps, uint32_t *to) {
    const int pieces = bf16 || signs ? 1 : PIECES;
    const int64_t kept = at > 0 ? work->around / 2 : 0, end = (work->around + steps * POSITIONS) / 2;
    __m512i used[PIECES] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    find_pixels(work, pixels, at - work->before + 2 * kept, 2 * (end - kept));
    for (int tile = 0; tile < work->channel_tiles; tile++, to += work->pairs * 16) {
        __mmask16 some = first_of(call->channels - tile * 16);
        for (int piece = 0; piece < pieces; piece++) {
            uint32_t *row = to + piece * work->x_piece;
            memmove(row, row + (work->pairs - kept) * 16, (size_t)kept * 64);
        }
        for (int64_t k = kept; k < end; k++) {
            __m512i pair[PIECES];
            pairs_at(bf16, signs, work, work->at + 2 * (k - kept), tile * 16, some, pair);
            for (int piece = 0; piece < pieces; piece++) {
                _mm512_store_si512(to + piece * work->x_piece + k * 16, pair[piece]);
                used[piece] = _mm512_or_si512(used[piece], pair[piece]);
            }
        }
    }
    for (int piece = work->x_pieces[0]; piece < pieces; piece++)
        if (_mm512_test_epi32_mask(used[piece], used[piece])) work->x_pieces[0] = piece + 1;
}

/* 16 words of 16 outputs, transposed. */
ALWAYS void store_transposed(__m512i *a, uint16_t *to) {
    __m512i b[16];
#pragma GCC unroll 8
    for (int k = 0; k < 16; k += 2) {
        b[k] = _mm512_unpacklo_epi32(a[k], a[k + 1]);
        b[k + 1] = _mm512_unpackhi_epi32(a[k], a[k + 1]);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 16; k += 4) {
        a[k] = _mm512_unpacklo_epi64(b[k], b[k + 2]);
        a[k + 1] = _mm512_unpackhi_epi64(b[k], b[k + 2]);
        a[k + 2] = _mm512_unpacklo_epi64(b[k + 1], b[k + 3]);
        a[k + 3] = _mm512_unpackhi_epi64(b[k + 1], b[k + 3]);
    }
    /* a[4m + j] holds output 4i + j of pairs 4m to 4m + 3 in its part i of 128 bits */
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x44),
                high = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x44);
        __m512i more_low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xee),
                more_high = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xee);
        _mm512_store_si512(to + j * GRADIENT_ROW, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_store_si512(to + (4 + j) * GRADIENT_ROW, _mm512_shuffle_i32x4(low, high, 0xdd));
        _mm512_store_si512(to + (8 + j) * GRADIENT_ROW, _mm512_shuffle_i32x4(more_low, more_high, 0x88));
        _mm512_store_si512(to + (12 + j) * GRADIENT_ROW, _mm512_shuffle_i32x4(more_low, more_high, 0xdd));
    }
}

/* `more`: not the first stretch; what comes before it is the end of the one before, else zeros. */
ALWAYS void pack_gradients(const int bf16, const ob_convolution *call, const wgrad_t *work, int64_t steps,
                           int more) {
    const int pieces = bf16 ? 1 : PIECES;
    for (int64_t tile = work->begin; tile < work->end; tile++) {
        uint16_t *to = work->gradients + tile * 16 * GRADIENT_ROW;
        __mmask16 some = first_of(call->outputs - tile * 16);
        for (int piece = 0; piece < pieces; piece++)
            for (int k = 0; k < 16; k++) {
                uint16_t *row = to + piece * work->gradient_piece + k * GRADIENT_ROW;
                row[POSITIONS - 1] = more ? row[GRADIENT_ROW - 1] : 0;
            }
        for (int64_t n = 0; n < steps; n++) {
            __m512i a[PIECES][16], pair[PIECES];
#pragma GCC unroll 16
            for (int k = 0; k < 16; k++) {
                pairs_at(bf16, 0, work, work->at + n * POSITIONS + 2 * k, tile * 16, some, pair);
                for (int piece = 0; piece < pieces; piece++) a[piece][k] = pair[piece];
            }
            for (int piece = 0; piece < pieces; piece++)
                store_transposed(a[piece], to + piece * work->gradient_piece + (n + 1) * POSITIONS);
        }
    }
}

/* Adds products of a row of tiles of gradients with one of x for each tap to its sums. */
ALWAYS void add_taps(const int taps, const wgrad_t *work, const uint16_t *gradients, const uint32_t *const *x,
                     int64_t steps, float *const *sums, ahead_t *ahead) {
    const int x_pieces = work->x_pieces[0] > work->x_pieces[1] ? work->x_pieces[0] : work->x_pieces[1];
#define EACH_TAP(DO) \
    DO(0, 7) if (taps > 1) DO(1, 5) if (taps > 2) DO(2, 7) if (taps > 3) DO(3, 5) if (taps > 4) DO(4, 7)
#define LOAD(t, free)                \
    {                                \
        _tile_loadd(t, sums[t], 64); \
    }
#define ADD_ONE(t, free)                  \
    {                                     \
        _tile_loadd(free, x[t] + at, 64); \
        _tile_dpbf16ps(t, 6, free);       \
    }
#define STORE(t, free)                \
    {                                 \
        _tile_stored(t, sums[t], 64); \
    }
    EACH_TAP(LOAD)
    for (int64_t k = 0; k < steps; k++) {
        for (int piece = 0; piece < work->pieces; piece++) {
            _tile_loadd(6, gradients + piece * work->gradient_piece + k * POSITIONS, 2 * GRADIENT_ROW);
            for (int other = 0; other < x_pieces && other + piece < PIECES; other++) {
                const int64_t at = other * work->x_piece + k * 256;
                EACH_TAP(ADD_ONE)
            }
        }
        for (int side = 0; side < 2; side++) {
            const char *from = ahead->from[side];
            for (int64_t line = 0; line < ahead->lines[side] && from < ahead->end[side]; line++, from += 64)
                _mm_prefetch(from, _MM_HINT_T1);
            ahead->from[side] = from;
        }
    }
    EACH_TAP(STORE)
#undef EACH_TAP
#undef LOAD
#undef ADD_ONE
#undef STORE
}

/* Taps of one phase and of even or odd shifts, number `begin` to `end`. */
static void add_products(const wgrad_t *work, const uint32_t *pairs_of_x, int begin, int end, int64_t steps,
                         float *sums, ahead_t *ahead) {
    const int odd = work->shifts[begin].shift & 1;
    for (int64_t o = work->begin; o < work->end; o++)
        for (int c = 0; c < work->channel_tiles; c++) {
            const uint16_t *gradients = work->gradients + o * 16 * GRADIENT_ROW + POSITIONS - odd;
            const uint32_t *x[TAPS_TOGETHER];
            float *to[TAPS_TOGETHER];
            for (int t = begin; t < end; t++) {
                const shift_t *tap = &work->shifts[t];
                x[t - begin] = pairs_of_x + (c * work->pairs + (work->before + tap->shift - odd) / 2) * 16;
                to[t - begin] = sums + ((o * work->channel_tiles + c) * work->taps + tap->tap) * TILE_SUMS;
            }
            switch (end - begin) {
#define CASE(taps) \
    case taps: add_taps(taps, work, gradients, x, steps, to, ahead); break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#undef CASE
            }
        }
}

static void block_sums(const ob_convolution *call, wgrad_t *work, int64_t first, int64_t images,
                       float *sums) {
    const int64_t rows = call->in_size[0], columns = call->in_size[1],
                  size = (int64_t)call->channels * work->size;
    const int64_t out_pixels = (int64_t)call->out_size[0] * call->out_size[1],
                  out_size = (int64_t)call->outputs * work->size;
    const pixels_t gradients = {(const char *)call->gradient + first * out_pixels * out_size,
                                images,
                                call->out_size[0],
                                call->out_size[1],
                                out_pixels * out_size,
                                call->out_size[1] * out_size,
                                out_size};
    /* one more, so that the last tile has a position behind it, for odd shifts */
    const int64_t total = images * work->rows * work->pitch + 1;
    for (int64_t at = 0; at < total; at += STRETCH * POSITIONS) {
        int64_t steps = (total - at + POSITIONS - 1) / POSITIONS;
        steps = steps < STRETCH ? steps : STRETCH;
        ahead_t ahead;
        const char *const of[2] = {(const char *)call->x + first * rows * columns * size, gradients.from};
        const int64_t bytes[2] = {images * rows * columns * size, images * out_pixels * out_size};
        for (int side = 0; side < 2; side++) {
            const int64_t stretch = STRETCH * POSITIONS;
            double share = (double)bytes[side] / (double)total;
            ahead.from[side] = of[side] + (int64_t)(share * (double)(at + stretch));
            ahead.end[side] =
                of[side] + (int64_t)(share * (double)(at + 2 * stretch < total ? at + 2 * stretch : total));
            ahead.lines[side] =
                (int64_t)(share * POSITIONS / 64 / work->output_tiles / work->channel_tiles / 2) + 1;
        }
        find_pixels(work, &gradients, at, steps * POSITIONS);
        if (call->bf16)
            pack_gradients(1, call, work, steps, at > 0);
        else
            pack_gradients(0, call, work, steps, at > 0);
        work->x_pieces[1] = work->x_pieces[0], work->x_pieces[0] = 1;
        uint32_t *pairs_of_x = work->pairs_of_x;
        for (int begin = 0, end; begin < work->taps; begin = end) {
            const shift_t *tap = &work->shifts[begin];
            if (begin == 0 || tap->phase != tap[-1].phase) {
                if (begin > 0) pairs_of_x += work->channel_tiles * work->pairs * 16;
                int down = tap->phase / call->stride[1], across = tap->phase % call->stride[1];
                const pixels_t x = {(const char *)call->x +
                                        (first * rows * columns + down * columns + across) * size,
                                    images,
                                    phase_size(rows, call->stride[0], down),
                                    phase_size(columns, call->stride[1], across),
                                    rows * columns * size,
                                    call->stride[0] * columns * size,
                                    call->stride[1] * size};
                switch (2 * (call->bf16 != 0) + (call->x_signs != 0)) {
#define CASE(bf16, signs) \
    case 2 * bf16 + signs: pack_x(bf16, signs, call, work, &x, at, steps, pairs_of_x); break;
                    CASE(0, 0) CASE(0, 1) CASE(1, 0) CASE(1, 1)
#undef CASE
                }
                WRITTEN(pairs_of_x);
            }
            for (end = begin + 1; end < work->taps && end < begin + TAPS_TOGETHER; end++)
                if (group_of(work->shifts[end]) != group_of(*tap)) break;
            add_products(work, pairs_of_x, begin, end, steps, sums, &ahead);
        }
    }
}

/* See ob_isa. */
static int64_t run_weight_gradient(const ob_convolution *call, int32_t stage, int32_t part, int32_t parts) {
    wgrad_t work = {.x_pieces = {1, 1}};
    int64_t bytes = plan_wgrad(call, part, parts, &work);
    if (!call->scratch) return bytes;
    const int64_t tiles = (int64_t)work.output_tiles * work.channel_tiles,
                  sums = tiles * work.taps * TILE_SUMS;
    if (stage == OB_WEIGHT_SUMS) {
        shape_tiles(MAX_ROWS);
        const int64_t groups = (work.output_tiles + work.together - 1) / work.together,
                      all = work.blocks * groups, size = sums / work.output_tiles;
        for (int64_t n = all * part / parts; n < all * (part + 1) / parts; n++) {
            const int64_t b = n / groups, first = call->images * b / work.blocks,
                          last = call->images * (b + 1) / work.blocks;
            work.begin = n % groups * work.together, work.end = work.begin + work.together;
            if (work.end > work.output_tiles) work.end = work.output_tiles;
            memset(work.sums + b * sums + work.begin * size, 0, (size_t)((work.end - work.begin) * size) * 4);
            WRITTEN(work.sums);
            block_sums(call, &work, first, last - first, work.sums + b * sums);
        }
        release_tiles();
        return bytes;
    }
    for (int64_t tile = tiles * part / parts, last = tiles * (part + 1) / parts; tile < last; tile++) {
        int64_t o = tile / work.channel_tiles * 16, c = tile % work.channel_tiles * 16;
        for (int tap = 0; tap < work.taps; tap++) {
            const float *from = work.sums + (tile * work.taps + tap) * TILE_SUMS;
            float all[TILE_SUMS];
            memcpy(all, from, sizeof all);
            for (int64_t b = 1; b < work.blocks; b++)
                for (int k = 0; k < TILE_SUMS; k++) all[k] += from[b * sums + k];
            int64_t i =
                tap / call->kernel[1] * call->to_stride[2] + tap % call->kernel[1] * call->to_stride[3];
            for (int64_t m = o; m < o + 16 && m < call->outputs; m++)
                for (int64_t k = c; k < c + 16 && k < call->channels; k++)
                    call->to[i + m * call->to_stride[0] + k * call->to_stride[1]] = all[(m - o) * 16 + k - c];
        }
    }
    return bytes;
}
#undef RUN_WEIGHT_GRADIENT
#define RUN_WEIGHT_GRADIENT run_weight_gradient
