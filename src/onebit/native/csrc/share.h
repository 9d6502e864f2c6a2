/* Threads that run the same plan on the same images: each does a part of every step, and all meet behind it. */
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
/* A thread sleeps while a number is what it saw, and until it is woken; at most 10 ms, to look whether it still waits.
 * One that only yielded would take the time of the thread it waits for, where there are fewer free cores than threads. */
#if defined(__linux__)
#include <limits.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
enum { WAIT_PRIVATE = 128, WAKE_PRIVATE = 129 }; /* of <linux/futex.h>, which is not installed everywhere */
static inline void sleep_while(int32_t *at, int32_t seen) {
    struct timespec most = {0, 10000000};
    syscall(SYS_futex, at, WAIT_PRIVATE, seen, &most, NULL, 0);
}
static inline void wake_all(int32_t *at) { syscall(SYS_futex, at, WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
#elif defined(_WIN32)
#if defined(_MSC_VER)
#pragma comment(lib, "synchronization")
#endif
__declspec(dllimport) int __stdcall WaitOnAddress(volatile void *at, void *seen, size_t size, unsigned long most);
__declspec(dllimport) void __stdcall WakeByAddressAll(void *at);
static inline void sleep_while(int32_t *at, int32_t seen) { WaitOnAddress(at, &seen, sizeof(seen), 10); }
static inline void wake_all(int32_t *at) { WakeByAddressAll(at); }
#else
#include <time.h>
static inline void sleep_while(int32_t *at, int32_t seen) {
    struct timespec most = {0, 20000}; /* nothing wakes it before */
    (void)at, (void)seen;
    nanosleep(&most, NULL);
}
static inline void wake_all(int32_t *at) { (void)at; }
#endif

typedef struct {
    int32_t part, parts; /* this thread's */
    int64_t scratch;     /* units from a step's scratch memory to that of this part */
} share_t;

/* What this part does of `count`: from `begin` to `end`. */
typedef struct {
    int begin, end;
} span_t;

static inline span_t span_of(const share_t *share, int64_t count) {
    span_t span = {(int)(count * share->part / share->parts), (int)(count * (share->part + 1) / share->parts)};
    return span;
}

/* Looks, some microseconds, before a thread that waits sleeps: waking it takes longer. */
#define PATIENCE 1024

/* Waits until all parts are here; 0 if one of them never comes. */
static inline int meet(ob_meeting *meeting, const share_t *share) {
    if (share->parts == 1) return 1;
    int32_t round = load_now(&meeting->round);
    if (add_now(&meeting->arrived) == share->parts) {
        store_now(&meeting->arrived, 0);
        store_now(&meeting->round, round + 1);
        wake_all(&meeting->round);
        return 1;
    }
    for (int waited = 0; load_now(&meeting->round) == round; waited++) {
        if (load_now(&meeting->over)) return 0;
        if (waited >= PATIENCE) sleep_while(&meeting->round, round);
    }
    return 1;
}
