/* Kernels for x86-64 with AVX-512 and VPOPCNTDQ: a panel is one register of 16 outputs. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define LUT_INPUTS 4
#define LUT_GROUPS 8
#define TABLE 16
#define TILE_ROWS 8
#define TILE_PANELS 4
#define XNOR_ROWS 4
#define LUT_ROWS(panels) ((panels) < 2 ? 8 : 4)

#include "engine.h"

#define ALWAYS static inline __attribute__((always_inline))

/* Accumulators stay in registers only where every loop over them is unrolled. */
ALWAYS void xnor_fixed(const int R, const int P, const uint32_t *const *a, const segment_t *segments, int count,
                       const uint32_t *b, int64_t panel, int32_t *sums) {
    __m512i differing[4][4];
#pragma GCC unroll 4
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) differing[m][p] = _mm512_setzero_si512();
    for (int k = 0; k < count; k++) {
        const int64_t begin = segments[k].a;
        const uint32_t *w = b + segments[k].b * LANES;
        for (int n = 0; n < segments[k].words; n++, w += LANES) {
            __m512i weights[4];
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) weights[p] = _mm512_loadu_si512(w + p * panel);
#pragma GCC unroll 4
            for (int m = 0; m < R; m++) {
                __m512i x = _mm512_set1_epi32((int)a[m][begin + n]);
#pragma GCC unroll 4
                for (int p = 0; p < P; p++)
                    differing[m][p] =
                        _mm512_add_epi32(differing[m][p], _mm512_popcnt_epi32(_mm512_xor_si512(x, weights[p])));
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) _mm512_storeu_si512(sums + (m * P + p) * LANES, differing[m][p]);
}

#define CASE(R, P)                                             \
    case 8 * R + P:                                            \
        xnor_fixed(R, P, a, segments, count, b, panel, sums);  \
        break;

/* sums[m][panel][lane]: bits in which row m and that row of weights differ. */
static void xnor_tile(int rows, int panels, const uint32_t *const *a, const segment_t *segments, int count,
                      const uint32_t *b, int64_t panel, int32_t *sums) {
    switch (8 * rows + panels) {
        CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4)
        CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4)
        CASE(4, 1) CASE(4, 2) CASE(4, 3) CASE(4, 4)
    }
}
#undef CASE

/* Adds 16 sums to 16 wide ones. */
ALWAYS void widen(int64_t *wide, __m512i sum) {
    __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum));
    __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1));
    _mm512_storeu_si512(wide, _mm512_add_epi64(_mm512_loadu_si512(wide), low));
    _mm512_storeu_si512(wide + 8, _mm512_add_epi64(_mm512_loadu_si512(wide + 8), high));
}

typedef __m512i vec;
#define vec_zero() _mm512_setzero_si512()
#define vec_load(from) _mm512_loadu_si512(from)
#define vec_store(to, x) _mm512_storeu_si512(to, x)
#define vec_add(x, y) _mm512_add_epi32(x, y)
#define vec_shift(x, bits) _mm512_srli_epi32(x, bits)
#define vec_choose(table, index) _mm512_permutexvar_epi32(index, table)
#include "lookups.h"

#define CASE(R, P)                                                                               \
    case 8 * R + P:                                                                              \
        lut_fixed(R, P, tables, segments, count, b, panel, most, wide, wide_stride, sums);       \
        break;

/* Sums of table entries. With `wide`, added to wide[m][panel][lane], after at most `most` lookups each time. */
static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride, int32_t *sums) {
    switch (8 * rows + panels) {
        CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4)
        CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4)
        CASE(4, 1) CASE(4, 2) CASE(4, 3) CASE(4, 4)
        CASE(8, 1)
    }
}
#undef CASE

/* The table of 4 channels at most: each added where its bit of the index is 1, else taken away. */
ALWAYS __m512i table_of(const int32_t *x, int channels) {
    static const __mmask16 chosen[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
    __m512i sum = _mm512_setzero_si512();
    for (int k = 0; k < channels; k++) {
        __m512i value = _mm512_set1_epi32(x[k]);
        sum = _mm512_mask_sub_epi32(_mm512_add_epi32(sum, value), (__mmask16)~chosen[k], sum, value);
    }
    return sum;
}

/* tables[group][index] of groups of 4 channels. */
static void lut_tables(const int32_t *x, int channels, int32_t *tables) {
    int c = 0;
    /* four groups at once: of each pair (a, b) the four sums -a-b, a-b, b-a, a+b, then each of them with each of the
     * next pair's */
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m512i high = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i zero = _mm512_setzero_si512();
    for (; c + 16 <= channels; c += 16, tables += 4 * TABLE) {
        __m512i v = _mm512_loadu_si512(x + c);
        __m512i swapped = _mm512_shuffle_epi32(v, _MM_PERM_CDAB);
        __m512i plus = _mm512_add_epi32(v, swapped);  /* a+b, a+b, c+d, c+d */
        __m512i minus = _mm512_sub_epi32(v, swapped); /* a-b, b-a, c-d, d-c */
        __m512i mixed = _mm512_mask_blend_epi32(0xaaaa, minus, plus); /* a-b, a+b, c-d, c+d */
        __m512i negated = _mm512_sub_epi32(zero, mixed);
        /* -(a+b), a-b, -(a-b), a+b: the lower pair; the same of c and d */
        __m512i first = _mm512_mask_blend_epi32(0xaaaa, _mm512_shuffle_epi32(negated, 0x01),
                                                _mm512_shuffle_epi32(mixed, 0x40));
        __m512i second = _mm512_mask_blend_epi32(0xaaaa, _mm512_shuffle_epi32(negated, 0x23),
                                                 _mm512_shuffle_epi32(mixed, 0xc8));
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            __m512i begin = _mm512_set1_epi32(4 * g);
            __m512i a = _mm512_permutexvar_epi32(_mm512_add_epi32(low, begin), first);
            __m512i b = _mm512_permutexvar_epi32(_mm512_add_epi32(high, begin), second);
            _mm512_storeu_si512(tables + g * TABLE, _mm512_add_epi32(a, b));
        }
    }
    for (; c < channels; c += LUT_INPUTS, tables += TABLE)
        _mm512_storeu_si512(tables, table_of(x + c, channels - c < LUT_INPUTS ? channels - c : LUT_INPUTS));
}

const ob_isa ob_avx512 = {"avx512", LANES, LUT_INPUTS, LUT_GROUPS, TILE_ROWS, DENSE_WORDS, run_plan};
