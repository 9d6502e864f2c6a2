/* Convolutions of float32 values, or of their signs, with weights of one magnitude per output, in the tile
 * registers of AMX. See ob_signed_convolution.
 *
 * A value is the sum of three bfloat16, of which the products with signs are exact. The pixels of an image,
 * with the padding around them, are positions of one line: then 16 outputs that follow each other read inputs
 * equally far apart, those of a row of taps side by side. A step multiplies TILE_VALUES of them: of one tap
 * and then of the next one, whose values are nearly the same, or in a row if a tap has no whole steps.
 * Outputs between two rows are computed in vain. */
#pragma once
#include "pieces.h"
#include "vector.h"

enum {
    TILE_VALUES = 32,      /* bfloat16 of a row of a tile */
    TILE_WEIGHTS = 512,    /* of a tile */
    NEAR_BYTES = 768 << 10 /* of weights, or of images, that stay in the second-level cache */
};

typedef struct {
    int64_t pitch, out_pitch, positions; /* of a row of inputs, of outputs, and of the outputs of an image */
    int64_t image, piece; /* bfloat16 of one piece of an image, and of all images that are near */
    int64_t near;         /* how many */
    int taps, steps;      /* whose steps take turns in a row of taps, and steps of each */
    int output_tiles;
    uint16_t *weights, *line;
    float *sums;
} line_t;

/* Weights of an output tile. */
static int64_t panel_of(const ob_signed_convolution *call, const line_t *work) {
    return (int64_t)call->kernel[0] * work->taps * work->steps * TILE_WEIGHTS;
}

/* Lays out the work; returns the scratch memory of all parts in bytes. */
static int64_t plan_line(const ob_signed_convolution *call, int32_t part, int32_t parts, line_t *work) {
    int64_t size[2]; /* of the line: what taps read, and what is written */
    for (int k = 0; k < 2; k++) {
        size[k] = at_least((call->out_size[k] - 1) * call->stride[k] + call->kernel[k],
                           call->padding[k] + (call->in_size[k] - 1) * call->spread[k] + 1);
    }
    work->pitch = (size[1] + call->stride[1] - 1) / call->stride[1] * call->stride[1];
    work->out_pitch = work->pitch / call->stride[1] * call->stride[0];
    work->positions = (call->out_size[0] - 1) * work->out_pitch + call->out_size[1];
    const int whole = call->channels % TILE_VALUES == 0;
    work->taps = whole ? call->kernel[1] : 1;
    work->steps = (call->kernel[1] / work->taps * call->channels + TILE_VALUES - 1) / TILE_VALUES;
    work->output_tiles = (call->outputs + 15) / 16;
    /* the last tiles read behind the image */
    const int64_t behind = 64 * call->stride[1] * call->channels + TILE_VALUES;
    work->image = whole_lines(2 * (size[0] * work->pitch * call->channels + behind)) / 2;
    const int64_t weights = work->output_tiles * panel_of(call, work) * 2;
    work->near = weights > NEAR_BYTES ? NEAR_BYTES / (2 * PIECES * work->image) : 1;
    work->near = work->near < 1 ? 1 : work->near < call->images ? work->near : call->images;
    work->piece = work->near * work->image + 32; /* pieces of a value are not all in one set of a cache */
    const int64_t own = PIECES * work->piece * 2 + 64 * 64;
    if (call->scratch) {
        work->weights = (uint16_t *)call->scratch;
        work->sums = (float *)((char *)call->scratch + weights + part * own);
        work->line = (uint16_t *)(work->sums + 64 * 16);
    }
    return weights + parts * own;
}

/* Tiles of 1 and -1 of an output tile: [row of taps][step][pair of values][output][2]. */
static void pack_signs(const ob_signed_convolution *call, const line_t *work, int64_t tile) {
    const int64_t across = call->kernel[1], channels = call->channels;
    const weights_t weights = weights_of(call, tile);
    uint16_t *to = work->weights + tile * panel_of(call, work);
    for (int64_t i = 0; i < call->kernel[0]; i++)
        for (int64_t n = 0; n < work->steps * work->taps; n++)
            for (int64_t k = 0; k < TILE_VALUES; k += 2, to += 32) {
                __m512i pair[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
                for (int side = 0; side < 2; side++) {
                    const int64_t value = n / work->taps * TILE_VALUES + k + side,
                                  tap = n % work->taps + value / channels, channel = value % channels;
                    if (tap >= across) continue;
                    const __m512 weight = weights_at(&weights, i * across + tap, channel);
                    pair[side] = _mm512_maskz_mov_epi32(weights.some, sign_of(weight));
                }
                _mm512_store_si512(to, _mm512_or_si512(_mm512_srli_epi32(pair[0], 16), pair[1]));
            }
}

/* Writes an image on the line; padding stays 0. Returns how many pieces are not all 0. */
ALWAYS int write_image(const int bf16, const int signs, const int scaled, const ob_signed_convolution *call,
                       const line_t *work, int64_t image, uint16_t *to) {
    __m512i used[PIECES] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    const int64_t channels = call->channels, columns = call->in_size[1];
    const int count = signs || (bf16 && !scaled) ? 1 : PIECES;
    const int64_t together = scaled || call->spread[1] > 1 ? channels : columns * channels;
    for (int64_t i = 0; i < call->in_size[0]; i++) {
        const int64_t x = (image * call->in_size[0] + i) * columns * channels;
        uint16_t *row =
            to + ((call->padding[0] + i * call->spread[0]) * work->pitch + call->padding[1]) * channels;
        for (int64_t j = 0; j < columns * channels; j += together, row += call->spread[1] * channels)
            for (int64_t k = 0; k < together; k += 16) {
                const __mmask16 some = first_of(together - k);
                __m512 value = load_row(call->x, x + j + k, some, bf16);
                __m512i pieces[PIECES] = {sign_of(value)};
                if (scaled) value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(some, call->x_scale + k));
                if (!signs) split(value, pieces);
                for (int piece = 0; piece < count; piece++) {
                    used[piece] = _mm512_or_si512(used[piece], pieces[piece]);
                    _mm256_mask_storeu_epi16(row + k + piece * work->piece, some,
                                             _mm512_cvtepi32_epi16(_mm512_srli_epi32(pieces[piece], 16)));
                }
            }
    }
    return _mm512_test_epi32_mask(used[2], used[2]) ? 3 : _mm512_test_epi32_mask(used[1], used[1]) ? 2 : 1;
}

/* Sums of 64 positions and 16 outputs, or 32 and 32. */
ALWAYS void line_sums(const int across, const ob_signed_convolution *call, const line_t *work,
                      const uint16_t *line, const uint16_t *weights, int pieces, float *sums) {
    const int64_t step = (int64_t)call->stride[1] * call->channels, apart = 32 * across;
    const int64_t panel = panel_of(call, work);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < call->kernel[0]; i++, line += work->pitch * call->channels) {
        const uint16_t *from = line;
        for (int n = 0, tap = 0; n < work->steps * work->taps; n++, weights += TILE_WEIGHTS) {
            const uint16_t *x = from + tap * call->channels;
            if (++tap == work->taps) tap = 0, from += TILE_VALUES;
            _tile_loadd(7, weights, 64);
            if (across > 1) _tile_loadd(6, weights + panel, 64);
            for (int k = 0; k < pieces; k++, x += work->piece) {
                _tile_loadd(4, x, 2 * step);
                _tile_dpbf16ps(0, 4, 7);
                _tile_loadd(5, x + 16 * step, 2 * step);
                if (across > 1) {
                    _tile_dpbf16ps(1, 4, 6);
                    _tile_dpbf16ps(2, 5, 7);
                    _tile_dpbf16ps(3, 5, 6);
                } else {
                    _tile_dpbf16ps(1, 5, 7);
                    _tile_loadd(6, x + 32 * step, 2 * step);
                    _tile_dpbf16ps(2, 6, 7);
                    _tile_loadd(4, x + 48 * step, 2 * step);
                    _tile_dpbf16ps(3, 4, 7);
                }
            }
        }
    }
    _tile_stored(0, sums, 2 * apart);
    _tile_stored(1, across > 1 ? sums + 16 : sums + 256, 2 * apart);
    _tile_stored(2, sums + 512, 2 * apart);
    _tile_stored(3, across > 1 ? sums + 528 : sums + 768, 2 * apart);
    WRITTEN(sums);
}

/* Stores those of `count` positions from `at` on that are outputs of the image. */
static void store_line(const ob_signed_convolution *call, const line_t *work, int64_t image, int64_t at,
                       int64_t count, int64_t output, int64_t across) {
    int64_t row = at / work->out_pitch, column = at % work->out_pitch;
    for (int64_t m = 0, step; m < count; m += step, column = 0, row++) {
        step = work->out_pitch - column < count - m ? work->out_pitch - column : count - m;
        const int64_t inside = call->out_size[1] - column, columns = inside < step ? inside : step;
        const int64_t to = ((image * call->out_size[0] + row) * call->out_size[1] + column) * call->outputs;
        for (int64_t k = 0; k < across && output + k < call->outputs; k += 16)
            store_outputs(call, work->sums + m * across + k, across, columns, to, output + k);
    }
}

/* An output tile, or two, of an image. */
static void convolve(const ob_signed_convolution *call, const line_t *work, int tile, int tiles,
                     int64_t image, const uint16_t *line, int pieces) {
    const uint16_t *weights = work->weights + tile * panel_of(call, work);
    for (int64_t at = 0, count; at < work->positions; at += count) {
        count = work->positions - at < 64 / tiles ? work->positions - at : 64 / tiles;
        const uint16_t *from = line + at * call->stride[1] * call->channels;
        if (tiles > 1)
            line_sums(2, call, work, from, weights, pieces, work->sums);
        else
            line_sums(1, call, work, from, weights, pieces, work->sums);
        store_line(call, work, image, at, count, tile * 16, tiles * 16);
    }
}

/* See ob_isa. Parts share tiles of weights, then images. */
static int64_t run_convolution(const ob_signed_convolution *call, int32_t stage, int32_t part,
                               int32_t parts) {
    line_t work;
    const int64_t bytes = plan_line(call, part, parts, &work);
    if (!call->scratch) return bytes;
    if (stage == OB_CONVOLUTION_PACK) {
        for (int64_t tile = work.output_tiles * (int64_t)part / parts;
             tile < work.output_tiles * (part + 1) / parts; tile++)
            pack_signs(call, &work, tile);
        return bytes;
    }
    const int scaled = is_scaled(call);
    memset(work.line, 0, (size_t)(PIECES * work.piece) * 2);
    shape_tiles(MAX_ROWS);
    for (int64_t first = call->images * part / parts, end = call->images * (part + 1) / parts; first < end;
         first += work.near) {
        const int64_t count = end - first < work.near ? end - first : work.near;
        int pieces = 1;
        for (int64_t n = 0; n < count; n++) {
            uint16_t *to = work.line + n * work.image;
            int found = 0;
            switch (4 * (call->bf16 != 0) + 2 * (call->x_signs != 0) + scaled) {
#define CASE(bf16, signs, scaled)                                             \
    case 4 * bf16 + 2 * signs + scaled:                                       \
        found = write_image(bf16, signs, scaled, call, &work, first + n, to); \
        break;
                CASE(0, 0, 0) CASE(0, 0, 1) CASE(0, 1, 0) CASE(1, 0, 0) CASE(1, 0, 1) CASE(1, 1, 0)
#undef CASE
            }
            pieces = found > pieces ? found : pieces;
        }
        WRITTEN(work.line);
        for (int tile = 0, tiles; tile < work.output_tiles; tile += tiles) {
            tiles = tile + 1 < work.output_tiles ? 2 : 1;
            for (int64_t n = 0; n < count; n++)
                convolve(call, &work, tile, tiles, first + n, work.line + n * work.image, pieces);
        }
    }
    release_tiles();
    return bytes;
}
#undef RUN_CONVOLUTION
#define RUN_CONVOLUTION run_convolution
