/* AVX-512 with VPOPCNTDQ, VBMI2 and VNNI: Ice Lake, Zen 4 and later. */
#include "avx512.h"
#include "training/lookup_convolution.h"
#include "training/lookup_weight_gradient.h"
#include "engine.h"

const ob_isa ob_avx512 = ISA("avx512");
