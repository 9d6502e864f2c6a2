/* The gradient to the weights of a dense layer: sums over rows of products of gradients and inputs. See
 * ob_dense_gradient.
 *
 * Both are packed into panels of columns, row after row. A tile of sums in registers has columns of inputs
 * down and outputs across; it is transposed when it is stored. Sums are float32, of blocks of rows in order;
 * of bfloat16 two rows are added at a time. Inputs that are 0, about half of them behind a ReLU, are left out
 * where a panel has enough of them and its gradients are finite: then they change no sum. */
#pragma once
#include "signs.h"

#if defined(__AVX512F__)
enum {
    ACROSS = 4,
    DOWN = 4,
    MAX_LISTED = 70
}; /* per cent of inputs that are not 0: with more, multiplying all is faster */
#else
enum { ACROSS = 3, DOWN = 4, MAX_LISTED = 40 };
#endif
enum {
    OUTPUTS = ACROSS * FLOAT_LANES,
    COLUMNS = 16
}; /* outputs and inputs of a panel; the inputs fill a line of a cache */
enum { NEAR_ROWS = 28 * 1024 / 4 / OUTPUTS }; /* of a panel of gradients in the cache next to the registers */

#if defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 10)
#define PAIRS_TARGET __attribute__((target("avx512bf16")))
#define pair_products(x, y, sum) (floats_t) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)(x), (__m512bh)(y))
#endif

/* An input that is not 0: where the gradients of its row are in a panel, and its value. */
typedef struct {
    uint32_t at, value;
} input_t;

/* [panel][row][size], 0 behind the last column; with `pairs`, the bfloat16 of two rows in each 32 bits. */
static void pack_rows(const void *from, int64_t rows, int64_t columns, int bf16, int pairs, int size,
                      int64_t begin, int64_t end, uint32_t *to) {
    const int64_t deep = pairs ? (rows + 1) / 2 : rows;
    for (int64_t panel = begin; panel < end; panel++)
        for (int64_t n = 0; n < deep; n++) {
            uint32_t *row = to + (panel * deep + n) * size;
            for (int64_t k = 0; k < size; k += FLOAT_LANES) {
                const int64_t left = columns - panel * size - k, some = left < 0             ? 0
                                                                        : left < FLOAT_LANES ? left
                                                                                             : FLOAT_LANES;
                words_t x;
                if (pairs) {
                    x = nearest_bf16(load_ordered(from, 2 * n * columns + panel * size + k, some, bf16)) >>
                        16;
                    if (2 * n + 1 < rows)
                        x |= nearest_bf16(
                            load_ordered(from, (2 * n + 1) * columns + panel * size + k, some, bf16));
                } else
                    x = (words_t)load_ordered(from, n * columns + panel * size + k, some, bf16);
                memcpy(row + k, &x, sizeof x);
            }
        }
}

static int all_finite(const uint32_t *x, int64_t count) {
    words_t beyond = {0};
    for (const uint32_t *end = x + count; x < end; x += FLOAT_LANES) {
        words_t some;
        memcpy(&some, x, sizeof some);
        beyond |= (words_t)((some & 0x7f800000u) == 0x7f800000u);
    }
    int all = 1;
    for (int k = 0; k < FLOAT_LANES; k++) all &= !beyond[k];
    return all;
}

/* The inputs of some rows of a panel that are not 0, column after column, and how many; -1 if they are too
 * many. */
static void list_inputs(const uint32_t *x, int64_t rows, input_t *lists, int32_t *counts) {
    words_t zeros = {0};
    for (int64_t n = 0; n < rows * COLUMNS; n += FLOAT_LANES) {
        words_t some;
        memcpy(&some, x + n, sizeof some);
        zeros -= (words_t)(some << 1 == 0);
    }
    int64_t left = rows * COLUMNS;
    for (int k = 0; k < FLOAT_LANES; k++) left -= zeros[k];
    const int many = left * 100 > rows * COLUMNS * MAX_LISTED;
    for (int k = 0; k < COLUMNS; k++) counts[k] = many ? -1 : 0;
    for (int64_t n = 0; !many && n < rows; n++)
        for (int k = 0; k < COLUMNS; k++) {
            const uint32_t value = x[n * COLUMNS + k];
            lists[k * rows + counts[k]] =
                (input_t){(uint32_t)(n * OUTPUTS), value}; /* the next takes the place of a 0 */
            counts[k] += value << 1 != 0;
        }
}

static void listed_column(const input_t *x, int32_t count, const uint32_t *g, floats_t *to) {
    floats_t sum[ACROSS] = {{0}};
    for (const input_t *end = x + count; x < end; x++) {
        const words_t one = (words_t){0} + x->value;
        _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++) {
            words_t across;
            memcpy(&across, g + x->at + k * FLOAT_LANES, sizeof across);
            sum[k] = fused_add(across, one, sum[k]);
        }
    }
    _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++) to[k] += sum[k];
}

#define EACH_SUM(body)                                     \
    _Pragma("GCC unroll 8") for (int m = 0; m < DOWN; m++) \
        _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++) body;
#define DENSE_TILE(name, multiply_add)                                                            \
    static void name(const uint32_t *x, const uint32_t *g, int64_t deep, floats_t(*to)[ACROSS]) { \
        floats_t sum[DOWN][ACROSS];                                                               \
        EACH_SUM(sum[m][k] = (floats_t){0})                                                       \
        for (int64_t n = 0; n < deep; n++, x += COLUMNS, g += OUTPUTS) {                          \
            words_t across[ACROSS];                                                               \
            _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++)                              \
                memcpy(&across[k], g + k * FLOAT_LANES, sizeof across[k]);                        \
            _Pragma("GCC unroll 8") for (int m = 0; m < DOWN; m++) {                              \
                words_t one = (words_t){0} + x[m];                                                \
                _Pragma("GCC unroll 4") for (int k = 0; k < ACROSS; k++) sum[m][k] =              \
                    multiply_add(across[k], one, sum[m][k]);                                      \
            }                                                                                     \
        }                                                                                         \
        EACH_SUM(to[m][k] += sum[m][k])                                                           \
    }
DENSE_TILE(dense_tile, fused_add)
#ifdef pair_products
PAIRS_TARGET DENSE_TILE(dense_pairs, pair_products) static int adds_pairs(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
}
#else
#define dense_pairs dense_tile
#define adds_pairs() 0
#endif

/* Exchanges the lanes of x that have the bit `step` and those of y that lack it. */
ALWAYS void exchange(floats_t *x, floats_t *y, words_t lane, uint32_t step) {
    const words_t odd = (words_t)((lane & step) != 0);
#if defined(__AVX512F__)
    const __m512i low = (__m512i)(lane + (odd & (FLOAT_LANES - step))),
                  high = (__m512i)(lane + step + (odd & (FLOAT_LANES - step)));
    const __m512 before = (__m512)*x;
    *x = (floats_t)_mm512_permutex2var_ps(before, low, (__m512)*y);
    *y = (floats_t)_mm512_permutex2var_ps(before, high, (__m512)*y);
#else
    const __m256i other = (__m256i)(lane ^ step);
    const __m256 before = (__m256)*x;
    *x = (floats_t)_mm256_blendv_ps(before, _mm256_permutevar8x32_ps((__m256)*y, other), (__m256)odd);
    *y = (floats_t)_mm256_blendv_ps(_mm256_permutevar8x32_ps(before, other), (__m256)*y, (__m256)odd);
#endif
}

/* Row k becomes lane k of all. */
ALWAYS void transpose(floats_t *x) {
    words_t lane;
    for (int k = 0; k < FLOAT_LANES; k++) lane[k] = (uint32_t)k;
    _Pragma("GCC unroll 4") for (uint32_t step = 1; step < FLOAT_LANES; step *= 2) {
        _Pragma("GCC unroll 16") for (uint32_t k = 0; k < FLOAT_LANES; k++) if (!(k & step))
            exchange(x + k, x + k + step, lane, step);
    }
}

/* The sums of a panel of inputs, from input `i` on, and the outputs from `o` on. */
static void store_panel(const ob_dense_gradient *call, int64_t o, int64_t i, int cut,
                        floats_t (*sum)[ACROSS]) {
    const int64_t words = (call->outputs + SIGN_WORD - 1) / SIGN_WORD;
    for (int64_t k = 0; k < ACROSS; k++, o += FLOAT_LANES) {
        floats_t rows[COLUMNS];
        for (int m = 0; m < COLUMNS; m++) rows[m] = sum[m][k];
        for (int c = 0; c < COLUMNS; c += FLOAT_LANES) transpose(rows + c);
        for (int64_t m = 0; m < FLOAT_LANES && o + m < call->outputs; m++)
            for (int64_t c = 0; c < COLUMNS && i + c < call->inputs; c += FLOAT_LANES) {
                const int64_t at = (o + m) * call->inputs + i + c, left = call->inputs - i - c;
                const int64_t count = left < FLOAT_LANES ? left : FLOAT_LANES;
                if (cut) rows[c + m] = within_bound(rows[c + m], call->latent, at, count, call->bound);
                if (call->mean)
                    rows[c + m] += with_signs(call->mean[o + m], call->signs + (i + c) * words, o + m);
                store_past_cache(call->to + at, count, rows[c + m]);
            }
    }
}

/* See ob_isa. Parts share panels of inputs, then panels of outputs. */
static int64_t run_dense_gradient(const ob_dense_gradient *call, int32_t stage, int32_t part, int32_t parts) {
    const int pairs = call->pairs && adds_pairs();
    const int64_t deep = pairs ? (call->rows + 1) / 2 : call->rows, panel = deep * COLUMNS,
                  blocks = (deep + NEAR_ROWS - 1) / NEAR_ROWS;
    const int64_t across = (call->inputs + COLUMNS - 1) / COLUMNS,
                  down = (call->outputs + OUTPUTS - 1) / OUTPUTS;
    const int64_t words = across * panel + down * deep * OUTPUTS;
    if (stage == 0)
        return (words + across * blocks * COLUMNS) * 4 + across * panel * (int64_t)sizeof(input_t);
    uint32_t *x = call->scratch, *g = x + across * panel;
    input_t *lists = (input_t *)(x + words);
    int32_t *counts = (int32_t *)(lists + across * panel);
    const int64_t begin = down * part / parts, end = down * (part + 1) / parts;
    if (stage == OB_DENSE_PACK) {
        const int64_t first = across * part / parts, last = across * (part + 1) / parts;
        pack_rows(call->x, call->rows, call->inputs, call->x_bf16, pairs, COLUMNS, first, last, x);
        pack_rows(call->gradient, call->rows, call->outputs, call->gradient_bf16, pairs, OUTPUTS, begin, end,
                  g);
        for (int64_t k = first * blocks; !pairs && k < last * blocks; k++) {
            const int64_t row = deep * (k % blocks) / blocks, stop = deep * (k % blocks + 1) / blocks,
                          at = k / blocks * panel + row * COLUMNS;
            list_inputs(x + at, stop - row, lists + at, counts + k * COLUMNS);
        }
        return 0;
    }
    const int cut = call->latent && any_beyond(call->most, call->most_count, call->bound);
    for (int64_t o = begin; o < end; o++) {
        const int finite = !pairs && all_finite(g + o * deep * OUTPUTS, deep * OUTPUTS);
        for (int64_t i = 0; i < across; i++) {
            floats_t sum[COLUMNS][ACROSS] = {{{0}}};
            for (int64_t k = 0; k < blocks; k++) {
                const int64_t row = deep * k / blocks, rows = deep * (k + 1) / blocks - row,
                              at = i * panel + row * COLUMNS;
                const uint32_t *of_g = g + (o * deep + row) * OUTPUTS;
                const int32_t *count = counts + (i * blocks + k) * COLUMNS;
                const int listed = finite && *count >= 0;
                for (int m = 0; listed && m < COLUMNS; m++)
                    listed_column(lists + at + m * rows, count[m], of_g, sum[m]);
                for (int m = 0; !listed && m < COLUMNS; m += DOWN)
                    (pairs ? dense_pairs : dense_tile)(x + at + m, of_g, rows, sum + m);
            }
            store_panel(call, o * OUTPUTS, i * COLUMNS, cut, sum);
        }
    }
    _mm_sfence(); /* after stores past the caches */
    return 0;
}
