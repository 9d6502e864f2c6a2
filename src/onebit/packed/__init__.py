"""`PackedNet`, the deployable form of a net, and its `.1bit` file. The operations: see `onebit.packed.nodes`."""

from onebit.packed import nodes
from onebit.packed.card import Card, CardScore
from onebit.packed.certificate import Certificate, LayerProof
from onebit.packed.file import dumps, load, loads, save
from onebit.packed.net import InputSpec, NodeCost, PackedNet, costs, infer
from onebit.packed.nodes import *  # noqa: F403

__all__ = ["Card", "CardScore", "Certificate", "InputSpec", "LayerProof", "NodeCost", "PackedNet"]
__all__ += ["costs", "dumps", "infer", "load", "loads", "save", *nodes.__all__]
