/* What is done with the channels of one pixel, or a part of them: see OB_LINE_*. */
#define LINE 128 /* channels of a part at most; parts begin at multiples of 32 */

typedef union {
    int32_t i[LINE];
    float f[LINE];
} line_t;

static int run_line(const ob_line *line, line_t *x, int first, int count, float total) {
    const float *p = line->p ? (const float *)line->p + first : NULL;
    const float *q = line->q ? (const float *)line->q + first : NULL;
    int k, bad = 0;
    switch (line->code) {
    case OB_LINE_REAL:
        for (k = 0; k < count; k++) x->f[k] = (float)x->i[k];
        break;
    case OB_LINE_SCALE:
        for (k = 0; k < count; k++) x->f[k] *= p[k];
        break;
    case OB_LINE_CENTRE:
        for (k = 0; k < count; k++) {
            float product = total * p[k];
            x->f[k] += product;
        }
        break;
    case OB_LINE_AFFINE:
    case OB_LINE_AFFINE_INT: {
        int whole = line->code == OB_LINE_AFFINE_INT;
        if (whole)
            for (k = 0; k < count; k++) x->f[k] = (float)((double)x->i[k] * (p ? p[k] : 1.0) + (q ? q[k] : 0.0));
        else if (p && q)
            for (k = 0; k < count; k++) x->f[k] = (float)((double)x->f[k] * p[k] + q[k]);
        else
            for (k = 0; k < count; k++) x->f[k] = (float)((double)x->f[k] * (p ? p[k] : 1.0) + (q ? q[k] : 0.0));
        break;
    }
    case OB_LINE_RELU:
        for (k = 0; k < count; k++) x->f[k] = x->f[k] < 0 ? 0 : x->f[k]; /* NaN stays */
        break;
    case OB_LINE_RELU_INT:
        for (k = 0; k < count; k++) x->i[k] = x->i[k] < 0 ? 0 : x->i[k];
        break;
    case OB_LINE_PRELU:
        for (k = 0; k < count; k++) {
            float bent = x->f[k] * p[k];
            x->f[k] = x->f[k] > 0 ? x->f[k] : bent;
        }
        break;
    case OB_LINE_HARDTANH:
        for (k = 0; k < count; k++) {
            float low = x->f[k] < -1 ? -1 : x->f[k];
            x->f[k] = low > 1 ? 1 : low;
        }
        break;
    case OB_LINE_HARDTANH_INT:
        for (k = 0; k < count; k++) {
            int32_t low = x->i[k] < -1 ? -1 : x->i[k];
            x->i[k] = low > 1 ? 1 : low;
        }
        break;
    case OB_LINE_THRESHOLD: {
        const int32_t *threshold = (const int32_t *)line->p + first, *direction = (const int32_t *)line->q + first;
        for (k = 0; k < count; k++) {
            int32_t up = x->i[k] >= threshold[k], down = x->i[k] <= threshold[k];
            x->i[k] = direction[k] > 0 ? up : down;
        }
        break;
    }
    case OB_LINE_SIGN:
        for (k = 0; k < count; k++) {
            float difference = x->f[k] - (p ? p[k] : 0);
            bad |= difference != difference;
            x->i[k] = difference >= 0;
        }
        break;
    }
    return bad;
}

static inline uint32_t bits_of(const int32_t *flags, int count) {
    uint32_t word = 0;
    for (int k = 0; k < count; k++) word |= (uint32_t)flags[k] << k;
    return word;
}

/* Runs the lines of a step on channels `first` to `first + count` and writes them at `pixel`; 1 if it met the sign of NaN. */
static int finish_line(const ob_step *s, line_t *x, int first, int count, float total, uint32_t *pixel) {
    int bad = 0;
    for (int n = 0; n < s->line_count; n++) bad |= run_line(&s->lines[n], x, first, count, total);
    if (s->bits)
        for (int k = 0; k < count; k += 32)
            pixel[(first + k) / 32] = bits_of(x->i + k, count - k < 32 ? count - k : 32);
    else
        memcpy(pixel + first, x->i, (size_t)count * 4);
    return bad;
}

static int step_lines(const ob_step *s, int64_t count, uint32_t *arena) {
    line_t x;
    int bad = 0;
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + s->in + n * s->in_size;
        uint32_t *out = arena + s->out + n * s->out_size;
        int64_t pixels = (int64_t)s->out_height * s->out_width;
        for (int64_t at = 0; at < pixels; at++, in += s->in_pixel, out += s->out_pixel)
            for (int first = 0; first < s->channels; first += LINE) {
                int part = s->channels - first < LINE ? s->channels - first : LINE;
                memcpy(x.i, in + first, (size_t)part * 4);
                bad |= finish_line(s, &x, first, part, 0, out);
            }
    }
    return bad;
}
