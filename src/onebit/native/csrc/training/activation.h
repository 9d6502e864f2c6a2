/* Activations with learned numbers per channel and their gradients: each pass reads and writes the values once. See
 * ob_activation. */
#include <float.h>

/* The learned numbers at the places of a pair, of f and of its derivative. */
typedef struct {
    pair_t shift, scale, offset, inverse;
} numbers_t;

typedef struct {
    int64_t period, block, values;
    float *shift, *scale, *offset, *inverse; /* one number per place of a period */
    double *sums[3];
} activation_work_t;

/* x, and y where the bits of `where` are 1. */
NORM_INLINE floats_t chosen(floats_t x, words_t where, floats_t y) {
    return (floats_t)(((words_t)x & ~where) | ((words_t)y & where));
}

/* -x where the bits of `where` are 1. */
NORM_INLINE floats_t negated(floats_t x, words_t where) { return (floats_t)((words_t)x ^ (where & 0x80000000u)); }

NORM_INLINE floats_t activated(int kind, floats_t d, floats_t scale) {
    if (kind == OB_ACTIVATION_RPRELU) return chosen(scale * d, (words_t)(d > 0), d);
    return negated(scale, (words_t)(d < 0));
}

/* The gradient to d from g, that to y; *along becomes that to the scale. */
NORM_INLINE floats_t derived(int kind, floats_t d, floats_t g, floats_t scale, floats_t inverse, floats_t *along) {
    if (kind == OB_ACTIVATION_RPRELU) {
        words_t positive = (words_t)(d > 0);
        *along = (floats_t)((words_t)(g * d) & ~positive);
        return chosen(scale * g, positive, g);
    }
    floats_t z = bounded(d * inverse, -1, 1); /* at infinity, z times 0 would be NaN */
    floats_t to = (2 - 2 * (floats_t)((words_t)z & 0x7fffffffu)) * g;
    *along = negated(g, (words_t)(z < 0)) - z * to;
    return to;
}

/* A pair of y, or of the gradient to x with the terms of the three sums: of g, of the gradient to x, and to the scale. */
NORM_INLINE void activate_pair(int kind, int bf16, const void *x_from, const void *gradient, void *to, int64_t i,
                               const numbers_t *n, pair_t *sums) {
    pair_t x = load_values(x_from, i, bf16), d = {x.a - n->shift.a, x.b - n->shift.b}, along;
    if (!gradient) {
        pair_t y = {activated(kind, d.a, n->scale.a) + n->offset.a, activated(kind, d.b, n->scale.b) + n->offset.b};
        store_values(to, i, y, bf16);
        return;
    }
    pair_t g = load_values(gradient, i, bf16);
    pair_t through = {derived(kind, d.a, g.a, n->scale.a, n->inverse.a, &along.a),
                      derived(kind, d.b, g.b, n->scale.b, n->inverse.b, &along.b)};
    store_values(to, i, through, bf16);
    sums[0].a += g.a, sums[0].b += g.b;
    sums[1].a += through.a, sums[1].b += through.b;
    sums[2].a += along.a, sums[2].b += along.b;
}

/* The values from `begin` to `end`, whole rows from the begin of a period on. `kind`, `back` and `bf16` are constants. */
NORM_INLINE void activate(const ob_activation *call, const activation_work_t *work, int kind, int back, int bf16, int64_t begin,
                          int64_t end) {
    const int64_t period = work->period, whole = begin + (end - begin) / period * period;
    const void *gradient = back ? call->gradient : NULL;
    for (int64_t chain = begin; chain < whole; chain += CHAIN * period) {
        int64_t stop = whole - chain < CHAIN * period ? whole : chain + CHAIN * period;
        for (int64_t p = 0; p < period; p += PAIR) {
            const numbers_t n = {pair_of(work->shift + p), pair_of(work->scale + p), pair_of(work->offset + p),
                                 pair_of(work->inverse + p)};
            pair_t sums[3] = {{{0}, {0}}, {{0}, {0}}, {{0}, {0}}};
            float terms[PAIR];
            for (int64_t i = chain + p; i < stop; i += period)
                activate_pair(kind, bf16, call->x, gradient, call->to, i, &n, sums);
            for (int k = 0; back && k < 3; k++) {
                memcpy(terms, sums + k, sizeof terms);
                for (int l = 0; l < PAIR; l++) work->sums[k][p + l] += terms[l];
            }
        }
    }
    for (int64_t i = whole, p = 0; i < end; i += PAIR, p += PAIR) { /* each of these values is a chain */
        int64_t count = end - i < PAIR ? end - i : PAIR;
        size_t size = bf16 ? 2 : 4, bytes = (size_t)count * size;
        const numbers_t n = {pair_of(work->shift + p), pair_of(work->scale + p), pair_of(work->offset + p),
                             pair_of(work->inverse + p)};
        pair_t sums[3] = {{{0}, {0}}, {{0}, {0}}, {{0}, {0}}};
        float x[PAIR] = {0}, g[PAIR] = {0};
        memcpy(x, (const char *)call->x + (size_t)i * size, bytes);
        if (back) memcpy(g, (const char *)gradient + (size_t)i * size, bytes);
        activate_pair(kind, bf16, x, back ? g : NULL, x, 0, &n, sums);
        memcpy((char *)call->to + (size_t)i * size, x, bytes);
        for (int k = 0; back && k < 3; k++) {
            memcpy(g, sums + k, sizeof g);
            for (int l = 0; l < count; l++) work->sums[k][p + pair_place(l, bf16)] += g[pair_place(l, bf16)];
        }
    }
}

NORM_INLINE void activate_kind(const ob_activation *call, const activation_work_t *work, int kind, int64_t begin, int64_t end) {
    if (call->gradient)
        call->bf16 ? activate(call, work, kind, 1, 1, begin, end) : activate(call, work, kind, 1, 0, begin, end);
    else
        call->bf16 ? activate(call, work, kind, 0, 1, begin, end) : activate(call, work, kind, 0, 0, begin, end);
}

/* Three sums per block and channel, then what each part has for itself. Returns the size of the scratch memory in numbers. */
static int64_t divide_activation(const ob_activation *call, int32_t part, int32_t parts, activation_work_t *work) {
    work->period = period_of(call->channels);
    work->block = block_of(work->period);
    work->values = call->rows * call->channels;
    int64_t blocks = (work->values + work->block - 1) / work->block, shared = 3 * blocks * call->channels;
    int64_t own = 5 * work->period;
    if (call->scratch) {
        for (int k = 0; k < 3; k++) work->sums[k] = call->scratch + shared + part * own + k * work->period;
        work->shift = (float *)(work->sums[2] + work->period);
        work->scale = work->shift + work->period;
        work->offset = work->scale + work->period;
        work->inverse = work->offset + work->period;
    }
    return shared + parts * own;
}

/* Numbers of the channels to places of a period; work->sums[0] is overwritten. */
static void spread_numbers(const ob_activation *call, const activation_work_t *work) {
    const float *const from[] = {call->shift, call->scale, call->offset, call->scale}, otherwise[] = {0, 1, 0, 1};
    float *const to[] = {work->shift, work->scale, work->offset, work->inverse};
    for (int k = 0; k < 4; k++) {
        for (int32_t c = 0; c < call->channels; c++) {
            double number = from[k] ? from[k][c] : otherwise[k];
            if (k == 3) number = 1 / (number < FLT_MIN ? FLT_MIN : number); /* 0 times infinity would be NaN */
            work->sums[0][c] = number;
        }
        spread(call->channels, call->bf16, work->sums[0], to[k]);
    }
}

/* The gradients of the learned numbers from the sums of the blocks. */
static void finish_activation(const ob_activation *call, const activation_work_t *work) {
    const int64_t channels = call->channels, blocks = (work->values + work->block - 1) / work->block;
    for (int64_t c = 0; c < channels; c++) {
        double sums[3] = {0};
        for (int64_t b = 0; b < blocks; b++)
            for (int k = 0; k < 3; k++) sums[k] += call->scratch[(3 * b + k) * channels + c];
        if (call->offset_gradient) call->offset_gradient[c] = (float)sums[0];
        if (call->shift_gradient) call->shift_gradient[c] = (float)-sums[1];
        if (call->scale_gradient) call->scale_gradient[c] = (float)sums[2];
    }
}

/* See ob_isa. */
static int64_t run_activation(const ob_activation *call, int32_t stage, int32_t part, int32_t parts) {
    activation_work_t work = {0};
    const int64_t units = divide_activation(call, part, parts, &work), channels = call->channels;
    if (!call->scratch) return units;
    if (stage == OB_STAGE_TOTAL) {
        if (part == 0) finish_activation(call, &work);
        return units;
    }
    spread_numbers(call, &work);
    int64_t blocks = (work.values + work.block - 1) / work.block;
    for (int64_t b = blocks * part / parts, last = blocks * (part + 1) / parts; b < last; b++) {
        int64_t begin = b * work.block, end = work.values - begin < work.block ? work.values : begin + work.block;
        for (int k = 0; k < 3; k++) memset(work.sums[k], 0, (size_t)work.period * sizeof(double));
        if (call->kind == OB_ACTIVATION_RPRELU)
            activate_kind(call, &work, OB_ACTIVATION_RPRELU, begin, end);
        else
            activate_kind(call, &work, OB_ACTIVATION_SIGN, begin, end);
        for (int k = 0; call->gradient && k < 3; k++)
            gathered(call->channels, call->bf16, work.sums[k], call->scratch + (3 * b + k) * channels);
    }
    return units;
}
