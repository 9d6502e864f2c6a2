"""Speed, measured against torch in the same process. One module per benchmark.

Each has `add_options(parser)`, `measure(**options) -> dict` (JSON-ready) and `describe(result) -> str`.
"""

from __future__ import annotations

BENCHMARKS: dict[str, str] = {
    "augmentation": "onebit.benchmarks.augmentation",
    "kernels": "onebit.benchmarks.kernels",
    "mnist-time": "onebit.benchmarks.mnist_time",
    "nets": "onebit.benchmarks.nets",
    "startup": "onebit.benchmarks.startup",
    "training-memory": "onebit.benchmarks.training_memory",
    "training-step": "onebit.benchmarks.training_step",
}
"""Name -> module, imported when it is run: the names cost nothing."""
