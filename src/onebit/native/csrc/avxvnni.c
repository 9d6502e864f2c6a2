/* AVX2 with products of bytes in one instruction: Alder Lake and later, which lack AVX-512. */
#define ISA_NAME "avxvnni"
#define ob_avx2 ob_avxvnni
#include "avx2.c"
