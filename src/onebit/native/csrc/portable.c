/* Kernels in plain C11, for every processor: all but the tiles are the portable meaning of isa.h. */
#include "matmul.h"

#define words_tile words_tile
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

#define lut_tile lut_tile
static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride,
                     int32_t *sums) {
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
                        for (int l = 0; l < LANES; l++)
                            wide[m * wide_stride + p * LANES + l] += sum[l], sum[l] = 0;
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
