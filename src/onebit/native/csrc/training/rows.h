/* Rows of channels, float32 or bfloat16 that is computed in float32, in vectors of GNU C, and the order of sums over them.
 *
 * Sums have one accumulator per place of a period, which is a whole number of rows and of groups of 32 values: their order
 * depends neither on the width of the registers nor on the number of threads. They are float32 for at most CHAIN terms and
 * double after that. Blocks have sums of their own. */
#if defined(__AVX512F__)
#define NORM_LANES 16
#elif defined(__AVX2__)
#define NORM_LANES 8
#else
#define NORM_LANES 4
#endif
#define NORM_INLINE static inline __attribute__((always_inline))

enum { GROUP = 32, PAIR = 2 * NORM_LANES, CHAIN = 64, BLOCK_VALUES = 1 << 15 };

typedef float floats_t __attribute__((vector_size(4 * NORM_LANES)));
typedef uint32_t words_t __attribute__((vector_size(4 * NORM_LANES)));

/* PAIR values: of bfloat16 the even and the odd ones, of float32 the first and the second half. */
typedef struct {
    floats_t a, b;
} pair_t;

NORM_INLINE pair_t pair_of(const float *from) {
    pair_t pair;
    memcpy(&pair, from, sizeof pair);
    return pair;
}

NORM_INLINE pair_t load_values(const void *from, int64_t place, int bf16) {
    pair_t pair;
    if (bf16) {
        words_t words;
        memcpy(&words, (const uint16_t *)from + place, sizeof words);
        pair.a = (floats_t)(words << 16);
        pair.b = (floats_t)(words & 0xffff0000u);
    } else {
        memcpy(&pair, (const float *)from + place, sizeof pair);
    }
    return pair;
}

/* The bits of the nearest bfloat16, ties to even, in the upper half. NaN stays NaN: the lower half of every NaN is 0 here, as
 * values of bfloat16 and the numbers of `spread` are the only ones that it can come from. */
NORM_INLINE words_t nearest_bf16(floats_t x) {
    words_t bits = (words_t)x;
    return (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
}

/* Stores values, and returns them as stored. */
NORM_INLINE pair_t store_values(void *to, int64_t place, pair_t pair, int bf16) {
    if (bf16) {
        words_t a = nearest_bf16(pair.a), b = nearest_bf16(pair.b), words = a >> 16 | b;
        memcpy((uint16_t *)to + place, &words, sizeof words);
        return (pair_t){(floats_t)a, (floats_t)b};
    }
    memcpy((float *)to + place, &pair, sizeof pair);
    return pair;
}

/* Comparisons with NaN are false: so it stays NaN as a value, and as a bound it bounds nothing. */
NORM_INLINE floats_t bounded(floats_t x, float least, float most) {
    floats_t none = {0}, lower = none + least, upper = none + most;
    words_t below = (words_t)(x <= lower), above = (words_t)(x >= upper);
    return (floats_t)(((words_t)x & ~(below | above)) | ((words_t)lower & below) | ((words_t)upper & above));
}

/* The place of value number `i` of a period among numbers in the order of pairs. */
static int64_t pair_place(int64_t i, int bf16) {
    if (!bf16) return i;
    return i / PAIR * PAIR + (i & 1) * NORM_LANES + i % PAIR / 2;
}

/* The smallest number of values that is one of whole rows and of whole groups. */
static int64_t period_of(int32_t channels) {
    int32_t common = GROUP;
    while (channels % common) common /= 2;
    return (int64_t)channels * (GROUP / common);
}

/* Values of a block, a number of whole chains of periods. */
static int64_t block_of(int64_t period) {
    int64_t periods = BLOCK_VALUES / period / CHAIN * CHAIN;
    return period * (periods ? periods : CHAIN);
}

/* One number per channel to one per place of a period. */
static void spread(int32_t channels, int bf16, const double *numbers, float *to) {
    for (int64_t i = 0, c = 0, period = period_of(channels); i < period; i++, c = c + 1 == channels ? 0 : c + 1) {
        float number = (float)numbers[c];
        to[pair_place(i, bf16)] = number == number ? number : NAN; /* one with the lower half 0 */
    }
}

/* Sums of a period to sums of a channel. */
static void gathered(int32_t channels, int bf16, const double *sums, double *to) {
    for (int32_t c = 0; c < channels; c++) to[c] = 0;
    for (int64_t i = 0, c = 0, period = period_of(channels); i < period; i++, c = c + 1 == channels ? 0 : c + 1)
        to[c] += sums[pair_place(i, bf16)];
}
