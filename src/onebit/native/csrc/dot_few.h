/* Dense layers of up to DOT_FEW rows of bytes with AVX2 or AVX-512: their weights stay bits, four of which look up a sum for 32 outputs
 * at once, and a register has those of FEW_FOURS fours of inputs.
 *
 * The table of four bytes has the sums of some of them, which fit 10 bits: two planes of 5, so that 8 entries can be added in a
 * byte. Twice the sum of the bytes whose weight is +1, minus the sum of all bytes, is the product.
 */
#define FEW_STEPS 2048 /* registers: 2048 * 31 fits 16 bits */
#define FEW_ADDED 8    /* 8 * 31 fits a byte */

#if LANES == 16
#define FEW_FOURS 4
typedef __m512i few;
#define few_zero() _mm512_setzero_si512()
#define few_all(x) _mm512_set1_epi8(x)
#define few_load(from) _mm512_loadu_si512(from)
#define few_and(x, y) _mm512_and_si512(x, y)
#define few_choose(table, index) _mm512_shuffle_epi8(table, index)
#define few_add_bytes(x, y) _mm512_add_epi8(x, y)
#define few_add(x, y) _mm512_add_epi16(x, y)
#define few_subtract(x, y) _mm512_sub_epi16(x, y)
#define few_right(x, bits) _mm512_srli_epi16(x, bits)
#define few_left(x, bits) _mm512_slli_epi16(x, bits)
#else
#define FEW_FOURS 2
typedef __m256i few;
#define few_zero() _mm256_setzero_si256()
#define few_all(x) _mm256_set1_epi8(x)
#define few_load(from) _mm256_loadu_si256((const __m256i *)(from))
#define few_and(x, y) _mm256_and_si256(x, y)
#define few_choose(table, index) _mm256_shuffle_epi8(table, index)
#define few_add_bytes(x, y) _mm256_add_epi8(x, y)
#define few_add(x, y) _mm256_add_epi16(x, y)
#define few_subtract(x, y) _mm256_sub_epi16(x, y)
#define few_right(x, bits) _mm256_srli_epi16(x, bits)
#define few_left(x, bits) _mm256_slli_epi16(x, bits)
#endif
#define FEW_BYTES (FEW_FOURS * 4)
#define FEW_TABLES (FEW_FOURS * 32) /* bytes of the tables of a register */

/* tables[register][plane][four of the register][16] of `count` bytes. Returns their sum. */
static int32_t few_tables(const uint8_t *x, int64_t count, uint8_t *tables) {
    const __m256i order = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i chosen[4];
    uint32_t total = 0; /* wraps, as all sums do */
    for (int k = 0; k < 4; k++) {
        __m256i bit = _mm256_set1_epi16((int16_t)(1 << k));
        chosen[k] = _mm256_cmpeq_epi16(_mm256_and_si256(order, bit), bit);
    }
    for (int64_t c = 0; c < (count + FEW_BYTES - 1) / FEW_BYTES * FEW_BYTES; c += 4) {
        uint8_t four[4] = {0};
        __m256i sum = _mm256_setzero_si256();
        if (c < count) memcpy(four, x + c, (size_t)(count - c < 4 ? count - c : 4));
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) sum = _mm256_add_epi16(sum, _mm256_and_si256(_mm256_set1_epi16(four[k]), chosen[k]));
        __m256i planes = _mm256_packus_epi16(_mm256_and_si256(sum, _mm256_set1_epi16(31)), _mm256_srli_epi16(sum, 5));
        planes = _mm256_permute4x64_epi64(planes, 0xd8);
        uint8_t *to = tables + c / FEW_BYTES * FEW_TABLES + c / 4 % FEW_FOURS * 16;
        _mm_store_si128((__m128i *)to, _mm256_castsi256_si128(planes));
        _mm_store_si128((__m128i *)(to + FEW_TABLES / 2), _mm256_extracti128_si256(planes, 1));
        total += (uint32_t)(four[0] + four[1] + four[2] + four[3]);
    }
    return (int32_t)total;
}

/* Adds the lanes of 8 sums of 16 bits. */
ALWAYS __m256i few_halves(__m256i x) {
    return _mm256_add_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}

/* Sums of the even (h = 0) or odd bytes of all lanes of a register, from what was added in 16 bits. */
ALWAYS __m256i few_lanes(const few *all, int h) {
    few x = h ? all[1] : few_subtract(all[0], few_left(all[1], 8));
#if LANES == 16
    return _mm256_add_epi32(few_halves(_mm512_castsi512_si256(x)), few_halves(_mm512_extracti64x4_epi64(x, 1)));
#else
    return few_halves(x);
#endif
}

/* Adds to the sums of 32 outputs those of up to FEW_STEPS registers. The last one has weights of `last` fours. */
static void few_sums(const uint8_t *tables, const uint8_t *bits, int64_t steps, int last, int32_t *sums) {
    const few nibble = few_all(15);
    few all[2][2][2]; /* [outputs][plane]: in 16 bits the even bytes plus 256 times the odd ones, and the odd ones */
    uint8_t end[FEW_FOURS * DOT_BYTES] = {0};
    memset(all, 0, sizeof all);
    memcpy(end, bits + (steps - 1) * FEW_FOURS * DOT_BYTES, (size_t)(last * DOT_BYTES));
    for (int64_t from = 0; from < steps; from += FEW_ADDED) {
        int64_t to = steps - from < FEW_ADDED ? steps : from + FEW_ADDED;
        few added[2][2];
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++) added[q][0] = added[q][1] = few_zero();
        for (int64_t step = from; step < to; step++) {
            const uint8_t *w = step == steps - 1 ? end : bits + step * FEW_FOURS * DOT_BYTES, *table = tables + step * FEW_TABLES;
            few weights = few_load(w), index[2] = {few_and(weights, nibble), few_and(few_right(weights, 4), nibble)};
#pragma GCC unroll 2
            for (int plane = 0; plane < 2; plane++) {
                few entries = few_load(table + FEW_TABLES / 2 * plane);
#pragma GCC unroll 2
                for (int q = 0; q < 2; q++) added[q][plane] = few_add_bytes(added[q][plane], few_choose(entries, index[q]));
            }
        }
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++)
#pragma GCC unroll 2
            for (int plane = 0; plane < 2; plane++) {
                all[q][plane][0] = few_add(all[q][plane][0], added[q][plane]);
                all[q][plane][1] = few_add(all[q][plane][1], few_right(added[q][plane], 8));
            }
    }
    int32_t found[4][8]; /* output 4i + r is found[r][i] */
    for (int r = 0; r < 4; r++) {
        __m256i low = few_lanes(all[r % 2][0], r / 2), high = few_lanes(all[r % 2][1], r / 2);
        _mm256_storeu_si256((__m256i *)found[r], _mm256_add_epi32(low, _mm256_slli_epi32(high, 5)));
    }
    for (int o = 0; o < DOT_OUTPUTS; o++) sums[o] = (int32_t)((uint32_t)sums[o] + (uint32_t)found[o % 4][o / 4]);
}

/* Threads share the outputs. */
static int dot_few(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    static const int32_t one[4] = {0, 1, 1, 0};
    dot_t dot = dot_room(call, arena + call->scratch + share->scratch);
    place_t at = {.call = call, .arena = arena, .i = 0, .run = one};
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int64_t steps = (call->tap_words + FEW_FOURS - 1) / FEW_FOURS;
    int saw_nan = 0, rest = call->tap_words - (int)(steps - 1) * FEW_FOURS;
    memset(dot.base, 0, TILE_OUTPUTS * sizeof *dot.base);
    for (int64_t n = 0; n < count && work.outputs.begin < work.outputs.end; n++) {
        const uint8_t *x = (const uint8_t *)(arena + call->in + n * call->in_size), *tables = (const uint8_t *)dot.bytes;
        int32_t total = few_tables(x, call->tap_channels, (uint8_t *)dot.bytes);
        spot_t spot = {n, 0};
        for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
            int32_t sums[TILE_OUTPUTS] = {0};
            for (int q = 0; q < TILE_OUTPUTS && tile * TILE_OUTPUTS + q < call->outputs; q += DOT_OUTPUTS) {
                const uint8_t *bits = (const uint8_t *)call->weights + (tile * TILE_OUTPUTS + q) / DOT_OUTPUTS * call->panel;
                for (int64_t step = 0; step < steps; step += FEW_STEPS) {
                    int64_t some = steps - step < FEW_STEPS ? steps - step : FEW_STEPS;
                    few_sums(tables + step * FEW_TABLES, bits + step * FEW_FOURS * DOT_BYTES, some,
                             step + some == steps ? rest : FEW_FOURS, sums + q);
                }
            }
            for (int o = 0; o < TILE_OUTPUTS; o++) sums[o] = (int32_t)(2 * (uint32_t)sums[o] - (uint32_t)total);
            dot.tiles.begin = tile, dot.tiles.end = tile + 1, dot.base_run = NULL;
            dot_base(&dot, 0, 0, one);
            saw_nan |= finish_rows(&dot, &at, spot, 1, 0, tile, sums, TILE_OUTPUTS);
        }
    }
    return saw_nan;
}

static int dot_or_few(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    return (count <= DOT_FEW && is_dense(call) ? dot_few : dot)(call, share, count, arena);
}
#undef RUN_DOT
#define RUN_DOT dot_or_few
