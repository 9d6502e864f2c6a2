"""Proofs without samples: thresholds on every integer, and the numbers of integer nets."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from onebit.errors import UsageError
from onebit.fold import Folded, Site, example_of, fold_model
from onebit.integer.multipliers import MAX_OFF, RealRounding, largest_error
from onebit.integer.nets import BITS, real_arithmetic
from onebit.packed import LayerProof, Node, PackedNet
from onebit.packed.difference import array_differences
from onebit.packed.net import op_name


class Proof(NamedTuple):
    """The result of a comparison without samples.

    layers: one proof per value of signs or rounded integers. sites: the values to compare on samples.
    rounded: a sign or an integer depends on numbers that torch rounds.
    activations: bits of a net from `integer_net`, whose integers torch does not have; else None.
    """

    layers: tuple[LayerProof, ...]
    sites: tuple[Site, ...]
    rounded: bool
    activations: int | None
    faults: tuple[str, ...]

    @staticmethod
    def of(folded: Folded, packed: PackedNet, activations: int | None) -> Proof:
        """Compare a packed net with its folded model. `activations`: bits of an integer net, if known."""
        bits, twin, real, faults = None, folded.net, folded.real, list[str]()
        sites = folded.sites
        nodes: dict[str, Any] = {node.output: node for node in packed.nodes}
        if _outline(folded.net) != _outline(packed):
            bits, twin, real = _integer_twin(folded, packed, BITS if activations is None else (activations,))
            exact = {node.output: node for node in folded.net.nodes}
            sites = tuple(site for site in sites if _same_rule(exact[site.value], nodes[site.value]))
        for found in array_differences(packed, twin):
            proven = found.node in real
            if found.field in ("threshold", "direction"):
                proven = bits is None  # by `Chain.mismatches`, or compared on samples
            elif found.rounding:
                continue
            if not proven:
                faults.append(f"{found} differ")
        for name, rounding in real.items():
            off = largest_error(nodes[name], rounding, [packed.values[value].limits for value in nodes[name].inputs])
            if not off <= MAX_OFF:
                faults.append(f"{name}: its multipliers and offsets are off by up to {off:.2g} of a step")
        layers, exact_sites = [], set()
        for site in sites:
            node, integers, wrong = nodes[site.value], 0, 0
            if site.chain is not None and site.chain.can_be_tried and "threshold" in node.arrays:
                wrong = site.chain.mismatches(node.threshold, node.direction)
                tried = len(site.chain.integers) * site.chain.channels
                if wrong:
                    faults.append(f"{site.value}: other signs for {wrong:,} of {tried:,} integers")
                if site.chain.exact:  # otherwise torch also rounds the sums that become these integers
                    exact_sites.add(site.value)
                    integers = tried
            kind = "every integer" if integers else "float"
            layers.append(LayerProof(name=site.value, proof=kind, integers=integers, mismatches=integers and wrong))
        rounded = bits is not None or len(exact_sites) < len(sites)
        return Proof(tuple(layers), () if bits is not None else sites, rounded, bits, tuple(faults))


def with_own_ties(model: nn.Module, packed: PackedNet, *, weights: str, seed: int) -> tuple[PackedNet, set[str]]:
    """A packed net with the thresholds of this processor where rounding decides, and the names of the exact ones.

    Another processor may round the modules' result at a tie the other way, which moves a threshold by one integer.
    """
    folded = fold_model(model, example_of(packed), weights=weights, seed=seed, sizes=packed.sizes)
    chains = {site.value: site.chain for site in folded.sites if site.chain is not None and site.chain.exact}
    here = {node.output: node for node in folded.net.nodes}
    nodes: list[Any] = list(packed.nodes)
    for index, node in enumerate(nodes):
        chain = chains.get(node.output)
        if chain is None or "threshold" not in node.arrays or chain.channels != len(node.threshold):
            continue
        if not chain.mismatches(node.threshold, node.direction, decided=True):
            nodes[index] = here[node.output]
    return replace(packed, nodes=tuple(nodes)), set(chains)


def _integer_twin(
    folded: Folded, packed: PackedNet, known: tuple[int, ...]
) -> tuple[int, PackedNet, dict[str, RealRounding]]:
    """Bits of the activations of an integer net, and the integer net of the folded model with the same steps."""
    for bits in known:
        with suppress(UsageError, ValueError):  # ValueError: arrays of other shapes
            twin, real = real_arithmetic(folded.net, packed, bits)
            if _outline(twin) == _outline(packed):
                return bits, twin, real
    raise UsageError("the packed net does not have the operations of this model; pack it from this model")


def _outline(net: PackedNet) -> tuple[object, ...]:
    """What two nets of the same model share: operations, names of arrays and shapes, but not the contents of arrays."""
    nodes = [
        # a multiplier twice as large goes with a shift by 1 more
        (
            *(op_name(node), node.inputs, node.output, *node.stored),
            *(getattr(node, name) for name in node.attributes if name != "right_shift"),
        )
        for node in net.nodes
    ]
    return [spec.coding for spec in net.inputs.values()], nodes, net.values, net.output


def _same_rule(node: Node, twin: Node) -> bool:
    """Whether an integer net has the threshold of the exact net, or rounds its values."""
    if node.span:
        return True
    if "threshold" not in node.arrays or type(node) is not type(twin) or node.inputs != twin.inputs:
        return False
    return all(np.array_equal(array, twin.stored[name]) for name, array in node.stored.items())
