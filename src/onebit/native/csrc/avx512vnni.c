/* AVX-512 with VNNI: Cascade Lake. */
#include "avx512.h"
#include "engine.h"

const ob_isa ob_avx512vnni = ISA("avx512vnni");
