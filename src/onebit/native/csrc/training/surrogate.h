/* Surrogate gradients of the sign, computed in float32. See ob_surrogate. */

NORM_INLINE floats_t magnitude(floats_t x) { return (floats_t)((words_t)x & 0x7fffffffu); }

/* 2 - 2|x| where |x| < 1, else 0. */
NORM_INLINE floats_t triangle(floats_t x) { return bounded(2 - 2 * magnitude(x), 0, NAN); }

/* exp(-size) of a size that is not negative, to some units of the last place; 0 from 87 on. */
NORM_INLINE floats_t decay(floats_t size) {
    const float rounds = 12582912; /* 1.5 * 2^23: what is added to it becomes a whole number, in the lowest bits */
    words_t in = ~(words_t)(size >= 87);
    floats_t y = -(floats_t)((words_t)size & in);
    floats_t k = y * 1.44269504088896341f + rounds, n = k - rounds;
    floats_t r = y - n * 0.693359375f + n * 2.12194440e-4f, p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    return (floats_t)((words_t)(p * (floats_t)(((words_t)k + (127 - 0x4b400000u)) << 23)) & in);
}

/* s(1 - s) with s = 1/(1 + exp(-z)): e/(1 + e)² with e = exp(-|z|). */
NORM_INLINE floats_t bell(floats_t z) {
    floats_t e = decay(magnitude(z));
    return e / ((1 + e) * (1 + e));
}

NORM_INLINE void through_pair(const ob_surrogate *call, int64_t i, int64_t count, int bf16) {
    pair_t x = load_values(call->x, i, count, bf16), g = load_values(call->gradient, i, count, bf16);
    const float steepness = call->steepness, height = call->height;
    if (call->kind == OB_SURROGATE_TRIANGLE) {
        g.a *= triangle(x.a), g.b *= triangle(x.b);
    } else {
        g.a *= bell(x.a * steepness) * height, g.b *= bell(x.b * steepness) * height;
    }
    store_values(call->to, i, count, g, bf16);
}

NORM_INLINE void through_values(const ob_surrogate *call, int64_t i, int64_t end, int bf16) {
    for (; i + PAIR <= end; i += PAIR) through_pair(call, i, PAIR, bf16);
    if (i < end) through_pair(call, i, end - i, bf16);
}

/* See ob_isa. */
static void run_surrogate(const ob_surrogate *call, int64_t begin, int64_t end) {
    call->bf16 ? through_values(call, begin, end, 1) : through_values(call, begin, end, 0);
}
