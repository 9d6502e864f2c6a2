/* Threads that run one plan on the same images: each runs a part of every kernel call, then waits for the
 * others. */
#pragma once
#include "onebit.h"

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define load_now(from) _InterlockedCompareExchange((volatile long *)(from), 0, 0)
#define store_now(to, value) _InterlockedExchange((volatile long *)(to), value)
#define add_now(to) _InterlockedIncrement((volatile long *)(to))
#else
#define load_now(from) __atomic_load_n(from, __ATOMIC_ACQUIRE)
#define store_now(to, value) __atomic_store_n(to, value, __ATOMIC_RELEASE)
#define add_now(to) __atomic_add_fetch(to, 1, __ATOMIC_ACQ_REL)
#endif
/* sleep_while: sleep until woken, if the number at `at` still equals `seen`; at most 10 ms, as the barrier
 * may be cancelled. With fewer free cores than threads, yielding instead would take time from the very thread
 * that is waited for. */
#if defined(__linux__)
#include <limits.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
enum { WAIT_PRIVATE = 128, WAKE_PRIVATE = 129 }; /* as in <linux/futex.h>, which not every system has */
static inline void sleep_while(int32_t *at, int32_t seen) {
    struct timespec most = {0, 10000000};
    syscall(SYS_futex, at, WAIT_PRIVATE, seen, &most, NULL, 0);
}
static inline void wake_all(int32_t *at) { syscall(SYS_futex, at, WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
#elif defined(_WIN32)
#if defined(_MSC_VER)
#pragma comment(lib, "synchronization")
#endif
__declspec(dllimport) int __stdcall WaitOnAddress(volatile void *at, void *seen, size_t size,
                                                  unsigned long most);
__declspec(dllimport) void __stdcall WakeByAddressAll(void *at);
static inline void sleep_while(int32_t *at, int32_t seen) { WaitOnAddress(at, &seen, sizeof(seen), 10); }
static inline void wake_all(int32_t *at) { WakeByAddressAll(at); }
#else
#include <time.h>
static inline void sleep_while(int32_t *at, int32_t seen) {
    struct timespec most = {0, 20000}; /* nothing wakes it earlier */
    (void)at, (void)seen;
    nanosleep(&most, NULL);
}
static inline void wake_all(int32_t *at) { (void)at; }
#endif

typedef struct {
    int32_t part, parts; /* number of this thread, and of all */
    int64_t scratch;     /* offset of this thread's scratch memory, in units */
} share_t;

/* The share of this thread: from `begin` to `end`. */
typedef struct {
    int begin, end;
} span_t;

static inline span_t span_of(const share_t *share, int64_t count) {
    span_t span = {(int)(count * share->part / share->parts),
                   (int)(count * (share->part + 1) / share->parts)};
    return span;
}

/* A waiting thread spins for some 20 microseconds before it sleeps, because waking it takes longer. */
#define SPIN_LIMIT 1024
#if defined(__SSE2__)
#define spin_once() __builtin_ia32_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define spin_once() __asm__ volatile("isb" : : : "memory")
#else
#define spin_once() (void)0
#endif

/* Waits for all threads; returns 0 if the barrier was cancelled. */
static inline int barrier_wait(ob_barrier *barrier, const share_t *share) {
    if (share->parts == 1) return 1;
    int32_t generation = load_now(&barrier->generation);
    if (add_now(&barrier->arrived) == share->parts) {
        store_now(&barrier->arrived, 0);
        store_now(&barrier->generation, generation + 1);
        wake_all(&barrier->generation);
        return 1;
    }
    for (int spins = 0; load_now(&barrier->generation) == generation; spins++) {
        if (load_now(&barrier->cancelled)) return 0;
        spin_once();
        if (spins >= SPIN_LIMIT) sleep_while(&barrier->generation, generation);
    }
    return 1;
}
