/* The instruction sets that were compiled in, and which of them this processor supports. */
#include "onebit.h"
#include "support.h"

extern const ob_isa ob_portable, ob_avx2, ob_avxvnni, ob_avx512bw, ob_avx512vnni, ob_avx512, ob_amx, ob_neon;

const char *ob_abi(void) { return OB_ABI; }

static int always(void) { return 1; }
#if defined(OB_X86)
static int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && ob_has_f16c();
}
#if defined(OB_AVXVNNI)
static int has_avxvnni(void) { return has_avx2() && ob_has_avxvnni(); }
#endif
static int has_avx512bw(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static int has_avx512vnni(void) { return has_avx512bw() && __builtin_cpu_supports("avx512vnni"); }
static int has_avx512(void) {
    return has_avx512vnni() && __builtin_cpu_supports("avx512vpopcntdq") &&
           __builtin_cpu_supports("avx512vbmi2");
}
#if defined(OB_AMX)
static int has_amx(void) { return has_avx512() && ob_has_amx(); }
#endif
#endif

/* The best comes last: each is faster than the ones before it. */
static const struct {
    const ob_isa *isa;
    int (*is_supported)(void);
} known[] = {
    {&ob_portable, always},
#if defined(OB_X86)
    {&ob_avx2, has_avx2},
#if defined(OB_AVXVNNI)
    {&ob_avxvnni, has_avxvnni},
#endif
    {&ob_avx512bw, has_avx512bw}, {&ob_avx512vnni, has_avx512vnni}, {&ob_avx512, has_avx512},
#if defined(OB_AMX)
    {&ob_amx, has_amx},
#endif
#elif defined(OB_ARM64)
    {&ob_neon, always}, /* every AArch64 processor has NEON */
#endif
};

static int is_known(int index) { return index >= 0 && (size_t)index < sizeof(known) / sizeof(known[0]); }

const ob_isa *ob_instruction_set(int index) { return is_known(index) ? known[index].isa : NULL; }

int ob_is_supported(int index) { return is_known(index) && known[index].is_supported(); }

int ob_looks_up_quickly(void) {
#if defined(OB_X86)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd"); /* Intel's vpermw takes two cycles */
#else
    return 0;
#endif
}
