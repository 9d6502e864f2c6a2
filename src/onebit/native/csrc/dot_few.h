/* Dense layers of a few rows of bytes with AVX2: their weights stay bits, four of which look up a sum for 32 outputs at once.
 *
 * The table of four bytes has the sums of some of them, which fit 10 bits: two planes of 5, so that 8 entries can be added in a
 * byte. Twice the sum of the bytes whose weight is +1, minus the sum of all bytes, is the product.
 */
#define FEW_STEPS 2048 /* pairs of fours: 2048 * 31 fits 16 bits */
#define FEW_ADDED 8    /* 8 * 31 fits a byte */

/* tables[pair][plane][four of the pair][16] of `count` bytes. Returns their sum. */
static int32_t few_tables(const uint8_t *x, int64_t count, uint8_t *tables) {
    const __m256i order = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i chosen[4];
    int32_t total = 0;
    for (int k = 0; k < 4; k++) {
        __m256i bit = _mm256_set1_epi16((int16_t)(1 << k));
        chosen[k] = _mm256_cmpeq_epi16(_mm256_and_si256(order, bit), bit);
    }
    for (int64_t c = 0; c < (count + 7) / 8 * 8; c += 4) {
        uint8_t four[4] = {0};
        __m256i sum = _mm256_setzero_si256();
        if (c < count) memcpy(four, x + c, (size_t)(count - c < 4 ? count - c : 4));
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) sum = _mm256_add_epi16(sum, _mm256_and_si256(_mm256_set1_epi16(four[k]), chosen[k]));
        __m256i planes = _mm256_packus_epi16(_mm256_and_si256(sum, _mm256_set1_epi16(31)), _mm256_srli_epi16(sum, 5));
        planes = _mm256_permute4x64_epi64(planes, 0xd8);
        uint8_t *to = tables + c / 8 * 64 + c / 4 % 2 * 16;
        _mm_store_si128((__m128i *)to, _mm256_castsi256_si128(planes));
        _mm_store_si128((__m128i *)(to + 32), _mm256_extracti128_si256(planes, 1));
        total += four[0] + four[1] + four[2] + four[3];
    }
    return total;
}

/* Sums of the even (h = 0) or odd bytes of both halves of a register, from what was added in 16 bits. */
ALWAYS __m256i few_lanes(const __m256i *all, int h) {
    __m256i x = h ? all[1] : _mm256_sub_epi16(all[0], _mm256_slli_epi16(all[1], 8));
    return _mm256_add_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}

/* Adds to the sums of 32 outputs those of up to FEW_STEPS pairs of fours. odd: the last pair has one four. */
static void few_sums(const uint8_t *tables, const uint8_t *bits, int64_t pairs, int odd, int32_t *sums) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i all[2][2][2]; /* [outputs][plane]: in 16 bits the even bytes plus 256 times the odd ones, and the odd ones */
    memset(all, 0, sizeof all);
    for (int64_t from = 0; from < pairs; from += FEW_ADDED) {
        int64_t end = pairs - from < FEW_ADDED ? pairs : from + FEW_ADDED;
        __m256i added[2][2];
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++) added[q][0] = added[q][1] = _mm256_setzero_si256();
        for (int64_t pair = from; pair < end; pair++) {
            const uint8_t *w = bits + pair * 2 * DOT_BYTES, *table = tables + pair * 64;
            __m256i weights = odd && pair == pairs - 1 ? _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)w))
                                                       : _mm256_loadu_si256((const __m256i *)w);
            __m256i index[2] = {_mm256_and_si256(weights, nibble), _mm256_and_si256(_mm256_srli_epi16(weights, 4), nibble)};
#pragma GCC unroll 2
            for (int plane = 0; plane < 2; plane++) {
                __m256i entries = _mm256_load_si256((const __m256i *)(table + 32 * plane));
#pragma GCC unroll 2
                for (int q = 0; q < 2; q++)
                    added[q][plane] = _mm256_add_epi8(added[q][plane], _mm256_shuffle_epi8(entries, index[q]));
            }
        }
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++)
#pragma GCC unroll 2
            for (int plane = 0; plane < 2; plane++) {
                all[q][plane][0] = _mm256_add_epi16(all[q][plane][0], added[q][plane]);
                all[q][plane][1] = _mm256_add_epi16(all[q][plane][1], _mm256_srli_epi16(added[q][plane], 8));
            }
    }
    int32_t found[4][8]; /* output 4i + r is found[r][i] */
    for (int r = 0; r < 4; r++) {
        __m256i low = few_lanes(all[r % 2][0], r / 2), high = few_lanes(all[r % 2][1], r / 2);
        _mm256_storeu_si256((__m256i *)found[r], _mm256_add_epi32(low, _mm256_slli_epi32(high, 5)));
    }
    for (int o = 0; o < DOT_OUTPUTS; o++) sums[o] += found[o % 4][o / 4];
}

/* Threads share the outputs. */
static int dot_few(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    static const int32_t one[4] = {0, 1, 1, 0};
    dot_t dot = dot_room(call, arena + call->scratch + share->scratch);
    place_t at = {call, arena, 0, one, 0};
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int64_t pairs = (call->tap_words + 1) / 2;
    int saw_nan = 0;
    memset(dot.base, 0, TILE_OUTPUTS * sizeof *dot.base);
    for (int64_t n = 0; n < count && work.outputs.begin < work.outputs.end; n++) {
        const uint8_t *x = (const uint8_t *)(arena + call->in + n * call->in_size), *tables = (const uint8_t *)dot.bytes;
        int32_t total = few_tables(x, call->tap_channels, (uint8_t *)dot.bytes);
        spot_t spot = {n, 0};
        for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
            const uint8_t *bits = (const uint8_t *)call->weights + tile * call->panel;
            int32_t sums[DOT_OUTPUTS] = {0};
            for (int64_t pair = 0; pair < pairs; pair += FEW_STEPS) {
                int64_t some = pairs - pair < FEW_STEPS ? pairs - pair : FEW_STEPS;
                few_sums(tables + pair * 64, bits + pair * 2 * DOT_BYTES, some, call->tap_words % 2 && pair + some == pairs, sums);
            }
            for (int o = 0; o < DOT_OUTPUTS; o++) sums[o] = 2 * sums[o] - total;
            dot.tiles.begin = tile, dot.tiles.end = tile + 1, dot.base_run = NULL;
            dot_base(&dot, 0, 0, one);
            saw_nan |= finish_rows(&dot, &at, spot, 1, 0, tile, sums, DOT_OUTPUTS);
        }
    }
    return saw_nan;
}
