"""Speed of onebit itself, measured against torch in the same process: `python -m benchmarks NAME`. Not in the wheel.

One module per benchmark, with `add_options(parser)`, `measure(**options) -> dict` (JSON-ready) and `describe(result)`.
"""

from __future__ import annotations

BENCHMARKS = ("augmentation", "kernels", "mnist-time", "nets", "startup", "training-memory", "training-step")
"""Names; the module of each is imported when it runs."""
