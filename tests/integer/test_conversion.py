"""An integer net computes what its exact net does in fractions, each value rounded once where the ranges say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product
from math import floor

import numpy as np
import pytest

from onebit.errors import UsageError
from onebit.integer.conversion import Conversion
from onebit.integer.form import Form
from onebit.integer.nets import calibrated, plan_conversion, rounded_as_trained
from onebit.integer.operations import CONVERSIONS
from onebit.packed import Card, CardScore, Node, PackedNet, dumps, infer, loads, nodes as op
from onebit.runtime import run
from support import by_hand
from support.covering import covering
from support.packed_nets import NETS, Builder, inputs_of, make_packed_mlp, real_resnet

residual_net = partial(real_resnet, (4, 6), size=6, coding="standardise")


def stream_net(seed: int = 0) -> PackedNet:
    """A residual stream without bounds: BatchNorm and ReLU come before the weights; pixels are normalized by a node."""
    b = Builder((2, 5, 5), seed=seed, coding="values")
    b.add(op.Affine, scale=np.array([1 / 60, 1 / 50], np.float32), shift=np.array([-2.1, -2.4], np.float32))
    b.add(op.Conv, **b.signs(4, 18), kernel=(3, 3), padding=(1, 1, 1, 1))
    x = b.affine(4)
    for _ in range(2):
        b.affine(4)
        b.add(op.Relu)
        y = b.add(op.Conv, **b.signs(4, 36, scale=True), kernel=(3, 3), padding=(1, 1, 1, 1))
        x = b.add(op.Add, x, y)
    b.affine(4)
    b.add(op.Relu)
    b.add(op.AdaptiveAveragePool, size=(1, 1))
    b.add(op.Flatten)
    b.dense(3)
    return b.net()


def unet(seed: int = 0) -> PackedNet:
    """Pools, upsampling, and a concatenation of values that must have the same step."""
    b = Builder((1, 6, 6), seed=seed)
    b.add(op.Conv, **b.signs(4, 9), kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=1)
    b.affine(4)
    skip = b.add(op.Relu)
    b.add(op.MaxPool, kernel=(2, 2), stride=(2, 2))
    b.add(op.Conv, **b.signs(5, 36), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.affine(5)
    b.add(op.Relu)
    b.add(op.ConvTranspose, **b.signs(3, 20), kernel=(2, 2), stride=(2, 2))
    b.affine(3)
    up = b.add(op.Relu)
    b.add(op.Concat, skip, up)
    b.add(op.Conv, **b.signs(3, 63, scale=True, centre=True), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.affine(3)
    b.add(op.Clamp, low=np.float32([0]), high=np.float32([6]))
    b.add(op.Conv, **b.signs(2, 3), kernel=(1, 1))
    b.affine(2)
    return b.net()


def mixed_net(seed: int = 0) -> PackedNet:
    """Signs of sums of integers, after activations of few bits, and a bound on both sides without weights behind it."""
    b = Builder((2, 4, 4), seed=seed, coding="standardise")
    b.add(op.Conv, **b.signs(6, 18), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.affine(6)
    b.add(op.Sign, shift=b.real(6))
    b.add(op.Conv, **b.signs(6, 27), kernel=(3, 3), padding=(1, 1, 1, 1), groups=2, padding_value=-1)
    b.affine(6)
    b.add(op.Clamp, low=np.float32([-1.5]), high=np.float32([2]))
    b.add(op.Flatten)
    b.dense(8)
    b.affine(8)
    b.add(op.Sign)
    b.dense(3)
    b.affine(3)
    return b.net()


def bordered_net(seed: int = 0, value: int = 1) -> PackedNet:
    """The first rounded value is read by weights, and with a border of ±1 by others."""
    b = Builder((2, 6, 6), seed=seed, coding="values")
    b.add(op.Conv, **b.signs(4, 18), kernel=(3, 3))
    b.affine(4)
    x = b.add(op.Relu)
    b.add(op.Conv, x, **b.signs(3, 4), kernel=(1, 1))
    y = b.affine(3)
    b.add(op.Pad, x, padding=(1, 0, 0, 1), value=value)
    b.add(op.Conv, **b.signs(3, 16), kernel=(2, 2))
    z = b.affine(3)
    b.add(op.Add, y, z)
    b.add(op.Flatten)
    b.dense(4)
    return b.net()


CASES: dict[str, Callable[[int], PackedNet]] = {
    "residual": lambda seed: residual_net(seed=seed),
    "stream": stream_net,
    "unet": unet,
    "mixed": mixed_net,
    "bordered": bordered_net,
    "bordered by -1": lambda seed: bordered_net(seed, -1),
    "mlp": lambda seed: make_packed_mlp((12, 20, 15, 4), seed=seed),
    "mixed mlp": lambda seed: make_packed_mlp((12, 20, 15, 4), form="mixed", seed=seed),
    **{name: NETS[name] for name in ("real", "signal", "features", "tokens")},
}


def steps_of(net: PackedNet, bits: int, images: np.ndarray) -> dict[str, tuple[Fraction, int, int]]:
    """What is rounded: name -> (step, least, most); the image to the step with which all pixels fit."""
    plan, groups = plan_conversion(net, bits)
    ranges = calibrated(net, images, activations=bits).ranges
    steps = {
        name: (Fraction(max(ranges[other].step for other in groups[name])), rounding.least, rounding.most)
        for name, rounding in plan.roundings.items()
    }
    return steps


def rounded_by_hand(net: PackedNet, steps: dict[str, tuple[Fraction, int, int]], image: np.ndarray) -> list[Fraction]:
    """The outputs of an exact net, in fractions, with some values rounded to multiples of their steps."""

    def settled(name: str, value: np.ndarray) -> np.ndarray:
        if name not in steps:
            return value
        step, least, most = steps[name]
        return by_hand._each(lambda x: min(max(floor(x / step + Fraction(1, 2)), least), most) * step, value)

    known = infer(net)
    values = {"input": settled("input", by_hand._coded(net, image))}
    for node in net.nodes:
        made = by_hand._made(node, known, *(values[name] for name in node.inputs))
        values[node.output] = settled(node.output, made)
    return [number for name in net.outputs for number in values[name].reshape(-1).tolist()]


def image_step(net: PackedNet) -> dict[str, tuple[Fraction, int, int]]:
    """The rounding of an image with real values, and the name of the value."""
    first = next((node for node in net.nodes if isinstance(node, op.Affine) and node.inputs == ("input",)), None)
    if net.input.mean is not None and net.input.std is not None:
        name, ends = "input", [(x - net.input.mean.astype(float)) / net.input.std.astype(float) for x in (0, 255)]
    elif first is not None:
        name, ends = first.output, [first.scale.astype(float) * x + first.shift.astype(float) for x in (0, 255)]
    else:
        return {}
    return {name: (Fraction(float(np.abs(ends).max())) / 127, -128, 127)}


@pytest.mark.parametrize(("name", "bits"), covering(product(CASES, [8, 4, 2])))
def test_an_integer_net_rounds_each_value_of_the_exact_net_once(
    name: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = CASES[name](bits)
    images = inputs_of(net, 40, seed=1)
    made = calibrated(net, images, activations=bits)
    steps = steps_of(net, bits, images)
    if any(isinstance(node, op.Requantize) and node.inputs == ("input",) for node in made.net.nodes):
        steps |= image_step(net)
    outputs = run(made.net, images[:1])
    parts = list(made.net.by_name(outputs).values())
    monkeypatch.setattr(by_hand, "f32", lambda x: x if isinstance(x, Fraction) else Fraction(float(x)))
    monkeypatch.setattr(by_hand, "_on_grid", lambda values, least: values)
    expected = np.array([float(x) for x in rounded_by_hand(net, steps, images[0])])
    given = np.concatenate([part[0].reshape(-1) for part in parts])
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_weights_multiply_small_integers(name: str) -> None:
    net = CASES[name](0)
    made = calibrated(net, inputs_of(net, 40), activations=8).net
    known = infer(made)
    for node in made.nodes:
        if isinstance(node, (op.Dense, op.Conv, op.ConvTranspose)):
            x = known[node.inputs[0]]
            assert x.exact, node.output
            assert node.scale is None
            assert node.centre is None
            assert -128 <= x.limits[0] <= x.limits[1] <= 255 or x.bound == 255 or isinstance(node, op.Dense)
    assert dumps(loads(dumps(made))) == dumps(made)


def test_pixels_of_a_net_trained_with_roundings_can_be_rounded_too() -> None:
    """The sums of real values that `quantize` rounded become sums of integers, and the net integer from the pixels."""
    b = Builder((2, 4, 4), coding="standardise")
    b.add(op.Conv, **b.signs(6, 18), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(op.Affine, scale=np.full(6, 3, np.float32), shift=b.real(6))
    x = b.add(op.Quantize, least=0, most=15)
    y = b.add(op.Conv, **b.signs(6, 54), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.requantize(y, x, most=15)
    b.add(op.Flatten)
    b.dense(5)
    net = b.net()
    images = inputs_of(net, 64)
    made = calibrated(net, images).net
    operations = ["Requantize", "Conv", "Requantize", "Conv", "Requantize", "Flatten", "Dense"]
    assert [type(node).__name__ for node in made.nodes] == operations
    apart = np.abs(run(made, images) - run(net, images)).mean()
    assert 0 < apart < 0.02 * np.abs(run(net, images)).max()


def test_an_integer_net_behind_scaled_integers_has_other_multipliers() -> None:
    """A requantization of integers that become multiples of a step rounds the same sums."""
    b = Builder((6,), coding="values")
    b.dense(7)
    b.dense(9)
    b.requantize(most=15)
    b.dense(3)
    net = b.net()
    wide = Conversion(net, 8, lambda *_: 0.5, CONVERSIONS)
    wide.values["input"] = net.input.value
    wide.forms["input"] = Form.of("input", 6, 0.5)  # of pixels that count half
    sums = wide.append_changed(net.nodes[1], wide.append_changed(net.nodes[0], "input"))
    wide.forms["n1"] = Form.of(sums, 9, 0.5)
    form = CONVERSIONS[op.Requantize].convert(wide, net.nodes[2], wide.forms["n1"])
    [(value, scale)] = form.terms.items()
    assert (scale == 1).all()
    node = wide.nodes[-1]
    assert isinstance(node, op.Requantize)
    assert node.output == value
    half = np.arange(-3000, 3000)[:, None] * np.ones(9, np.int64)
    old, new = net.nodes[2], node
    assert isinstance(old, op.Requantize)
    expected = (half * old.multiplier[0].astype(np.int64) + 2 * old.offset) >> (old.right_shift + 1)
    given = (half * new.multiplier[0].astype(np.int64) + new.offset) >> new.right_shift
    assert np.mean(np.clip(expected, 0, 15) == np.clip(given, 0, 15)) > 0.999


def test_values_that_are_concatenated_have_one_step() -> None:
    net = unet()
    made = calibrated(net, inputs_of(net, 40)).net
    [joint] = [node.output for node in made.nodes if isinstance(node, op.Concat)]
    assert [type(node) for node in made.nodes if joint in node.inputs] == [op.Conv] * 2  # one for centers


def test_a_residual_block_is_one_rounding_of_sums_and_shortcut() -> None:
    net = residual_net()
    made = calibrated(net, inputs_of(net, 40)).net
    assert made.input.coding == "values"
    assert [type(node).__name__ for node in made.nodes] == [
        *("Requantize", "Conv", "Requantize", "Conv", "Requantize", "Conv", "Requantize"),
        *("Conv", "Requantize", "Conv", "Slice", "Pad", "Requantize", "AveragePool", "Flatten", "Dense", "Affine"),
    ]
    assert [len(node.inputs) for node in made.nodes if isinstance(node, op.Requantize)] == [1, 1, 1, 2, 1, 2]


@pytest.mark.parametrize("value", [1, -1])
@pytest.mark.parametrize("bound", [op.Relu, op.Clamp])
def test_a_border_of_ones_is_rounded_together_with_what_it_surrounds(bound: type[Node], value: int) -> None:
    b = Builder((2, 6, 6))
    b.add(op.Conv, **b.signs(8, 18), kernel=(3, 3))
    b.add(op.Affine, scale=np.full(8, 1e-3, np.float32), shift=b.real(8))
    b.add(bound, **({"low": np.float32([-1.5])} if bound is op.Clamp else {}))
    b.add(op.Pad, padding=(1, 1, 1, 1), value=value)
    b.add(op.Conv, **b.signs(8, 72), kernel=(3, 3))
    b.add(op.Flatten)
    b.dense(3)
    net = b.net()
    images = inputs_of(net, 64)
    made = calibrated(net, images).net
    operations = ["Conv", "Affine", bound.__name__, "Pad", "Affine", "Quantize", "Conv"]
    assert [type(node).__name__ for node in made.nodes][: len(operations)] == operations
    apart = np.abs(run(made, images) - run(net, images)).mean()
    assert 0 < apart < 0.02 * np.abs(run(net, images)).max()


def test_a_stream_has_16_bits_and_pixels_8() -> None:
    net = stream_net()
    made = calibrated(net, inputs_of(net, 40), activations=2).net
    limits = [(node.least, node.most) for node in made.nodes if isinstance(node, op.Requantize)]
    assert limits == [(-128, 127), (0, 3), (-32768, 32767), (0, 3), (0, 3)]


def rounding_net(*, standardized: bool = False) -> PackedNet:
    """A net that was trained with its roundings: bounds, a division by the step, `quantize`, a multiplication."""
    b = Builder((2, 4, 4), coding="standardise" if standardized else "values")
    b.add(op.Conv, **b.signs(6, 18), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.affine(6)
    b.add(op.Relu)
    b.add(op.Affine, scale=np.full(6, 1 / 0.375, np.float32))
    b.add(op.Quantize, least=0, most=15)
    b.add(op.Affine, scale=np.full(6, 0.375, np.float32))
    b.add(op.Flatten)
    b.dense(5)
    b.affine(5)
    return b.net()


def test_roundings_of_the_training_are_kept() -> None:
    net = rounding_net()
    made, _ = rounded_as_trained(net)
    assert [type(node).__name__ for node in made.nodes] == ["Conv", "Requantize", "Flatten", "Dense", "Affine"]
    images = inputs_of(net, 200)
    np.testing.assert_allclose(run(made, images), run(net, images), rtol=1e-5, atol=1e-4)
    with pytest.raises(UsageError, match="nothing to round"):
        calibrated(net, images, activations=8)


def test_the_card_of_the_exact_net_states_no_accuracy_of_the_integer_net() -> None:
    scores = {"packed": CardScore(correct=9, count=10), "latent": CardScore(correct=8, count=10)}
    net = replace(residual_net(), card=Card(summary="a net", method="weights sign", test=scores))
    card = calibrated(net, inputs_of(net, 40), activations=8).net.card
    assert card == Card(
        summary="a net",
        method="weights sign; activations rounded to 8 bits after the training",
        test={"latent": scores["latent"]},
    )
    as_trained = replace(rounding_net(), card=Card(method="weights sign", test=scores))
    assert rounded_as_trained(as_trained)[0].card == Card(method="weights sign", test={"latent": scores["latent"]})


def test_without_images_only_roundings_of_the_training_become_integers() -> None:
    net = rounding_net(standardized=True)
    made, _ = rounded_as_trained(net)
    assert made.input.coding == "standardise"
    operations = [type(node).__name__ for node in made.nodes]
    assert operations == ["Conv", "Affine", "Quantize", "Flatten", "Dense", "Affine"]
    images = inputs_of(net, 200)
    np.testing.assert_allclose(run(made, images), run(net, images), rtol=1e-5, atol=1e-4)
    plain = unet()
    assert rounded_as_trained(plain)[0] is plain
