/* The gradient to the weights of a dense layer: sums over rows of products of gradients and inputs. See ob_dense_gradient.
 *
 * Inputs are packed into panels of columns, gradients into panels of outputs, row after row, so that a tile of sums in registers
 * reads both one after the other. Sums are float32, in the order of the rows; of bfloat16 two rows are added at a time. */
#if defined(__AVX512F__)
enum { ACROSS = 4, DOWN = 6 };
#else
enum { ACROSS = 2, DOWN = 6 };
#endif
#if defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 10)
#define PAIRS_TARGET __attribute__((target("avx512bf16")))
#define pair_products(x, y, sum) (floats_t) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)(x), (__m512bh)(y))
#endif
enum { COLUMNS = ACROSS * NORM_LANES, BLOCK_DOWN = 8 };

/* [panel][row][size], 0 behind the last column; with `pairs`, the bfloat16 of two rows in each 32 bits. */
static void pack_rows(const void *from, int64_t rows, int64_t columns, int bf16, int pairs, int size, int64_t begin, int64_t end, uint32_t *to) {
    const int64_t deep = pairs ? (rows + 1) / 2 : rows;
    for (int64_t panel = begin; panel < end; panel++)
        for (int64_t n = 0; n < deep; n++) {
            uint32_t *row = to + (panel * deep + n) * size;
            for (int64_t k = 0; k < size; k += NORM_LANES) {
                const int64_t left = columns - panel * size - k, here = size - k < NORM_LANES ? size - k : NORM_LANES;
                const int64_t some = left < 0 ? 0 : left < here ? left : here;
                words_t x;
                if (pairs) {
                    x = nearest_bf16(load_ordered(from, 2 * n * columns + panel * size + k, some, bf16)) >> 16;
                    if (2 * n + 1 < rows) x |= nearest_bf16(load_ordered(from, (2 * n + 1) * columns + panel * size + k, some, bf16));
                } else
                    x = (words_t)load_ordered(from, n * columns + panel * size + k, some, bf16);
                memcpy(row + k, &x, (size_t)here * 4);
            }
        }
}

#define EACH_SUM(body) \
    _Pragma("GCC unroll 6") for (int m = 0; m < DOWN; m++) _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++) body;
#define DENSE_TILE(name, add)                                                                                             \
    static void name(const uint32_t *x, const uint32_t *g, int64_t deep, floats_t (*to)[ACROSS]) {                        \
        floats_t sum[DOWN][ACROSS];                                                                                       \
        EACH_SUM(sum[m][k] = (floats_t){0})                                                                               \
        for (int64_t n = 0; n < deep; n++, x += COLUMNS, g += DOWN) {                                                     \
            words_t across[ACROSS];                                                                                       \
            _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++) memcpy(&across[k], x + k * NORM_LANES, sizeof across[k]); \
            _Pragma("GCC unroll 6") for (int m = 0; m < DOWN; m++) {                                                      \
                words_t one = (words_t){0} + g[m];                                                                        \
                _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++) sum[m][k] = add(across[k], one, sum[m][k]);      \
            }                                                                                                             \
        }                                                                                                                 \
        EACH_SUM(to[m][k] = sum[m][k])                                                                                    \
    }
DENSE_TILE(dense_tile, fused_add)
#ifdef pair_products
PAIRS_TARGET DENSE_TILE(dense_pairs, pair_products)
static int adds_pairs(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
}
#else
#define dense_pairs dense_tile
#define adds_pairs() 0
#endif

/* A tile of the result, from output `o` and input `i` on. */
static void store_tile(const ob_dense_gradient *call, int64_t o, int64_t i, int cut, floats_t (*sum)[ACROSS]) {
    for (int64_t m = 0; m < DOWN && o + m < call->outputs; m++)
        for (int64_t k = 0; k < ACROSS && i + k * NORM_LANES < call->inputs; k++) {
            const int64_t at = (o + m) * call->inputs + i + k * NORM_LANES, left = call->inputs - i - k * NORM_LANES;
            const int64_t count = left < NORM_LANES ? left : NORM_LANES;
            floats_t some = sum[m][k];
            if (cut) some = within_bound(some, call->latent, at, count, call->bound);
            store_past_cache(call->to + at, count, some);
        }
}

/* See ob_isa. Parts share panels of columns, then panels of outputs. */
static int64_t run_dense_gradient(const ob_dense_gradient *call, int32_t stage, int32_t part, int32_t parts) {
    const int pairs = call->pairs && adds_pairs();
    const int64_t deep = pairs ? (call->rows + 1) / 2 : call->rows;
    const int64_t across = (call->inputs + COLUMNS - 1) / COLUMNS, down = (call->outputs + DOWN - 1) / DOWN;
    uint32_t *x = call->scratch, *g = x + across * deep * COLUMNS;
    if (stage == 0) return (across * COLUMNS + down * DOWN) * deep * 4 + 64;
    if (stage == OB_DENSE_PACK) {
        pack_rows(call->x, call->rows, call->inputs, call->x_bf16, pairs, COLUMNS, across * part / parts, across * (part + 1) / parts, x);
        pack_rows(call->gradient, call->rows, call->outputs, call->gradient_bf16, pairs, DOWN, down * part / parts, down * (part + 1) / parts, g);
        return 0;
    }
    /* a block of outputs at a time, so that their rows of the result stay in reach */
    const int cut = call->latent && any_beyond(call->most, call->most_count, call->bound);
    const int64_t end = down * (part + 1) / parts;
    for (int64_t block = down * part / parts; block < end; block += BLOCK_DOWN)
        for (int64_t i = 0; i < across; i++)
            for (int64_t o = block; o < block + BLOCK_DOWN && o < end; o++) {
                floats_t sum[DOWN][ACROSS];
                (pairs ? dense_pairs : dense_tile)(x + i * deep * COLUMNS, g + o * deep * DOWN, deep, sum);
                store_tile(call, o * DOWN, i * COLUMNS, cut, sum);
            }
    _mm_sfence(); /* after stores past the caches */
    return 0;
}
