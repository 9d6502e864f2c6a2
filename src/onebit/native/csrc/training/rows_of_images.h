/* Rows of values that convolutions of a training step read and write. */
#pragma once
#include "../avx512.h"
#include "vector.h"

static int64_t at_least(int64_t x, int64_t least) { return x < least ? least : x; }
static inline int64_t whole_lines(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; } /* of a cache */

/* Values of a row of float32 or bfloat16, 0 behind them. */
ALWAYS __m512 load_row(const void *from, int64_t i, __mmask16 some, int bf16) {
    if (!bf16) return _mm512_maskz_loadu_ps(some, (const float *)from + i);
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, (const uint16_t *)from + i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

/* Stores sums of `count` outputs of a row of an image, of one output tile. */
ALWAYS void store_row_of(const int bf16, const int cut, const ob_signed_convolution *call, const float *sums,
                         int64_t across, int64_t count, int64_t to, int64_t some, floats_t scale) {
    for (int64_t m = 0; m < count; m++, to += call->outputs) {
        floats_t y;
        memcpy(&y, sums + m * across, sizeof y);
        y *= scale;
        if (cut)
            y = chosen(y, (words_t)(magnitude(load_ordered(call->cut, to, some, bf16)) >= call->bound),
                       (floats_t){0});
        store_ordered(call->y, to, some, y, bf16);
    }
}

/* The same of 16 outputs from `output` on, or what there are of them. */
static void store_outputs(const ob_signed_convolution *call, const float *sums, int64_t across, int64_t count,
                          int64_t to, int64_t output) {
    const int64_t left = call->outputs - output, some = left < 16 ? left : 16;
    const floats_t scale = call->y_scale ? load_ordered(call->y_scale, output, some, 0) : (floats_t){0} + 1;
    switch (2 * (call->bf16 != 0) + (call->cut != NULL)) {
#define CASE(bf16, cut) \
    case 2 * bf16 + cut: store_row_of(bf16, cut, call, sums, across, count, to + output, some, scale); break;
        CASE(0, 0) CASE(0, 1) CASE(1, 0) CASE(1, 1)
#undef CASE
    }
}

/* Whether the channels of x have scales other than 1. */
static int is_scaled(const ob_signed_convolution *call) {
    int scaled = 0;
    for (int k = 0; call->x_scale && k < call->channels; k++) scaled |= call->x_scale[k] != 1;
    return scaled;
}

/* Multiples of `apart`, from 0 on. */
ALWAYS __m512i lanes_apart(int apart) {
    return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                              _mm512_set1_epi32(apart));
}

/* The weights of 16 outputs, or less, each from a place of its own. Weights are [output][taps down][across]
 * [channel]; of turned ones the outputs are the channels, and the last taps come first. */
typedef struct {
    const float *from;
    int64_t of_tap, of_channel;
    __m512i lanes;
    __mmask16 some;
} weights_t;

ALWAYS weights_t weights_of(const ob_signed_convolution *call, int64_t tile) {
    const int64_t taps = (int64_t)call->kernel[0] * call->kernel[1];
    const int64_t apart = call->turned ? 1 : taps * call->channels;
    return (weights_t){
        .from = call->weight + tile * 16 * apart + (call->turned ? (taps - 1) * call->outputs : 0),
        .of_tap = call->turned ? -call->outputs : call->channels,
        .of_channel = call->turned ? taps * call->outputs : 1,
        .lanes = lanes_apart((int)apart),
        .some = first_of(call->outputs - tile * 16),
    };
}

/* Those of a channel at a tap; 0 behind the outputs. */
ALWAYS __m512 weights_at(const weights_t *weights, int64_t tap, int64_t channel) {
    const float *from = weights->from + tap * weights->of_tap + channel * weights->of_channel;
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), weights->some, weights->lanes, from, 4);
}
