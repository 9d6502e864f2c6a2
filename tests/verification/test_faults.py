"""Each class of promise holds for fresh nets, and planted faults break it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.errors import FoldError, UsageError
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding
from onebit.packed import PackedNet
from support.changed_nets import changed

IMAGES = torch.randint(0, 256, (160, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A shortcut beside a padded convolution; signs or integers of few bits behind float sums."""

    def __init__(self, quantizer: str) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.conv = BinaryConv2d(6, 6, 3, padding=1, input_quantizer=quantizer, weight_quantizer="xnor")
        self.last = BinaryLinear(6 * 36, 5, input_quantizer=quantizer)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x.float() / 255)))
        return self.last((self.conv(x) + x).flatten(1))


def layers(quantizer: str | None) -> nn.Module:
    """A padded convolution, a pool and two layers of weights of ±1."""
    between: list[nn.Module] = [nn.ReLU()] if quantizer is None else []
    return nn.Sequential(
        *(InputCoding(), BinaryConv2d(1, 6, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(6), *between),
        *(BinaryConv2d(6, 8, 3, padding=1, input_quantizer=quantizer), nn.BatchNorm2d(8), *between, nn.Flatten()),
        *(BinaryLinear(128, 5, input_quantizer=quantizer), nn.BatchNorm1d(5)),
    )


NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "signs of integers": (lambda: layers("ste_sign"), "exact"),
    "real activations": (lambda: layers(None), "real"),
    "signs of real sums": (lambda: Residual("ste_sign"), "rounded"),
    "integers of few bits": (lambda: Residual("uint4"), "rounded"),
}


@cache
def trained(name: str) -> tuple[nn.Module, PackedNet, str]:
    """A net with statistics of its BatchNorms, packed, and the class of its promise."""
    torch.manual_seed(1)
    make, promise = NETS[name]
    model = make().train()
    with torch.no_grad():
        for _ in range(20):
            model(IMAGES)
    return model.eval(), onebit.pack(model.eval(), IMAGES), promise


def planted(packed: PackedNet, field: str, change: Callable[[Any], Any]) -> PackedNet | None:
    """The net with another array or attribute in the first node that has it; None if none has."""
    having = [node.output for node in packed.nodes if np.any(getattr(node, field, None))]
    return changed(packed, having[0], **{field: change}) if having else None


def added(index: Any, amount: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Add to some elements of an array."""

    def change(array: np.ndarray) -> np.ndarray:
        found = array.copy()
        found[index] += np.asarray(amount(array)).astype(array.dtype)
        return found

    return change


def flipped(bits: int) -> Callable[[np.ndarray], np.ndarray]:
    """Flip the first signs of channel 1."""

    def change(signs: np.ndarray) -> np.ndarray:
        found = signs.copy()
        found[1, 0] ^= np.uint64(bits)
        return found

    return change


FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a flipped channel": ("signs", flipped(0b111)),
    "a threshold that is one step off": ("threshold", added(2, lambda array: 2)),
    "a shifted border": ("padding", lambda padding: (padding[0] + 1, padding[1] - 1, *padding[2:])),
    "a scale that is 1 % off": ("scale", added(1, lambda array: 0.01 * array[1])),
    "a multiplier that is 1 % off": ("multiplier", added(np.s_[:, 0], lambda array: np.abs(array).max() // 100)),
}


@pytest.mark.parametrize("name", NETS)
def test_each_class_holds(name: str) -> None:
    model, packed, promise = trained(name)
    made = onebit.certify(model, packed, IMAGES)
    assert (made.promise, made.certificate.ok, made.certificate.count) == (promise, True, 160)
    if promise != "rounded":
        assert made.certificate.label_mismatches == 0
    assert onebit.verify(model, packed, IMAGES, batch_size=7).ok


@pytest.mark.parametrize("fault", list(FAULTS)[:4])
@pytest.mark.parametrize("name", NETS)
def test_a_planted_fault_breaks_it(name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed, _ = trained(name)
    field, change = FAULTS[fault]
    wrong = planted(packed, field, change)
    assert (wrong is None) == (field == "threshold" and name != "signs of integers")
    if wrong is None:
        return
    if field == "padding":
        with pytest.raises(UsageError):  # other operations; the images show it as well
            onebit.verify(model, wrong, IMAGES)
        monkeypatch.setattr("onebit.verification.layer_proofs._outline", lambda net: ())
    found = onebit.verify(model, wrong, IMAGES)
    assert not found.ok
    with pytest.raises(FoldError):
        onebit.certify(model, wrong, IMAGES)


@pytest.mark.parametrize("by", [0.02, -0.02])
def test_a_shifted_sign_breaks_it(by: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.Flatten(), BinaryLinear(216, 20, input_quantizer="rsign")),
        *(nn.BatchNorm1d(20), BinaryLinear(20, 4, input_quantizer="ste_sign")),
    )
    x = torch.rand(100, 1, 8, 8)
    packed = onebit.pack(model.eval(), x)
    assert onebit.verify(model, packed, x).ok
    wrong = planted(packed, "shift", lambda shift: shift + np.float32(by))
    assert not onebit.verify(model, wrong, x).ok


@pytest.mark.parametrize(
    ("bits", "name"), [(8, "real activations"), (4, "signs of real sums"), (2, "real activations")]
)
def test_integer_nets(bits: int, name: str) -> None:
    model, exact, _ = trained(name)
    packed = onebit.integer_net(exact, IMAGES.numpy(), activations=bits)
    made = onebit.certify(model, packed, IMAGES, activations=bits, calibration=160)
    assert made.promise == "rounded"
    assert (made.certificate.count, made.certificate.ok) == (160, True)
    for field, change in FAULTS.values():
        wrong = planted(packed, field, change)
        if wrong is not None and field != "padding":
            assert not onebit.verify(model, wrong, IMAGES).ok
    wrong = planted(packed, "offset", lambda a: a + np.abs(a).max() // 100)
    assert not onebit.verify(model, wrong, IMAGES).ok


def test_a_flipped_weight_of_a_constant_pixel_breaks_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), BinaryLinear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), BinaryLinear(16, 4))
    x = torch.rand(50, 1, 8, 8)
    x[:, :, 0, 0] = 0
    packed = onebit.pack(model.eval(), x)
    assert onebit.verify(model, packed, x).ok

    wrong = planted(packed, "signs", flipped(1))
    assert np.array_equal(onebit.run(wrong, x.numpy()), onebit.run(packed, x.numpy()))
    assert not onebit.verify(model, wrong, x).ok
