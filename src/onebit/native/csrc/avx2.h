/* AVX2: a panel is one register of 8 outputs. Files that are compiled for AVX-VNNI use it to add products of
 * bytes. */
#pragma once
#include <immintrin.h>

#include "base.h"

#define LANES 8
#define LUT_INPUTS 3
#define LUT_GROUPS 10
#define TILE_ROWS 4
#define TILE_PANELS 4
#define WORD_ROWS 2
#define LUT_ROWS(panels) ((panels) < 3 ? 4 : 2)
#define ROW_LANES 16
#define ROW_BITS 5
#define ROW_LEAST 10
#define DOT_ROWS 16
#define DOT_FOURS 1
#define DOT_FEW 16

/* The lowest bits of 32 flags. */
static inline uint32_t word_of(const int32_t *flags) {
    uint32_t word = 0;
    for (int k = 0; k < 32; k += 8) {
        __m256i highest = _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(flags + k)), 31);
        word |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(highest)) << k;
    }
    return word;
}
#define word_of word_of

#define WIDE 4
typedef __m256d wide;
#define wide_load(from) _mm256_loadu_pd(from)
#define wide_all(x) _mm256_set1_pd(x)
#define wide_ints(from) _mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)(from)))
#define wide_add_product(sum, x, y) _mm256_fmadd_pd(x, y, sum)

ALWAYS __m256d wide_bytes(const uint8_t *from) {
    int32_t four;
    memcpy(&four, from, 4);
    return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four)));
}

ALWAYS __m128i wide_whole(__m256d x, __m256d least, __m256d most) {
    return _mm256_cvttpd_epi32(_mm256_floor_pd(_mm256_min_pd(_mm256_max_pd(x, least), most)));
}
#define wide_floor(to, x, least, most) _mm_storeu_si128((__m128i *)(to), wide_whole(x, least, most))

ALWAYS void wide_floor_bytes(uint8_t *to, __m256d x, __m256d least, __m256d most, int zero) {
    __m128i whole = _mm_add_epi32(wide_whole(x, least, most), _mm_set1_epi32(zero));
    int32_t four = _mm_cvtsi128_si32(_mm_shuffle_epi8(whole, _mm_set1_epi32(0x0c080400)));
    memcpy(to, &four, 4);
}

/* Number of bits set in each byte. */
ALWAYS __m256i byte_ones(__m256i x) {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2,
                                            2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_shuffle_epi8(counts, _mm256_and_si256(x, nibble));
    __m256i high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
    return _mm256_add_epi8(low, high);
}

/* Sums of the four bytes of each lane. */
ALWAYS __m256i lane_sums(__m256i bytes) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
}

/* Adds 8 int32 sums to 8 int64 ones. */
ALWAYS void widen(int64_t *wide, __m256i sum) {
    __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sum));
    __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sum, 1));
    __m256i *to = (__m256i *)wide;
    _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), low));
    _mm256_storeu_si256(to + 1, _mm256_add_epi64(_mm256_loadu_si256(to + 1), high));
}

typedef __m256i vec;
#define vec vec
#define vec_zero() _mm256_setzero_si256()
#define vec_load(from) _mm256_loadu_si256((const __m256i *)(from))
#define vec_store(to, x) _mm256_storeu_si256((__m256i *)(to), x)
#define vec_add(x, y) _mm256_add_epi32(x, y)
#define vec_shift(x, bits) _mm256_srli_epi32(x, bits)
#define vec_choose(table, index) _mm256_permutevar8x32_epi32(table, index)
#define vec_broadcast(word) _mm256_set1_epi32((int)(word))
#define vec_xor(x, y) _mm256_xor_si256(x, y)
#define vec_ones(x) byte_ones(x)
#define vec_add_ones(x, y) _mm256_add_epi8(x, y)
#define vec_lane_sums(x) lane_sums(x)
#define COUNTED 31 /* words: 31 * 8 = 248 fits a byte, 32 * 8 does not */
#ifdef __AVXVNNI__
#define vec_dot(sum, x, w) _mm256_dpbusd_avx_epi32(sum, x, w)
#define vec_lanes(sum) sum
#define DOT_STEPS INT32_MAX
#else
#define vec_dot(sum, x, w) _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, w))
#define vec_lanes(sum) _mm256_madd_epi16(sum, _mm256_set1_epi16(1))
#define DOT_STEPS 64 /* 64 * 2 * 255 fits 16 bits */
#endif
#define DOT_REGISTERS(panels) ((panels) < 3 ? 4 : 2)

#include "dot.h"

#define expand_fours expand_fours
static void expand_fours(const uint8_t *bits, int64_t fours, int8_t *to) {
    const __m256i places = _mm256_set1_epi64x((int64_t)0x8040201008040201u), one = _mm256_set1_epi8(1);
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2,
                                             2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    for (int64_t n = 0; n < fours; n++, bits += DOT_BYTES, to += 32) {
        int32_t word;
        memcpy(&word, bits, 4);
        __m256i chosen = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), byte_of), places);
        __m256i negative = _mm256_cmpeq_epi8(chosen, _mm256_setzero_si256()); /* -1 where the bit is 0 */
        _mm256_storeu_si256((__m256i *)to, _mm256_or_si256(negative, one));
    }
}

/* tables[group][index]: sums of 3 channels, added where their bit of the index is 1, else subtracted. */
static void lut_tables(const int32_t *x, int channels, int32_t *tables) {
    const __m256i turn[3] = {_mm256_setr_epi32(-1, 1, -1, 1, -1, 1, -1, 1),
                             _mm256_setr_epi32(-1, -1, 1, 1, -1, -1, 1, 1),
                             _mm256_setr_epi32(-1, -1, -1, -1, 1, 1, 1, 1)};
    for (int c = 0; c < channels; c += LUT_INPUTS, tables += TABLE) {
        int left = channels - c;
        __m256i sum = _mm256_setzero_si256();
        for (int k = 0; k < LUT_INPUTS && k < left; k++)
            sum = _mm256_add_epi32(sum, _mm256_sign_epi32(_mm256_set1_epi32(x[c + k]), turn[k]));
        _mm256_storeu_si256((__m256i *)tables, sum);
    }
}
