/* Which instruction sets there are, and which of them this processor has. */
#include "onebit.h"

extern const ob_isa ob_portable;
#if defined(OB_X86)
extern const ob_isa ob_avx2;
extern const ob_isa ob_avx512bw;
extern const ob_isa ob_avx512vnni;
extern const ob_isa ob_avx512;
#elif defined(OB_ARM64)
extern const ob_isa ob_neon;
#endif

int ob_size(int which) {
    const size_t sizes[] = {sizeof(ob_step), sizeof(ob_plan), sizeof(ob_isa), sizeof(ob_meeting)};
    return which >= 0 && which < 4 ? (int)sizes[which] : 0;
}

const ob_isa *ob_instruction_set(int index) {
    const ob_isa *found[6] = {&ob_portable};
    int count = 1;
#if defined(OB_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[count++] = &ob_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        found[count++] = &ob_avx512bw;
        if (__builtin_cpu_supports("avx512vnni")) {
            found[count++] = &ob_avx512vnni;
            if (__builtin_cpu_supports("avx512vpopcntdq")) found[count++] = &ob_avx512;
        }
    }
#elif defined(OB_ARM64) /* every AArch64 processor has NEON */
    found[count++] = &ob_neon;
#endif
    return index >= 0 && index < count ? found[index] : NULL;
}

uint64_t ob_chain(uint64_t x, uint64_t steps) {
    /* numbers of 64 bits: some processors add small ones while they rename registers, in no time */
    for (; steps; steps--) x = x * 6364136223846793005u + 1442695040888963407u;
    return x;
}
