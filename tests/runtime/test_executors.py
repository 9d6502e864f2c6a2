from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from onebit.errors import FormatError, NotBinaryError, UsageError
from onebit.native import instruction_sets
from onebit.packed import (
    Affine,
    AveragePool,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Hardtanh,
    InputSpec,
    MaxPool,
    Node,
    PackedNet,
    RealConv,
    RealConvTranspose,
    Relu,
    Sign,
    Threshold,
    infer,
    save,
)
from onebit.packed.bits import pack_signs
from onebit.runtime import batches, load, run, softmax
from onebit.runtime.executors import DTYPES
from support.by_hand import by_hand
from support.packed_nets import IMAGE_NETS, OTHER_NETS, Builder, inputs_of

Maker = Callable[..., PackedNet]
EXECUTORS_HERE = ["reference", *instruction_sets()]
INT32 = np.iinfo(np.int32)


@pytest.fixture(scope="module", params=EXECUTORS_HERE, autouse=True)
def executor(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this file runs with numpy and with each instruction set of this processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ONEBIT_ISA", raising=False)
        patch.delenv("ONEBIT_NATIVE", raising=False)
        if request.param == "reference":
            patch.setenv("ONEBIT_NATIVE", "0")
        else:
            patch.setenv("ONEBIT_ISA", request.param)
        yield request.param


def random_images(net: PackedNet, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *net.input.shape), dtype=np.uint8)


@cache
def seen_and_expected(form: str, seed: int) -> tuple[np.ndarray, list[list[Fraction]]]:
    """Inputs of a net and what it answers by hand, once for all executors."""
    if form in IMAGE_NETS:
        net = IMAGE_NETS[form](seed)
        inputs = random_images(net, 1, seed)
    else:
        net = OTHER_NETS[form](seed)
        inputs = inputs_of(net, 2)
    return inputs, [by_hand(net, sample) for sample in inputs]


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


def test_color_images_are_flattened_and_standardized_by_channel(packed_mlp: Maker) -> None:
    for form in ("sign", "mixed"):
        net = packed_mlp((3 * 4 * 5, 9, 3), form=form, shape=(3, 4, 5))
        images = random_images(net, 3)
        assert [[Fraction(float(x)) for x in row] for row in run(net, images)] == [by_hand(net, i) for i in images]


@pytest.mark.parametrize("form", IMAGE_NETS)
def test_nets_of_images_compute_what_the_specification_says(form: str) -> None:
    for seed in range(2):
        images, expected = seen_and_expected(form, seed)
        logits = run(IMAGE_NETS[form](seed), images)
        assert [[Fraction(float(x)) for x in row] for row in logits] == expected


@pytest.mark.parametrize("form", OTHER_NETS)
def test_nets_of_other_inputs_compute_what_the_specification_says(form: str) -> None:
    net = OTHER_NETS[form](0)
    inputs, expected = seen_and_expected(form, 0)
    outputs = net.by_name(run(net, inputs))
    for row, answer in enumerate(expected):
        found = [Fraction(float(x)) for name in net.outputs for x in outputs[name][row].reshape(-1)]
        assert found == answer


@settings(max_examples=25, deadline=None)
@given(data=st.data(), form=st.sampled_from(["sign", "integer", "real"]), transposed=st.booleans())
def test_drawn_convolutions_compute_what_the_specification_says(
    data: st.DataObject, form: str, transposed: bool
) -> None:
    def draw(low: int, high: int, count: int = 2) -> tuple[int, ...]:
        return tuple(data.draw(st.tuples(*[st.integers(low, high)] * count)))

    groups, inside, outside = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    b = Builder((groups * inside, *draw(1, 5)), seed=data.draw(st.integers(0, 99)))
    kernel = draw(1, 3)
    fields: dict[str, Any] = {"kernel": kernel, "stride": draw(1, 3), "dilation": draw(1, 2), "groups": groups}
    fields["padding"] = draw(0, 2, 4)
    outputs, terms = groups * outside, inside * kernel[0] * kernel[1]
    weights = b.signs(outputs, terms, scale=data.draw(st.booleans()), centre=data.draw(st.booleans()))
    real = form == "real"
    if real:
        weights = {"weight": b.real(outputs, terms)}
    if form == "sign":
        b.add(Sign)
    try:
        if transposed:
            b.add(RealConvTranspose if real else ConvTranspose, extra=draw(0, 1), **weights, **fields)
        else:
            b.add(RealConv if real else Conv, padding_value=data.draw(st.integers(-1, 1)), **weights, **fields)
    except FormatError:
        assume(False)
    net = b.net()
    images = random_images(net, 2)
    found = [[Fraction(float(x)) for x in logits.reshape(-1)] for logits in run(net, images)]
    assert found == [by_hand(net, image) for image in images]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), form=st.sampled_from(["sign", "integer", "real"]), average=st.booleans())
def test_drawn_pools_compute_what_the_specification_says(data: st.DataObject, form: str, average: bool) -> None:
    def draw(low: int, high: int, count: int = 2) -> tuple[int, ...]:
        return tuple(data.draw(st.tuples(*[st.integers(low, high)] * count)))

    b = Builder((2, *draw(1, 6)), seed=data.draw(st.integers(0, 99)))
    if form != "integer":
        b.add(Sign) if form == "sign" else b.affine(2)
    fields: dict[str, Any] = {"kernel": draw(1, 3), "stride": draw(1, 3), "dilation": draw(1, 2)}
    # windows entirely in the border are refused: most drawn ones should not be
    most = [min(2, (size - 1) * step) for size, step in zip(fields["kernel"], fields["dilation"], strict=True)]
    fields["padding"] = tuple(data.draw(st.integers(0, most[side // 2])) for side in range(4))
    if average:
        fields |= {"count_padding": data.draw(st.integers(0, 1)), "sums": data.draw(st.integers(0, 1))}
    try:
        b.add(AveragePool if average else MaxPool, **fields)
    except FormatError:
        assume(False)
    net = b.net()
    image = random_images(net, 1)
    assert [Fraction(float(v)) for v in run(net, image).reshape(-1)] == by_hand(net, image[0])


@pytest.mark.parametrize("form", IMAGE_NETS)
def test_every_value_has_the_shape_and_dtype_of_its_kind(form: str) -> None:
    net = IMAGE_NETS[form](0)
    known = infer(net)
    images = random_images(net, 5)
    parts = []
    for part, values in batches(net, images, list(known), batch_size=2):
        parts.append(part)
        for name, array in values.items():
            assert array.shape == (len(part), *known[name].shape)
            assert array.dtype == DTYPES[known[name].kind], name
            if (bound := known[name].bound) is not None:
                assert np.abs(array.astype(np.int64)).max() <= bound
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), images)


@pytest.mark.parametrize("form", IMAGE_NETS)
@pytest.mark.parametrize("block", [1, 50, 333, 2000])
def test_blocks_of_windows_and_batches_do_not_change_the_result(
    form: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = IMAGE_NETS[form](1)
    images = random_images(net, 7)
    expected = run(net, images)
    monkeypatch.setattr("onebit.runtime.reference_matmul._BLOCK_VALUES", block)
    np.testing.assert_array_equal(run(net, images, batch_size=3), expected)
    monkeypatch.setattr("onebit.runtime.running._BATCH_VALUES", 1)  # one image at a time
    np.testing.assert_array_equal(run(net, images), expected)


def test_convolutions_that_float32_cannot_hold_are_exact() -> None:
    ones = pack_signs(np.ones((1, 511 * 9)))
    b = Builder((3, 3, 3))
    b.add(Conv, signs=pack_signs(np.ones((511, 27))), in_features=27, kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(Conv, signs=ones, in_features=511 * 9, kernel=(3, 3))
    image = np.full((1, 3, 3, 3), 255, np.uint8)
    image[0, 0, 1, 1] = 254
    total = int(next(batches(b.net(), image, [b.last]))[1][b.last].item())
    assert total == 511 * (3 * 255 * 49 - 9 * 2)  # 49 pairs of taps, 9 of which contain the darker pixel
    assert int(np.float32(total)) != total


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_transposed_convolution_may_cut_every_pixel(cut: int, stride: int) -> None:
    """Only the extra rows are left, to which no kernel contributes."""
    b = Builder((1, 2, 3))
    b.add(ConvTranspose, **b.signs(2, 2), kernel=(2, 1), stride=(stride, 1), padding=(cut, 0, 0, 0), extra=(9, 0))
    net = b.net()
    image = random_images(net, 1)
    assert [Fraction(float(v)) for v in run(net, image).reshape(-1)] == by_hand(net, image[0])


def test_images_may_be_loaded_on_demand() -> None:
    class Streamed:
        """Has the shape and dtype of an array, and loads what is indexed."""

        def __init__(self, images: np.ndarray) -> None:
            self.shape, self.dtype, self._images = images.shape, images.dtype, images
            self.most = 0

        def __getitem__(self, index: slice) -> np.ndarray:
            part = self._images[index]
            self.most = max(self.most, len(part))
            return part

    net = IMAGE_NETS["sign"](0)
    images = random_images(net, 9)
    streamed: Any = Streamed(images)
    np.testing.assert_array_equal(run(net, streamed, batch_size=4), run(net, images))
    assert streamed.most == 4


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


def test_thresholds_near_the_sum_and_at_the_limits_of_int32() -> None:
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
        for batch_size in (-1, 1, 7, 24):
            np.testing.assert_array_equal(run(net, images, batch_size=batch_size), expected)


def test_gray_images_need_no_channel_axis_and_may_be_empty(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5), shape=(1, 3, 4))
    images = random_images(net, 4)
    np.testing.assert_array_equal(run(net, images[:, 0]), run(net, images))
    np.testing.assert_array_equal(run(net, images[:, :, ::-1][:, :, ::-1]), run(net, images.copy(order="F")))
    assert run(net, images[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 1, 3, 4), np.float32),
        np.zeros((2, 1, 3, 4), np.int64),
        np.zeros((2, 1, 4, 3), np.uint8),
        np.zeros((2, 3, 3, 4), np.uint8),
        np.zeros((3, 4), np.uint8),
        np.zeros((2, 12), np.uint8),
        np.zeros((), np.uint8),
        np.zeros((2, 1, 3, 4), bool),
        np.zeros((2, 1, 3, 4), object),
    ],
)
def test_other_images_are_refused_in_one_line(packed_mlp: Maker, images: Any) -> None:
    net = packed_mlp((12, 5), shape=(1, 3, 4))
    got = re.escape(f"{images.dtype} {images.shape}")
    with pytest.raises(UsageError, match=rf"^got inputs {got}, expected uint8 \(N, 1, 3, 4\) or \(N, 3, 4\)$"):
        run(net, images)


def test_color_nets_need_a_channel_axis(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5), shape=(3, 2, 2))
    with pytest.raises(UsageError, match=r"expected uint8 \(N, 3, 2, 2\)$"):
        run(net, np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(UsageError, match=r"expected uint8 \(N, 3, 2, 2\)$"):
        run(net, np.zeros((5, 2, 2), np.uint8))


def test_numbers_of_numpy_are_numbers(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
    images = random_images(net, 4)
    np.testing.assert_array_equal(run(net, images, batch_size=np.int64(2), threads=np.int32(1)), run(net, images))


def test_parameters_that_overflow_are_found() -> None:
    huge = np.full(2, 3e38, np.float32)
    double = Affine(inputs=("x",), output="a", scale=huge)
    with pytest.raises(FormatError, match="not finite"):
        run(one_layer(double, 2), np.full((1, 1, 1, 2), 255, np.uint8))
    nan = Affine(inputs=("a",), output="b", scale=np.zeros(2, np.float32))  # infinity · 0
    with pytest.raises(NotBinaryError, match="NaN"):
        run(one_layer(double, 2, nan, Sign(inputs=("b",), output="s")), np.full((1, 1, 1, 2), 255, np.uint8))


def test_a_loaded_net_runs_like_the_saved_one(tmp_path: Path, packed_mlp: Maker) -> None:
    for form in ("weight-only", "sign", "mixed"):
        net = packed_mlp((65, 130, 10), form=form)
        save(net, tmp_path / "net.1bit")
        images = random_images(net, 5)
        np.testing.assert_array_equal(run(load(tmp_path / "net.1bit"), images), run(net, images))


def test_images_are_not_modified(packed_mlp: Maker) -> None:
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
