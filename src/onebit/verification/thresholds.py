"""Thresholds of a packed net that differ from those of its source, packed again: what rounding explains of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from onebit.fold import example_of, fold_model
from onebit.fold.chain import Chain
from onebit.packed import Node, PackedNet, Threshold
from onebit.packed.difference import array_differences, graph_difference

NEAR = 2.0**-21
"""How near to an integer a sign changes where rounding decides it, as a fraction of the largest integer of the channel:
a few float32 roundings of a BatchNorm, whose mean is not larger."""
MOST_MOVED = 1 / 20
"""Fraction of the thresholds of a layer that rounding may move: ties are rare."""


def unexplained_thresholds(
    model: nn.Module, net: PackedNet, fresh: PackedNet, *, weights: str = "binary", seed: int = 0
) -> dict[str, int]:
    """How many thresholds of a value differ though no rounding decides; without the values where it explains all.

    Another processor may round what the modules compute of an integer at a tie, and so move a threshold over it.
    Behind activations that were rounded after the training, no module computes the sign from the same integers, so
    there only the number of thresholds that differ is limited.

    Args:
        model, weights, seed: what was packed.
        net, fresh: the net of a file, and that of its source, packed here. Thresholds that differ by more than one
            possible sum, which no rounding explains, are left out as well: see `Difference.rounding`.
    """
    if graph_difference(net, fresh) is not None:
        return {}
    close = {array.node for array in array_differences(net, fresh) if array.field == "threshold" and array.rounding}
    if not close:
        return {}
    folded = fold_model(model, example_of(net.input), weights=weights, seed=seed)
    chains = {site.value: site.chain for site in folded.signs}
    exact = {node.output: node for node in folded.net.nodes}
    found = {}
    for node, twin in zip(net.nodes, fresh.nodes, strict=True):
        if node.output not in close or not isinstance(node, Threshold) or not isinstance(twin, Threshold):
            continue
        wrong = moved = np.asarray(node.threshold != twin.threshold)
        if np.count_nonzero(moved) <= max(1, MOST_MOVED * moved.size):
            chain = chains.get(node.output) if same_threshold(twin, exact.get(node.output)) else None
            wrong = moved & ~at_ties(chain, node, twin) if chain is not None else np.zeros_like(moved)
        if wrong.any():
            found[node.output] = int(np.count_nonzero(wrong))
    return found


def same_threshold(node: Node | None, twin: Node | None) -> bool:
    """Whether an integer net has the threshold of the exact net."""
    if not isinstance(node, Threshold) or not isinstance(twin, Threshold) or node.inputs != twin.inputs:
        return False
    return all(np.array_equal(getattr(node, name), getattr(twin, name)) for name in ("threshold", "direction"))


def at_ties(chain: Chain, node: Threshold, twin: Threshold) -> np.ndarray:
    """The channels, bool (C,), where the modules change their sign at each integer for which two thresholds differ."""
    tied = np.ones(node.threshold.shape, np.bool_)
    if not chain.ops:  # an integer itself is compared: nothing is rounded
        return ~tied
    ends = np.sort(np.stack([node.threshold, twin.threshold]).astype(np.int64), axis=0)
    rising = node.direction > 0
    first, last = np.where(rising, ends[0], ends[0] + 1), np.where(rising, ends[1] - 1, ends[1])
    near = NEAR * chain.integers[-1]
    for step in range(int((last - first).max()) + 1):
        integer = first + step
        inside = (integer <= last) & (integer >= chain.integers[0]) & (integer <= chain.integers[-1])
        inside &= (integer - chain.integers[0]) % chain.integers.step == 0
        below, above = chain.positive(torch.from_numpy(np.stack([integer - near, integer + near]).astype(np.float32)))
        tied &= ~inside | (below != above).numpy()
    return tied
