/* AVX2 with products of bytes in one instruction: Alder Lake and later, which lack AVX-512. */
#include "avx2.h"
#include "engine.h"

const ob_isa ob_avxvnni = ISA("avxvnni");
