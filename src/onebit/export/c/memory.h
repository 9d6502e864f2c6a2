/* Values in the memory of an exported net, and how they are read and written; kernels.h says how this file is used. */

/* The memory of a net holds values of several types, one after the other. */
#if defined(__GNUC__)
#define SHARED __attribute__((may_alias))
#else
#define SHARED
#endif

/* A number of a value, an integer or a real one. */
typedef union SHARED {
    int32_t i;
    float f;
} value_t;

/* A small integer in memory. */
typedef int16_t SHARED short_t;

/* Reads numbers first, first + step, ... of a value. */
typedef void load_t(const void *from, int32_t first, int32_t step, int32_t count, value_t *x);

static void load_words(const void *from, int32_t first, int32_t step, int32_t count, value_t *x) {
    const value_t *in = (const value_t *)from + first;
    for (int32_t k = 0; k < count; k++) x[k] = in[k * step];
}

static void load_floats(const void *from, int32_t first, int32_t step, int32_t count, value_t *x) {
    const float *in = (const float *)from + first;
    for (int32_t k = 0; k < count; k++) x[k].f = in[k * step];
}

static void load_bytes(const void *from, int32_t first, int32_t step, int32_t count, value_t *x) {
    const uint8_t *in = (const uint8_t *)from + first;
    for (int32_t k = 0; k < count; k++) x[k].i = in[k * step];
}

/* Pixels 0 to 255 as 2x - 255. */
static void load_centered(const void *from, int32_t first, int32_t step, int32_t count, value_t *x) {
    const uint8_t *in = (const uint8_t *)from + first;
    for (int32_t k = 0; k < count; k++) x[k].i = 2 * in[k * step] - 255;
}

static void load_small(const void *from, int32_t first, int32_t step, int32_t count, value_t *x) {
    const int8_t *in = (const int8_t *)from + first;
    for (int32_t k = 0; k < count; k++) x[k].i = in[k * step];
}

static void load_shorts(const void *from, int32_t first, int32_t step, int32_t count, value_t *x) {
    const short_t *in = (const short_t *)from + first;
    for (int32_t k = 0; k < count; k++) x[k].i = in[k * step];
}

/* Signs, one bit each: 1 is +1, 0 is -1. */
static void load_signs(const void *from, int32_t first, int32_t step, int32_t count, value_t *x) {
    const uint8_t *in = from;
    for (int32_t k = 0; k < count; k++, first += step) x[k].i = (in[first >> 3] >> (first & 7) & 1) * 2 - 1;
}

static void store_words(const value_t *x, int32_t count, void *to, int32_t first, int32_t step) {
    value_t *out = (value_t *)to + first;
    for (int32_t k = 0; k < count; k++) out[k * step] = x[k];
}

static void store_small(const value_t *x, int32_t count, void *to, int32_t first, int32_t step) {
    int8_t *out = (int8_t *)to + first;
    for (int32_t k = 0; k < count; k++) out[k * step] = (int8_t)x[k].i;
}

static void store_bytes(const value_t *x, int32_t count, void *to, int32_t first, int32_t step) {
    uint8_t *out = (uint8_t *)to + first;
    for (int32_t k = 0; k < count; k++) out[k * step] = (uint8_t)x[k].i;
}

static void store_shorts(const value_t *x, int32_t count, void *to, int32_t first, int32_t step) {
    short_t *out = (short_t *)to + first;
    for (int32_t k = 0; k < count; k++) out[k * step] = (int16_t)x[k].i;
}

static void store_signs(const value_t *x, int32_t count, void *to, int32_t first, int32_t step) {
    uint8_t *out = to;
    for (int32_t k = 0; k < count; k++, first += step) {
        uint8_t bit = (uint8_t)(1 << (first & 7));
        if (x[k].i > 0)
            out[first >> 3] |= bit;
        else
            out[first >> 3] &= (uint8_t)~bit;
    }
}

static void store_floats(const value_t *x, int32_t count, float *to, int32_t first, int32_t step) {
    for (int32_t k = 0; k < count; k++) to[first + k * step] = x[k].f;
}

static void store_integers(const value_t *x, int32_t count, int32_t *to, int32_t first, int32_t step) {
    for (int32_t k = 0; k < count; k++) to[first + k * step] = x[k].i;
}

static void fill(value_t *x, int32_t count, int32_t value) {
    for (int32_t k = 0; k < count; k++) x[k].i = value;
}

static void fill_real(value_t *x, int32_t count, float value) {
    for (int32_t k = 0; k < count; k++) x[k].f = value;
}
