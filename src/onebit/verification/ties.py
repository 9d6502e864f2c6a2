"""Whether rounding in float32 explains another output of a net that rounds to integers: sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit import runtime
from onebit.fold import RoundingSite, SignSite
from onebit.packed import Node, PackedNet, Quantize, Requantize
from onebit.verification.counted import TIED


@contextmanager
def made_at(
    model: nn.Module, sites: Sequence[SignSite | RoundingSite], read: Callable[[Any, Any, Tensor], np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """What `read` takes from sites, their modules and outputs in the last batch, by value; updated by the model."""
    found: dict[str, np.ndarray] = {}
    by_call = {(model.get_submodule(site.module), site.call): site for site in sites}
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        if (site := by_call.get((module, calls[module]))) is not None:
            found[site.value] = read(site, module, output)
        calls[module] += 1

    hooks = [module.register_forward_hook(record) for module in {module for module, _ in by_call}]
    hooks.append(model.register_forward_pre_hook(lambda module, inputs: calls.clear()))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def decided_by_ties(
    model: nn.Module, packed: PackedNet, sites: Sequence[RoundingSite], inputs: Tensor, rows: np.ndarray
) -> np.ndarray:
    """For the samples `rows` of a batch, bool (n,): whether rounding explains that the two nets differ in them.

    It does if the first integers that differ are neighbors, and the number of the packed net is as near to the tie
    between them as `TIED`. Later integers follow from these.

    Args:
        inputs: the whole batch, because torch may round otherwise in another one.
    """
    chosen = torch.from_numpy(rows)

    def integers(site: RoundingSite, module: Any, output: Tensor) -> np.ndarray:
        return (output[chosen] / module.integer_input().step).round().numpy()

    with made_at(model, sites, integers) as theirs:
        model(inputs.clone())
    makers = [node for node in packed.nodes if node.output in theirs and isinstance(node, (Quantize, Requantize))]
    names = {name for node in makers for name in (node.output, *node.inputs)}
    count = int(np.count_nonzero(rows))
    parts = [values for _, values in runtime.batches(packed, inputs.numpy()[rows], names)]
    differ, explained = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    for node in makers:  # in the order in which the net computes them
        ours, number = (
            np.concatenate([make(node, part) for part in parts]).reshape(count, -1) for make in (_integers, _numbers)
        )
        other = theirs[node.output].reshape(ours.shape)
        near = np.abs(number - (ours + other) / 2) <= TIED * np.maximum(np.abs(number).max(), 1)
        tied = (ours == other) | (near & (np.abs(ours - other) == 1))
        first = ~differ & (ours != other).any(axis=1)
        explained &= ~first | tied.all(axis=1)
        differ |= first
    return differ & explained


def _integers(node: Node, values: dict[str, np.ndarray]) -> np.ndarray:
    return values[node.output].astype(np.float64)


def _numbers(node: Node, values: dict[str, np.ndarray]) -> np.ndarray:
    """What a node rounds."""
    if not isinstance(node, Requantize):
        return values[node.inputs[0]].astype(np.float64)
    inputs = [values[name].astype(np.float64) for name in node.inputs]
    shape = (-1, *[1] * (inputs[0].ndim - 2))
    total = sum(x * multiplier.reshape(shape) for x, multiplier in zip(inputs, node.multiplier, strict=True))
    return (total + node.offset.reshape(shape)) * 2.0**-node.right_shift - 0.5
