/* The binary concrete weight: draws of signs and the slope, computed in float32. See ob_concrete. */

/* As many 16-bit numbers as floats_t has float32. */
typedef int16_t shorts_t __attribute__((vector_size(2 * NORM_LANES)));
typedef int32_t ints_t __attribute__((vector_size(4 * NORM_LANES)));
typedef uint16_t halves_t __attribute__((vector_size(2 * NORM_LANES)));

/* 1 / (1 + exp(2 size)) of a size that is not negative, at most 1/2. */
NORM_INLINE floats_t least_chance(floats_t size) {
    floats_t e = decay(2 * size);
    return e / (1 + e);
}

/* In the order of memory, as float32 latents beside them; `load_values` takes the even and the odd ones apart. */
NORM_INLINE void store_bf16(void *to, int64_t i, words_t bits) {
    halves_t upper = __builtin_convertvector(bits >> 16, halves_t);
    memcpy((uint16_t *)to + i, &upper, sizeof upper);
}

NORM_INLINE floats_t load_bf16(const void *from, int64_t i) {
    halves_t upper;
    memcpy(&upper, (const uint16_t *)from + i, sizeof upper);
    return (floats_t)(__builtin_convertvector(upper, words_t) << 16);
}

/* Draws NORM_LANES signs; all bits are set where |u - p| is not at least `near`. */
NORM_INLINE words_t draw_signs(const ob_concrete *call, const float *latent, const int16_t *noise, void *to, int64_t i, int bf16) {
    floats_t x;
    shorts_t steps;
    memcpy(&x, latent + i, sizeof x);
    memcpy(&steps, noise + i, sizeof steps);
    /* in two steps: compilers take a single one value by value */
    floats_t u = __builtin_convertvector(__builtin_convertvector(steps, ints_t), floats_t) * 0x1p-16f + (0.5f + 0x1p-17f);
    floats_t p = least_chance(magnitude(x));
    words_t below = (words_t)(x < 0);
    p = (floats_t)(((words_t)(1 - p) & below) | ((words_t)p & ~below));
    floats_t above = u - p;
    words_t signs = ((words_t)above & 0x80000000u) | 0x3f800000u;
    if (bf16)
        store_bf16(to, i, signs);
    else
        memcpy((float *)to + i, &signs, sizeof signs);
    return ~(words_t)(magnitude(above) >= call->near);
}

NORM_INLINE void through_slope(const ob_concrete *call, const float *latent, const void *gradient, float *to, int64_t i, int bf16) {
    floats_t x, g;
    memcpy(&x, latent + i, sizeof x);
    if (bf16)
        g = load_bf16(gradient, i);
    else
        memcpy(&g, (const float *)gradient + i, sizeof g);
    floats_t t = 1 - 2 * least_chance(magnitude(x));
    g = g / (1 - t * t + call->epsilon) * call->factor;
    memcpy(to + i, &g, sizeof g);
}

NORM_INLINE int64_t concrete_values(const ob_concrete *call, int64_t begin, int64_t end, int bf16) {
    const int64_t size = bf16 ? 2 : 4;
    words_t near = {0};
    int64_t i = begin;
    float latent[NORM_LANES] = {0}, values[NORM_LANES] = {0}; /* the last values, with 0 behind them, which are never near */
    int16_t noise[NORM_LANES] = {0};
    if (call->noise) {
        for (; i + NORM_LANES <= end; i += NORM_LANES) near |= draw_signs(call, call->latent, call->noise, call->to, i, bf16);
        if (i < end) {
            memcpy(latent, call->latent + i, (size_t)(end - i) * 4);
            memcpy(noise, call->noise + i, (size_t)(end - i) * 2);
            near |= draw_signs(call, latent, noise, values, 0, bf16);
            memcpy((char *)call->to + i * size, values, (size_t)((end - i) * size));
        }
    } else {
        for (; i + NORM_LANES <= end; i += NORM_LANES) through_slope(call, call->latent, call->gradient, call->to, i, bf16);
        if (i < end) {
            memcpy(latent, call->latent + i, (size_t)(end - i) * 4);
            memcpy(values, (const char *)call->gradient + i * size, (size_t)((end - i) * size));
            through_slope(call, latent, values, values, 0, bf16);
            memcpy((float *)call->to + i, values, (size_t)(end - i) * 4);
        }
    }
    for (int k = 0; k < NORM_LANES; k++)
        if (near[k]) return 1;
    return 0;
}

/* See ob_isa. */
static int64_t run_concrete(const ob_concrete *call, int64_t begin, int64_t end) {
    return call->bf16 ? concrete_values(call, begin, end, 1) : concrete_values(call, begin, end, 0);
}
