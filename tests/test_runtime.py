from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.bits import pack_signs, unpack_signs
from onebit.errors import FormatError, NotBinaryError, UsageError
from onebit.packed import (
    OPS,
    Affine,
    Dense,
    Flatten,
    Hardtanh,
    InputSpec,
    Node,
    PackedNet,
    RealDense,
    Relu,
    Sign,
    Threshold,
    infer,
    save,
)
from onebit.runtime import EXECUTORS, load, run, softmax

Maker = Callable[..., PackedNet]
INT32 = np.iinfo(np.int32)


def random_images(net: PackedNet, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *net.input.shape), dtype=np.uint8)


def f32(x: Fraction | float) -> Fraction:
    """Rounded to float32 once, from the exact value."""
    if not isinstance(x, Fraction):
        x = Fraction(float(x))
    near = np.float32(float(x))
    candidates = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return Fraction(float(min(candidates, key=lambda c: (abs(Fraction(float(c)) - x), int(c.view(np.uint32)) & 1))))


def by_hand(net: PackedNet, image: np.ndarray) -> list[Fraction]:
    """What the specification says, one number after the other in exact fractions, float32 rounding where it says so."""
    values: dict[str, list[Fraction]] = {}
    pixels = [Fraction(int(x)) for x in image.reshape(-1)]
    if net.input.mean is not None and net.input.std is not None:
        per_channel = image[0].size
        mean, std = (np.repeat(array, per_channel) for array in (net.input.mean, net.input.std))
        values["input"] = [f32(f32(x - f32(m)) / f32(s)) for x, m, s in zip(pixels, mean, std, strict=True)]
    else:
        values["input"] = [2 * x - 255 for x in pixels]
    for node in net.nodes:
        x = values[node.inputs[0]]
        if isinstance(node, Dense):
            y = []
            for row, signs in enumerate(unpack_signs(node.signs, node.in_features)):
                total = sum((int(s) * v for s, v in zip(signs, x, strict=True)), Fraction(0))
                if infer(net)[node.output].kind == "real":
                    total = f32(total)
                if node.scale is not None:
                    total = f32(total * f32(node.scale[row]))
                if node.centre is not None:
                    total = f32(total + f32(f32(sum(x)) * f32(node.centre[row])))
                y.append(total)
        elif isinstance(node, RealDense):
            y = [f32(sum(Fraction(float(w)) * v for w, v in zip(row, x, strict=True))) for row in node.weight]
        elif isinstance(node, Affine):
            y = x
            if node.scale is not None:
                y = [v * f32(a) for v, a in zip(y, node.scale, strict=True)]
            if node.shift is not None:
                y = [v + f32(b) for v, b in zip(y, node.shift, strict=True)]
            y = [f32(v) for v in y]  # rounded once
        elif isinstance(node, Threshold):
            rules = zip(x, node.threshold.tolist(), node.direction.tolist(), strict=True)
            y = [Fraction(1 if (v >= t if d > 0 else v <= t) else -1) for v, t, d in rules]
        elif isinstance(node, Sign):
            y = [Fraction(1 if v >= 0 else -1) for v in x]
        elif isinstance(node, Relu):
            y = [max(v, Fraction(0)) for v in x]
        elif isinstance(node, Hardtanh):
            y = [min(max(v, Fraction(-1)), Fraction(1)) for v in x]
        else:
            assert isinstance(node, Flatten)
            y = x
        values[node.output] = y
    return values[net.output]


@pytest.mark.parametrize("form", ["weight-only", "sign", "mixed"])
@pytest.mark.parametrize("widths", [(1, 1), (12, 9, 3), (65, 33, 66, 10)])
def test_the_executor_computes_what_the_specification_says(
    packed_mlp: Maker, form: str, widths: tuple[int, ...]
) -> None:
    net = packed_mlp(widths, form=form)
    images = random_images(net, 4)
    logits = run(net, images)
    assert logits.dtype == np.float32
    assert logits.shape == (4, widths[-1])
    assert [[Fraction(float(x)) for x in row] for row in logits] == [by_hand(net, image) for image in images]


def test_colour_images_are_flattened_and_standardised_by_channel(packed_mlp: Maker) -> None:
    for form in ("sign", "mixed"):
        net = packed_mlp((3 * 4 * 5, 9, 3), form=form, shape=(3, 4, 5))
        images = random_images(net, 3)
        assert [[Fraction(float(x)) for x in row] for row in run(net, images)] == [by_hand(net, i) for i in images]


def test_maps_are_affine_by_channel() -> None:
    scale, shift = np.array([2, -1], np.float32), np.array([0, 0.5], np.float32)
    nodes = (
        Affine(inputs=("input",), output="a", scale=scale, shift=shift),
        Hardtanh(inputs=("a",), output="b"),
        Relu(inputs=("b",), output="c"),
    )
    net = PackedNet(input=InputSpec(shape=(2, 1, 3)), nodes=nodes, output="c")
    images = np.array([[[[0, 127, 128]], [[0, 127, 128]]]], np.uint8)  # -255, -1, 1
    assert run(net, images).tolist() == [[[[0, 0, 1]], [[1, 1, 0]]]]


def one_layer(node: Node, features: int, *more: Node) -> PackedNet:
    nodes = (Flatten(inputs=("input",), output="x"), node, *more)
    return PackedNet(input=InputSpec(shape=(1, 1, features)), nodes=nodes, output=nodes[-1].output)


def test_thresholds_at_and_beside_the_sum_and_at_the_ends_of_int32() -> None:
    weight = Dense(inputs=("x",), output="s", signs=pack_signs(np.ones((10, 3))), in_features=3)  # every sum is 3 · 255
    threshold = np.array([764, 765, 766, 764, 765, 766, INT32.min, INT32.max, INT32.min, INT32.max], np.int32)
    direction = np.array([1, 1, 1, -1, -1, -1, 1, 1, -1, -1], np.int8)
    net = one_layer(weight, 3, Threshold(inputs=("s",), output="t", threshold=threshold, direction=direction))
    white, black = np.full((1, 1, 1, 3), 255, np.uint8), np.zeros((1, 1, 1, 3), np.uint8)
    assert run(net, white).tolist() == [[1, 1, -1, -1, 1, 1, 1, -1, -1, 1]]
    assert run(net, black).tolist() == [[-1, -1, -1, 1, 1, 1, 1, -1, -1, 1]]


def test_sums_that_float32_cannot_hold_are_exact() -> None:
    features = 2000
    ones = np.ones((features, features), np.int8)
    ones[:, 0] = -1
    first = Dense(inputs=("x",), output="a", signs=pack_signs(ones), in_features=features)
    second = Dense(inputs=("a",), output="b", signs=pack_signs(ones[:1]), in_features=features)
    total = (255 * (features - 1) - 253) * (features - 2)  # about 10^9, odd times even, not a multiple of 64
    image = np.full((1, 1, 1, features), 255, np.uint8)
    image[..., 0] = 254
    outcomes = []
    for offset in (0, 1):
        at = np.array([total + offset], np.int32)
        rule = Threshold(inputs=("b",), output="t", threshold=at, direction=np.ones(1, np.int8))
        outcomes.append(run(one_layer(first, features, second, rule), image).item())
    assert int(np.float32(total)) != total
    assert outcomes == [1, -1]


def test_sign_of_zero_and_of_minus_zero_is_plus_one() -> None:
    zero = Affine(inputs=("x",), output="z", scale=np.array([0, -0.0, 0], np.float32))
    rectified = [Relu(inputs=("z",), output="r"), Sign(inputs=("r",), output="s")]
    for chain in ([Sign(inputs=("z",), output="s")], rectified):
        images = np.array([[[[0, 127, 255]]], [[[255, 255, 0]]]], np.uint8)
        assert run(one_layer(zero, 3, *chain), images).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_the_result_does_not_depend_on_the_batch_size(packed_mlp: Maker) -> None:
    for form in ("weight-only", "sign", "mixed"):
        net = packed_mlp((65, 130, 70, 10), form=form)
        images = random_images(net, 23)
        expected = run(net, images)
        for batch_size in (1, 7, 23, 24):
            np.testing.assert_array_equal(run(net, images, batch_size=batch_size), expected)


def test_grey_images_need_no_channel_axis_and_may_be_none(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5), shape=(1, 3, 4))
    images = random_images(net, 4)
    np.testing.assert_array_equal(run(net, images[:, 0]), run(net, images))
    np.testing.assert_array_equal(run(net, images[:, :, ::-1][:, :, ::-1]), run(net, images.copy(order="F")))
    assert run(net, images[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((2, 1, 3, 4), np.float32), r"float32 \(2, 1, 3, 4\)"),
        (np.zeros((2, 1, 4, 3), np.uint8), r"uint8 \(2, 1, 4, 3\)"),
        (np.zeros((2, 3, 3, 4), np.uint8), r"uint8 \(2, 3, 3, 4\)"),
        (np.zeros((3, 4), np.uint8), r"uint8 \(3, 4\)"),
        (np.zeros((2, 12), np.uint8), r"uint8 \(2, 12\)"),
        (np.zeros((), np.uint8), r"uint8 \(\)"),
        ([[[[0] * 4] * 3]], "list"),
        ([[1], [1, 2]], "list"),
        (None, "NoneType"),
        (np.zeros((2, 1, 3, 4), bool), r"bool \(2, 1, 3, 4\)"),
    ],
)
def test_other_images_are_refused_in_one_line(packed_mlp: Maker, images: Any, got: str) -> None:
    net = packed_mlp((12, 5), shape=(1, 3, 4))
    with pytest.raises(UsageError, match=rf"got images {got}, expected uint8 \(N, 1, 3, 4\) or \(N, 3, 4\)$"):
        run(net, images)


def test_colour_nets_want_a_channel_axis(packed_mlp: Maker) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 \(N, 3, 2, 2\)$"):
        run(packed_mlp((12, 5), shape=(3, 2, 2)), np.zeros((3, 2, 2), np.uint8))


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_bad_batch_size_is_refused(packed_mlp: Maker, batch_size: Any) -> None:
    net = packed_mlp((12, 5))
    with pytest.raises(UsageError, match="expected a positive integer"):
        run(net, random_images(net, 1), batch_size=batch_size)


def test_parameters_that_overflow_are_found() -> None:
    huge = np.full(2, 3e38, np.float32)
    double = Affine(inputs=("x",), output="a", scale=huge)
    with pytest.raises(FormatError, match="not finite"):
        run(one_layer(double, 2), np.full((1, 1, 1, 2), 255, np.uint8))
    nan = Affine(inputs=("a",), output="b", scale=np.zeros(2, np.float32))  # infinity · 0
    with pytest.raises(NotBinaryError, match="NaN"):
        run(one_layer(double, 2, nan, Sign(inputs=("b",), output="s")), np.full((1, 1, 1, 2), 255, np.uint8))


def test_a_loaded_net_runs_as_the_saved_one(tmp_path: Path, packed_mlp: Maker) -> None:
    for form in ("weight-only", "sign", "mixed"):
        net = packed_mlp((65, 130, 10), form=form)
        save(net, tmp_path / "net.1bit")
        images = random_images(net, 5)
        np.testing.assert_array_equal(run(load(tmp_path / "net.1bit"), images), run(net, images))


def test_images_are_left_as_they_are(packed_mlp: Maker) -> None:
    net = packed_mlp(form="mixed")
    images = random_images(net, 3)
    images.flags.writeable = False
    before = images.copy()
    run(net, images)
    np.testing.assert_array_equal(images, before)


def test_softmax_is_a_distribution_even_for_large_logits() -> None:
    probabilities = softmax(np.array([[1000, 0, -1000], [0, 0, 0], [np.log(1), np.log(2), np.log(5)]], np.float32))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, np.array([[1, 0, 0], [1 / 3] * 3, [1 / 8, 2 / 8, 5 / 8]]), rtol=1e-6)


def test_every_operation_has_an_executor() -> None:
    assert set(EXECUTORS) == set(OPS.values())


def test_the_runtime_loads_nothing_but_numpy_and_safetensors(tmp_path: Path, packed_mlp: Maker) -> None:
    save(packed_mlp((12, 5)), tmp_path / "net.1bit")
    code = """
import sys
before = set(sys.modules)
import onebit.runtime
def foreign():
    roots = {name.split(".")[0] for name in set(sys.modules) - before}
    return sorted(roots - set(sys.stdlib_module_names))
print(foreign())
import numpy as np
onebit.runtime.run(onebit.runtime.load(sys.argv[1]), np.zeros((1, 1, 12), np.uint8))
print(foreign())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "net.1bit")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines == ["['numpy', 'onebit']", "['numpy', 'onebit', 'safetensors']"]
