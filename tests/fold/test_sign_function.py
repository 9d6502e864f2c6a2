"""`onebit.sign` in a forward pass, and outputs that are signs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from onebit.layers import BinaryConv2d, BinaryLinear
from onebit.packed import Affine, Node, PackedNet
from onebit.quantizers import BinaryInput, Quantizer, SteSign, sign
from support.fold_nets import Model, assert_answers, inputs_of, kinds


class TanhSign(Quantizer):
    """A quantizer that calls the function itself."""

    def forward(self, x: Tensor) -> Tensor:
        return sign(x.tanh())

    def binary_input(self) -> BinaryInput:
        return BinaryInput()


def forward(m: Model, x: Tensor) -> Tensor:
    x = onebit.sign(m.norm(m.first(x)))
    x = m.second(x)  # its quantizers call the function, too
    weight = onebit.sign(m.weight)  # of a constant
    return onebit.sign(F.linear(x, weight) + 0.5)


def make_net() -> Model:
    torch.manual_seed(0)
    net = Model(
        forward,
        first=BinaryLinear(20, 30),
        norm=nn.BatchNorm1d(30),
        second=BinaryLinear(30, 10, weight_quantizer=TanhSign(), input_quantizer=TanhSign()),
        weight=nn.Parameter(torch.randn(7, 10)),
    )
    net(torch.randn(64, 20))
    return net.eval()


def test_the_function_is_the_layer() -> None:
    torch.manual_seed(0)
    first, norm, second = BinaryConv2d(3, 8, 3), nn.BatchNorm2d(8), BinaryConv2d(8, 4, 3)
    function = lambda m, x: m.second(m.sign(m.norm(m.first(x))))  # noqa: E731
    nets = [Model(function, first=first, norm=norm, second=second, sign=s).eval() for s in (sign, SteSign())]
    x = torch.randint(-9, 9, (3, 3, 9, 9)).float()
    ours, theirs = (onebit.pack(net, x) for net in nets)
    assert kinds(ours) == kinds(theirs)
    assert np.array_equal(onebit.run(ours, x), onebit.run(theirs, x))
    assert_answers(nets[0], ours, x.numpy())


def test_a_net_answers_with_signs() -> None:
    net, x = make_net(), inputs_of((20,))
    packed = onebit.pack(net, x)
    assert packed.values[packed.only_output].kind == "sign"
    assert set(np.unique(onebit.run(packed, x))) == {-1.0, 1.0}
    assert_answers(net, packed, x)


def shifted(packed: PackedNet, name: str) -> PackedNet:
    """The net with another shift before the signs of this name."""
    (source,) = next(node.inputs for node in packed.nodes if node.output == name)

    def change(node: Node) -> Node:
        if node.output != source:
            return node
        assert isinstance(node, Affine)
        assert node.shift is not None
        return replace(node, shift=node.shift + np.float32(0.3))

    return replace(packed, nodes=tuple(map(change, packed.nodes)))


def test_each_call_is_compared_with_torch() -> None:
    net, x = make_net(), inputs_of((20,), count=300)
    packed = onebit.pack(net, x)
    certified = onebit.certify(net, packed, x).certificate
    assert certified is not None
    counts = {layer.name: layer.integers for layer in certified.layers if layer.proof == "float"}
    assert counts == {"sign": 300 * 30, "sign_1": 300 * 7}
    for name in counts:
        assert not onebit.verify(net, shifted(packed, name), x).ok
