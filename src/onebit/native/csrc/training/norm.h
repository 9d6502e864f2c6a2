/* BatchNorm of a training step, with the sum and the bounds behind it. See ob_norm. */
#pragma once
#include "rows.h"

/* Numbers per channel. */
enum { CENTER, FACTOR, OFFSET, SLOPE, CONSTANT, NORM_NUMBERS };

/* x, and 0 where y is at a bound. */
ALWAYS floats_t where_inside(floats_t x, floats_t y, float least, float most) {
    return (floats_t)((words_t)x & ~(words_t)((y <= least) | (y >= most)));
}

static int has_bounds(const ob_norm *call) { return call->least == call->least || call->most == call->most; }

/* The gradient before the bounds. */
ALWAYS pair_t gradient_at(const ob_norm *call, int bf16, int64_t i, int64_t count, pair_t x, pair_t factor,
                          pair_t offset) {
    pair_t g = load_values(call->gradient, i, count, bf16);
    if (call->second_gradient) {
        pair_t more = load_values(call->second_gradient, i, count, bf16);
        g.a += more.a, g.b += more.b;
    }
    if (has_bounds(call)) {
        pair_t y = call->out ? load_values(call->out, i, count, bf16)
                             : (pair_t){x.a * factor.a + offset.a, x.b * factor.b + offset.b};
        g.a = where_inside(g.a, y.a, call->least, call->most),
        g.b = where_inside(g.b, y.b, call->least, call->most);
    }
    return call->kept ? store_values(call->kept, i, count, g, bf16) : g;
}

/* The terms of the two sums, with a center c: of SUM_VALUES x and nothing, of SUM_MOMENTS x - c and (x - c)²,
 * of SUM_GRADIENTS g and g·(x - c), where g is the gradient before the bounds. */
enum { SUM_VALUES, SUM_MOMENTS, SUM_GRADIENTS };

ALWAYS void add_terms(const ob_norm *call, const rows_t *work, int kind, int bf16, int64_t p, int64_t i,
                      int64_t stop, int64_t count) {
    const pair_t center = number_at(work, CENTER, p), factor = number_at(work, FACTOR, p),
                 offset = number_at(work, OFFSET, p);
    const int64_t period = work->period;
    pair_t first = {{0}, {0}}, second = first;
    for (; i < stop; i += period) {
        pair_t x = load_values(call->x, i, count, bf16);
        if (kind == SUM_VALUES) {
            first.a += x.a, first.b += x.b;
            continue;
        }
        pair_t d = {x.a - center.a, x.b - center.b}, g = d;
        if (kind == SUM_GRADIENTS) g = gradient_at(call, bf16, i, count, x, factor, offset);
        first.a += g.a, first.b += g.b;
        second.a += g.a * d.a, second.b += g.b * d.b;
    }
    add_pair(work->sums[0] + p, first, count, bf16);
    add_pair(work->sums[1] + p, second, count, bf16);
}

static void add_all(const ob_norm *call, const rows_t *work, int kind, int64_t begin, int64_t end) {
    for (int k = 0; k < 2; k++) memset(work->sums[k], 0, (size_t)work->period * sizeof(double));
    if (kind == SUM_VALUES) {
        EACH_PLACE(CHAIN, add_terms(call, work, SUM_VALUES, bf16, p, from + p, stop, count))
    } else if (kind == SUM_MOMENTS) {
        EACH_PLACE(CHAIN, add_terms(call, work, SUM_MOMENTS, bf16, p, from + p, stop, count))
    } else {
        EACH_PLACE(CHAIN, add_terms(call, work, SUM_GRADIENTS, bf16, p, from + p, stop, count))
    }
}

/* A number near the mean to take deviations from: of bfloat16 one of its own values, so that most deviations
 * are exact. */
static double center_of(double mean, int bf16) {
    float center = (float)mean;
    uint32_t bits = bits_of_float(center);
    if (bf16) center = float_of_bits(bits & 0xffff0000u);
    return isfinite(center) ? center : 0;
}

/* The mean and the sum of squared deviations of each channel in a block.
 *
 * Deviations are from the mean of the block's first values, so that squares do not cancel when the mean is
 * far from 0. */
static void block_moments(const ob_norm *call, const rows_t *work, int64_t begin, int64_t end, double *mean,
                          double *squares) {
    int64_t few = end - begin < CHAIN * work->period ? end : begin + CHAIN * work->period;
    double count = (double)((few - begin) / call->channels);
    add_all(call, work, SUM_VALUES, begin, few);
    gathered(work, work->sums[0], mean);
    for (int32_t c = 0; c < call->channels; c++) mean[c] = center_of(mean[c] / count, call->bf16);
    broadcast(work, mean, work->numbers[CENTER]);
    add_all(call, work, SUM_MOMENTS, begin, end);
    gathered(work, work->sums[1], squares);
    count = (double)((end - begin) / call->channels);
    /* the sums of the deviations take the place of the sums of squares, which are gathered */
    gathered(work, work->sums[0], work->sums[1]);
    for (int32_t c = 0; c < call->channels; c++) {
        double sum = work->sums[1][c];
        squares[c] -= sum * (sum / count);
        if (squares[c] < 0) squares[c] = 0;
        mean[c] += sum / count;
    }
}

/* Factor and offset of each channel from the moments of the blocks. The first part stores them, and the
 * statistics. */
static void finish_statistics(const ob_norm *call, const rows_t *work, int stores) {
    const int64_t channels = call->channels;
    const double total = (double)call->rows;
    for (int64_t c = 0; c < channels; c++) {
        double mean = 0, squares = 0;
        const double *block = work->of_blocks + c;
        for (int64_t b = 0; b < work->blocks; b++)
            mean += block[2 * b * channels] * ((double)(values_of(work, b) / channels) / total);
        for (int64_t b = 0; b < work->blocks; b++) {
            double away = block[2 * b * channels] - mean;
            squares += block[(2 * b + 1) * channels] + away * away * (double)(values_of(work, b) / channels);
        }
        double variance = squares / total;
        float center = (float)mean, inverse = (float)(1 / sqrt(variance + call->eps));
        float factor = call->weight ? inverse * call->weight[c] : inverse;
        float offset = (float)((call->bias ? (double)call->bias[c] : 0) - (double)center * factor);
        work->sums[0][c] = factor;
        work->sums[1][c] = offset;
        if (!stores) continue;
        call->statistics[c] = center;
        call->statistics[channels + c] = inverse;
        call->statistics[2 * channels + c] = factor;
        call->statistics[3 * channels + c] = offset;
        if (!call->running_mean) continue;
        double share = call->momentum, unbiased = squares / (total - 1);
        call->running_mean[c] = (float)(share * mean + (1 - share) * call->running_mean[c]);
        call->running_var[c] = (float)(share * unbiased + (1 - share) * call->running_var[c]);
    }
    broadcast(work, work->sums[0], work->numbers[FACTOR]);
    broadcast(work, work->sums[1], work->numbers[OFFSET]);
}

/* Slope and constant of each channel from the sums of the blocks; the first part stores the gradients of
 * weight and bias. */
static void finish_gradients(const ob_norm *call, const rows_t *work, int stores) {
    const int64_t channels = call->channels;
    const float *inverse = call->statistics + channels, *factor = inverse + channels;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, products = 0;
        for (int64_t b = 0; b < work->blocks; b++) {
            sum += work->of_blocks[2 * b * channels + c];
            products += work->of_blocks[(2 * b + 1) * channels + c];
        }
        work->sums[0][c] = -(double)factor[c] * inverse[c] * inverse[c] * products / (double)call->rows;
        work->sums[1][c] = -(double)factor[c] * sum / (double)call->rows;
        if (!stores) continue;
        if (call->weight_gradient) call->weight_gradient[c] = (float)(products * inverse[c]);
        if (call->bias_gradient) call->bias_gradient[c] = (float)sum;
    }
    broadcast(work, work->sums[0], work->numbers[SLOPE]);
    broadcast(work, work->sums[1], work->numbers[CONSTANT]);
}

/* Reads the statistics of the forward pass; work->sums[0] is overwritten. */
static void read_statistics(const ob_norm *call, const rows_t *work) {
    static const int of_number[] = {[CENTER] = 0, [FACTOR] = 2, [OFFSET] = 3};
    for (int k = CENTER; k <= OFFSET; k++) {
        for (int32_t c = 0; c < call->channels; c++)
            work->sums[0][c] = call->statistics[(int64_t)of_number[k] * call->channels + c];
        broadcast(work, work->sums[0], work->numbers[k]);
    }
}

/* y = x·factor + offset + shortcut within the bounds. */
ALWAYS void normalize(const ob_norm *call, const rows_t *work, int bounds, int bf16, int64_t p, int64_t i,
                      int64_t count) {
    pair_t x = load_values(call->x, i, count, bf16), factor = number_at(work, FACTOR, p),
           offset = number_at(work, OFFSET, p);
    x.a = x.a * factor.a + offset.a, x.b = x.b * factor.b + offset.b;
    if (call->shortcut) {
        pair_t other = load_values(call->shortcut, i, count, bf16);
        x.a += other.a, x.b += other.b;
    }
    if (bounds) x.a = bounded(x.a, call->least, call->most), x.b = bounded(x.b, call->least, call->most);
    store_values(call->out, i, count, x, bf16);
}

static void normalize_all(const ob_norm *call, const rows_t *work, int64_t begin, int64_t end) {
    const int bounds = has_bounds(call);
    EACH_PLACE(1, normalize(call, work, bounds, bf16, p, from + p, count))
}

/* The gradient to x: g·factor + (x - center)·slope + constant. */
ALWAYS void propagate(const ob_norm *call, const rows_t *work, int masks, int bf16, int64_t p, int64_t i,
                      int64_t count) {
    pair_t x = load_values(call->x, i, count, bf16);
    pair_t g = load_values(call->kept ? call->kept : call->gradient, i, count, bf16);
    pair_t factor = number_at(work, FACTOR, p), center = number_at(work, CENTER, p);
    pair_t slope = number_at(work, SLOPE, p), constant = number_at(work, CONSTANT, p);
    if (masks) {
        pair_t offset = number_at(work, OFFSET, p);
        g.a = where_inside(g.a, x.a * factor.a + offset.a, call->least, call->most);
        g.b = where_inside(g.b, x.b * factor.b + offset.b, call->least, call->most);
    }
    pair_t to = {g.a * factor.a + (x.a - center.a) * slope.a + constant.a,
                 g.b * factor.b + (x.b - center.b) * slope.b + constant.b};
    store_values(call->x_gradient, i, count, to, bf16);
}

static void propagate_all(const ob_norm *call, const rows_t *work, int64_t begin, int64_t end) {
    const int masks = has_bounds(call) && !call->kept;
    EACH_PLACE(1, propagate(call, work, masks, bf16, p, from + p, count))
}

/* See ob_isa. */
static int64_t run_norm(const ob_norm *call, int32_t stage, int32_t part, int32_t parts) {
    rows_t work = {.channels = call->channels, .bf16 = call->bf16};
    int64_t units = divide_rows(&work, call->rows, 2, NORM_NUMBERS, call->scratch, part, parts);
    if (!call->scratch) return units;
    if (stage == OB_NORM_NORMALIZE) finish_statistics(call, &work, part == 0);
    if (stage == OB_NORM_SUMS || stage == OB_NORM_PROPAGATE) read_statistics(call, &work);
    if (stage == OB_NORM_PROPAGATE) finish_gradients(call, &work, part == 0);
    for (int64_t b = work.blocks * part / parts, last = work.blocks * (part + 1) / parts; b < last; b++) {
        int64_t begin = b * work.block, end = begin + values_of(&work, b);
        double *sums = work.of_blocks + 2 * b * call->channels;
        if (stage == OB_NORM_MOMENTS) block_moments(call, &work, begin, end, sums, sums + call->channels);
        if (stage == OB_NORM_NORMALIZE) normalize_all(call, &work, begin, end);
        if (stage == OB_NORM_PROPAGATE) propagate_all(call, &work, begin, end);
        if (stage != OB_NORM_SUMS) continue;
        add_all(call, &work, SUM_GRADIENTS, begin, end);
        for (int k = 0; k < 2; k++) gathered(&work, work.sums[k], sums + k * call->channels);
    }
    return units;
}
