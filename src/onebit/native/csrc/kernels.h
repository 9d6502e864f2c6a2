/* The kernels of an instruction set, as its names choose them; see isa.h. */
#pragma once
#include "moves.h"
#include "attention.h"
#include "matmul.h"
#include "depthwise.h"
#ifndef words_tile
#include "words.h"
#endif
#ifndef lut_tile
#include "lookups.h"
#endif
#if ROW_LANES
#include "lut_rows.h"
#endif
#if DOT_FOURS
#include "dot.h"
#ifndef dot_tile
#include "dot_tiles.h"
#endif
#endif
#if DOT_FEW
#include "dot_few.h"
#endif
#if DOT_LUT
#include "dot_lut.h"
#endif
