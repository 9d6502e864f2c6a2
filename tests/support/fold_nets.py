"""Nets and helpers that the tests of folding and agreement share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.layers import RPReLU, batch_norms
from onebit.models import create_model
from onebit.native import instruction_sets, make_plan
from onebit.packed import PackedNet
from onebit.quantizers import Quantizer
from onebit.runtime import batches, run

SHAPE = (1, 3, 4)
INT32 = np.iinfo(np.int32)


class Model(nn.Module):
    """`parts` by name, and forward as a function of the model and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def make_nasty(model: nn.Module, seed: int = 0) -> nn.Module:
    """BatchNorms where folding goes wrong: integer means without shift; negative, zero, tiny and huge factors."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
            size = norm.num_features
            means = np.where(rng.random(size) < 0.7, rng.integers(-9, 10, size), rng.normal(0, 1e4, size))
            norm.running_mean.copy_(torch.from_numpy(means))
            norm.running_var.copy_(torch.from_numpy(rng.choice([1e-12, 0.3, 7.0, 900.0, 1e8], size) * rng.random(size)))
            if norm.affine:
                norm.weight.copy_(torch.from_numpy(rng.choice([-1.0, 1.0, 0.0, 1e-30, -3e4], size) * rng.random(size)))
                norm.bias.copy_(torch.from_numpy(np.where(rng.random(size) < 0.6, 0.0, rng.normal(0, 1, size))))
    return model.eval()


def randomise(model: nn.Module, images: np.ndarray) -> nn.Module:
    """Set BatchNorm statistics from images under random gains, and change learnable parameters from their defaults."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = 1.0
                if module.affine:
                    module.weight.normal_(0.5, 1)  # some reverse the sign
                    module.bias.normal_()
            elif isinstance(module, RPReLU):
                module.shift_in.normal_()
                module.shift_out.normal_()
                module.slope.uniform_(0, 0.5)
            elif isinstance(module, Quantizer):
                for parameter in module.parameters():
                    parameter.normal_(0.2, 0.5)
        model.train()(torch.from_numpy(images))
        for norm in batch_norms(model):
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.zero_()  # any statistics will do: no warning that they are of random draws
    return model.eval()


def make_mlp(widths: tuple[int, ...] = (12, 31, 40, 5), *, nasty: int | None = 0, **options: Any) -> nn.Module:
    torch.manual_seed(len(widths))
    options.setdefault("input_shape", SHAPE)
    model = create_model("mlp", widths=widths, **options)
    return model.eval() if nasty is None else make_nasty(model, nasty)


def images_of(count: int = 200, shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@torch.no_grad()
def torch_logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    return copy.deepcopy(model).eval()(torch.from_numpy(images)).numpy()


def assert_agrees(model: nn.Module, packed: PackedNet, images: np.ndarray | None = None) -> None:
    images = images_of() if images is None else images
    ours, theirs = run(packed, images), torch_logits(model, images)
    scale = np.abs(theirs).max() + 1e-30
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5, rtol=0)


def kinds(packed: PackedNet) -> list[str]:
    return [type(node).__name__ for node in packed.nodes]


def node_of(packed: PackedNet, kind: type, index: int = 0) -> Any:
    return [node for node in packed.nodes if isinstance(node, kind)][index]


def outputs_of(packed: PackedNet, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the packed net, in numpy, by name."""
    parts = [values for _, values in batches(packed, inputs, packed.outputs)]
    return {name: np.concatenate([part[name] for part in parts]) for name in packed.outputs}


def answers(packed: PackedNet, inputs: np.ndarray) -> Any:
    """What the packed net answers, in numpy: an array, a tuple or a dict."""
    return packed.structured(outputs_of(packed, inputs))


@torch.no_grad()
def assert_answers(model: nn.Module, packed: PackedNet, inputs: np.ndarray, *, atol: float = 1e-5) -> None:
    """The packed net answers what the model answers, relative to the largest number; natively the same bits."""
    outputs = outputs_of(packed, inputs)
    assert_native(packed, inputs, outputs)
    theirs, ours = copy.deepcopy(model).eval()(torch.from_numpy(inputs.copy())), packed.structured(outputs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        theirs, ours = tuple(theirs.values()), tuple(ours.values())
    if not isinstance(theirs, (tuple, list)):
        theirs, ours = (theirs,), (ours,)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == tuple(other.shape)
        scale = float(other.abs().max()) + 1e-30
        np.testing.assert_allclose(one / scale, other.numpy() / scale, atol=atol, rtol=0)


def assert_native(packed: PackedNet, inputs: np.ndarray, outputs: dict[str, np.ndarray] | None = None) -> None:
    """Every instruction set of this machine gives the bits of numpy."""
    values = (outputs or outputs_of(packed, inputs)).values()
    expected = np.concatenate([output.astype(np.float32).reshape(-1) for output in values])
    for isa in instruction_sets().values():
        found, nan = make_plan(packed, isa).run(inputs)
        assert not nan
        np.testing.assert_array_equal(found.reshape(-1).view(np.int32), expected.view(np.int32), err_msg=isa.name)


def inputs_of(shape: tuple[int, ...], dtype: str = "float32", *, count: int = 9, seed: int = 1) -> np.ndarray:
    """Random inputs: normal numbers, or integers 0-255."""
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return rng.standard_normal((count, *shape)).astype(np.float32)
