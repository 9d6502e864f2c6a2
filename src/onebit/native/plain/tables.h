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

/* tables[group][index]: sums of 4 values, added where their bit of the index is 1, else subtracted; unsigned, because sums that
 * no weights choose may overflow. */
static void lut_tables(const int32_t *x, int count, int32_t *tables) {
    for (int c = 0; c < count; c += 4) {
        uint32_t value[4];
        for (int k = 0; k < 4; k++) value[k] = c + k < count ? (uint32_t)x[c + k] : 0;
        uint32_t sum = value[0] + value[1], difference = value[0] - value[1];
        for (int k = 0; k < 16; k += 4, tables += 4) {
            uint32_t others = (k & 4 ? value[2] : -value[2]) + (k & 8 ? value[3] : -value[3]);
            tables[0] = (int32_t)(others - sum), tables[1] = (int32_t)(others + difference);
            tables[2] = (int32_t)(others - difference), tables[3] = (int32_t)(others + sum);
        }
    }
}
