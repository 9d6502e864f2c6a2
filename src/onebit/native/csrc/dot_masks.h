/* Dense layers of a few rows of bytes with AVX-512 VNNI: the bits of four weights of 16 outputs are a mask, which makes a register
 * of 1 and -1, and every row is multiplied by that. Nothing is written but sums.
 */

/* sums[row][panel][lane] of R rows, `step` bytes apart, and P panels. ends: the last four of each row, with zeros for what it
 * lacks. Weights of 32 outputs are `several` bytes apart. Accumulators stay in registers only if every loop over them is
 * unrolled. */
ALWAYS void masks_fixed(const int R, const int P, const uint8_t *x, int64_t step, const uint32_t *ends, const uint8_t *bits,
                        int64_t several, int64_t fours, int32_t *sums) {
    const __m512i one = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
    __m512i part[6][4];
#define EACH(body)                    \
    _Pragma("GCC unroll 6")           \
    for (int m = 0; m < R; m++)       \
        _Pragma("GCC unroll 4")       \
        for (int p = 0; p < P; p++) { \
            body;                     \
        }
    EACH(part[m][p] = vec_zero())
    for (int64_t n = 0; n < fours; n++, x += 4, bits += DOT_BYTES) {
        __m512i weights[4];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            uint64_t mask;
            memcpy(&mask, bits + p / 2 * several + p % 2 * 8, 8);
            weights[p] = _mm512_mask_blend_epi8(mask, minus, one);
        }
#pragma GCC unroll 6
        for (int m = 0; m < R; m++) {
            uint32_t four;
            memcpy(&four, n + 1 < fours ? x + m * step : (const uint8_t *)&ends[m], 4);
            __m512i row = vec_broadcast(four);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) part[m][p] = vec_dot(part[m][p], row, weights[p]);
        }
    }
    EACH(vec_store(sums + m * TILE_OUTPUTS + p * LANES, part[m][p]))
#undef EACH
}

/* Threads share the outputs. */
static int dot_few(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    static const int32_t one[4] = {0, 1, 1, 0};
    dot_t dot = dot_room(call, arena + call->scratch + share->scratch);
    place_t at = {call, arena, 0, one, 0};
    work_t work = work_of(call, share, TILE_OUTPUTS);
    int padded = (call->outputs + LANES - 1) / LANES, saw_nan = 0, last = (call->tap_words - 1) * 4;
    int64_t step = call->in_size * 4;
    const uint8_t *x = (const uint8_t *)(arena + call->in);
    uint32_t ends[DOT_FEW] = {0};
    int32_t sums[6 * TILE_OUTPUTS];
    for (int64_t n = 0; n < count; n++) memcpy(&ends[n], x + n * step + last, (size_t)(call->tap_channels - last));
    for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
        int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS, many;
        const uint8_t *bits = (const uint8_t *)call->weights + tile * (TILE_OUTPUTS / DOT_OUTPUTS) * call->panel;
        dot.tiles.begin = tile, dot.tiles.end = tile + 1, dot.base_run = NULL;
        memset(dot.base, 0, TILE_OUTPUTS * sizeof *dot.base);
        dot_base(&dot, 0, 0, one);
        for (int64_t n = 0; n < count; n += many) {
            spot_t spot = {n, 0};
            many = count - n >= 6 ? 6 : count - n >= 4 ? 4 : count - n >= 2 ? 2 : 1;
            switch (8 * many + panels) {
#define CASE(R, P)                                                                                         \
    case 8 * R + P:                                                                                        \
        masks_fixed(R, P, x + n * step, step, ends + n, bits, call->panel, call->tap_words, sums); \
        break;
                CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4)
                CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4)
                CASE(4, 1) CASE(4, 2) CASE(4, 3) CASE(4, 4)
                CASE(6, 1) CASE(6, 2) CASE(6, 3) CASE(6, 4)
#undef CASE
            }
            saw_nan |= finish_rows(&dot, &at, spot, many, 0, tile, sums, TILE_OUTPUTS);
        }
    }
    return saw_nan;
}
