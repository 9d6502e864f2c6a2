"""Every method of methods.yaml on small forms of the nets: packs, is saved and loaded, and agrees with torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.data import Split
from onebit.errors import FoldError
from onebit.fold import pack
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding, RPReLU
from onebit.models import settings
from onebit.packed import Affine, Certificate, PackedNet, Prelu, Sign, Threshold, dumps, loads
from onebit.quantizers import BinaryInput, Quantizer, SteSign
from onebit.recipe import build_recipe, merge, methods
from onebit.recipe.defaults import default_settings
from onebit.runs.model import build_model
from onebit.runs.plain_state import plain_state_dict
from onebit.runtime import run
from onebit.verification.agreement import certify
from support.covering import covering
from support.fold_nets import Model, images_of, kinds, node_of, randomise, torch_logits

SHAPE = (3, 8, 8)
NETS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": [192, 24, 20, 5]},
    "vgg_small": {"width": 1 / 16},
    "resnet14": {"width": 0.25},
    "resnet18": {"width": 1 / 16},
}
METHODS = {name: row for name, row in methods().items() if row["model"]["weight_quantizer"] is not None}
CASES = [  # a Bi-Real net has no real inputs
    (net, method)
    for net in NETS
    for method, row in METHODS.items()
    if net != "resnet18" or row["model"]["input_quantizer"] is not None
]


def recipe_of(net: str, method: str) -> settings.Model:
    asked = build_recipe(merge({"model": {"name": net}}, METHODS[method]))
    settings = merge(default_settings(asked, method=method), {"model": {"name": net, **NETS[net]}})
    return build_recipe(merge(settings, METHODS[method])).model


def agreed(model: nn.Module, packed: PackedNet, images: np.ndarray) -> Certificate:
    """Assert equal labels, equal logits up to rounding, and equal signs of integers."""
    split = Split(images, np.arange(len(images)) % 4)
    certificate = certify(model, packed, split, dataset="toy").certificate
    assert certificate is not None
    assert certificate.label_mismatches == 0
    logits = torch_logits(model, images)
    assert certificate.max_logit_difference <= 2e-5 * max(1, float(np.abs(logits).max()))
    for proof in certificate.layers:
        assert proof.integers > 0
        assert proof.mismatches <= (0 if proof.proof == "every integer" else proof.integers / 1000), proof
    assert certificate.correct == int((logits.argmax(axis=1) == split.labels).sum())
    return certificate


@pytest.mark.parametrize(("net", "method"), covering(CASES))
def test_every_method_packs_and_agrees_on_every_net(net: str, method: str) -> None:
    """Daily each method on one net."""
    torch.manual_seed(0)
    recipe = recipe_of(net, method)
    statistics = ([120.0] * 3, [60.0] * 3) if recipe.coding == "standardize" else None
    model = randomise(build_model(recipe, input_shape=SHAPE, classes=5, statistics=statistics), images_of(24, SHAPE))
    certificate = agreed(model, loads(dumps(pack(model, name=method))), images_of(30, SHAPE, seed=2))
    assert bool(certificate.layers) == (recipe.input_quantizer is not None)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in plain_state_dict(model).values())


# ------------------------------------------------------------------------------------------------------- single signs
def net_of(*body: nn.Module, inputs: Any, weight: Any = "sign", flat: bool = True) -> nn.Module:
    """Coded pixels through a convolution, BatchNorm and `body` into a dense layer with an input quantizer."""
    torch.manual_seed(0)
    width = 6 * 4 * 4 if flat else 6
    body += (nn.Flatten(),) if flat else ()
    last = BinaryLinear(width, 4, weight_quantizer=weight, input_quantizer=inputs)
    first = BinaryConv2d(3, 6, 3, stride=2, padding=1, weight_quantizer=weight)
    return randomise(
        nn.Sequential(InputCoding(), first, nn.BatchNorm2d(6), *body, last, nn.BatchNorm1d(4)), images_of(24, SHAPE)
    )


def packed_of(model: nn.Module) -> PackedNet:
    return loads(dumps(pack(model, input_shape=SHAPE)))


@pytest.mark.parametrize("flat", [True, False])
def test_a_shift_is_folded_into_the_threshold_of_integers(flat: bool) -> None:
    body = () if flat else (nn.MaxPool2d(4), nn.Flatten())
    model = net_of(*body, inputs="rsign", flat=flat)
    packed = packed_of(model)
    expected = ["Conv", "Flatten", "Threshold"] if flat else ["Conv", "Threshold", "MaxPool", "Flatten"]
    if not flat:  # after a pool and a Flatten, a shift per element has no channel of its own before them
        expected = ["Conv", "Affine", "MaxPool", "Flatten", "Sign"]
    assert kinds(packed) == [*expected, "Dense", "Affine"]
    certificate = agreed(model, packed, images_of(40, SHAPE))
    assert certificate.bit_exact
    proofs = certificate.layers
    assert [proof.proof for proof in proofs] == ["every integer" if flat else "float"]
    if flat:
        assert node_of(packed, Threshold).threshold.shape == (96,)
        assert proofs[0].integers >= 96 * 27 * 255


def test_pixels_are_shifted_by_channel_after_a_pool() -> None:
    torch.manual_seed(0)
    first, second = BinaryConv2d(3, 6, 3, padding=1), BinaryConv2d(6, 4, 3, input_quantizer="rsign")
    layers = (first, nn.BatchNorm2d(6), RPReLU(6), nn.MaxPool2d(2), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = randomise(nn.Sequential(InputCoding(), *layers), images_of(24, SHAPE))
    packed = packed_of(model)
    assert kinds(packed)[:4] == ["Conv", "Threshold", "MaxPool", "Conv"]
    agreed(model, packed, images_of(40, SHAPE))


@pytest.mark.parametrize(
    ("kind", "slope"), [("rprelu", 0.3), ("rprelu", -0.3), ("prelu", -0.3), ("prelu of one slope", 0.3)]
)
def test_a_prelu_becomes_a_threshold_if_it_is_monotonic(kind: str, slope: float) -> None:
    layer: Any = RPReLU(6) if kind == "rprelu" else nn.PReLU(6 if kind == "prelu" else 1)
    model = net_of(layer, inputs="rsign" if kind == "rprelu" else "ste_sign")
    with torch.no_grad():
        (layer.slope if kind == "rprelu" else layer.weight).fill_(slope)
        if slope < 0:  # the output is not monotonic in the integer
            model[1].weight.neg_()
    packed = packed_of(model)
    assert any(isinstance(node, Prelu) for node in packed.nodes) == (slope < 0)
    assert any(isinstance(node, Sign) for node in packed.nodes) == (slope < 0)
    agreed(model, packed, images_of(40, SHAPE))


def test_a_prelu_of_real_values_is_kept() -> None:
    model = net_of(RPReLU(6), inputs=None)
    packed = packed_of(model)
    assert kinds(packed) == ["Conv", "Affine", "Prelu", "Affine", "Flatten", "Dense", "Affine"]
    agreed(model, packed, images_of(40, SHAPE))


def test_an_average_of_single_pixels_selects_them() -> None:
    forward = lambda m, x: F.avg_pool2d(m.conv(m.coding(x)), 1, (2, 3)).flatten(1)  # noqa: E731
    model = Model(forward, coding=InputCoding(), conv=BinaryConv2d(3, 6, 3)).eval()
    packed = packed_of(model)
    assert kinds(packed) == ["Conv", "Slice", "Flatten"]
    np.testing.assert_array_equal(run(packed, images_of(5, SHAPE)), torch_logits(model, images_of(5, SHAPE)))


def shared(m: Any, x: Tensor) -> Tensor:
    """A value with two shifts that is also added, as at the beginning of a stage."""
    x = m.norm(m.first(m.coding(x)))
    y = m.act(m.a(x) + m.b(x) + x)
    return m.last(y).mean((2, 3))


def test_two_shifts_of_one_value_are_two_signs() -> None:
    torch.manual_seed(0)
    parts = {"coding": InputCoding(), "first": BinaryConv2d(3, 6, 3, padding=1), "norm": nn.BatchNorm2d(6)}
    parts |= {"a": BinaryConv2d(6, 6, 3, padding=1, input_quantizer="rsign"), "act": RPReLU(6)}
    parts |= {
        "b": BinaryConv2d(6, 6, 1, input_quantizer="rsign"),
        "last": BinaryConv2d(6, 4, 3, input_quantizer="rsign"),
    }
    model: Any = randomise(Model(shared, **parts), images_of(24, SHAPE))
    packed = packed_of(model)
    assert [node.output for node in packed.nodes if isinstance(node, Threshold)] == ["a.sign", "b.sign"]
    (sign,) = (node for node in packed.nodes if isinstance(node, Sign))
    np.testing.assert_array_equal(sign.shift, model.last.input_quantizer.shift.detach().numpy())
    agreed(model, packed, images_of(40, SHAPE))


def test_the_two_values_of_adabin_are_an_affine_map_of_signs() -> None:
    model = net_of(inputs="adabin")
    quantizer: Any = model[-2].input_quantizer
    packed = packed_of(model)
    assert kinds(packed) == ["Conv", "Threshold", "Flatten", "Affine", "Dense", "Affine"]
    node = node_of(packed, Affine)
    assert set(node.scale) == {np.float32(abs(quantizer.distance.item()))}
    assert set(node.shift) == {np.float32(quantizer.centre.item())}
    agreed(model, packed, images_of(40, SHAPE))


def test_a_scale_is_deferred_past_a_pool_of_integers() -> None:
    model = net_of(nn.Identity(), inputs="ste_sign", weight="irnet")
    pooled = nn.Sequential(*model[:2], nn.MaxPool2d(2, padding=1), *model[2:4], nn.Flatten()).eval()
    last = BinaryLinear(6 * 3 * 3, 4, weight_quantizer="irnet", input_quantizer="ste_sign")
    pooled.append(last)
    packed = packed_of(pooled)
    assert kinds(packed) == ["Conv", "MaxPool", "Threshold", "Flatten", "Dense", "Affine"]
    assert [proof.proof for proof in agreed(pooled, packed, images_of(40, SHAPE)).layers] == ["every integer"]


# ------------------------------------------------------------------------------------------------------------ refusals
class Dishonest(SteSign):
    """States that it is a sign, but is not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - 1)


class Unstated(Quantizer):
    """Has no `binary_input`."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Doubled(SteSign):
    """A quantizer from outside onebit, with two other values."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) + 1

    def binary_input(self) -> BinaryInput:
        return BinaryInput(scale=torch.tensor(2.0), centre=torch.tensor(1.0))


def test_a_foreign_quantizer_packs_by_its_binary_input() -> None:
    model = net_of(inputs=Doubled())
    agreed(model, packed_of(model), images_of(40, SHAPE))


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (Dishonest(), "Dishonest"),
        (Unstated(), r"Unstated \('4.input_quantizer'\)"),
    ],
)
def test_input_quantizers_with_a_wrong_binary_input_are_refused(quantizer: Quantizer, message: str) -> None:
    with pytest.raises(FoldError, match=message):
        pack(net_of(inputs=quantizer), input_shape=SHAPE)
