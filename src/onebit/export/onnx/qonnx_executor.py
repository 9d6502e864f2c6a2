"""Run a QONNX file with the executor of the qonnx package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from onebit.export.targets import CannotRun
from onebit.packed import PackedNet
from onebit.packed.net import INPUT


def run_qonnx(net: PackedNet, path: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What the executor of qonnx computes, sample by sample."""
    if find_spec("qonnx") is None:
        raise CannotRun("qonnx is not installed; qonnx 1.0.0 needs onnx 1.19, best in an environment of its own")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(str(path)).transform(InferShapes())
    samples = [execute_onnx(model, {INPUT: sample[None]}) for sample in inputs.reshape(-1, *net.input.shape)]
    return {name: np.concatenate([made[name] for made in samples]) for name in net.outputs}
