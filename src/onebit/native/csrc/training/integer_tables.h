/* Values as integers, and tables of their sums, for lookups with AVX-512.
 *
 * Values become integers: times a power of two, rounded. Where they are bfloat16, an integer has TOP_BITS and
 * a sign; where they are float32, it is divided into two such pieces, x = 2^TOP_BITS * upper + lower. A table
 * is a register: the 16 sums of four integers of a piece, each added or subtracted, and those of the next
 * four. One instruction chooses a sum of both for each of 16 outputs, another adds the two: 128 products.
 * Sums of integers are exact. */
#pragma once
#include "../dot_lut.h"
#include "rows_of_images.h"

enum {
    TOP_BITS = 13, /* four integers fit 16 bits */
    TABLE_INPUTS = 8,
    TABLE_SUMS = 32,
    NEAR_TABLES = 512 << 10 /* bytes that stay in the second-level cache */
};

/* Adds the products of the inputs of a table with the signs that `index` holds for 16 outputs. */
ALWAYS __m512i add_looked_up(__m512i sum, __m512i index, __m512i table) {
    sum = add_pairs(sum, _mm512_permutexvar_epi16(index, table), _mm512_set1_epi16(1));
    __asm__("" : "+v"(sum)); /* gcc would add in another order, which needs more registers */
    return sum;
}

/* An index of no input yet: the second half of a table begins at 16. */
#define FIRST_INDEX _mm512_set1_epi32(16 << 16)

/* With input number k of a table added, as a bit for each of 16 outputs. */
ALWAYS __m512i index_of(__m512i index, int k, __mmask16 plus) {
    return _mm512_mask_or_epi32(index, plus, index, _mm512_set1_epi32(1 << (k % 4 + k / 4 * 16)));
}

/* Whether values have the sign +1; 0 and NaN have. */
ALWAYS __mmask16 is_plus(__m512 x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLT_UQ); }

/* Rows of `channels` values, each times its scale; NULL for 1. */
typedef struct {
    const void *from;
    const float *scale;
    int64_t channels;
    int bf16;
} values_t;

/* 16 values of row number `row`, or what it has of them. */
ALWAYS __m512 some_of(const values_t *values, int64_t row, int64_t channel) {
    const __mmask16 some = first_of(values->channels - channel);
    const __m512 x = load_row(values->from, row * values->channels + channel, some, values->bf16);
    return values->scale ? _mm512_mul_ps(x, _mm512_maskz_loadu_ps(some, values->scale + channel)) : x;
}

/* The largest magnitudes of 16 values of each row, or what rows have of them, as bits. */
ALWAYS __m512i largest_of(const values_t *values, int64_t row, int64_t rows, int64_t channel) {
    __m512i most = _mm512_setzero_si512();
    for (int64_t end = row + rows; row < end; row++) {
        const __m512i x = _mm512_castps_si512(some_of(values, row, channel));
        most = _mm512_max_epu32(most, _mm512_and_si512(x, _mm512_set1_epi32(INT32_MAX)));
    }
    return most;
}

/* The powers of two that make integers of `bits` bits of values up to these; NaN if they are not finite, or
 * nearly. */
ALWAYS __m512 powers_of(__m512i largest, int bits) {
    largest = _mm512_add_epi32(largest,
                               _mm512_set1_epi32(1 << 11)); /* upper pieces do not round up to 2^TOP_BITS */
    const __m512i exponents = _mm512_sub_epi32(_mm512_set1_epi32(bits + 253), _mm512_srli_epi32(largest, 23));
    const __m512i powers = _mm512_slli_epi32(_mm512_min_epi32(exponents, _mm512_set1_epi32(253)), 23);
    const __mmask16 finite = _mm512_cmplt_epu32_mask(largest, _mm512_set1_epi32(0x7f800000));
    return _mm512_mask_mov_ps(_mm512_set1_ps(NAN), finite, _mm512_castsi512_ps(powers));
}

/* Leaves the lower pieces of integers in x, and returns the upper ones. */
ALWAYS __m512i upper_of(__m512i *x) {
    const __m512i upper =
        _mm512_srai_epi32(_mm512_add_epi32(*x, _mm512_set1_epi32(1 << (TOP_BITS - 1))), TOP_BITS);
    *x = _mm512_sub_epi32(*x, _mm512_slli_epi32(upper, TOP_BITS));
    return upper;
}

/* 32 numbers in 16 bits. */
ALWAYS __m512i shorts_of(const __m512i *x) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(x[0])),
                              _mm512_cvtepi32_epi16(x[1]), 1);
}

/* Tables of 32 pieces in 16 bits, `apart` numbers apart. */
ALWAYS void lookup_tables(__m512i x, int64_t tables, int64_t apart, int16_t *to) {
    /* where the sums -a-b, a-b, b-a, a+b of the first and the second pair (a, b) of both halves are */
    static const uint16_t first[32] = {0, 32, 33, 1, 0, 32, 33, 1, 0, 32, 33, 1, 0, 32, 33, 1,
                                       4, 36, 37, 5, 4, 36, 37, 5, 4, 36, 37, 5, 4, 36, 37, 5},
                          second[32] = {2, 2, 2, 2, 34, 34, 34, 34, 35, 35, 35, 35, 3, 3, 3, 3,
                                        6, 6, 6, 6, 38, 38, 38, 38, 39, 39, 39, 39, 7, 7, 7, 7};
    const __m512i swapped = _mm512_rol_epi32(x, 16), sum = _mm512_add_epi16(x, swapped);
    const __m512i minus = _mm512_sub_epi16(x, swapped);                                       /* a-b, b-a */
    const __m512i plus = _mm512_mask_sub_epi16(sum, 0x55555555, _mm512_setzero_si512(), sum); /* -a-b, a+b */
    for (int64_t t = 0; t < tables; t++, to += apart) {
        const __m512i begin = _mm512_set1_epi16((int16_t)(t * TABLE_INPUTS));
        const __m512i a = _mm512_add_epi16(_mm512_loadu_si512(first), begin),
                      b = _mm512_add_epi16(_mm512_loadu_si512(second), begin);
        _mm512_store_si512(to, _mm512_add_epi16(_mm512_permutex2var_epi16(plus, a, minus),
                                                _mm512_permutex2var_epi16(plus, b, minus)));
    }
}

/* A sum of products of integers: of the upper pieces, and of the lower ones if there are two. */
ALWAYS __m512 whole_sum(const int pieces, const __m512i *sums, int64_t apart) {
    const __m512 upper = _mm512_cvtepi32_ps(sums[0]);
    if (pieces == 1) return upper;
    return _mm512_fmadd_ps(upper, _mm512_set1_ps(1 << TOP_BITS), _mm512_cvtepi32_ps(sums[apart]));
}
