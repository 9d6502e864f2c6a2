/* NEON: a panel is four registers of 4 outputs each. */
#pragma once
#include <arm_neon.h>

#include "base.h"

#define TILE_ROWS 2
#define WORD_ROWS 2
#define LUT_ROWS(panels) 2
#define DOT_FOURS 1
#define DOT_SHIFT 128
#define ROW_LANES 0
#define DOT_STEPS \
    255            /* products of signed bytes with 1 and -1 are added in 16 bits, which hold 255 of -128 */
#define COUNTED 31 /* words: 31 * 8 = 248 fits a byte, 32 * 8 does not */
#define USES_NEON

/* The lowest bits of 32 flags. */
static inline uint32_t word_of(const int32_t *flags) {
    static const uint32_t places[4] = {1, 2, 4, 8};
    uint32_t word = 0;
    for (int k = 0; k < 32; k += 4)
        word |= vaddvq_u32(vmulq_u32(vreinterpretq_u32_s32(vld1q_s32(flags + k)), vld1q_u32(places))) << k;
    return word;
}
#define word_of word_of

#define QUARTERS(body) \
    _Pragma("GCC unroll 4") for (int q = 0; q < 4; q++) { body; }

typedef struct {
    uint32x4_t of[4];
} vec;
#define vec vec

ALWAYS vec vec_broadcast(uint32_t word) {
    vec x;
    QUARTERS(x.of[q] = vdupq_n_u32(word))
    return x;
}

ALWAYS vec vec_load(const void *from) {
    vec x;
    QUARTERS(x.of[q] = vld1q_u32((const uint32_t *)from + 4 * q))
    return x;
}

ALWAYS void vec_store(void *to, vec x){QUARTERS(vst1q_u32((uint32_t *)to + 4 * q, x.of[q]))}

ALWAYS vec vec_add(vec x, vec y) {
    QUARTERS(x.of[q] = vaddq_u32(x.of[q], y.of[q]))
    return x;
}

ALWAYS vec vec_xor(vec x, vec y) {
    QUARTERS(x.of[q] = veorq_u32(x.of[q], y.of[q]))
    return x;
}

/* Number of bits set in each byte. */
ALWAYS vec vec_ones(vec x) {
    QUARTERS(x.of[q] = vreinterpretq_u32_u8(vcntq_u8(vreinterpretq_u8_u32(x.of[q]))))
    return x;
}

ALWAYS vec vec_add_ones(vec x, vec y) {
    QUARTERS(x.of[q] =
                 vreinterpretq_u32_u8(vaddq_u8(vreinterpretq_u8_u32(x.of[q]), vreinterpretq_u8_u32(y.of[q]))))
    return x;
}

/* Sums of the four bytes of each lane. */
ALWAYS vec vec_lane_sums(vec x) {
    QUARTERS(x.of[q] = vpaddlq_u16(vpaddlq_u8(vreinterpretq_u8_u32(x.of[q]))))
    return x;
}

#define vec_zero() vec_broadcast(0)

#include "dot.h"

/* Lookups byte by byte: a table is stored as four planes of 16 bytes, from the lowest bytes of its entries to
 * the highest, and one instruction looks up a byte for each of 16 outputs. Bytes are added in 16 bits, the
 * highest ones signed.
 */
#define LOOKED_UP 255 /* lookups before 16 bits overflow */

typedef struct {
    uint16x8_t low[3][2]; /* outputs 0 to 7 and 8 to 15 */
    int16x8_t high[2];
} planes;

ALWAYS void look_up(planes *sum, const int32_t *table, uint8x16_t index) {
    const uint8_t *bytes = (const uint8_t *)table;
#pragma GCC unroll 3
    for (int b = 0; b < 3; b++) {
        uint8x16_t found = vqtbl1q_u8(vld1q_u8(bytes + 16 * b), index);
        sum->low[b][0] = vaddw_u8(sum->low[b][0], vget_low_u8(found));
        sum->low[b][1] = vaddw_high_u8(sum->low[b][1], found);
    }
    int8x16_t found = vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(bytes + 48), index));
    sum->high[0] = vaddw_s8(sum->high[0], vget_low_s8(found));
    sum->high[1] = vaddw_high_s8(sum->high[1], found);
}

/* Adds the sums of 16 outputs to `wide`, or to `narrow` if `wide` is NULL. */
ALWAYS void add_planes(const planes *sum, int64_t *wide, int32_t *narrow) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            int at = 8 * h + 4 * half;
#define HALF(x) (half ? vget_high_u16(x) : vget_low_u16(x))
            uint32x4_t low = vaddq_u32(vmovl_u16(HALF(sum->low[0][h])), vshll_n_u16(HALF(sum->low[1][h]), 8));
            int16x4_t top = half ? vget_high_s16(sum->high[h]) : vget_low_s16(sum->high[h]);
            int32x4_t high =
                vaddq_s32(vreinterpretq_s32_u32(vmovl_u16(HALF(sum->low[2][h]))), vshll_n_s16(top, 8));
#undef HALF
            if (wide) {
                int64x2_t first = vreinterpretq_s64_u64(vmovl_u32(vget_low_u32(low)));
                int64x2_t second = vreinterpretq_s64_u64(vmovl_high_u32(low));
                first = vaddq_s64(first, vshll_n_s32(vget_low_s32(high), 16));
                second = vaddq_s64(second, vshll_high_n_s32(high, 16));
                vst1q_s64(wide + at, vaddq_s64(vld1q_s64(wide + at), first));
                vst1q_s64(wide + at + 2, vaddq_s64(vld1q_s64(wide + at + 2), second));
            } else {
                uint32x4_t both = vaddq_u32(low, vshlq_n_u32(vreinterpretq_u32_s32(high), 16));
                vst1q_s32(narrow + at, vaddq_s32(vld1q_s32(narrow + at), vreinterpretq_s32_u32(both)));
            }
        }
}

ALWAYS void lut_fixed(const int R, const int32_t *const *tables, const segment_t *segments, int count,
                      const uint32_t *b, int64_t *wide, int64_t wide_stride, int32_t *sums, int sums_stride) {
    planes sum[2];
    int done = 0;
    memset(sum, 0, sizeof sum);
    for (int m = 0; m < R && !wide; m++) memset(sums + m * sums_stride, 0, LANES * sizeof *sums);
    for (int k = 0; k < count; k++) {
        const int32_t *table[2];
        const uint8_t *w = (const uint8_t *)(b + segments[k].b * LANES);
        for (int m = 0; m < R; m++) table[m] = tables[m] + segments[k].a;
        for (int left = segments[k].groups; left > 0; left -= LUT_GROUPS, w += 4 * LANES) {
            int groups = left < LUT_GROUPS ? left : LUT_GROUPS;
            if (done + groups > LOOKED_UP) {
                for (int m = 0; m < R; m++)
                    add_planes(&sum[m], wide ? wide + m * wide_stride : NULL, sums + m * sums_stride);
                memset(sum, 0, sizeof sum);
                done = 0;
            }
            done += groups;
            uint8x16x4_t bytes = vld4q_u8(w); /* byte n of each output's word: lookups 2n and 2n + 1 */
#pragma GCC unroll 4
            for (int n = 0; n < 4; n++) {
                if (2 * n >= groups) break;
#pragma GCC unroll 2
                for (int m = 0; m < R; m++)
                    look_up(&sum[m], table[m] + 2 * n * TABLE, vandq_u8(bytes.val[n], vdupq_n_u8(15)));
                if (2 * n + 1 >= groups) break;
#pragma GCC unroll 2
                for (int m = 0; m < R; m++)
                    look_up(&sum[m], table[m] + (2 * n + 1) * TABLE, vshrq_n_u8(bytes.val[n], 4));
            }
            for (int m = 0; m < R; m++) table[m] += LUT_GROUPS * TABLE;
        }
    }
    for (int m = 0; m < R; m++)
        add_planes(&sum[m], wide ? wide + m * wide_stride : NULL, sums + m * sums_stride);
}

/* Sums of table entries; with `wide`, added to wide[m][panel][lane]. `most` is not needed, as planes are
 * flushed anyway. */
#define lut_tile lut_tile
static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride,
                     int32_t *sums) {
    (void)most;
    for (int p = 0; p < panels; p++, b += panel) {
        int64_t *to = wide ? wide + p * LANES : NULL;
        if (rows == 1)
            lut_fixed(1, tables, segments, count, b, to, wide_stride, sums + p * LANES, panels * LANES);
        else
            lut_fixed(2, tables, segments, count, b, to, wide_stride, sums + p * LANES, panels * LANES);
    }
}

/* tables[group][index]: sums of 4 channels, added where their bit of the index is 1, else subtracted; stored
 * as planes. */
static void lut_tables(const int32_t *x, int channels, int32_t *tables) {
    static const int32_t signs[4] = {-1, 1, -1, 1}, next[4] = {-1, -1, 1, 1};
    for (int c = 0; c < channels; c += LUT_INPUTS, tables += TABLE) {
        int32_t v[LUT_INPUTS] = {0};
        for (int k = 0; k < LUT_INPUTS && c + k < channels; k++) v[k] = x[c + k];
        int32x4_t third = vdupq_n_s32(v[2]),
                  fourth = vdupq_n_s32(v[3]); /* vectors wrap around, as scalars may not */
        int32x4_t pair = vmlaq_n_s32(vmulq_n_s32(vld1q_s32(signs), v[0]), vld1q_s32(next), v[1]);
        int32x4_t plus = vaddq_s32(third, fourth), minus = vsubq_s32(third, fourth);
        uint16x8_t s0 = vreinterpretq_u16_s32(vsubq_s32(pair, plus)),
                   s1 = vreinterpretq_u16_s32(vaddq_s32(pair, minus));
        uint16x8_t s2 = vreinterpretq_u16_s32(vsubq_s32(pair, minus)),
                   s3 = vreinterpretq_u16_s32(vaddq_s32(pair, plus));
        uint8x16_t low01 = vreinterpretq_u8_u16(vuzp1q_u16(s0, s1)),
                   low23 = vreinterpretq_u8_u16(vuzp1q_u16(s2, s3));
        uint8x16_t high01 = vreinterpretq_u8_u16(vuzp2q_u16(s0, s1)),
                   high23 = vreinterpretq_u8_u16(vuzp2q_u16(s2, s3));
        uint8_t *bytes = (uint8_t *)tables;
        vst1q_u8(bytes, vuzp1q_u8(low01, low23));
        vst1q_u8(bytes + 16, vuzp2q_u8(low01, low23));
        vst1q_u8(bytes + 32, vuzp1q_u8(high01, high23));
        vst1q_u8(bytes + 48, vuzp2q_u8(high01, high23));
    }
}

#define expand_fours expand_fours
static void expand_fours(const uint8_t *bits, int64_t fours, int8_t *to) {
    const uint8x16_t byte_of = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    const uint8x16_t places = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (int64_t k = 0; k < 4 * fours; k++, to += 16) {
        uint16_t word;
        memcpy(&word, bits + k / 4 * DOT_BYTES + k % 4 * 2, 2);
        uint8x16_t set = vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_u16(vdupq_n_u16(word)), byte_of), places);
        vst1q_s8(to, vreinterpretq_s8_u8(vorrq_u8(vmvnq_u8(set), vdupq_n_u8(1))));
    }
}

/* Adds the four products of each of 16 outputs, and clears them. */
ALWAYS void add_parts(int16x8_t *part, int32_t *sums) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        int32x4_t fours = vpaddq_s32(vpaddlq_s16(part[2 * q]), vpaddlq_s16(part[2 * q + 1]));
        vst1q_s32(sums + 4 * q, vaddq_s32(vld1q_s32(sums + 4 * q), fours));
        part[2 * q] = part[2 * q + 1] = vdupq_n_s16(0);
    }
}

ALWAYS void dot_fixed(const int R, const uint8_t *const *a, const segment_t *segments, int count,
                      const int8_t *b, int32_t *sums, int stride) {
    int16x8_t part[2][8];
    int room = DOT_STEPS;
    memset(part, 0, sizeof part);
    for (int m = 0; m < R; m++) memset(sums + m * stride, 0, LANES * sizeof *sums);
    for (int k = 0; k < count; k++) {
        const int8_t *w = b + segments[k].b * LANES * 4;
        int64_t at = segments[k].a;
        for (int left = segments[k].words; left > 0;) {
            int steps = left < room ? left : room;
            left -= steps, room -= steps;
            for (; steps; steps--, at += 4, w += LANES * 4) {
                int8x8_t x[2];
#pragma GCC unroll 2
                for (int m = 0; m < R; m++) {
                    uint32_t four;
                    memcpy(&four, a[m] + at, 4);
                    x[m] = vreinterpret_s8_u32(vdup_n_u32(four ^ 0x80808080u));
                }
#pragma GCC unroll 8
                for (int q = 0; q < 8; q++)
#pragma GCC unroll 2
                    for (int m = 0; m < R; m++) part[m][q] = vmlal_s8(part[m][q], x[m], vld1_s8(w + 8 * q));
            }
            if (room) continue;
            room = DOT_STEPS;
#pragma GCC unroll 2
            for (int m = 0; m < R; m++) add_parts(part[m], sums + m * stride);
        }
    }
#pragma GCC unroll 2
    for (int m = 0; m < R; m++) add_parts(part[m], sums + m * stride);
}

#define dot_tile dot_tile
static void dot_tile(int rows, int panels, const uint8_t *const *a, const segment_t *segments, int count,
                     const int8_t *b, int64_t panel, int32_t *sums) {
    for (int many; rows > 0; rows -= many, a += many, sums += many * panels * LANES) {
        many = rows > 1 ? 2 : 1;
        for (int p = 0; p < panels; p++)
            if (many == 2)
                dot_fixed(2, a, segments, count, b + p * panel, sums + p * LANES, panels * LANES);
            else
                dot_fixed(1, a, segments, count, b + p * panel, sums + p * LANES, panels * LANES);
    }
}
