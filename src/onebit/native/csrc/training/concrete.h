/* The binary concrete weight: draws of signs and the slope, computed in float32. See ob_concrete. */
#pragma once
#include "vector.h"

/* 1 / (1 + exp(2 size)) of a size that is not negative, at most 1/2. */
ALWAYS floats_t least_chance(floats_t size) {
    floats_t e = decay(2 * size);
    return e / (1 + e);
}

/* Draws `count` signs; all bits are set where |u - p| is not at least `near`, which it is behind the last
 * value. */
ALWAYS words_t draw_signs(const ob_concrete *call, int64_t i, int64_t count, int bf16) {
    floats_t x = load_ordered(call->latent, i, count, 0);
    shorts_t steps = {0};
    memcpy(&steps, call->noise + i, (size_t)count * 2);
    /* in two steps: compilers take a single one value by value */
    floats_t u = __builtin_convertvector(__builtin_convertvector(steps, ints_t), floats_t) * 0x1p-16f +
                 (0.5f + 0x1p-17f);
    floats_t p = least_chance(magnitude(x));
    words_t below = (words_t)(x < 0);
    p = (floats_t)(((words_t)(1 - p) & below) | ((words_t)p & ~below));
    floats_t above = u - p;
    words_t signs = ((words_t)above & 0x80000000u) | 0x3f800000u;
    if (bf16) {
        halves_t upper = __builtin_convertvector(signs >> 16, halves_t);
        memcpy((uint16_t *)call->to + i, &upper, (size_t)count * 2);
    } else
        memcpy((float *)call->to + i, &signs, (size_t)count * 4);
    return ~(words_t)(magnitude(above) >= call->near);
}

ALWAYS void through_slope(const ob_concrete *call, int64_t i, int64_t count, int bf16) {
    floats_t x = load_ordered(call->latent, i, count, 0), g = load_ordered(call->gradient, i, count, bf16);
    floats_t t = 1 - 2 * least_chance(magnitude(x));
    g = g / (1 - t * t + call->epsilon) * call->factor;
    memcpy((float *)call->to + i, &g, (size_t)count * 4);
}

ALWAYS int64_t concrete_values(const ob_concrete *call, int64_t i, int64_t end, int bf16) {
    words_t near = {0};
    if (call->noise) {
        for (; i + FLOAT_LANES <= end; i += FLOAT_LANES) near |= draw_signs(call, i, FLOAT_LANES, bf16);
        if (i < end) near |= draw_signs(call, i, end - i, bf16);
    } else {
        for (; i + FLOAT_LANES <= end; i += FLOAT_LANES) through_slope(call, i, FLOAT_LANES, bf16);
        if (i < end) through_slope(call, i, end - i, bf16);
    }
    for (int k = 0; k < FLOAT_LANES; k++)
        if (near[k]) return 1;
    return 0;
}

/* See ob_isa. */
static int64_t run_concrete(const ob_concrete *call, int64_t begin, int64_t end) {
    return call->bf16 ? concrete_values(call, begin, end, 1) : concrete_values(call, begin, end, 0);
}
