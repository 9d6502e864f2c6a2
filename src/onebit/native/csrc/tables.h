/* One-bit weights without special instructions, in plain C99. `onebit export --to c` copies what a net needs of this file:
 * each function stands by itself, its comment right above it, without blank lines inside. */

/* The number of bits that are set. */
static inline uint32_t ones(uint32_t x) {
#if defined(__POPCNT__) || defined(__ARM_NEON)
    return (uint32_t)__builtin_popcount(x);
#else
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    return ((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
#endif
}

/* tables[group][index]: sums of 4 values, added where their bit of the index is 1, else subtracted. */
static void lut_tables(const int32_t *x, int count, int32_t *tables) {
    for (int c = 0; c < count; c += 4, tables += 16) {
        uint32_t sum = 0, twice[4]; /* unsigned: sums that no weights choose may overflow */
        for (int k = 0; k < 4; k++) {
            twice[k] = c + k < count ? 2 * (uint32_t)x[c + k] : 0;
            sum -= c + k < count ? (uint32_t)x[c + k] : 0;
        }
        tables[0] = (int32_t)sum;
        for (int k = 0; k < 4; k++)
            for (int index = 0; index < 1 << k; index++) tables[(1 << k) + index] = (int32_t)((uint32_t)tables[index] + twice[k]);
    }
}
