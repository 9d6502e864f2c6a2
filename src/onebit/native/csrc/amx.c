/* AVX-512 and products of bytes in tiles, in place of lookups of 16-bit sums: Sapphire Rapids and later. */
#define BYTE_TILES 16
#define DOT_FEW 3
#define DOT_MANY 8
#define DOT_LEAST 2048 /* 128 inputs */
#include "avx512.h"
#include "amx.h"
#include "weight_gradient.h"

#undef DOT_LUT
#define DOT_LUT 0
#undef RUN_WEIGHT_GRADIENT
#define RUN_WEIGHT_GRADIENT run_weight_gradient
const ob_isa ob_amx = ISA("amx");
