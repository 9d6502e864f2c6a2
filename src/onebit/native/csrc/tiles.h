/* Tiles whose sums are registers: rows times panels. */
#pragma once

/* Accumulators stay in registers only if every loop over them is unrolled. */
#define TILE(body)                                            \
    _Pragma("GCC unroll 8") for (int m = 0; m < R; m++)       \
        _Pragma("GCC unroll 4") for (int p = 0; p < P; p++) { \
        body;                                                 \
    }

/* The sizes of tiles that the code is specialized for: rows and panels. */
#define TILE_SIZES(CASE)                                                                               \
    CASE(1, 1)                                                                                         \
    CASE(1, 2) CASE(1, 3) CASE(1, 4) CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4) CASE(4, 1) CASE(4, 2) \
        CASE(4, 3) CASE(4, 4) CASE(8, 1)
