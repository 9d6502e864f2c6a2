/* The update of latents by their gradient in one pass. See ob_update. */
#pragma once
#include "vector.h"

ALWAYS floats_t root(floats_t x) {
#if defined(__AVX512F__)
    return (floats_t)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (floats_t)_mm256_sqrt_ps((__m256)x);
#endif
    for (int k = 0; k < FLOAT_LANES; k++) x[k] = sqrtf(x[k]);
    return x;
}

ALWAYS void update_some(const ob_update *call, const int kind, int64_t i, int64_t count) {
    floats_t w = load_ordered(call->latent, i, count, 0), g = load_ordered(call->gradient, i, count, 0);
    floats_t m = call->mean ? load_ordered(call->mean, i, count, 0) : g;
    if (kind == OB_UPDATE_ADAM) {
        floats_t v = load_ordered(call->square, i, count, 0);
        w *= call->kept;
        m += (g - m) * call->share;
        v = v * call->square_kept + g * g * call->square_share;
        w -= call->rate * m / (root(v) + call->epsilon);
        store_ordered(call->square, i, count, v, 0);
    } else if (kind == OB_UPDATE_MOMENTUM) {
        g += w * call->decay;
        if (call->mean)
            m = m * call->kept + g * call->share;
        else
            m = g;
        w -= call->rate * (call->nesterov ? g + m * call->kept : m);
    } else {
        m += (g - m) * call->share;
        const words_t one = {0}, sign = ((words_t)(w < 0) & 0x80000000u) | (one + 0x3f800000u);
        /* against the sign of the weight, and large enough */
        const words_t flips = (words_t)(m * (floats_t)sign > call->threshold) & 0x80000000u;
        w = (floats_t)((sign ^ flips) |
                       (words_t)(m != m)); /* NaN of a mean that is, which stops the training */
    }
    if (call->mean) store_ordered(call->mean, i, count, m, 0);
    store_ordered(call->latent, i, count, bounded(w, -call->clip, call->clip), 0);
}

ALWAYS void update_values(const ob_update *call, const int kind, int64_t i, int64_t end) {
    for (; i + FLOAT_LANES <= end; i += FLOAT_LANES) update_some(call, kind, i, FLOAT_LANES);
    if (i < end) update_some(call, kind, i, end - i);
}

/* See ob_isa. */
static void run_update(const ob_update *call, int64_t begin, int64_t end) {
    if (call->kind == OB_UPDATE_ADAM)
        update_values(call, OB_UPDATE_ADAM, begin, end);
    else if (call->kind == OB_UPDATE_MOMENTUM)
        update_values(call, OB_UPDATE_MOMENTUM, begin, end);
    else
        update_values(call, OB_UPDATE_FLIP, begin, end);
}
