"""The size of the memory, and what the C library does with freed memory."""

from __future__ import annotations

import ctypes
import math
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
MAX_KEPT = (1 << 30, 1 << 25)  # bytes; glibc before 2.35 accepts at most 32 MiB


def total_memory() -> float:
    """Bytes of memory of this machine; infinite if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory for the next training step instead of giving it back to the system.

    A step frees and allocates tens of megabytes. Otherwise each page is faulted in and zeroed again in each step, up to
    a third of the time of a large dense net. It is a setting of the process, so only programs call this.

    Returns:
        Whether malloc has such a setting: glibc only.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl have no mallopt, Windows no CDLL(None)
        return False
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in MAX_KEPT) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
