/* Surrogate gradients of the sign, computed in float32. See ob_surrogate. */
#pragma once
#include "rows.h"

/* 2 - 2|x| where |x| < 1, else 0. */
ALWAYS floats_t triangle(floats_t x) { return bounded(2 - 2 * magnitude(x), 0, NAN); }

/* s(1 - s) with s = 1/(1 + exp(-z)): e/(1 + e)² with e = exp(-|z|). */
ALWAYS floats_t bell(floats_t z) {
    floats_t e = decay(magnitude(z));
    return e / ((1 + e) * (1 + e));
}

ALWAYS void through_pair(const ob_surrogate *call, int64_t i, int64_t count, int bf16) {
    pair_t x = load_values(call->x, i, count, bf16), g = load_values(call->gradient, i, count, bf16);
    const float steepness = call->steepness, height = call->height;
    if (call->kind == OB_SURROGATE_TRIANGLE) {
        g.a *= triangle(x.a), g.b *= triangle(x.b);
    } else {
        g.a *= bell(x.a * steepness) * height, g.b *= bell(x.b * steepness) * height;
    }
    store_values(call->to, i, count, g, bf16);
}

ALWAYS void through_values(const ob_surrogate *call, int64_t i, int64_t end, int bf16) {
    for (; i + PAIR <= end; i += PAIR) through_pair(call, i, PAIR, bf16);
    if (i < end) through_pair(call, i, end - i, bf16);
}

/* See ob_isa. */
static void run_surrogate(const ob_surrogate *call, int64_t begin, int64_t end) {
    call->bf16 ? through_values(call, begin, end, 1) : through_values(call, begin, end, 0);
}
