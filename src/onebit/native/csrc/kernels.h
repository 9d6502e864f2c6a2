/* The kernels of every instruction set. Its file includes this first, after the macros that the headers need. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "onebit.h"
#include "barrier.h"
#include "rounding_mode.h"
#include "../plain/numbers.h"
#include "epilogue.h"
#include "moves.h"
#include "matmul.h"
#ifdef ROW_LANES
#include "lut_rows.h"
#endif
#include "depthwise.h"
#if DOT_FOURS
#include "dot.h"
#endif
