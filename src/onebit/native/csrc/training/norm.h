/* BatchNorm of a training step, with the sum and the bounds behind it. See ob_norm. */

/* What the passes read besides the values: one number per place of a period, in the order of pairs, and sums. */
typedef struct {
    int64_t period, block, values; /* in values; `block` is a number of whole periods */
    float *center, *factor, *offset, *slope, *constant;
    double *first, *second;
} norm_work_t;

/* x, and 0 where y is at a bound. */
NORM_INLINE floats_t where_inside(floats_t x, floats_t y, float least, float most) {
    return (floats_t)((words_t)x & ~(words_t)((y <= least) | (y >= most)));
}

static int is_inside(float y, float least, float most) { return !(y <= least || y >= most); }

static int has_bounds(const ob_norm *call) { return call->least == call->least || call->most == call->most; }

static float value_at(const void *from, int64_t place, int bf16) {
    uint32_t bits;
    float value;
    if (!bf16) return ((const float *)from)[place];
    bits = (uint32_t)((const uint16_t *)from)[place] << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static float set_value(void *to, int64_t place, float value, int bf16) {
    uint32_t bits;
    if (!bf16) return ((float *)to)[place] = value;
    memcpy(&bits, &value, 4);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    ((uint16_t *)to)[place] = (uint16_t)(bits >> 16);
    memcpy(&value, &bits, 4);
    return value;
}

enum { SUM_VALUES, SUM_MOMENTS, SUM_GRADIENTS };

/* The terms of the two sums, with a center c: of SUM_VALUES x and nothing, of SUM_MOMENTS x - c and (x - c)², of SUM_GRADIENTS
 * g and g·(x - c), where g is the gradient before the bounds. */
NORM_INLINE pair_t gradient_at(const ob_norm *call, int64_t i, int bf16, pair_t x, pair_t factor, pair_t offset) {
    pair_t g = load_values(call->gradient, i, bf16);
    if (call->second_gradient) {
        pair_t more = load_values(call->second_gradient, i, bf16);
        g.a += more.a, g.b += more.b;
    }
    if (has_bounds(call)) {
        pair_t y = call->out ? load_values(call->out, i, bf16)
                             : (pair_t){x.a * factor.a + offset.a, x.b * factor.b + offset.b};
        g.a = where_inside(g.a, y.a, call->least, call->most), g.b = where_inside(g.b, y.b, call->least, call->most);
    }
    return call->kept ? store_values(call->kept, i, g, bf16) : g;
}

static float gradient_of(const ob_norm *call, int64_t i, float x, float factor, float offset) {
    float g = value_at(call->gradient, i, call->bf16);
    if (call->second_gradient) g += value_at(call->second_gradient, i, call->bf16);
    if (has_bounds(call)) {
        float y = call->out ? value_at(call->out, i, call->bf16) : x * factor + offset;
        if (!is_inside(y, call->least, call->most)) g = 0;
    }
    return call->kept ? set_value(call->kept, i, g, call->bf16) : g;
}

/* Adds the values from `begin` to `end`, whole rows from the begin of a period on. */
NORM_INLINE void add_terms(const ob_norm *call, const norm_work_t *work, int kind, int64_t begin, int64_t end, int bf16) {
    const int64_t period = work->period, whole = begin + (end - begin) / period * period;
    for (int64_t chain = begin; chain < whole; chain += CHAIN * period) {
        int64_t stop = whole - chain < CHAIN * period ? whole : chain + CHAIN * period;
        for (int64_t p = 0; p < period; p += PAIR) {
            pair_t first = {{0}, {0}}, second = {{0}, {0}};
            pair_t center = pair_of(work->center + p);
            pair_t factor = pair_of(work->factor + p), offset = pair_of(work->offset + p);
            for (int64_t i = chain + p; i < stop; i += period) {
                pair_t x = load_values(call->x, i, bf16);
                if (kind == SUM_VALUES) {
                    first.a += x.a, first.b += x.b;
                    continue;
                }
                pair_t d = {x.a - center.a, x.b - center.b}, g = d;
                if (kind == SUM_GRADIENTS) g = gradient_at(call, i, bf16, x, factor, offset);
                first.a += g.a, first.b += g.b;
                second.a += g.a * d.a, second.b += g.b * d.b;
            }
            float sums[2][PAIR];
            memcpy(sums[0], &first, sizeof first);
            memcpy(sums[1], &second, sizeof second);
            for (int k = 0; k < PAIR; k++) work->first[p + k] += sums[0][k];
            for (int k = 0; k < PAIR; k++) work->second[p + k] += sums[1][k];
        }
    }
    for (int64_t i = whole; i < end; i++) {
        int64_t p = pair_place(i - whole, bf16);
        float x = value_at(call->x, i, bf16), d = x - work->center[p], g = d;
        if (kind == SUM_VALUES) g = x, d = 0;
        if (kind == SUM_GRADIENTS) g = gradient_of(call, i, x, work->factor[p], work->offset[p]);
        work->first[p] += g;
        work->second[p] += g * d;
    }
}

static void add_all(const ob_norm *call, const norm_work_t *work, int kind, int64_t begin, int64_t end) {
    memset(work->first, 0, (size_t)work->period * sizeof(double));
    memset(work->second, 0, (size_t)work->period * sizeof(double));
    if (kind == SUM_VALUES)
        call->bf16 ? add_terms(call, work, SUM_VALUES, begin, end, 1) : add_terms(call, work, SUM_VALUES, begin, end, 0);
    else if (kind == SUM_MOMENTS)
        call->bf16 ? add_terms(call, work, SUM_MOMENTS, begin, end, 1) : add_terms(call, work, SUM_MOMENTS, begin, end, 0);
    else
        call->bf16 ? add_terms(call, work, SUM_GRADIENTS, begin, end, 1) : add_terms(call, work, SUM_GRADIENTS, begin, end, 0);
}

/* A number near the mean to take deviations from: of bfloat16 one of its own values, so that most deviations are exact. */
static double center_of(double mean, int bf16) {
    float center = (float)mean;
    uint32_t bits;
    memcpy(&bits, &center, 4);
    if (bf16) bits &= 0xffff0000u;
    memcpy(&center, &bits, 4);
    return isfinite(center) ? center : 0;
}

/* The mean and the sum of squared deviations of each channel in a block.
 *
 * Deviations are from the mean of the block's first values, so that squares do not cancel when the mean is far from 0. */
static void block_moments(const ob_norm *call, const norm_work_t *work, int64_t begin, int64_t end, double *mean, double *squares) {
    int64_t few = end - begin < CHAIN * work->period ? end : begin + CHAIN * work->period;
    double count = (double)((few - begin) / call->channels);
    add_all(call, work, SUM_VALUES, begin, few);
    gathered(call->channels, call->bf16, work->first, mean);
    for (int32_t c = 0; c < call->channels; c++) {
        mean[c] = center_of(mean[c] / count, call->bf16);
    }
    spread(call->channels, call->bf16, mean, work->center);
    add_all(call, work, SUM_MOMENTS, begin, end);
    gathered(call->channels, call->bf16, work->second, squares);
    count = (double)((end - begin) / call->channels);
    /* the sums of the deviations take the place of the sums of squares, which are gathered */
    gathered(call->channels, call->bf16, work->first, work->second);
    for (int32_t c = 0; c < call->channels; c++) {
        double sum = work->second[c];
        squares[c] -= sum * (sum / count);
        if (squares[c] < 0) squares[c] = 0;
        mean[c] += sum / count;
    }
}

static int64_t blocks_of(const norm_work_t *work) { return (work->values + work->block - 1) / work->block; }

/* Scratch memory: two numbers per block and channel, then what each part has for itself. Returns its size in numbers. */
static int64_t divide_work(const ob_norm *call, int32_t part, int32_t parts, norm_work_t *work) {
    work->period = period_of(call->channels);
    work->values = call->rows * call->channels;
    work->block = block_of(work->period);
    int64_t shared = 2 * blocks_of(work) * call->channels, own = 2 * work->period + (5 * work->period + 1) / 2;
    if (call->scratch) {
        work->first = call->scratch + shared + part * own;
        work->second = work->first + work->period;
        work->center = (float *)(work->second + work->period);
        work->factor = work->center + work->period;
        work->offset = work->factor + work->period;
        work->slope = work->offset + work->period;
        work->constant = work->slope + work->period;
    }
    return shared + parts * own;
}

static int64_t rows_of(const ob_norm *call, const norm_work_t *work, int64_t block) {
    int64_t begin = block * work->block, left = work->values - begin;
    return (left < work->block ? left : work->block) / call->channels;
}

/* Factor and offset of each channel from the moments of the blocks. The first part stores them, and the statistics. */
static void finish_statistics(const ob_norm *call, const norm_work_t *work, int stores) {
    const int64_t channels = call->channels, blocks = blocks_of(work);
    const double total = (double)call->rows;
    for (int64_t c = 0; c < channels; c++) {
        double mean = 0, squares = 0;
        const double *block = call->scratch + c;
        for (int64_t b = 0; b < blocks; b++) mean += block[2 * b * channels] * ((double)rows_of(call, work, b) / total);
        for (int64_t b = 0; b < blocks; b++) {
            double away = block[2 * b * channels] - mean;
            squares += block[(2 * b + 1) * channels] + away * away * (double)rows_of(call, work, b);
        }
        double variance = squares / total;
        float center = (float)mean, inverse = (float)(1 / sqrt(variance + call->eps));
        float factor = call->weight ? inverse * call->weight[c] : inverse;
        float offset = (float)((call->bias ? (double)call->bias[c] : 0) - (double)center * factor);
        work->first[c] = factor;
        work->second[c] = offset;
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
    spread(call->channels, call->bf16, work->first, work->factor);
    spread(call->channels, call->bf16, work->second, work->offset);
}

/* Slope and constant of each channel from the sums of the blocks; the first part stores the gradients of weight and bias. */
static void finish_gradients(const ob_norm *call, const norm_work_t *work, int stores) {
    const int64_t channels = call->channels, blocks = blocks_of(work);
    const float *inverse = call->statistics + channels, *factor = inverse + channels;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, products = 0;
        for (int64_t b = 0; b < blocks; b++) {
            sum += call->scratch[2 * b * channels + c];
            products += call->scratch[(2 * b + 1) * channels + c];
        }
        work->first[c] = -(double)factor[c] * inverse[c] * inverse[c] * products / (double)call->rows;
        work->second[c] = -(double)factor[c] * sum / (double)call->rows;
        if (!stores) continue;
        if (call->weight_gradient) call->weight_gradient[c] = (float)(products * inverse[c]);
        if (call->bias_gradient) call->bias_gradient[c] = (float)sum;
    }
    spread(call->channels, call->bf16, work->first, work->slope);
    spread(call->channels, call->bf16, work->second, work->constant);
}

/* Reads the statistics of the forward pass; work->first is overwritten. */
static void read_statistics(const ob_norm *call, const norm_work_t *work) {
    float *const to[] = {work->center, NULL, work->factor, work->offset};
    for (int k = 0; k < 4; k++) {
        if (!to[k]) continue;
        for (int32_t c = 0; c < call->channels; c++) work->first[c] = call->statistics[(int64_t)k * call->channels + c];
        spread(call->channels, call->bf16, work->first, to[k]);
    }
}

/* y = x·factor + offset + shortcut within the bounds. */
NORM_INLINE void normalize(const ob_norm *call, const norm_work_t *work, int64_t begin, int64_t end, int bf16) {
    const int64_t period = work->period, whole = begin + (end - begin) / period * period;
    const void *shortcut = call->shortcut;
    const int bounds = has_bounds(call);
    const float least = call->least, most = call->most;
    for (int64_t i = begin; i < whole; i += period)
        for (int64_t p = 0; p < period; p += PAIR) {
            pair_t x = load_values(call->x, i + p, bf16), factor = pair_of(work->factor + p), offset = pair_of(work->offset + p);
            x.a = x.a * factor.a + offset.a, x.b = x.b * factor.b + offset.b;
            if (shortcut) {
                pair_t other = load_values(shortcut, i + p, bf16);
                x.a += other.a, x.b += other.b;
            }
            if (bounds) x.a = bounded(x.a, least, most), x.b = bounded(x.b, least, most);
            store_values(call->out, i + p, x, bf16);
        }
    for (int64_t i = whole; i < end; i++) {
        int64_t p = pair_place(i - whole, bf16);
        float x = value_at(call->x, i, bf16) * work->factor[p] + work->offset[p];
        if (shortcut) x += value_at(shortcut, i, bf16);
        x = x <= least ? least : x >= most ? most : x;
        set_value(call->out, i, x, bf16);
    }
}

/* The gradient to x: g·factor + (x - center)·slope + constant. */
NORM_INLINE void propagate(const ob_norm *call, const norm_work_t *work, int64_t begin, int64_t end, int bf16) {
    const int64_t period = work->period, whole = begin + (end - begin) / period * period;
    const void *gradient = call->kept ? call->kept : call->gradient;
    const int masks = has_bounds(call) && !call->kept;
    const float least = call->least, most = call->most;
    for (int64_t i = begin; i < whole; i += period)
        for (int64_t p = 0; p < period; p += PAIR) {
            pair_t x = load_values(call->x, i + p, bf16), g = load_values(gradient, i + p, bf16);
            pair_t factor = pair_of(work->factor + p), center = pair_of(work->center + p);
            pair_t slope = pair_of(work->slope + p), constant = pair_of(work->constant + p);
            if (masks) {
                pair_t offset = pair_of(work->offset + p);
                g.a = where_inside(g.a, x.a * factor.a + offset.a, least, most);
                g.b = where_inside(g.b, x.b * factor.b + offset.b, least, most);
            }
            pair_t to = {g.a * factor.a + (x.a - center.a) * slope.a + constant.a,
                         g.b * factor.b + (x.b - center.b) * slope.b + constant.b};
            store_values(call->x_gradient, i + p, to, bf16);
        }
    for (int64_t i = whole; i < end; i++) {
        int64_t p = pair_place(i - whole, bf16);
        float x = value_at(call->x, i, bf16), g = value_at(gradient, i, bf16);
        if (masks && !is_inside(x * work->factor[p] + work->offset[p], least, most)) g = 0;
        float to = g * work->factor[p] + (x - work->center[p]) * work->slope[p] + work->constant[p];
        set_value(call->x_gradient, i, to, bf16);
    }
}

/* See ob_isa. */
static int64_t run_norm(const ob_norm *call, int32_t stage, int32_t part, int32_t parts) {
    norm_work_t work = {0};
    int64_t units = divide_work(call, part, parts, &work);
    if (!call->scratch) return units;
    if (stage == OB_NORM_NORMALIZE) finish_statistics(call, &work, part == 0);
    if (stage == OB_NORM_SUMS || stage == OB_NORM_PROPAGATE) read_statistics(call, &work);
    if (stage == OB_NORM_PROPAGATE) finish_gradients(call, &work, part == 0);
    int64_t blocks = blocks_of(&work);
    for (int64_t b = blocks * part / parts, last = blocks * (part + 1) / parts; b < last; b++) {
        int64_t begin = b * work.block, end = begin + rows_of(call, &work, b) * call->channels;
        double *sums = call->scratch + 2 * b * call->channels;
        switch (stage) {
        case OB_NORM_MOMENTS:
            block_moments(call, &work, begin, end, sums, sums + call->channels);
            break;
        case OB_NORM_NORMALIZE:
            call->bf16 ? normalize(call, &work, begin, end, 1) : normalize(call, &work, begin, end, 0);
            break;
        case OB_NORM_SUMS:
            add_all(call, &work, SUM_GRADIENTS, begin, end);
            gathered(call->channels, call->bf16, work.first, sums);
            gathered(call->channels, call->bf16, work.second, sums + call->channels);
            break;
        default:
            call->bf16 ? propagate(call, &work, begin, end, 1) : propagate(call, &work, begin, end, 0);
        }
    }
    return units;
}
