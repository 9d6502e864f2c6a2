"""Whole nets in onnxruntime: as `onebit export --to onnx` writes them, and quantized to 8 bits."""

from __future__ import annotations

import importlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

import onebit
from onebit.export.onnx import target

_CALIBRATION_BATCH = 32


def onnxruntime_version() -> str | None:
    """The version of onnxruntime; None if it or onnx is not installed."""
    try:
        importlib.import_module("onnx")
        return str(importlib.import_module("onnxruntime").__version__)
    except ImportError:
        return None


def session(model: str | bytes, threads: int) -> Any:
    """An InferenceSession on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    return runtime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def _call(made: Any) -> Callable[[Any], np.ndarray]:
    return lambda batch: made.run(None, {"input": batch})[0]


def exported(net: onebit.packed.PackedNet, flavor: str, threads: int) -> Callable[[Any], np.ndarray]:
    """A function from images to logits: the ONNX file of a net."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        target.write(net, path, flavor=flavor)
        return _call(session(str(path), threads))


def quantized(net: onebit.packed.PackedNet, images: np.ndarray, threads: int) -> Callable[[Any], np.ndarray]:
    """A function from uint8 images to logits: the exact net in float32, quantized by onnxruntime.

    Static quantization with int8 weights, one scale per channel, and uint8 activations whose ranges are those of
    `images`, in operators that compute with 8 bits (`QOperator`).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(np.array_split(images, -(-len(images) // _CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch}

    how: dict[str, Any] = {"quant_format": QuantFormat.QOperator, "per_channel": True}
    how |= {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, made = (str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        target.write(net, Path(plain), flavor="float")
        logging.disable(logging.WARNING)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints whole graphs
                quant_pre_process(plain, prepared)
                quantize_static(prepared, made, Images(), **how)
        finally:
            logging.disable(logging.NOTSET)
        return _call(session(made, threads))
