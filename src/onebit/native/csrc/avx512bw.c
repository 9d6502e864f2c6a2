/* AVX-512 without VPOPCNTDQ and VNNI: Skylake-X. */
#include "avx512.h"

const ob_isa ob_avx512bw = {"avx512bw", LANES, LUT_INPUTS, LUT_GROUPS, TILE_ROWS, TILE_OUTPUTS, DENSE_WORDS, DOT_FOURS, DOT_SHIFT,
                        DOT_LUT, BYTE_TILES, run_plan, run_layer, RUN_NORM, RUN_SURROGATE, RUN_ACTIVATION, NULL, RUN_CONCRETE};
