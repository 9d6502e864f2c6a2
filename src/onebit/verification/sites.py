"""The signs and roundings of a packed net compared with those of its model, both fed the same values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit import runtime
from onebit.fold import Site
from onebit.fold.trace import SignCalls
from onebit.layers.base import BinaryLayer
from onebit.packed import Node, PackedNet
from onebit.packed.certificate import ROUNDING
from onebit.packed.nodes.node import per_channel
from onebit.quantizers import Quantizer
from onebit.runtime.input_batch import as_given
from onebit.runtime.reference_matmul import Executor


@contextmanager
def recorded(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, np.ndarray]]:
    """The signs and integers of torch at sites in the last batch, by value; updated when the model runs."""
    found: dict[str, np.ndarray] = {}
    functions = SignCalls(lambda number, signs: record_signs(("", number), signs > 0), within_layer=lambda: bool(depth))
    by_call: dict[Any, Site] = {
        (model.get_submodule(site.module) if site.module else "", site.call): site for site in sites
    }
    calls: Counter[nn.Module] = Counter()
    depth: list[nn.Module] = []

    def record_signs(call: Any, upper: Tensor) -> None:
        if (site := by_call.get(call)) is not None:
            found[site.value] = np.where(upper.numpy(), np.int8(1), np.int8(-1))

    def record(module: Any, inputs: object, output: Tensor) -> None:
        call = module, calls[module]
        if (signs := module.binary_input()) is not None:
            record_signs(call, signs.upper(output))
        elif (site := by_call.get(call)) is not None:
            found[site.value] = (output / module.integer_input().step).round().to(torch.int32).numpy()
        calls[module] += 1

    def begin(module: nn.Module, inputs: object) -> None:
        calls.clear()
        functions.count = 0

    hooks = [module.register_forward_hook(record) for module in {module for module, _ in by_call if module}]
    hooks.append(model.register_forward_pre_hook(begin))
    of_functions = not all(site.module for site in sites)
    for layer in model.modules() if of_functions else ():
        if isinstance(layer, (BinaryLayer, Quantizer)):
            hooks.append(layer.register_forward_pre_hook(lambda module, inputs: depth.append(module)))
            hooks.append(layer.register_forward_hook(lambda module, inputs, output: depth.pop() and None))
    try:
        with functions if of_functions else nullcontext():
            yield found
    finally:
        for hook in hooks:
            hook.remove()


def last_shifts(packed: PackedNet) -> dict[str, np.ndarray]:
    """The last shift of values, (C,): float32 rounds it too, and it may exceed the sum."""
    return {node.output: node.stored["shift"] for node in packed.nodes if node.affine and "shift" in node.stored}


class SiteCounts:
    """Compares the signs and integers of a packed net with those of its model, batch by batch.

    Numpy runs the packed net. Behind each site it continues with the result of torch, so that each layer gets the
    inputs of torch, and differences do not propagate.
    """

    def __init__(self, packed: PackedNet, sites: Sequence[Site]) -> None:
        self.packed, self.sites = packed, sites
        self.made = {site.value: site for site in sites}
        self.compared = {site.compared: site for site in sites}
        self.shifts = last_shifts(packed)
        self.counts, self.differing, self.beyond = Counter[str](), Counter[str](), Counter[str]()

    def outputs(
        self, inputs: list[np.ndarray], theirs: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Outputs of a batch by name, and the samples, bool (n,), in which torch has another result at a site.

        Args:
            theirs: torch's results for the batch, from `recorded`.
        """
        replaced = np.zeros(len(inputs[0]), np.bool_)
        limits: dict[str, Callable[[], Sequence[np.ndarray]]] = {}

        def step(start: int, node: Node, execute: Executor, given: list[np.ndarray]) -> np.ndarray:
            ours = execute(*given)
            if node.output in self.made:
                limits[node.output] = partial(_limits, self.made[node.output], node, execute, given, ours, self.shifts)
            elif node.moves and (before := limits.get(node.inputs[0])) is not None:
                limits[node.output] = lambda: [execute(x) for x in before()]
            if (site := self.compared.get(node.output)) is None:
                return ours
            allowed = limits.pop(node.output)
            # torch has other axes where an image of height 1 is a signal
            other = theirs[site.value][start : start + len(ours)].reshape(ours.shape)
            differs = ours != other
            self.counts[site.value] += ours.size
            if differs.any():
                low, high = allowed()
                self.differing[site.value] += int(np.count_nonzero(differs))
                self.beyond[site.value] += int(np.count_nonzero((other < low) | (other > high)))
                replaced[start : start + len(ours)] |= differs.reshape(len(ours), -1).any(axis=1)
            return other

        names = self.packed.outputs
        parts = [values for _, values in runtime.batches(self.packed, as_given(inputs), names, step=step)]
        return {name: np.concatenate([values[name] for values in parts]) for name in names}, replaced

    def faults(self) -> list[str]:
        """The sites with results that rounding does not allow."""
        return [
            f"{name}: {count:,} of {self.counts[name]:,} values differ by more than rounding"
            for name, count in self.beyond.items()
            if count
        ]

    def most_ties(self) -> str:
        """The layer with the largest share of results that rounding decides, or the outputs if there is none."""
        shares = {name: self.differing[name] / count for name, count in self.counts.items()}
        name = max(shares, key=shares.__getitem__, default="")
        return f"most in {name}, where {shares[name]:.2%} of the values are ties" if name else "of outputs that tie"


def _limits(
    site: Site, node: Any, execute: Executor, given: list[np.ndarray], ours: np.ndarray, shifts: dict[str, np.ndarray]
) -> Sequence[np.ndarray]:
    """The smallest and the largest results if numbers are off by `ROUNDING` times the largest one.

    A threshold of sums that torch rounds may give either sign where rounding decides, see `Chain.undecided`.
    """
    if site.chain is not None:
        if site.chain.exact:
            return [ours, ours]
        columns = np.moveaxis(given[0], 1, -1)
        undecided = site.chain.undecided(torch.from_numpy(columns.reshape(-1, columns.shape[-1])).float())
        either = np.moveaxis(undecided.numpy().reshape(columns.shape), -1, 1)
        return [np.where(either, sign, ours) for sign in (-1, 1)]
    if "multiplier" in node.arrays:
        shape = given[0].ndim
        parts = (x * per_channel(m.astype(np.float64), shape) for x, m in zip(given, node.multiplier, strict=True))
        number = (sum(parts) + per_channel(node.offset, shape)) * 2.0**-node.right_shift
        near = np.maximum(ROUNDING, _near(number, None))
        return [np.clip(np.floor(number + by), node.least, node.most) for by in (-near, near)]
    near = _near(given[0], shifts.get(node.inputs[0]))
    return [execute(given[0] + by) for by in (-near, near)]


def _near(numbers: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """`ROUNDING` times the largest number or shift of each channel, (1, C, 1, …); of all channels if each is small."""
    largest = np.abs(numbers).max(axis=(0, *range(2, numbers.ndim)), keepdims=True)
    if numbers.size < 8 * largest.size:
        largest = np.full_like(largest, largest.max())
    return ROUNDING * (largest if shift is None else np.maximum(largest, np.abs(per_channel(shift, numbers.ndim))))
