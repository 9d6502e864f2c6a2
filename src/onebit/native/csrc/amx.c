/* AVX-512 and products of bytes in tiles, in place of lookups of 16-bit sums: Sapphire Rapids and later. */
#include "amx.h"
#include "training/weight_gradient.h"
#include "training/convolution.h"
#include "engine.h"

const ob_isa ob_amx = ISA("amx");
