/* A float32 as three bfloat16 whose sum it is, or as its sign, for products in the tile registers of AMX. */
#pragma once
#include "../amx.h"
#include "rows_of_images.h"

enum { PIECES = 3 };

/* Each in the upper half of a word. What is not finite is the first. */
ALWAYS void split(__m512 x, __m512i *to) {
    const __mmask16 finite = (__mmask16)~_mm512_fpclass_ps_mask(x, 0x99); /* not infinite, not NaN */
    for (int k = 0; k < PIECES; k++) {
        to[k] = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000));
        x = _mm512_maskz_sub_ps(finite, x, _mm512_castsi512_ps(to[k]));
    }
}

/* The signs of values in the upper half of a word. */
ALWAYS __m512i sign_of(__m512 x) {
    const __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mov_epi32(_mm512_set1_epi32(0x3f800000), below, _mm512_set1_epi32((int)0xbf800000));
}
