/* Bits in which rows and weights differ, of a tile. The instruction set's file defines, besides what lookups.h names:
 * vec_broadcast, a word in every lane; vec_xor; vec_ones, bits set in each lane, or in each byte: then COUNTED is how many
 * words can be added up there, and vec_lane_sums adds the four bytes of each lane.
 */
/* Accumulators stay in registers only where every loop over them is unrolled. */
#define TILE(body)                      \
    _Pragma("GCC unroll 4")             \
    for (int m = 0; m < R; m++)         \
        _Pragma("GCC unroll 4")         \
        for (int p = 0; p < P; p++) {   \
            body;                       \
        }

ALWAYS void xnor_fixed(const int R, const int P, const uint32_t *const *a, const segment_t *segments, int count,
                       const uint32_t *b, int64_t panel, int32_t *sums) {
    vec ones[4][4];
    TILE(ones[m][p] = vec_zero())
#ifdef COUNTED
    int room = COUNTED;
    TILE(vec_store(sums + (m * P + p) * LANES, vec_zero()))
#endif
    for (int k = 0; k < count; k++) {
        const uint32_t *w = b + segments[k].b * LANES;
        for (int n = 0; n < segments[k].words;) {
            int end = segments[k].words;
#ifdef COUNTED
            if (end - n > room) end = n + room;
            room -= end - n;
#endif
            for (; n < end; n++, w += LANES) {
                vec weights[4];
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) weights[p] = vec_load(w + p * panel);
#pragma GCC unroll 4
                for (int m = 0; m < R; m++) {
                    vec x = vec_broadcast(a[m][segments[k].a + n]);
#pragma GCC unroll 4
                    for (int p = 0; p < P; p++) ones[m][p] = vec_add_ones(ones[m][p], vec_ones(vec_xor(x, weights[p])));
                }
            }
#ifdef COUNTED
            if (!room) {
                TILE(int32_t *sum = sums + (m * P + p) * LANES;
                     vec_store(sum, vec_add(vec_load(sum), vec_lane_sums(ones[m][p]))); ones[m][p] = vec_zero())
                room = COUNTED;
            }
#endif
        }
    }
#ifdef COUNTED
    TILE(int32_t *sum = sums + (m * P + p) * LANES; vec_store(sum, vec_add(vec_load(sum), vec_lane_sums(ones[m][p]))))
#else
    TILE(vec_store(sums + (m * P + p) * LANES, ones[m][p]))
#endif
}
