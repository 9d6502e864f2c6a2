"""PackedNet, the deployable form of a net, and its `.1bit` file."""

from onebit.packed.certificate import Certificate, LayerProof
from onebit.packed.file import dumps, load, loads, save
from onebit.packed.net import InputSpec, NodeCost, PackedNet, costs, infer
from onebit.packed.nodes import (
    OPS,
    Affine,
    Dense,
    Flatten,
    Hardtanh,
    Node,
    RealDense,
    Relu,
    Sign,
    Threshold,
    Value,
)

__all__ = [
    "OPS",
    "Affine",
    "Certificate",
    "Dense",
    "Flatten",
    "Hardtanh",
    "InputSpec",
    "LayerProof",
    "Node",
    "NodeCost",
    "PackedNet",
    "RealDense",
    "Relu",
    "Sign",
    "Threshold",
    "Value",
    "costs",
    "dumps",
    "infer",
    "load",
    "loads",
    "save",
]
