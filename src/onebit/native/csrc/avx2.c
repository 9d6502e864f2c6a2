/* AVX2: Haswell, Zen and later. */
#include "avx2.h"
#include "engine.h"

const ob_isa ob_avx2 = ISA("avx2");
