#include "support.h"

#if defined(OB_X86)
#include <cpuid.h>

int ob_has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & 1 << 29;
}

int ob_has_avxvnni(void) {
    enum { AVX_VNNI = 1 << 4 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & AVX_VNNI;
}

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA of Linux */

int ob_has_amx(void) {
    enum {
        AMX_BF16 = 1 << 22,
        AMX_TILE = 1 << 24,
        AMX_INT8 = 1 << 25,
        OSXSAVE = 1 << 27,
        TILE_STATES = 1 << 17 | 1 << 18
    };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE) || !(d & AMX_INT8))
        return 0;
    __cpuid(1, a, b, c, d);
    if (!(c & OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & TILE_STATES) != TILE_STATES) return 0;
    /* for the whole process, once: an old system refuses, or one where some thread has too small a stack for
     * signals */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#else
int ob_has_amx(void) { return 0; } /* only Linux is known to give the permission */
#endif
#endif
