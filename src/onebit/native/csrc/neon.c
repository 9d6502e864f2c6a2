/* NEON: every AArch64 processor. */
#include "neon.h"
#include "engine.h"

const ob_isa ob_neon = ISA("neon");
