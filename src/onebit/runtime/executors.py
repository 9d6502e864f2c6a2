"""Executors of nodes with numpy: the `compute` of a node, or the functions for products and pools."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from onebit.packed import Node, Value, nodes
from onebit.runtime.pooling import adaptive_average_pool, average_pool, max_pool
from onebit.runtime.reference_matmul import Executor, conv, conv_transpose, dense, dense_in_groups

DTYPES = {"sign": np.int8, "integer": np.int32, "real": np.float32}
"""The dtype of each kind of value."""
EXECUTORS: dict[type, Callable[..., Executor]] = {
    nodes.DenseLayer: dense,
    nodes.ScaledDense: dense_in_groups,
    nodes.Convolution: conv,
    nodes.Transposed: conv_transpose,
    nodes.MaxPool: max_pool,
    nodes.AveragePool: average_pool,
    nodes.AdaptiveAveragePool: adaptive_average_pool,
}
"""Products and pools, with their subclasses: (node, values of its inputs) -> its executor."""


def executor_of(node: Node, *inputs: Value) -> Executor:
    """The function from the arrays (N, …) of the inputs of a node to its output."""
    if make := nodes.by_class(EXECUTORS, node):
        made: Executor = make(node, *inputs)
        return made
    return partial(node.compute, DTYPES[node.infer(*inputs).kind])
