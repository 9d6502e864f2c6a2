"""Benchmarks of onebit against torch, in the same process: `python -m benchmarks NAME`. Not in the wheel.

Each module has `measure`, which yields rows and whose arguments are the flags, and COLUMNS, the printed keys of a row.
`benchmarks.shared` has the clock.
"""

from __future__ import annotations

import onebit  # noqa: F401  before torch, whose idle threads then sleep, as on the command line

BENCHMARKS = (
    *("cortex-m4", "kernels", "language", "mnist-time", "nets", "own-loop", "packed-layers", "startup"),
    *("training-step", "zoo"),
)
"""The names; each module is imported when its benchmark runs."""
