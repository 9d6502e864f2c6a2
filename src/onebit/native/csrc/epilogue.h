/* Epilogue operations (OB_EPILOGUE_*) on a block of channels of one pixel. The instruction set's file defines word_of: the
 * lowest bits of 32 flags. */
#define BLOCK 256 /* most channels of a block; blocks begin at multiples of 32 */

typedef union {
    int32_t i[BLOCK];
    float f[BLOCK];
} block_t;

/* Loops over channels, 16 at a time up to a whole multiple: blocks and parameters have room for that. */
#define CHANNELS(body)                           \
    for (int from = 0; from < count; from += 16) \
        for (int k = from; k < from + 16; k++) { \
            body;                              \
        }

/* Computed in double and rounded once. */
#define AFFINE(value)                                               \
    if (op->p && op->q)                                         \
        CHANNELS(x->f[k] = affine_of(value, slope[k], shift[k])) \
    else if (op->p)                                               \
        CHANNELS(x->f[k] = (float)((double)(value) * slope[k]))       \
    else                                                            \
        CHANNELS(x->f[k] = (float)((double)(value) + shift[k]))

static inline int run_epilogue_op(const ob_epilogue_op *op, block_t *restrict x, int first, int count, float total) {
    const float *restrict p = op->p ? (const float *)op->p + first : NULL;
    const double *restrict slope = op->p ? (const double *)op->p + first : NULL;
    const double *restrict shift = op->q ? (const double *)op->q + first : NULL;
    int saw_nan = 0;
    switch (op->code) {
    case OB_EPILOGUE_REAL:
        CHANNELS(x->f[k] = (float)x->i[k])
        break;
    case OB_EPILOGUE_SCALE:
        CHANNELS(x->f[k] *= p[k])
        break;
    case OB_EPILOGUE_CENTER:
        CHANNELS(x->f[k] += total * p[k])
        break;
    case OB_EPILOGUE_AFFINE:
        AFFINE(x->f[k])
        break;
    case OB_EPILOGUE_AFFINE_INT:
        AFFINE(x->i[k])
        break;
    case OB_EPILOGUE_RELU: /* keeps NaN */
        CHANNELS(x->f[k] = relu_of(x->f[k]))
        break;
    case OB_EPILOGUE_RELU_INT:
        CHANNELS(x->i[k] = x->i[k] < 0 ? 0 : x->i[k])
        break;
    case OB_EPILOGUE_PRELU:
        CHANNELS(x->f[k] = prelu_of(x->f[k], p[k]))
        break;
    case OB_EPILOGUE_HARDTANH:
        CHANNELS(x->f[k] = clamp_of(x->f[k], -1, 1))
        break;
    case OB_EPILOGUE_HARDTANH_INT:
        CHANNELS(x->i[k] = clamp_int(x->i[k], -1, 1))
        break;
    case OB_EPILOGUE_CLAMP: {
        float low = *(const float *)op->p, high = *(const float *)op->q;
        CHANNELS(x->f[k] = clamp_of(x->f[k], low, high))
        break;
    }
    case OB_EPILOGUE_THRESHOLD: {
        const int32_t *restrict least = (const int32_t *)op->p + first, *restrict flip = (const int32_t *)op->q + first;
        CHANNELS(x->i[k] = threshold_of(x->i[k], flip[k], least[k]))
        break;
    }
    case OB_EPILOGUE_SIGN:
        if (p) CHANNELS(x->f[k] -= p[k])
        for (int k = 0; k < count; k++) saw_nan |= x->f[k] != x->f[k];
        CHANNELS(x->i[k] = x->f[k] >= 0)
        break;
    }
    return saw_nan;
}

/* Runs the epilogue of a call on channels `first` to `first + count` and writes them to `pixel`; 1 for the sign of a NaN. */
static int finish_block(const ob_call *call, block_t *x, int first, int count, float total, uint32_t *pixel) {
    int saw_nan = 0;
    for (int n = 0; n < call->epilogue_count; n++) saw_nan |= run_epilogue_op(&call->epilogue[n], x, first, count, total);
    if (call->bits)
        for (int k = 0; k < count; k += 32) /* tail bits are 0 */
            pixel[(first + k) / 32] = word_of(x->i + k) & (count - k < 32 ? (1u << (count - k)) - 1 : ~0u);
    else if (count % 16 == 0) { /* unlike memcpy, no function call */
        uint32_t *out = pixel + first;
        CHANNELS(out[k] = (uint32_t)x->i[k])
    } else
        memcpy(pixel + first, x->i, (size_t)count * 4);
    return saw_nan;
}

/* Reads a block of one value, or of the sum or product of two. */
static inline void read_block(const ob_call *call, block_t *x, const uint32_t *a, const uint32_t *b, int count) {
    const float *f = (const float *)a, *g = (const float *)b;
    if (call->kernel == OB_KERNEL_ADD)
        for (int k = 0; k < count; k++) x->f[k] = f[k] + g[k];
    else if (call->kernel == OB_KERNEL_MULTIPLY)
        for (int k = 0; k < count; k++) x->f[k] = f[k] * g[k];
    else if (call->kernel == OB_KERNEL_ADD_INT)
        for (int k = 0; k < count; k++) x->i[k] = (int32_t)(a[k] + b[k]);
    else
        memcpy(x->i, a, (size_t)count * 4);
}

/* The epilogue on every pixel of one value, or of the sum or product of two. */
static int pointwise(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    block_t x;
    int64_t pixels = (int64_t)call->out_height * call->out_width;
    int blocks = (call->channels + BLOCK - 1) / BLOCK, saw_nan = 0;
    /* threads share the pixels, or the blocks of a single pixel */
    const span_t all = {0, pixels == 1 ? 1 : blocks}, mine = span_of(share, pixels == 1 ? blocks : pixels);
    const span_t of_pixels = pixels == 1 ? all : mine, of_blocks = pixels == 1 ? mine : all;
    for (int64_t n = 0; n < count; n++) {
        const uint32_t *in = arena + call->in + n * call->in_size, *in2 = arena + call->in2 + n * call->in2_size;
        uint32_t *out = arena + call->out + n * call->out_size;
        for (int64_t at = of_pixels.begin; at < of_pixels.end; at++)
            for (int block = of_blocks.begin; block < of_blocks.end; block++) {
                int first = block * BLOCK, part = call->channels - first < BLOCK ? call->channels - first : BLOCK;
                read_block(call, &x, in + at * call->in_pixel + first, in2 + at * call->in_pixel + first, part);
                if (call->together)
                    saw_nan |= finish_block(call, &x, 0, part, 0, out + at * call->out_pixel + first);
                else
                    saw_nan |= finish_block(call, &x, first, part, 0, out + at * call->out_pixel);
            }
    }
    return saw_nan;
}
