/* Arithmetic on single numbers, in plain C99 without libraries; docs/format.md specifies every result. `onebit export --to c`
 * copies what a net needs of this file: each function stands by itself, its comment right above it, without blank lines
 * inside. */

/* A float of given bits. */
static inline float float_of_bits(uint32_t bits) {
    union {
        uint32_t bits;
        float value;
    } same = {bits};
    return same.value;
}

/* The bits of a float. */
static inline uint32_t bits_of_float(float value) {
    union {
        float value;
        uint32_t bits;
    } same = {value};
    return same.bits;
}

/* 2^e, for e from -126 to 127. */
static inline float power_of_two(int e) { return float_of_bits((uint32_t)(e + 127) << 23); }

/* e of the grid of multiples of 2^-e: min(126, 24 - p), with the largest magnitude, given as bits, in [2^(p-1), 2^p). */
static inline int grid_exponent(uint32_t largest) {
    int e = 24 + 126 - (int)(largest >> 23);
    return e > 126 ? 126 : e;
}

/* The nearest integer, ties to even, of a magnitude up to 2^24: from 2^23 on, a float has no fraction bits. */
static inline int32_t rounded(float x) {
    uint32_t bits = bits_of_float(x), whole = 0x4b000000u; /* the bits of 2^23 */
    float far = float_of_bits(whole | (bits & 0x80000000u)), nearest = (x + far) - far;
    return (int32_t)((bits & 0x7fffffffu) < whole ? nearest : x);
}

/* Two values on the grid that their larger magnitude gives: difference and sum of the integers, and the grid's unit. */
static inline void levels_on_grid(float low, float high, int32_t *difference, int32_t *sum, float *unit) {
    uint32_t of_low = bits_of_float(low) & 0x7fffffffu, of_high = bits_of_float(high) & 0x7fffffffu;
    int e = grid_exponent(of_low > of_high ? of_low : of_high);
    int32_t upper = rounded(high * power_of_two(e)), lower = rounded(low * power_of_two(e));
    *difference = upper - lower, *sum = upper + lower, *unit = power_of_two(-e);
}

/* scale * x + shift of numbers that were float or int32: rounded once. */
static inline float affine_of(double x, double scale, double shift) { return (float)(x * scale + shift); }

/* max(x, 0); keeps NaN and -0. */
static inline float relu_of(float x) { return x < 0 ? 0 : x; }

/* x where it is positive, else slope * x. */
static inline float prelu_of(float x, float slope) { return x > 0 ? x : x * slope; }

/* min(max(x, low), high); keeps NaN. */
static inline float clamp_of(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* e^x - one, with `one` 0 or 1, in float32. x is clipped to +-80; e^x is 2^n * (1 + q), of which shifts of n by 23 bits make 2^n. */
static inline float exp_less(float x, float one) {
    float a = clamp_of(x, -80, 80), shifted = a * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    float r = a - n * 0.693359375f - n * -0.00021219444f;
    float p = ((0.00138824928f * r + 0.00836667247f) * r + 0.0416672047f) * r + 0.166665425f;
    float q = r + r * r * (p * r + 0.499999981f), power = float_of_bits((bits_of_float(shifted) << 23) + 0x3f800000u);
    return power * q + (power - one);
}

/* 1 / (1 + e^-x). */
static inline float sigmoid_of(float x) { return 1 / (2 + exp_less(-x, 1)); }

/* The hyperbolic tangent. */
static inline float tanh_of(float x) {
    float e = exp_less(x + x, 1);
    return e / (e + 2);
}

/* x * sigmoid(x); -0 where torch rounds it to that. */
static inline float silu_of(float x) {
    x = x < -88.722832f ? -0.0f : x;
    return x / (2 + exp_less(-x, 1));
}

/* x * tanh(log(1 + e^x)); -0 where torch rounds it to that. From 20 on the tangent is 1. */
static inline float mish_of(float x) {
    x = x < -102.87347f ? -0.0f : x;
    float e = exp_less(x < 20 ? x : 20, 0), n = e * (e + 2);
    return x * (n / (n + 2));
}

/* x times the normal distribution of x; -0 where torch rounds it to that. */
static inline float gelu_of(float x) {
    x = x < -5.5430403f ? -0.0f : x;
    float t = 1 / (1 + 0.3f * float_of_bits(bits_of_float(x) & 0x7fffffffu)); /* |x| without a branch */
    float p = ((0.0370460323f * t - 0.162699224f) * t + 0.215351326f) * t - 0.0614000655f;
    p = (((p * t + 0.132243102f) * t + 0.0989657246f) * t + 0.120867616f) * t + 0.11962551f;
    float tail = exp_less(x * x * -0.5f, 0) * (p * t);
    return x * (x > 0 ? 1 - tail : tail);
}

/* The same, approximated by a tangent. */
static inline float gelu_tanh_of(float x) {
    x = x < -5.0613804f ? -0.0f : x;
    return x / (2 + exp_less(-x * (x * x * 0.0713548163f + 1.59576912f), 1));
}

/* x * min(max(x + 3, 0), 6) / 6. */
static inline float hardswish_of(float x) { return x * clamp_of(x + 3, 0, 6) / 6; }

/* The square root, as IEEE 754 rounds it: four steps of Newton's method from a guess of 4 % leave errors of doubles. */
static inline float sqrt_of(float x) {
    int is_small = x < 1e-30f;
    float large = is_small ? x * 1152921504606846976.0f : x; /* 2^60 */
    double y = float_of_bits((bits_of_float(large) >> 1) + 0x1fbd1df5u);
    if (!(x > 0) || !(x <= 3.40282347e38f)) return x < 0 ? (x - x) / (x - x) : x;
    for (int k = 0; k < 4; k++) y = (y + large / y) / 2;
    return (float)(is_small ? y * 9.313225746154785e-10 : y);
}

/* 1 / x. */
static inline float reciprocal_of(float x) { return 1 / x; }

/* The activations: OB_EPILOGUE_TANH is tanh_of. */
#define ACTIVATIONS(ACTIVATION)         \
    ACTIVATION(SIGMOID, sigmoid_of)     \
    ACTIVATION(TANH, tanh_of)           \
    ACTIVATION(SILU, silu_of)           \
    ACTIVATION(MISH, mish_of)           \
    ACTIVATION(GELU, gelu_of)           \
    ACTIVATION(GELU_TANH, gelu_tanh_of) \
    ACTIVATION(SQRT, sqrt_of)           \
    ACTIVATION(RECIPROCAL, reciprocal_of) \
    ACTIVATION(HARDSWISH, hardswish_of)

/* min(max(x, low), high) of integers. */
static inline int32_t clamp_int(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

/* Whether x >= least; or with flip -1, whether -1 - x is. */
static inline int32_t threshold_of(int32_t x, int32_t flip, int32_t least) { return (x ^ flip) >= least; }

/* The larger of two, or NaN. */
static inline float larger_of(float x, float other) { return other > x || other != other ? other : x; }

/* floor(total / 2^shift), from least to most. Every compiler shifts a number that is not negative alike. */
static inline int32_t requantized(int64_t total, int shift, int32_t least, int32_t most) {
    int64_t x = total < 0 ? ~(~total >> shift) : total >> shift;
    return x < least ? least : x > most ? most : (int32_t)x;
}

/* The nearest integer, ties to even, from least to most, which have magnitudes up to 2^24; of NaN, least. */
static inline int32_t quantized(float x, int32_t least, int32_t most) {
    float low = (float)least, high = (float)most;
    return rounded(x > low ? x < high ? x : high : low);
}
