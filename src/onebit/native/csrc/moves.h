/* Steps that move values, change how they are written, or look at windows of them. */

/* Real values to integers on a grid of 2^-e: e = min(126, 24 - p), the largest magnitude lying in [2^(p-1), 2^p). */
static void step_grid(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + s->in + n * s->in_size;
        uint32_t *out = arena + s->out + n * s->out_size;
        int64_t size = s->in_size;
        uint32_t largest = s->number ? 0x3f800000u : 0; /* the bits of 1, if a padding of 1 or -1 meets the weights */
        for (int64_t k = 0; k < size; k++) {
            uint32_t magnitude = in[k] & 0x7fffffffu;
            largest = magnitude > largest ? magnitude : largest;
        }
        span_t mine = span_of(share, size); /* the largest of all is found by every part */
        union {
            uint32_t bits;
            float value;
        } power, unit;
        if (largest >= 0x7f800000u) { /* infinite, or NaN */
            memset(out + mine.begin, 0, (size_t)(mine.end - mine.begin) * 4);
            unit.bits = 0x7fc00000u;
            power.value = 0;
        } else {
            int e = 24 + 126 - (int)(largest >> 23);
            if (e > 126) e = 126;
            power.bits = (uint32_t)(e + 127) << 23;
            const float *x = (const float *)in;
            int32_t *z = (int32_t *)out;
#if defined(__SSE4_1__) || defined(__ARM_NEON)
            for (int64_t k = mine.begin; k < mine.end; k++) z[k] = (int32_t)rintf(x[k] * power.value);
#else /* no instruction rounds to a whole number */
            /* adding and taking away 2^24 + 2^23 would round the last bit of 24: in double there is room */
            const double magic = 6755399441055744.0; /* 1.5 * 2^52: the sum has no bits behind the point */
            for (int64_t k = mine.begin; k < mine.end; k++) z[k] = (int32_t)(((double)(x[k] * power.value) + magic) - magic);
#endif
            unit.bits = largest;
            power.bits = (uint32_t)(unit.value * power.value) + 1; /* no integer is beyond it */
            unit.bits = (uint32_t)(127 - e) << 23;
        }
        if (share->part == 0) out[size] = unit.bits, out[size + 1] = power.bits;
    }
}

static void step_expand(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + s->in + n * s->in_size;
        int32_t *out = (int32_t *)(arena + s->out + n * s->out_size);
        span_t mine = span_of(share, (int64_t)s->out_height * s->out_width);
        for (int64_t at = mine.begin; at < mine.end; at++)
            for (int k = 0; k < s->channels; k++)
                out[at * s->out_pixel + k] = (int32_t)(in[at * s->in_pixel + k / 32] >> (k % 32) & 1) * 2 - 1;
    }
}

static void step_fill(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    for (int64_t n = 0; n < count; n++) {
        uint32_t *out = arena + s->out + n * s->out_size;
        span_t mine = span_of(share, s->out_size);
        for (int64_t k = mine.begin; k < mine.end; k++) out[k] = (uint32_t)s->number;
    }
}

static void step_copy(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    span_t mine = span_of(share, s->box[1]);
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + s->in + n * s->in_size + s->from;
        uint32_t *out = arena + s->out + n * s->out_size + s->to;
        for (int64_t i = mine.begin; i < mine.end; i++)
            for (int64_t j = 0; j < s->box[2]; j++) {
                const uint32_t *a = in + i * s->from_stride[1] + j * s->from_stride[2];
                uint32_t *b = out + i * s->to_stride[1] + j * s->to_stride[2];
                if (s->from_stride[0] == 1 && s->to_stride[0] == 1)
                    memcpy(b, a, (size_t)s->box[0] * 4);
                else
                    for (int64_t c = 0; c < s->box[0]; c++) b[c * s->to_stride[0]] = a[c * s->from_stride[0]];
            }
    }
}

/* Windows of an image, pixel by pixel: the taps inside it are combined channel by channel. */
static void step_window(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    int units = s->step == OB_STEP_MAX_BITS ? s->in_pixel : s->channels;
    span_t mine = span_of(share, s->out_height);
    for (int64_t n = 0; n < count; n++)
        for (int i = mine.begin; i < mine.end; i++)
            for (int j = 0; j < s->out_width; j++) {
                const uint32_t *in = arena + s->in + n * s->in_size;
                int64_t place = (int64_t)i * s->out_width + j;
                uint32_t *out = arena + s->out + n * s->out_size + place * s->out_pixel;
                float *sums = (float *)out;
                int met = 0;
                if (s->step == OB_STEP_SUM || s->step == OB_STEP_SUM_INT) {
                    memset(out, 0, (size_t)units * 4);
                    met = 1;
                }
                for (int a = 0; a < s->taps_down; a++)
                    for (int b = 0; b < s->taps_across; b++) {
                        int row = s->rows[i * s->taps_down + a], column = s->columns[j * s->taps_across + b];
                        if (row < 0 || column < 0) continue;
                        const uint32_t *x = in + ((int64_t)row * s->in_width + column) * s->in_pixel;
                        if (!met++) {
                            memcpy(out, x, (size_t)units * 4);
                            continue;
                        }
                        const float *f = (const float *)x;
                        switch (s->step) {
                        case OB_STEP_MAX:
                            for (int k = 0; k < units; k++) sums[k] = f[k] > sums[k] || f[k] != f[k] ? f[k] : sums[k];
                            break;
                        case OB_STEP_MAX_INT:
                            for (int k = 0; k < units; k++)
                                if ((int32_t)x[k] > (int32_t)out[k]) out[k] = x[k];
                            break;
                        case OB_STEP_MAX_BITS:
                            for (int k = 0; k < units; k++) out[k] |= x[k];
                            break;
                        case OB_STEP_SUM:
                            for (int k = 0; k < units; k++) sums[k] += f[k];
                            break;
                        case OB_STEP_SUM_INT:
                            for (int k = 0; k < units; k++) out[k] += x[k];
                            break;
                        }
                    }
                if (s->divisor && s->step == OB_STEP_SUM)
                    for (int k = 0; k < units; k++) sums[k] /= s->divisor[place];
                if (s->divisor && s->step == OB_STEP_SUM_INT) /* of integers a float32 quotient */
                    for (int k = 0; k < units; k++) sums[k] = (float)(int32_t)out[k] / s->divisor[place];
            }
}

/* Window (i, j) reaches from rows[2i], columns[2j] to rows[2i + 1], columns[2j + 1]. */
static void step_average(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    span_t mine = span_of(share, s->out_height);
    for (int64_t n = 0; n < count; n++)
        for (int i = mine.begin; i < mine.end; i++)
            for (int j = 0; j < s->out_width; j++) {
                const uint32_t *in = arena + s->in + n * s->in_size;
                int64_t place = (int64_t)i * s->out_width + j;
                float *out = (float *)(arena + s->out + n * s->out_size + place * s->out_pixel);
                for (int c = 0; c < s->channels; c++) {
                    double total = 0;
                    int64_t whole = 0;
                    for (int column = s->columns[2 * j]; column < s->columns[2 * j + 1]; column++) {
                        double down = 0;
                        for (int row = s->rows[2 * i]; row < s->rows[2 * i + 1]; row++) {
                            uint32_t x = in[((int64_t)row * s->in_width + column) * s->in_pixel + c];
                            if (s->real) {
                                float value;
                                memcpy(&value, &x, 4);
                                down = row == s->rows[2 * i] ? value : down + value;
                            } else
                                whole += (int32_t)x;
                        }
                        total = column == s->columns[2 * j] ? down : total + down;
                    }
                    out[c] = (s->real ? (float)total : (float)whole) / s->divisor[place];
                }
            }
}
