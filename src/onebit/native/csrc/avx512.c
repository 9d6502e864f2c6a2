/* Kernels for x86-64 with AVX-512 and VPOPCNTDQ: a panel is one register of 16 outputs. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define LUT_INPUTS 4
#define LUT_GROUPS 8
#define TABLE 16
#define TILE_ROWS 4
#define TILE_PANELS 4

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

ALWAYS void lut_fixed(const int R, const int P, const int32_t *const *tables, const segment_t *segments, int count,
                      const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride, int32_t *sums) {
    __m512i sum[4][4];
    int words = 0;
#pragma GCC unroll 4
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) sum[m][p] = _mm512_setzero_si512();
    for (int k = 0; k < count; k++) {
        const int32_t *table[4];
        const uint32_t *w = b + segments[k].b * LANES;
#pragma GCC unroll 4
        for (int m = 0; m < R; m++) table[m] = tables[m] + segments[k].a;
        for (int left = segments[k].groups; left > 0; left -= LUT_GROUPS, w += LANES) {
            if (words++ == most) {
#pragma GCC unroll 4
                for (int m = 0; m < R; m++)
#pragma GCC unroll 4
                    for (int p = 0; p < P; p++) {
                        widen(wide + m * wide_stride + p * LANES, sum[m][p]);
                        sum[m][p] = _mm512_setzero_si512();
                    }
                words = 1;
            }
            __m512i index[4]; /* the lowest 4 bits of each lane choose */
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) index[p] = _mm512_loadu_si512(w + p * panel);
            int groups = left < LUT_GROUPS ? left : LUT_GROUPS;
#pragma GCC unroll 1
            for (int g = 0; g < groups; g++) {
#pragma GCC unroll 4
                for (int m = 0; m < R; m++) {
                    __m512i entries = _mm512_loadu_si512(table[m]);
                    table[m] += TABLE;
#pragma GCC unroll 4
                    for (int p = 0; p < P; p++)
                        sum[m][p] = _mm512_add_epi32(sum[m][p], _mm512_permutexvar_epi32(index[p], entries));
                }
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) index[p] = _mm512_srli_epi32(index[p], 4);
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < R; m++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++)
            if (wide)
                widen(wide + m * wide_stride + p * LANES, sum[m][p]);
            else
                _mm512_storeu_si512(sums + (m * P + p) * LANES, sum[m][p]);
}

#define CASE(R, P)                                                                               \
    case 8 * R + P:                                                                              \
        lut_fixed(R, P, tables, segments, count, b, panel, most, wide, wide_stride, sums);       \
        break;

/* Sums of table entries. With `wide`, added to wide[m][panel][lane], after at most `most` words each time. */
static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride, int32_t *sums) {
    switch (8 * rows + panels) {
        CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4)
        CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4)
        CASE(4, 1) CASE(4, 2) CASE(4, 3) CASE(4, 4)
    }
}
#undef CASE

/* tables[group][index]: the sum of 4 channels, each added where its bit of the index is 1, else taken away. */
static void lut_tables(const int32_t *x, int channels, int32_t *tables) {
    for (int c = 0; c < channels; c += LUT_INPUTS, tables += TABLE) {
        int left = channels - c;
        __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int k = 0; k < LUT_INPUTS; k++) {
            static const __mmask16 chosen[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
            if (k >= left) break;
            __m512i value = _mm512_set1_epi32(x[c + k]);
            sum = _mm512_mask_sub_epi32(_mm512_add_epi32(sum, value), (__mmask16)~chosen[k], sum, value);
        }
        _mm512_storeu_si512(tables, sum);
    }
}

const ob_isa ob_avx512 = {"avx512", LANES, LUT_INPUTS, LUT_GROUPS, TILE_ROWS, DENSE_WORDS, run_plan};
