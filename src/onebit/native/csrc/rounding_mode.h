/* The rounding mode of the calling thread: to the nearest number, and with subnormal numbers, whatever the
 * program has set (torch.set_flush_denormal flushes them to zero). Threads of a pool keep the mode of the
 * thread that made them. */
#pragma once
#include <stdint.h>

#if defined(__SSE__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned int rounding_mode_t;
#define DEFAULT_ROUNDING 0x1F80u
static rounding_mode_t rounding_mode(void) { return _mm_getcsr(); }
static void set_rounding_mode(rounding_mode_t mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__) && defined(__GNUC__)
typedef uint64_t rounding_mode_t;
#define DEFAULT_ROUNDING 0
static rounding_mode_t rounding_mode(void) {
    rounding_mode_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_rounding_mode(rounding_mode_t mode) {
    __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory");
}
#else
typedef int rounding_mode_t;
#define DEFAULT_ROUNDING 0
static rounding_mode_t rounding_mode(void) { return DEFAULT_ROUNDING; }
static void set_rounding_mode(rounding_mode_t mode) { (void)mode; }
#endif

/* Round as kernels of packed nets do; returns the mode of the program, to be set again after them. */
static rounding_mode_t start_default_rounding(void) {
    const rounding_mode_t mode = rounding_mode();
    set_rounding_mode(DEFAULT_ROUNDING);
    return mode;
}
