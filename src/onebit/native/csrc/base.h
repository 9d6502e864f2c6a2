/* What every kernel uses: the structures of plans, arithmetic on single numbers, ALWAYS. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "onebit.h"

/* A function that becomes part of each caller: arguments that are constants there choose its code, and its
 * vectors stay in registers. */
#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS static inline __attribute__((always_inline))
#else
#define ALWAYS static inline
#endif
