"""Sessions of onnxruntime, and the operators of the graphs that they run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

LEVELS = {
    "optimized": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "as written": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def session(path: Path, level: str = "optimized", dump: Path | None = None) -> Any:
    """A session with one thread; dump: a file for the graph that it runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = LEVELS[level]
    if dump is not None:
        options.optimized_model_filepath = str(dump)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def optimized(path: Path, level: str = "optimized") -> Any:
    """The graph that onnxruntime runs."""
    dump = path.with_suffix(".optimized")
    session(path, level, dump)
    return onnx.load(str(dump)).graph


def operators(graph: Any) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)
