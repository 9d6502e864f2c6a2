/* AVX-512 without VPOPCNTDQ: Skylake-X, Cascade Lake. */
#include "avx512.h"

const ob_isa ob_avx512bw = {"avx512bw", LANES, LUT_INPUTS, LUT_GROUPS, TILE_ROWS, DENSE_WORDS, run_plan};
