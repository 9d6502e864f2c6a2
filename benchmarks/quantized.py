"""A whole net with 8-bit weights and activations in onnxruntime, calibrated as its documentation recommends."""

from __future__ import annotations

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


def quantized_session(net: onebit.packed.PackedNet, images: np.ndarray, *, threads: int) -> Callable[[Any], np.ndarray]:
    """A function from uint8 images to logits: the exact net in float32, quantized by onnxruntime.

    Static quantization with int8 weights, one scale per channel, and uint8 activations whose ranges are those of
    `images`, in operators that compute with 8 bits (`QOperator`).
    """
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(np.array_split(images, -(-len(images) // _CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch}

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, made = (str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        target.write(net, Path(plain), flavor="float")
        logging.disable(logging.WARNING)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints whole graphs
                quant_pre_process(plain, prepared)
                quantize_static(
                    prepared,
                    made,
                    Images(),
                    quant_format=QuantFormat.QOperator,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
        finally:
            logging.disable(logging.NOTSET)
        session = onnxruntime.InferenceSession(made, settings, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"input": batch})[0]
