/* AVX-512 and products of bytes in tiles, in place of lookups of 16-bit sums: Sapphire Rapids and later. */
#define BYTE_TILES 16
#define DOT_FEW 3
#define DOT_MANY 8
#define DOT_LEAST 2048 /* 128 inputs */
#include "avx512.h"
#include "amx.h"
#include "weight_gradient.h"

const ob_isa ob_amx = {"amx", LANES, LUT_INPUTS, LUT_GROUPS, TILE_ROWS, TILE_OUTPUTS, DENSE_WORDS, DOT_FOURS, DOT_SHIFT,
                       0, BYTE_TILES, run_plan, run_layer, RUN_NORM, RUN_SURROGATE, RUN_ACTIVATION, run_weight_gradient,
                       RUN_CONCRETE};
