/* AVX-512: a panel is one register of 16 outputs. Files that are compiled for VPOPCNTDQ and VNNI use
 * them to count bits and to add products of bytes. */
#pragma once
#include <immintrin.h>

#include "base.h"

#define LANES 16
#define LUT_INPUTS 4
#define LUT_GROUPS 8
#define TILE_ROWS 8
#define TILE_PANELS 4
#define WORD_ROWS 4
#define LUT_ROWS(panels) ((panels) < 2 ? 8 : 4)
#define DOT_ROWS 24
#define DOT_FOURS 1
#ifndef BYTE_TILES /* amx.h has tiles in place of these */
#define DOT_FEW 8
#define DOT_LUT 32
#endif
#define ROW_LANES 0

/* The first lanes of 16, as many as `count`. */
static inline __mmask16 first_of(int64_t count) {
    return count >= 16 ? 0xffff : count > 0 ? (__mmask16)((1u << count) - 1) : 0;
}

/* The lowest bits of 32 flags. */
static inline uint32_t word_of(const int32_t *flags) {
    const __m512i one = _mm512_set1_epi32(1);
    uint32_t low = _mm512_test_epi32_mask(_mm512_loadu_si512(flags), one);
    return low | (uint32_t)_mm512_test_epi32_mask(_mm512_loadu_si512(flags + 16), one) << 16;
}
#define word_of word_of

#define WIDE 8
typedef __m512d wide;
#define wide_load(from) _mm512_loadu_pd(from)
#define wide_all(x) _mm512_set1_pd(x)
#define wide_ints(from) _mm512_cvtepi32_pd(_mm256_loadu_si256((const __m256i *)(from)))
#define wide_bytes(from) _mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from))))
#define wide_add_product(sum, x, y) _mm512_fmadd_pd(x, y, sum)

ALWAYS __m256i wide_whole(__m512d x, __m512d least, __m512d most) {
    __m512d near = _mm512_min_pd(_mm512_max_pd(x, least), most);
    return _mm512_cvt_roundpd_epi32(near, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
#define wide_floor(to, x, least, most) _mm256_storeu_si256((__m256i *)(to), wide_whole(x, least, most))

ALWAYS void wide_floor_bytes(uint8_t *to, __m512d x, __m512d least, __m512d most, int zero) {
    __m128i bytes = _mm256_cvtepi32_epi8(wide_whole(x, least, most));
    _mm_storel_epi64((__m128i *)to, _mm_add_epi8(bytes, _mm_set1_epi8((char)zero)));
}

/* Adds 16 int32 sums to 16 int64 ones. */
ALWAYS void widen(int64_t *wide, __m512i sum) {
    __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum));
    __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1));
    _mm512_storeu_si512(wide, _mm512_add_epi64(_mm512_loadu_si512(wide), low));
    _mm512_storeu_si512(wide + 8, _mm512_add_epi64(_mm512_loadu_si512(wide + 8), high));
}

typedef __m512i vec;
#define vec vec
#define vec_zero() _mm512_setzero_si512()
#define vec_load(from) _mm512_loadu_si512(from)
#define vec_store(to, x) _mm512_storeu_si512(to, x)
#define vec_add(x, y) _mm512_add_epi32(x, y)
#define vec_shift(x, bits) _mm512_srli_epi32(x, bits)
#define vec_choose(table, index) _mm512_permutexvar_epi32(index, table)
#define vec_broadcast(word) _mm512_set1_epi32((int)(word))
#define vec_xor(x, y) _mm512_xor_si512(x, y)
#ifdef __AVX512VPOPCNTDQ__
#define vec_ones(x) _mm512_popcnt_epi32(x)
#define vec_add_ones(x, y) _mm512_add_epi32(x, y)
#else
#define vec_ones(x) byte_ones(x)
#define vec_add_ones(x, y) _mm512_add_epi8(x, y)
#define vec_lane_sums(x) lane_sums(x)
#define vec_three(x, y, z, table) _mm512_ternarylogic_epi32(x, y, z, table)
#define COUNTED 31 /* words: 31 * 8 = 248 fits a byte, 32 * 8 does not */

/* Number of bits set in each byte. */
ALWAYS __m512i byte_ones(__m512i x) {
    const __m512i counts =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(counts, _mm512_and_si512(x, nibble));
    __m512i high = _mm512_shuffle_epi8(counts, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble));
    return _mm512_add_epi8(low, high);
}

/* Sums of the four bytes of each lane. */
ALWAYS __m512i lane_sums(__m512i bytes) {
    return _mm512_madd_epi16(_mm512_maddubs_epi16(bytes, _mm512_set1_epi8(1)), _mm512_set1_epi16(1));
}
#endif
#ifdef __AVX512VNNI__
#define vec_dot(sum, x, w) _mm512_dpbusd_epi32(sum, x, w)
#define vec_lanes(sum) sum
#define DOT_STEPS INT32_MAX
#else
#define vec_dot(sum, x, w) _mm512_add_epi16(sum, _mm512_maddubs_epi16(x, w))
#define vec_lanes(sum) _mm512_madd_epi16(sum, _mm512_set1_epi16(1))
#define DOT_STEPS 64 /* 64 * 2 * 255 fits 16 bits */
#endif
#define DOT_REGISTERS(panels) ((panels) < 2 ? 8 : 6)

#include "dot.h"

#define expand_fours expand_fours
static void expand_fours(const uint8_t *bits, int64_t fours, int8_t *to) {
    const __m512i one = _mm512_set1_epi8(1);
    for (int64_t n = 0; n < fours; n++, bits += DOT_BYTES, to += 64) {
        uint64_t word;
        memcpy(&word, bits, 8);
        _mm512_storeu_si512(to, _mm512_mask_blend_epi8(word, _mm512_set1_epi8(-1), one));
    }
}

/* The table of up to 4 channels, added where their bit of the index is 1, else subtracted. */
ALWAYS __m512i table_of(const int32_t *x, int channels) {
    static const __mmask16 chosen[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
    __m512i sum = _mm512_setzero_si512();
    for (int k = 0; k < channels; k++) {
        __m512i value = _mm512_set1_epi32(x[k]);
        sum = _mm512_mask_sub_epi32(_mm512_add_epi32(sum, value), (__mmask16)~chosen[k], sum, value);
    }
    return sum;
}

/* tables[group][index] for groups of 4 channels. */
static void lut_tables(const int32_t *x, int channels, int32_t *tables) {
    int c = 0;
    /* four groups at once: the four sums -a-b, a-b, b-a, a+b of each pair (a, b), then all sums of two pairs
     */
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m512i high = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i zero = _mm512_setzero_si512();
    for (; c + 16 <= channels; c += 16, tables += 4 * TABLE) {
        __m512i v = _mm512_loadu_si512(x + c);
        __m512i swapped = _mm512_shuffle_epi32(v, _MM_PERM_CDAB);
        __m512i plus = _mm512_add_epi32(v, swapped);                  /* a+b, a+b, c+d, c+d */
        __m512i minus = _mm512_sub_epi32(v, swapped);                 /* a-b, b-a, c-d, d-c */
        __m512i mixed = _mm512_mask_blend_epi32(0xaaaa, minus, plus); /* a-b, a+b, c-d, c+d */
        __m512i negated = _mm512_sub_epi32(zero, mixed);
        /* -(a+b), a-b, -(a-b), a+b of the lower pair; the same for c and d */
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
