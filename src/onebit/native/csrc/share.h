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
#if defined(_WIN32)
__declspec(dllimport) int __stdcall SwitchToThread(void);
#define let_others_run() SwitchToThread()
#else
#include <sched.h>
#define let_others_run() sched_yield()
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

/* What waits longer than some microseconds lets others run: there may be fewer cores than threads. */
#define PATIENCE 4096

/* Waits until all parts are here; 0 if one of them never comes. */
static inline int meet(ob_meeting *meeting, const share_t *share) {
    if (share->parts == 1) return 1;
    int32_t round = load_now(&meeting->round);
    if (add_now(&meeting->arrived) == share->parts) {
        store_now(&meeting->arrived, 0);
        store_now(&meeting->round, round + 1);
    }
    for (int waited = 0; load_now(&meeting->round) == round; waited++) {
        if (load_now(&meeting->over)) return 0;
        if (waited > PATIENCE) let_others_run();
    }
    return 1;
}
