/* AVX-512 and products of bytes in tiles, in place of lookups of 16-bit sums: Sapphire Rapids and later. */
#define BYTE_TILES 16
#define DOT_FEW 3
#define DOT_MANY 8      /* pixels of a run, and */
#define DOT_LEAST 2048  /* bytes of a panel, 128 inputs, from which on tiles are faster */
#include "avx512.h"
#include "amx.h"
#define RUN_WEIGHT_GRADIENT run_weight_gradient
#include "engine.h"
#include "training/weight_gradient.h"

const ob_isa ob_amx = ISA("amx");
