"""Benchmarks of onebit against torch, in the same process: `python -m benchmarks NAME`. Not in the wheel.

One module per benchmark, with `add_options(parser)`, `measure(**options) -> dict` (JSON-ready) and `describe(result)`.
"""

from __future__ import annotations

BENCHMARKS = (
    "augmentation",
    "cortex-m4",
    "fused-step",
    "gpu",
    "kernels",
    "mnist-time",
    "nets",
    "onnx",
    "packed-layers",
    "packed-memory",
    "startup",
    "training-memory",
    "training-step",
    "web",
)
"""The names; each module is imported when its benchmark runs."""
