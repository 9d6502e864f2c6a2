/* AVX-512 with VNNI: Cascade Lake. */
#include "avx512.h"

const ob_isa ob_avx512vnni = {"avx512vnni", LANES, LUT_INPUTS, LUT_GROUPS, TILE_ROWS, TILE_OUTPUTS, DENSE_WORDS, DOT_FOURS, DOT_SHIFT,
                        DOT_LUT, BYTE_TILES, run_plan, run_layer, RUN_NORM, RUN_SURROGATE, RUN_ACTIVATION, NULL, RUN_CONCRETE};
