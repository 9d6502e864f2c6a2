"""What computes an operation with numpy: its own `compute`, or an executor of products and pools."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from onebit.packed import Node, Value, nodes
from onebit.runtime.pooling import adaptive_average_pool, average_pool, max_pool
from onebit.runtime.reference_matmul import Executor, conv, conv_transpose, dense

DTYPES = {"sign": np.int8, "integer": np.int32, "real": np.float32}
"""The dtype of each kind of value."""
EXECUTORS: dict[type, Callable[..., Executor]] = {
    nodes.DenseLayer: dense,
    nodes.Convolution: conv,
    nodes.Transposed: conv_transpose,
    nodes.MaxPool: max_pool,
    nodes.AveragePool: average_pool,
    nodes.AdaptiveAveragePool: adaptive_average_pool,
}
"""For products and pools, also those of derived classes: (node, values of its inputs without data) -> its executor."""


def executor_of(node: Node, *inputs: Value) -> Executor:
    """What computes a node from the arrays (N, …) of its inputs.

    Args:
        inputs: the values of its inputs, without their data.
    """
    if make := nodes.by_class(EXECUTORS, node):
        made: Executor = make(node, *inputs)
        return made
    return partial(node.compute, DTYPES[node.infer(*inputs).kind])
