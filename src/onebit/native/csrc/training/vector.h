/* Vectors of GNU C that the kernels of a training step and of a language model share: FLOAT_LANES float32 in
 * the widest registers. */
#pragma once
#include "../base.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define FLOAT_LANES 16
#elif defined(__AVX2__)
#define FLOAT_LANES 8
#else
#define FLOAT_LANES 4
#endif

typedef float floats_t __attribute__((vector_size(4 * FLOAT_LANES)));
typedef uint32_t words_t __attribute__((vector_size(4 * FLOAT_LANES)));
typedef int32_t ints_t __attribute__((vector_size(4 * FLOAT_LANES)));
/* As many 16-bit numbers as floats_t has float32. */
typedef int16_t shorts_t __attribute__((vector_size(2 * FLOAT_LANES)));
typedef uint16_t halves_t __attribute__((vector_size(2 * FLOAT_LANES)));

ALWAYS floats_t magnitude(floats_t x) { return (floats_t)((words_t)x & 0x7fffffffu); }

/* x, and y where the bits of `where` are 1. */
ALWAYS floats_t chosen(floats_t x, words_t where, floats_t y) {
    return (floats_t)(((words_t)x & ~where) | ((words_t)y & where));
}

/* Comparisons with NaN are false: so it stays NaN as a value, and as a bound it bounds nothing. */
ALWAYS floats_t bounded(floats_t x, float least, float most) {
    floats_t none = {0}, lower = none + least, upper = none + most;
    words_t below = (words_t)(x <= lower), above = (words_t)(x >= upper);
    return (floats_t)(((words_t)x & ~(below | above)) | ((words_t)lower & below) | ((words_t)upper & above));
}

/* The bits of the nearest bfloat16, ties to even, in the upper half. NaN stays NaN: the lower half of every
 * NaN is 0 here, as values of bfloat16 and the numbers of `broadcast` are the only ones that it can come
 * from. */
ALWAYS words_t nearest_bf16(floats_t x) {
    words_t bits = (words_t)x;
    return (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
}

/* The first `count` of FLOAT_LANES values; whole registers do not go through memory. */
ALWAYS void copy_some(void *to, const void *from, int64_t count, int size) {
    if (count == FLOAT_LANES)
        memcpy(to, from, (size_t)FLOAT_LANES * size);
    else
        memcpy(to, from, (size_t)count * size);
}

/* `count` values in the order of memory, as float32 latents beside them, with 0 behind them; `load_values`
 * takes the even and the odd ones of bfloat16 apart. */
ALWAYS floats_t load_ordered(const void *from, int64_t i, int64_t count, int bf16) {
    floats_t values = {0};
    halves_t upper = {0};
    if (!bf16) {
        copy_some(&values, (const float *)from + i, count, 4);
        return values;
    }
    copy_some(&upper, (const uint16_t *)from + i, count, 2);
    return (floats_t)(__builtin_convertvector(upper, words_t) << 16);
}

ALWAYS void store_ordered(void *to, int64_t i, int64_t count, floats_t x, int bf16) {
    if (!bf16) {
        copy_some((float *)to + i, &x, count, 4);
        return;
    }
    halves_t upper = __builtin_convertvector(nearest_bf16(x) >> 16, halves_t);
    copy_some((uint16_t *)to + i, &upper, count, 2);
}

/* exp(-size) of a size that is not negative, to some units of the last place; 0 from 87 on. */
ALWAYS floats_t decay(floats_t size) {
    const float rounds =
        12582912; /* 1.5 * 2^23: what is added to it becomes a whole number, in the lowest bits */
    words_t in = ~(words_t)(size >= 87);
    floats_t y = -(floats_t)((words_t)size & in);
    floats_t k = y * 1.44269504088896341f + rounds, n = k - rounds;
    floats_t r = y - n * 0.693359375f + n * 2.12194440e-4f, p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    return (floats_t)((words_t)(p * (floats_t)(((words_t)k + (127 - 0x4b400000u)) << 23)) & in);
}

#if defined(__AVX512F__)
#define fused_add(x, y, sum) (floats_t) _mm512_fmadd_ps((__m512)(x), (__m512)(y), (__m512)(sum))
#elif defined(__AVX2__)
#define fused_add(x, y, sum) (floats_t) _mm256_fmadd_ps((__m256)(x), (__m256)(y), (__m256)(sum))
#endif
