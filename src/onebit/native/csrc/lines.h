/* What is done with the channels of one pixel, or a part of them: see OB_LINE_*. The instruction set's file defines word_of:
 * the lowest bits of 32 flags. */
#define LINE 256 /* channels of a part at most; parts begin at multiples of 32 */

typedef union {
    int32_t i[LINE];
    float f[LINE];
} line_t;

/* Blocks of 16 channels, the last one whole too: lines and their parameters have room for it. */
#define BLOCKS(body)                           \
    for (int from = 0; from < count; from += 16) \
        for (int k = from; k < from + 16; k++) { \
            body;                              \
        }

/* In double, and rounded once. */
#define AFFINE(value)                                               \
    if (line->p && line->q)                                         \
        BLOCKS(x->f[k] = (float)((double)(value) * slope[k] + shift[k])) \
    else if (line->p)                                               \
        BLOCKS(x->f[k] = (float)((double)(value) * slope[k]))       \
    else                                                            \
        BLOCKS(x->f[k] = (float)((double)(value) + shift[k]))

static inline int run_line(const ob_line *line, line_t *restrict x, int first, int count, float total) {
    const float *restrict p = line->p ? (const float *)line->p + first : NULL;
    const double *restrict slope = line->p ? (const double *)line->p + first : NULL;
    const double *restrict shift = line->q ? (const double *)line->q + first : NULL;
    int bad = 0;
    switch (line->code) {
    case OB_LINE_REAL:
        BLOCKS(x->f[k] = (float)x->i[k])
        break;
    case OB_LINE_SCALE:
        BLOCKS(x->f[k] *= p[k])
        break;
    case OB_LINE_CENTRE:
        BLOCKS(x->f[k] += total * p[k])
        break;
    case OB_LINE_AFFINE:
        AFFINE(x->f[k])
        break;
    case OB_LINE_AFFINE_INT:
        AFFINE(x->i[k])
        break;
    case OB_LINE_RELU: /* NaN stays */
        BLOCKS(x->f[k] = x->f[k] < 0 ? 0 : x->f[k])
        break;
    case OB_LINE_RELU_INT:
        BLOCKS(x->i[k] = x->i[k] < 0 ? 0 : x->i[k])
        break;
    case OB_LINE_PRELU:
        BLOCKS(x->f[k] = x->f[k] > 0 ? x->f[k] : x->f[k] * p[k])
        break;
    case OB_LINE_HARDTANH:
        BLOCKS(x->f[k] = x->f[k] < -1 ? -1 : x->f[k] > 1 ? 1 : x->f[k])
        break;
    case OB_LINE_HARDTANH_INT:
        BLOCKS(x->i[k] = x->i[k] < -1 ? -1 : x->i[k] > 1 ? 1 : x->i[k])
        break;
    case OB_LINE_THRESHOLD: {
        const int32_t *restrict least = (const int32_t *)line->p + first, *restrict flip = (const int32_t *)line->q + first;
        BLOCKS(x->i[k] = (x->i[k] ^ flip[k]) >= least[k])
        break;
    }
    case OB_LINE_SIGN:
        if (p) BLOCKS(x->f[k] -= p[k])
        for (int k = 0; k < count; k++) bad |= x->f[k] != x->f[k];
        BLOCKS(x->i[k] = x->f[k] >= 0)
        break;
    }
    return bad;
}

/* Runs the lines of a step on channels `first` to `first + count` and writes them at `pixel`; 1 if it met the sign of NaN. */
static int finish_line(const ob_step *s, line_t *x, int first, int count, float total, uint32_t *pixel) {
    int bad = 0;
    for (int n = 0; n < s->line_count; n++) bad |= run_line(&s->lines[n], x, first, count, total);
    if (s->bits)
        for (int k = 0; k < count; k += 32) /* tail bits are 0 */
            pixel[(first + k) / 32] = word_of(x->i + k) & (count - k < 32 ? (1u << (count - k)) - 1 : ~0u);
    else if (count % 16 == 0) { /* stores of a known size are no call */
        uint32_t *out = pixel + first;
        BLOCKS(out[k] = (uint32_t)x->i[k])
    } else
        memcpy(pixel + first, x->i, (size_t)count * 4);
    return bad;
}

/* A part of a line: of one value, or of the sum of two. */
static inline void read_line(const ob_step *s, line_t *x, const uint32_t *a, const uint32_t *b, int count) {
    const float *f = (const float *)a, *g = (const float *)b;
    if (s->step == OB_STEP_ADD)
        for (int k = 0; k < count; k++) x->f[k] = f[k] + g[k];
    else if (s->step == OB_STEP_ADD_INT)
        for (int k = 0; k < count; k++) x->i[k] = (int32_t)(a[k] + b[k]);
    else
        memcpy(x->i, a, (size_t)count * 4);
}

/* Lines on every pixel, of one value or of the sum of two. */
static int step_lines(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    line_t x;
    int64_t pixels = (int64_t)s->out_height * s->out_width;
    int lines = (s->channels + LINE - 1) / LINE, bad = 0;
    /* parts of the pixels, or of the one that there is */
    const span_t all = {0, pixels == 1 ? 1 : lines}, mine = span_of(share, pixels == 1 ? lines : pixels);
    const span_t of_pixels = pixels == 1 ? all : mine, of_lines = pixels == 1 ? mine : all;
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + s->in + n * s->in_size, *in2 = arena + s->in2 + n * s->in2_size;
        uint32_t *out = arena + s->out + n * s->out_size;
        for (int64_t at = of_pixels.begin; at < of_pixels.end; at++)
            for (int line = of_lines.begin; line < of_lines.end; line++) {
                int first = line * LINE, part = s->channels - first < LINE ? s->channels - first : LINE;
                read_line(s, &x, in + at * s->in_pixel + first, in2 + at * s->in_pixel + first, part);
                if (s->together)
                    bad |= finish_line(s, &x, 0, part, 0, out + at * s->out_pixel + first);
                else
                    bad |= finish_line(s, &x, first, part, 0, out + at * s->out_pixel);
            }
    }
    return bad;
}
