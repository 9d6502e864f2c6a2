/* Activations with learned numbers per channel and their gradients: each pass reads and writes the values
 * once. See ob_activation. */
#pragma once
#include <float.h>
#include "rows.h"

/* The learned numbers of f and of its derivative. */
enum { SHIFT_OF_X, SCALE, OFFSET_OF_Y, INVERSE, ACTIVATION_NUMBERS };

/* -x where the bits of `where` are 1. */
ALWAYS floats_t negated(floats_t x, words_t where) { return (floats_t)((words_t)x ^ (where & 0x80000000u)); }

ALWAYS floats_t activated(int kind, floats_t d, floats_t scale) {
    if (kind == OB_ACTIVATION_RPRELU) return chosen(scale * d, (words_t)(d > 0), d);
    return negated(scale, (words_t)(d < 0));
}

/* The gradient to d from g, that to y; *along becomes that to the scale. */
ALWAYS floats_t derived(int kind, floats_t d, floats_t g, floats_t scale, floats_t inverse, floats_t *along) {
    if (kind == OB_ACTIVATION_RPRELU) {
        words_t positive = (words_t)(d > 0);
        *along = (floats_t)((words_t)(g * d) & ~positive);
        return chosen(scale * g, positive, g);
    }
    floats_t z = bounded(d * inverse, -1, 1); /* at infinity, z times 0 would be NaN */
    floats_t to = (2 - 2 * magnitude(z)) * g;
    *along = negated(g, (words_t)(z < 0)) - z * to;
    return to;
}

/* y, or with `back` the gradient to x and the terms of the three sums: of g, of the gradient to x, and to the
 * scale. */
ALWAYS void activate(const ob_activation *call, const rows_t *work, int kind, int back, int bf16, int64_t p,
                     int64_t i, int64_t stop, int64_t count) {
    const pair_t shift = number_at(work, SHIFT_OF_X, p), scale = number_at(work, SCALE, p);
    const pair_t offset = number_at(work, OFFSET_OF_Y, p), inverse = number_at(work, INVERSE, p);
    const int64_t period = work->period;
    pair_t sums[3] = {{{0}, {0}}, {{0}, {0}}, {{0}, {0}}};
    for (; i < stop; i += period) {
        pair_t x = load_values(call->x, i, count, bf16), d = {x.a - shift.a, x.b - shift.b}, along;
        if (!back) {
            pair_t y = {activated(kind, d.a, scale.a) + offset.a, activated(kind, d.b, scale.b) + offset.b};
            store_values(call->to, i, count, y, bf16);
            continue;
        }
        pair_t g = load_values(call->gradient, i, count, bf16);
        pair_t through = {derived(kind, d.a, g.a, scale.a, inverse.a, &along.a),
                          derived(kind, d.b, g.b, scale.b, inverse.b, &along.b)};
        store_values(call->to, i, count, through, bf16);
        sums[0].a += g.a, sums[0].b += g.b;
        sums[1].a += through.a, sums[1].b += through.b;
        sums[2].a += along.a, sums[2].b += along.b;
    }
    for (int k = 0; back && k < 3; k++) add_pair(work->sums[k] + p, sums[k], count, bf16);
}

ALWAYS void activate_all(const ob_activation *call, const rows_t *work, int kind, int64_t begin,
                         int64_t end) {
    if (call->gradient) {
        EACH_PLACE(CHAIN, activate(call, work, kind, 1, bf16, p, from + p, stop, count))
    } else {
        EACH_PLACE(CHAIN, activate(call, work, kind, 0, bf16, p, from + p, stop, count))
    }
}

/* One number per channel to one per slot of a period; work->sums[0] is overwritten. */
static void broadcast_numbers(const ob_activation *call, const rows_t *work) {
    const float *const from[] = {call->shift, call->scale, call->offset, call->scale},
                       otherwise[] = {0, 1, 0, 1};
    for (int k = 0; k < ACTIVATION_NUMBERS; k++) {
        for (int32_t c = 0; c < call->channels; c++) {
            double number = from[k] ? from[k][c] : otherwise[k];
            if (k == INVERSE)
                number = 1 / (number < FLT_MIN ? FLT_MIN : number); /* 0 times infinity would be NaN */
            work->sums[0][c] = number;
        }
        broadcast(work, work->sums[0], work->numbers[k]);
    }
}

/* The gradients of the learned numbers from the sums of the blocks. */
static void finish_activation(const ob_activation *call, const rows_t *work) {
    const int64_t channels = call->channels;
    for (int64_t c = 0; c < channels; c++) {
        double sums[3] = {0};
        for (int64_t b = 0; b < work->blocks; b++)
            for (int k = 0; k < 3; k++) sums[k] += work->of_blocks[(3 * b + k) * channels + c];
        if (call->offset_gradient) call->offset_gradient[c] = (float)sums[0];
        if (call->shift_gradient) call->shift_gradient[c] = (float)-sums[1];
        if (call->scale_gradient) call->scale_gradient[c] = (float)sums[2];
    }
}

/* See ob_isa. */
static int64_t run_activation(const ob_activation *call, int32_t stage, int32_t part, int32_t parts) {
    rows_t work = {.channels = call->channels, .bf16 = call->bf16};
    const int64_t units = divide_rows(&work, call->rows, 3, ACTIVATION_NUMBERS, call->scratch, part, parts);
    if (!call->scratch) return units;
    if (stage == OB_STAGE_TOTAL) {
        if (part == 0) finish_activation(call, &work);
        return units;
    }
    broadcast_numbers(call, &work);
    for (int64_t b = work.blocks * part / parts, last = work.blocks * (part + 1) / parts; b < last; b++) {
        int64_t begin = b * work.block, end = begin + values_of(&work, b);
        for (int k = 0; k < 3; k++) memset(work.sums[k], 0, (size_t)work.period * sizeof(double));
        if (call->kind == OB_ACTIVATION_RPRELU)
            activate_all(call, &work, OB_ACTIVATION_RPRELU, begin, end);
        else
            activate_all(call, &work, OB_ACTIVATION_SIGN, begin, end);
        for (int k = 0; call->gradient && k < 3; k++)
            gathered(&work, work.sums[k], work.of_blocks + (3 * b + k) * call->channels);
    }
    return units;
}
