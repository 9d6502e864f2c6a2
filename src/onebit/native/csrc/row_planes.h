/* A single row of inputs with AVX2: byte lookups for 32 outputs at once, as 32-bit lookups find 8 only.
 *
 * The table of 4 inputs has 16 sums of integers below 2^24. Plus 2^26 they are 27 bits without a sign: three planes of 7 bits
 * and one of 6, so that two entries, or four, can be added in a byte, and those of ROW_BLOCK words in 16 bits:
 * 64 * 4 * 254 < 2^16.
 */
#define ROW_BLOCK 64
#define ROW_TABLE_UNITS (ROW_BLOCK * 8 * 16) /* per word: 8 groups of 4 inputs, 4 planes, 16 bytes */
#define ROW_OFFSET (1 << 26)

/* The tables of up to ROW_BLOCK of the `words`; returns their number. */
static int row_tables(const int32_t *x, int words, int32_t *tables) {
    const __m256i mask = _mm256_set1_epi32(127), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i turn[3] = {_mm256_setr_epi32(-1, 1, -1, 1, -1, 1, -1, 1), _mm256_setr_epi32(-1, -1, 1, 1, -1, -1, 1, 1),
                             _mm256_setr_epi32(-1, -1, -1, -1, 1, 1, 1, 1)};
    int count = words < ROW_BLOCK ? words : ROW_BLOCK;
    __m256i *to = (__m256i *)tables;
    for (int group = 0; group < 8 * count; group++, x += 4, to += 2) {
        __m256i last = _mm256_set1_epi32(x[3]), sum = _mm256_set1_epi32(ROW_OFFSET);
        for (int k = 0; k < 3; k++) sum = _mm256_add_epi32(sum, _mm256_sign_epi32(_mm256_set1_epi32(x[k]), turn[k]));
        __m256i low = _mm256_sub_epi32(sum, last), high = _mm256_add_epi32(sum, last), plane[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            plane[j] = _mm256_packus_epi32(_mm256_and_si256(_mm256_srli_epi32(low, 7 * j), mask),
                                           _mm256_and_si256(_mm256_srli_epi32(high, 7 * j), mask));
        for (int j = 0; j < 4; j += 2) /* bytes of plane j and then j + 1 */
            _mm256_storeu_si256(to + j / 2, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(plane[j], plane[j + 1]), order));
    }
    return count;
}

/* Adds the sums of 32 outputs over a block of words, which are `width` apart. */
static void row_panel(const int32_t *tables, int words, const uint32_t *w, int width, int64_t *wide) {
    const __m256i nibble = _mm256_set1_epi8(15), shift = _mm256_set1_epi16(256);
    __m256i all[4], odd[4]; /* per plane, in 16 bits: the even bytes plus 256 times the odd ones, and the odd ones */
    const __m128i *table = (const __m128i *)tables;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) all[j] = odd[j] = _mm256_setzero_si256();
    for (int word = 0; word < words; word++, w += width) {
        __m256i last = _mm256_setzero_si256(); /* of plane 3: the sum that the next one is added to */
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++, table += 8) {
            __m256i bytes = _mm256_loadu_si256((const __m256i *)((const uint8_t *)w + n * width));
            __m256i low = _mm256_and_si256(bytes, nibble), high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                __m256i sum = _mm256_add_epi8(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table + j)), low),
                                              _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table + 4 + j)), high));
                if (j == 3) {
                    sum = _mm256_add_epi8(sum, last);
                    if (n % 2 == 0) {
                        last = sum;
                        __asm__("" : "+x"(last));
                        continue;
                    }
                    last = _mm256_setzero_si256();
                }
                all[j] = _mm256_add_epi16(all[j], sum);
                odd[j] = _mm256_add_epi16(odd[j], _mm256_mulhi_epu16(sum, shift)); /* a shift, on a port that is free */
                __asm__("" : "+x"(all[j]), "+x"(odd[j])); /* gcc would add in an order that needs more registers */
            }
        }
    }
    /* two unpackings put even and odd bytes in order: 4 outputs in each half of a register */
    const __m256i zero = _mm256_setzero_si256(), offset = _mm256_set1_epi64x((int64_t)words * 8 * ROW_OFFSET);
    __m256i sums[4][4]; /* per plane and 4 outputs of each half, in 32 bits */
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256i even = _mm256_sub_epi16(all[j], _mm256_slli_epi16(odd[j], 8));
        __m256i lower = _mm256_unpacklo_epi16(even, odd[j]), upper = _mm256_unpackhi_epi16(even, odd[j]);
        sums[j][0] = _mm256_unpacklo_epi16(lower, zero), sums[j][1] = _mm256_unpackhi_epi16(lower, zero);
        sums[j][2] = _mm256_unpacklo_epi16(upper, zero), sums[j][3] = _mm256_unpackhi_epi16(upper, zero);
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        __m256i low = _mm256_add_epi32(sums[0][v], _mm256_slli_epi32(sums[1][v], 7));
        __m256i high = _mm256_add_epi32(sums[2][v], _mm256_slli_epi32(sums[3][v], 7));
        for (int half = 0; half < 2; half++) {
            __m256i *to = (__m256i *)(wide + 4 * v + 16 * half);
            __m128i l = half ? _mm256_extracti128_si256(low, 1) : _mm256_castsi256_si128(low);
            __m128i h = half ? _mm256_extracti128_si256(high, 1) : _mm256_castsi256_si128(high);
            __m256i sum = _mm256_add_epi64(_mm256_cvtepu32_epi64(l), _mm256_slli_epi64(_mm256_cvtepu32_epi64(h), 14));
            _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), _mm256_sub_epi64(sum, offset)));
        }
    }
}
