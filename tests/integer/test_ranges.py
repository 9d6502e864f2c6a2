"""Ranges of activations: their steps, what is refused, and what does not depend on how they are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onebit import native
from onebit.errors import FormatError, NotBinaryError, UsageError
from onebit.integer.conversion import Rounding
from onebit.integer.nets import calibrated, integer_net
from onebit.integer.ranges import _range_of
from onebit.packed import Affine, Conv, Dense, PackedNet, Relu, Requantize, Sign, dumps
from onebit.runtime import run
from support.packed_nets import IMAGE_NETS, Builder, inputs_of, make_packed_mlp

MLP = make_packed_mlp((12, 20, 15, 4))
IMAGES = inputs_of(MLP, 40)


def changed(net: PackedNet, name: str, **arrays: np.ndarray) -> PackedNet:
    """The net with other arrays in one node."""
    return replace(net, nodes=tuple(replace(node, **arrays) if node.output == name else node for node in net.nodes))


# ------------------------------------------------------------------------------------------------------------- steps
def test_rare_large_numbers_are_clipped() -> None:
    """The step is near the best one, here found by trying 500 others, and the share beyond is counted."""
    normal = np.random.default_rng(0).normal(size=5_000)
    for numbers, least, most in ((np.append(np.abs(normal), 50.0), 0, 15), (normal, -8, 7)):
        largest = float(np.abs(numbers).max())
        found = _range_of(Rounding("x", least, most, False), numbers, largest, 1000)
        steps = np.linspace(0.01, largest / most, 500)[:, None]
        rounded = np.clip(np.floor(numbers / np.append(steps, [[found.step]], axis=0) + 0.5), least, most)
        errors = np.square(rounded * np.append(steps, [[found.step]], axis=0) - numbers).sum(axis=1)
        assert errors[-1] <= 1.02 * errors.min()
        outside = (numbers >= (most + 0.5) * found.step) | (numbers < (least - 0.5) * found.step)
        assert found.beyond == np.count_nonzero(outside) / numbers.size > 0


def test_evenly_distributed_numbers_get_their_whole_range() -> None:
    found = _range_of(Rounding("x", 0, 255, False), np.linspace(0, 10, 1000), 10.0, 1000)
    assert found.step == pytest.approx(10 / 255, rel=0.05)
    assert found.beyond <= 0.05


def test_a_stream_may_be_twice_as_large() -> None:
    found = _range_of(Rounding("x", -32768, 32767, True), np.array([3.0]), 5.0, 40)
    assert found.step == pytest.approx(10 / 32767)


def test_activations_beyond_the_range_saturate() -> None:
    """Pixels far above those of the calibration give the largest integer, not another one."""
    b = Builder((4,), coding="values")
    b.add(Dense, **b.signs(3, 4))
    b.add(Affine, scale=np.ones(3, np.float32))
    b.add(Relu)
    b.dense(2)
    net = b.net()
    rng = np.random.default_rng(0)
    made = integer_net(net, rng.integers(0, 3, (64, 4), dtype=np.uint8))
    [rounding] = [node for node in made.nodes if isinstance(node, Requantize)]
    inner = replace(made, output=rounding.output, nodes=made.nodes[: made.nodes.index(rounding) + 1])
    given = run(inner, np.full((1, 4), 255, np.uint8))
    sums = run(replace(net, output="n0", nodes=net.nodes[:1]), np.full((1, 4), 255, np.uint8))
    assert set(given[sums > 20]) <= {255.0}
    assert (given[sums <= 0] == 0).all()


def test_the_ranges_do_not_depend_on_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    net = IMAGE_NETS["real"](0)
    images = inputs_of(net, 33)
    made = dumps(integer_net(net, images))
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    assert dumps(integer_net(net, images)) == made
    assert native.instruction_set() is None


def test_gray_images_may_lack_their_channel() -> None:
    net = make_packed_mlp((12, 20, 4), shape=(1, 3, 4))
    images = inputs_of(net, 40)
    assert dumps(integer_net(net, images[:, 0])) == dumps(integer_net(net, images))


# ---------------------------------------------------------------------------------------------------------- bad input
def test_too_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match="31"):
        integer_net(MLP, IMAGES[:31])


@pytest.mark.parametrize("bits", [3, 16, "8"])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(UsageError, match="bits"):
        integer_net(MLP, IMAGES, activations=bits)


def test_a_layer_that_is_always_zero_is_named() -> None:
    dead = changed(MLP, "affine1", shift=np.full(15, -1e6, np.float32))
    with pytest.raises(UsageError, match="relu1"):
        integer_net(dead, IMAGES)


@pytest.mark.parametrize("scale", [3e38, -3e38])
def test_values_that_are_not_finite_are_refused(scale: float) -> None:
    """The first layer's scale overflows float32 where its sums are large."""
    wild = changed(MLP, "affine0", scale=np.full(20, scale, np.float32))
    with pytest.raises(FormatError, match="not finite"):
        integer_net(wild, IMAGES)


def test_nan_at_a_sign_is_refused() -> None:
    b = Builder((2, 3, 3), coding="standardise")
    b.add(Conv, **b.signs(4, 18), kernel=(3, 3))
    b.add(Affine, scale=np.full(4, 3e38, np.float32))
    b.add(Affine, scale=np.zeros(4, np.float32))
    b.add(Sign)
    b.add(Conv, **b.signs(4, 4), kernel=(1, 1))
    b.affine(4)
    b.add(Relu)
    b.add(Conv, **b.signs(4, 4), kernel=(1, 1))
    net = b.net()
    with pytest.raises(NotBinaryError, match="NaN"):
        integer_net(net, inputs_of(net, 40))


def test_nets_of_signs_or_integers_have_nothing_to_round() -> None:
    signs = make_packed_mlp((12, 20, 15, 4), form="sign")
    for net in (signs, integer_net(MLP, IMAGES)):
        with pytest.raises(UsageError, match="nothing to round"):
            integer_net(net, inputs_of(net, 40))


def test_an_affine_map_beyond_exact_integers_is_computed_in_reals() -> None:
    """A channel far below zero, where the multipliers of all would be too coarse: real values are rounded instead."""
    scale, shift = np.full(20, 1e-3, np.float32), np.zeros(20, np.float32)
    scale[3], shift[3] = 3e9, -1e20
    net = changed(MLP, "affine0", scale=scale, shift=shift)
    made = calibrated(net, IMAGES).net
    kinds = [type(node).__name__ for node in made.nodes]
    assert kinds.count("Quantize") == 1
    assert np.isfinite(run(made, IMAGES)).all()
