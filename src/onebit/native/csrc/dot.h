/* Dense layers and convolutions of bytes with one-bit weights. In memory a weight is a bit; the weights of a
 * block of outputs become bytes of 1 and -1 once per call, and every row of inputs is multiplied by them.
 *
 * A row is the receptive field of an output pixel: segments of fours of bytes, each at an offset from the
 * start of the row.
 */
#pragma once
#include "matmul.h"

#define DOT_OUTPUTS \
    32 /* whose weights of a four are neighbors in memory: weight k of output o is bit 4o + k */
#define DOT_BYTES (DOT_OUTPUTS / 2) /* of a four of inputs */

/* Weights of a panel as bytes, [four][lane][4]; those of a four are DOT_BYTES after those of the last. */
static void expand_fours(const uint8_t *bits, int64_t fours, int8_t *to);
/* sums[m][panel][lane] of rows a[m]. Panels of bytes are `panel` bytes apart. Offsets of segments are bytes
 * in a, and fours of a panel in b; `words` are fours. */
static void dot_tile(int rows, int panels, const uint8_t *const *a, const segment_t *segments, int count,
                     const int8_t *b, int64_t panel, int32_t *sums);

/* The scratch memory of a call, and what its runs share. */
typedef struct dot dot_t;
struct dot {
    const ob_call *call;
    segment_t *segments;
    int32_t *base;           /* per output of a block: what is added to its sum */
    int8_t *bytes;           /* the weights of a block */
    uint8_t *rows;           /* input rows with padding */
    int64_t panel;           /* bytes per panel */
    span_t tiles;            /* of the block */
    const int32_t *base_run; /* the run that `base` is for; NULL: none yet */
    int base_row;
    /* Makes all outputs of a block for `left` pixels of a run from `position` on. from: where the row of
     * pixel 0 of image 0 begins; image: bytes to that of the next image. */
    int (*run_pixels)(dot_t *dot, const run_t *at, int group, position_t position, int64_t left,
                      const uint8_t *from, int64_t image);
    int shaped; /* rows for which tiles of bytes have their shapes, see amx.h */
};

/* Bytes of the input rows with padding. */
static int64_t padded_bytes(const ob_call *call) {
    return (int64_t)call->table_rows * call->table_width * call->in_pixel;
}

static int dot_run(dot_t *dot, const run_t *at, int group, position_t position, int64_t left,
                   const uint8_t *from, int64_t image);

static dot_t dot_room(const ob_call *call, uint32_t *scratch) {
    dot_t dot = {.call = call, .segments = (segment_t *)scratch, .run_pixels = dot_run};
    int64_t taps = (int64_t)call->taps_down * call->taps_across, base = (int64_t)call->block * TILE_OUTPUTS;
    dot.panel = taps * call->tap_fours * LANES * 4;
    dot.base = (int32_t *)(dot.segments + (taps + 7) / 8 * 8); /* 8 segments are 3 cache lines */
    dot.bytes = (int8_t *)(dot.base + (base < BLOCK ? BLOCK : base));
    dot.rows = (uint8_t *)dot.bytes + call->block * TILE_PANELS * dot.panel;
    return dot;
}

/* `fours` fours of a panel as bytes, from four `from` on. A panel has the fours of all taps. Those that it
 * lacks are 0, and so are the bytes beyond the channels of a tap. */
static void expand_part(const ob_call *call, int group, int p, int64_t from, int64_t fours, int8_t *to) {
    int64_t several = (call->outputs + DOT_OUTPUTS - 1) / DOT_OUTPUTS, four = LANES * 4;
    int64_t left = (int64_t)call->taps_down * call->taps_across * call->tap_words - from,
            found = left < fours ? left : fours;
    const uint8_t *bits = (const uint8_t *)call->weights +
                          (group * several + p * LANES / DOT_OUTPUTS) * call->panel +
                          p * LANES % DOT_OUTPUTS / 2;
    expand_fours(bits + from * DOT_BYTES, found, to);
    memset(to + found * four, 0, (size_t)((fours - found) * four));
    if (call->tap_channels % 4)
        for (int64_t n = call->tap_words - 1 - from % call->tap_words; n < found; n += call->tap_words)
            for (int k = call->tap_channels % 4; k < 4; k++)
                for (int l = 0; l < LANES; l++) to[n * four + 4 * l + k] = 0;
}

/* Makes bytes of the weights of a block. */
static void expand_tiles(dot_t *dot, int group) {
    const ob_call *call = dot->call;
    int all = (call->outputs + LANES - 1) / LANES,
        end = dot->tiles.end * TILE_PANELS < all ? dot->tiles.end * TILE_PANELS : all;
    int64_t taps = (int64_t)call->taps_down * call->taps_across, four = LANES * 4,
            extra = call->tap_fours - call->tap_words;
    int64_t parts = extra ? taps : 1,
            fours = taps / parts * call->tap_words; /* parts with nothing extra inside */
    int8_t *to = dot->bytes;
    for (int p = dot->tiles.begin * TILE_PANELS; p < end; p++)
        for (int64_t part = 0; part < parts; part++, to += (fours + extra) * four) {
            expand_part(call, group, p, part * fours, fours, to);
            memset(to + fours * four, 0, (size_t)(extra * four));
        }
}

/* The segments of output row `i` and run `run`: the taps inside the image. Their number is at most that of
 * the taps. */
static int dot_segments(const dot_t *dot, int i, const int32_t *run) {
    const ob_call *call = dot->call;
    int64_t width = call->table_rows ? call->table_width : call->in_width;
    int count = 0;
    for (int a = 0; a < call->taps_down; a++) {
        int row = call->rows[i * call->taps_down + a];
        if (row < 0) continue;
        if (call->table_rows) row %= call->table_rows;
        for (int b = 0; b < call->taps_across; b++) {
            int column = call->columns[run[0] * call->taps_across + b];
            if (column < 0) continue;
            segment_t next = {(row * width + column) * call->in_pixel,
                              (int64_t)(a * call->taps_across + b) * call->tap_fours, call->tap_fours, 0};
            segment_t *last = count ? dot->segments + count - 1 : NULL;
            /* taps that are neighbors in both image and weights make one longer segment */
            if (last && last->a + 4 * last->words == next.a && last->b + last->words == next.b)
                last->words += next.words;
            else
                dot->segments[count++] = next;
        }
    }
    return count;
}

/* Whether two output rows have the same taps inside the image. */
static int same_taps(const ob_call *call, int i, int j) {
    const int32_t *rows = call->rows + i * call->taps_down, *others = call->rows + j * call->taps_down;
    for (int a = 0; a < call->taps_down; a++)
        if ((rows[a] < 0) != (others[a] < 0)) return 0;
    return 1;
}

/* What is added to the sums of each output of a block: a tap inside the image has bytes without `zero`, one
 * outside has the padding value instead. */
static void dot_base(dot_t *dot, int group, int i, const int32_t *run) {
    const ob_call *call = dot->call;
    int32_t zero = call->in_zero - call->in_factor * DOT_SHIFT;
    int first = dot->tiles.begin * TILE_OUTPUTS, end = dot->tiles.end * TILE_OUTPUTS;
    int count = (call->outputs < end ? call->outputs : end) - first;
    if (!zero && !call->constant) return;
    if (run == dot->base_run && same_taps(call, i, dot->base_row)) return;
    dot->base_run = run, dot->base_row = i;
    memset(dot->base, 0, (size_t)count * sizeof *dot->base);
    for (int a = 0; a < call->taps_down; a++)
        for (int b = 0; b < call->taps_across; b++) {
            int inside = call->rows[i * call->taps_down + a] >= 0 &&
                         call->columns[run[0] * call->taps_across + b] >= 0;
            uint32_t value = (uint32_t)(inside ? -zero : call->constant);
            const int64_t *tap = call->tap_sums +
                                 (int64_t)(a * call->taps_across + b) * call->groups * call->outputs +
                                 (int64_t)group * call->outputs + first;
            for (int k = 0; k < count; k++)
                dot->base[k] = (int32_t)((uint32_t)dot->base[k] + value * (uint32_t)tap[k]);
        }
    for (int k = count; k < call->together * call->outputs; k += count)
        memcpy(dot->base + k, dot->base, (size_t)count * sizeof *dot->base);
}

/* Runs the epilogue on the sums of some rows of a tile, where it may work in place. */
static int finish_rows(const dot_t *dot, const run_t *at, position_t position, int many, int group, int tile,
                       int32_t *sums, int width) {
    const ob_call *call = dot->call;
    int first = tile * TILE_OUTPUTS, part = call->outputs - first < width ? call->outputs - first : width,
        saw_nan = 0;
    int together = at->run[1] == 1 ? call->together : 0, single = call->out_height * call->out_width == 1;
    /* whether the epilogue reads just these sums, row by row in whole vectors */
    int bare =
        width % OB_VECTOR == 0 && call->in_factor == 1 && !call->in_zero && !DOT_SHIFT && !call->constant;
    uint32_t factor = (uint32_t)call->in_factor;
    block_t block;
    for (int m = 0; m < many;) {
        int32_t *sum = sums + (int64_t)m * width;
        int pixels = 1;
        if (together) {
            pixels = many - m < together ? many - m : together;
            if (!single && at->run[2] - position.t < pixels) pixels = at->run[2] - position.t;
        }
        const int32_t *base = dot->base + (tile - dot->tiles.begin) * TILE_OUTPUTS;
        int straight = pixels == 1 || width == part;
        block_t *x = bare && straight ? (block_t *)sum : &block;
        if (straight && !bare) {
            int count = pixels * part;
            CHANNELS(x->i[k] = (int32_t)(factor * (uint32_t)sum[k] + (uint32_t)base[k]))
        } else if (!straight)
            for (int p = 0, to = 0; p < pixels; p++)
                for (int k = 0; k < part; k++, to++)
                    x->i[to] = (int32_t)(factor * (uint32_t)sum[p * width + k] + (uint32_t)base[k]);
        site_t site = site_of(at, position, group * call->outputs + first);
        saw_nan |=
            finish_block(call, x, &site, pixels > 1 ? 0 : group * call->outputs + first, pixels * part, 0);
        m += pixels;
        if (single)
            position.n += pixels;
        else if ((position.t += pixels) == at->run[2])
            position.n++, position.t = 0;
    }
    return saw_nan;
}

static int dot_run(dot_t *dot, const run_t *at, int group, position_t position, int64_t left,
                   const uint8_t *from, int64_t image) {
    const ob_call *call = dot->call;
    int padded = (call->outputs + LANES - 1) / LANES, found = dot_segments(dot, at->i, at->run), saw_nan = 0;
    int64_t step = (int64_t)at->run[3] * call->in_pixel;
    int32_t sums[DOT_ROWS * TILE_OUTPUTS];
    dot_base(dot, group, at->i, at->run);
    for (position_t ahead; left > 0; position = ahead) {
        const uint8_t *a[DOT_ROWS];
        int many = left < DOT_ROWS ? (int)left : DOT_ROWS;
        ahead = position;
        for (int m = 0; m < many; m++, ahead = next_position(at, ahead))
            a[m] = from + ahead.n * image + ahead.t * step + (int64_t)group * call->tap_channels;
        for (int tile = dot->tiles.begin; tile < dot->tiles.end; tile++) {
            int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
            const int8_t *b = dot->bytes + (tile - dot->tiles.begin) * TILE_PANELS * dot->panel;
            dot_tile(many, panels, a, dot->segments, found, b, dot->panel, sums);
            saw_nan |= finish_rows(dot, at, position, many, group, tile, sums, panels * LANES);
        }
        left -= many;
    }
    return saw_nan;
}

/* Images whose rows need no padding: pixels of all images together. */
static int dot_images(dot_t *dot, const share_t *rows, int group, int64_t count, uint32_t *arena) {
    const ob_call *call = dot->call;
    const span_t mine = span_of(rows, call->out_height);
    int saw_nan = 0;
    for (int r = 0; r < call->run_count; r++)
        for (int i = mine.begin; i < mine.end; i++) {
            run_t at = {.call = call, .arena = arena, .i = i, .run = call->runs + 4 * r};
            position_t position = {0, 0};
            saw_nan |= dot->run_pixels(dot, &at, group, position, count * at.run[2],
                                       (const uint8_t *)(arena + call->in), call->in_size * 4);
        }
    return saw_nan;
}

/* Images whose rows are copied and padded. */
static int dot_padded(dot_t *dot, const share_t *rows, int group, int64_t count, uint32_t *arena) {
    const ob_call *call = dot->call;
    const span_t mine = span_of(rows, call->out_height);
    int64_t width = (int64_t)call->in_width * call->in_pixel,
            size = (int64_t)call->table_width * call->in_pixel;
    int saw_nan = 0;
    memset(dot->rows, call->table_byte, (size_t)padded_bytes(call));
    for (int64_t n = 0; n < count; n++) {
        const uint8_t *in = (const uint8_t *)(arena + call->in + n * call->in_size);
        int made = -1; /* the last row that was copied */
        for (int i = mine.begin; i < mine.end; i++) {
            for (int row; (row = next_row(call, i, &made)) >= 0;)
                memcpy(dot->rows + row % call->table_rows * size + (int64_t)call->table_left * call->in_pixel,
                       in + row * width, (size_t)width);
            run_t at = {.call = call, .arena = arena, .i = i, .run = call->runs};
            position_t position = {n, 0};
            saw_nan |= dot->run_pixels(dot, &at, group, position, at.run[2], dot->rows, 0);
        }
    }
    return saw_nan;
}

/* Whether a call is a dense layer. */
static inline int is_dense(const ob_call *call) {
    int one = call->out_height * call->out_width * call->taps_down * call->taps_across == 1;
    /* the only tap is at the first pixel: not on the border, and not at another pixel */
    return one && call->groups == 1 && !call->table_rows && call->rows[0] == 0 && call->columns[0] == 0;
}

/* Block by block. */
static int dot_blocks(dot_t *dot, const share_t *share, int64_t count, uint32_t *arena) {
    const ob_call *call = dot->call;
    const share_t alone = {.parts = 1}, *rows = call->out_height > 1 ? share : &alone;
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int saw_nan = 0;
    for (int group = 0; group < call->groups; group++)
        for (int tile = work.outputs.begin; tile < work.outputs.end; tile += call->block) {
            dot->tiles.begin = tile;
            dot->tiles.end = work.outputs.end - tile < call->block ? work.outputs.end : tile + call->block;
            dot->base_run = NULL;
            expand_tiles(dot, group);
            memset(dot->base, 0, (size_t)(dot->bytes - (int8_t *)dot->base));
            saw_nan |= (call->table_rows ? dot_padded : dot_images)(dot, rows, group, count, arena);
        }
    return saw_nan;
}

static int dot(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    dot_t dot = dot_room(call, arena + call->scratch + share->scratch);
    return dot_blocks(&dot, share, count, arena);
}
#undef RUN_DOT
#define RUN_DOT dot
