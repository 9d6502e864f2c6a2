"""Whether rounding in float32 explains another output of a net with signs or rounded integers: sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit import runtime
from onebit.fold import RoundingSite, SignSite
from onebit.fold.chain import Chain
from onebit.packed import Node, PackedNet, Requantize, Sign, Threshold
from onebit.packed.nodes import per_channel
from onebit.verification.outcome import TIED
from onebit.verification.thresholds import NEAR


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
    model: nn.Module, packed: PackedNet, sites: Sequence[SignSite | RoundingSite], inputs: Tensor, rows: np.ndarray
) -> np.ndarray:
    """For the samples `rows` of a batch, bool (n,): whether rounding explains that the two nets differ in them.

    It does if ties decide the first signs or integers that differ: the packed net compares a real value with a number
    that is as near to it as `TIED` times the largest such value of the channel in the batch, or rounds a number as near
    as that to the tie between neighboring integers. In front of a threshold, ties are integers at which the modules
    change their sign. Later ones follow from these.

    Args:
        inputs: the whole batch, because torch may round otherwise in another one.
    """
    chosen = torch.from_numpy(rows)

    def read(site: SignSite | RoundingSite, module: Any, output: Tensor) -> np.ndarray:
        if isinstance(site, SignSite):
            return module.binary_input().upper(output[chosen]).numpy()
        return (output[chosen] / module.integer_input().step).round().numpy()

    with made_at(model, sites, read) as theirs:
        model(inputs.clone())
    by_value = {site.value: site for site in sites}
    makers = [node for node in packed.nodes if node.output in theirs]
    compared = {name: getattr(by_value[name], "compared", name) for name in theirs}
    names = {name for node in makers for name in (node.output, compared[node.output], *node.inputs)}
    count = int(np.count_nonzero(rows))
    parts = [values for _, values in runtime.batches(packed, inputs.numpy()[rows], names)]
    differ, explained = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    for node in makers:  # in the order in which the net computes them
        ours = np.concatenate([values[compared[node.output]] for values in parts]).reshape(count, -1).astype(np.float64)
        if isinstance(by_value[node.output], SignSite):
            ours = (ours > 0).astype(np.float64)
        other = theirs[node.output].reshape(ours.shape).astype(np.float64)
        first = ~differ & (ours != other).any(axis=1)
        if first.any():
            site = by_value[node.output]
            tied = ours == other
            if compared[node.output] == node.output:
                tied = _tied(node, site, parts, ours, other, partial(_largest, node, packed, inputs))
            explained &= ~first | tied.all(axis=1)
        differ |= first
    return differ & explained


def _tied(
    node: Node,
    site: SignSite | RoundingSite,
    parts: list[dict[str, np.ndarray]],
    ours: np.ndarray,
    other: np.ndarray,
    largest: Callable[[], np.ndarray],
) -> np.ndarray:
    """Where signs or integers (n, values) of the two nets are equal, or a tie decides between them."""
    number = np.concatenate([_numbers(node, values) for values in parts])
    if isinstance(node, Threshold):
        chain = site.chain if isinstance(site, SignSite) else None
        if chain is None or chain.exact or number.shape[1] != chain.channels:  # integers by themselves have no ties
            return ours == other
        return (ours == other) | _signs_at_change(chain, number, ours)
    if isinstance(node, Sign):
        shift = 0.0 if node.shift is None else per_channel(node.shift.astype(np.float64), number.ndim)
        return (ours == other) | (np.abs(number - shift) <= TIED * largest()).reshape(ours.shape)
    ties = ((ours + other) / 2).reshape(number.shape)
    near = np.abs(number - ties) <= TIED * np.maximum(largest(), 1)
    return (ours == other) | (near.reshape(ours.shape) & (np.abs(ours - other) == 1))


def _largest(node: Node, packed: PackedNet, inputs: Tensor) -> np.ndarray:
    """The largest number of each channel in a batch, (1, C, 1, …): one may have far smaller ones than another."""
    parts = (_numbers(node, values) for _, values in runtime.batches(packed, inputs.numpy(), set(node.inputs)))
    tops = [np.abs(part).max(axis=(0, *range(2, part.ndim)), keepdims=True) for part in parts]
    return np.max(tops, axis=0)


def _signs_at_change(chain: Chain, integers: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Where the modules change their sign at an integer, (n, C, …), and give ours (n, values) there.

    They may sum in an order that is rounded, so beside the integer they give the other sign.
    """
    columns = torch.from_numpy(np.moveaxis(integers, 1, -1).reshape(-1, chain.channels))
    near = NEAR * chain.integers[-1]
    below, at, above = (chain.positive((columns + by).float()) for by in (-near, 0, near))
    last = (*integers.shape[:1], *integers.shape[2:], chain.channels)
    changes, positive = (np.moveaxis(x.numpy().reshape(last), -1, 1).reshape(ours.shape) for x in (below != above, at))
    return changes & (positive == (ours > 0))


def _numbers(node: Node, values: dict[str, np.ndarray]) -> np.ndarray:
    """What a node takes the sign of, or rounds."""
    if not isinstance(node, Requantize):
        return values[node.inputs[0]].astype(np.float64)
    inputs = [values[name].astype(np.float64) for name in node.inputs]
    shape = (-1, *[1] * (inputs[0].ndim - 2))
    total = sum(x * multiplier.reshape(shape) for x, multiplier in zip(inputs, node.multiplier, strict=True))
    return (total + node.offset.reshape(shape)) * 2.0**-node.right_shift - 0.5
