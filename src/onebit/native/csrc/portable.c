/* Kernels in plain C11, for every processor. */
#include <stdint.h>
#include <string.h>

#define LANES 16
#define LUT_INPUTS 4
#define LUT_GROUPS 8
#define TABLE 16
#define TILE_ROWS 4
#define TILE_PANELS 2
#define WORD_ROWS 4
#define LUT_ROWS(panels) 4
#define DOT_FOURS 0 /* uses lookups instead */
#define DOT_SHIFT 0

static inline uint32_t word_of(const int32_t *flags) {
    uint32_t word = 0;
    for (int k = 0; k < 32; k++) word |= (uint32_t)(flags[k] & 1) << k;
    return word;
}

#ifdef __GNUC__
#define ALWAYS static inline __attribute__((always_inline))
#define ROW_LANES 8
#define ROW_LOG 5
#define ROW_BITS 4
#define ROW_LEAST 2
#endif

#include "kernels.h"
#include "../plain/tables.h"

static void words_tile(int rows, int panels, const uint32_t *const *a, const segment_t *segments, int count,
                       const uint32_t *b, int64_t panel, int32_t *sums) {
    for (int m = 0; m < rows; m++)
        for (int p = 0; p < panels; p++, sums += LANES) {
            uint32_t differing[LANES] = {0};
            for (int k = 0; k < count; k++) {
                const uint32_t *x = a[m] + segments[k].a, *w = b + p * panel + segments[k].b * LANES;
                for (int n = 0; n < segments[k].words; n++, w += LANES)
                    for (int l = 0; l < LANES; l++) differing[l] += ones(x[n] ^ w[l]);
            }
            for (int l = 0; l < LANES; l++) sums[l] = (int32_t)differing[l];
        }
}

static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride, int32_t *sums) {
    for (int m = 0; m < rows; m++)
        for (int p = 0; p < panels; p++) {
            int32_t sum[LANES] = {0};
            int done = 0;
            for (int k = 0; k < count; k++) {
                const int32_t *table = tables[m] + segments[k].a;
                const uint32_t *w = b + p * panel + segments[k].b * LANES;
                for (int left = segments[k].groups; left > 0; left -= LUT_GROUPS, w += LANES) {
                    int groups = left < LUT_GROUPS ? left : LUT_GROUPS;
                    if ((done += groups) > most) {
                        for (int l = 0; l < LANES; l++) wide[m * wide_stride + p * LANES + l] += sum[l], sum[l] = 0;
                        done = groups;
                    }
                    for (int g = 0; g < groups; g++, table += TABLE)
                        for (int l = 0; l < LANES; l++) sum[l] += table[w[l] >> 4 * g & 15];
                }
            }
            for (int l = 0; l < LANES; l++)
                if (wide)
                    wide[m * wide_stride + p * LANES + l] += sum[l];
                else
                    sums[(m * panels + p) * LANES + l] = sum[l];
        }
}

#include "engine.h"

const ob_isa ob_portable = ISA("portable");
