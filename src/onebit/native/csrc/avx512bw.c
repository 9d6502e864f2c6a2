/* AVX-512 without VPOPCNTDQ and VNNI: Skylake-X. */
#include "avx512.h"
#include "engine.h"

const ob_isa ob_avx512bw = ISA("avx512bw");
