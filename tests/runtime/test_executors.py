"""Every executor gives the bits that the specification states: numpy, and each instruction set of this processor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from onebit.errors import FormatError, NotBinaryError, UsageError
from onebit.packed import InputSpec, Node, PackedNet, infer, nodes as op, save
from onebit.packed.bits import pack_signs
from onebit.runtime import batches, run, softmax
from onebit.runtime.executors import DTYPES
from support.by_hand import by_hand
from support.executors import EXECUTORS, chosen
from support.packed_nets import IMAGE_NETS, NETS, Builder, inputs_of, make_packed_mlp

Maker = Callable[..., PackedNet]
INT32 = np.iinfo(np.int32)


def run_everywhere(net: PackedNet, inputs: np.ndarray, **options: Any) -> Any:
    """The outputs of a net, which every executor gives bit for bit."""
    outputs = []
    for executor in EXECUTORS:
        with chosen(executor):
            outputs.append(run(net, inputs, **options))
    for found in outputs[1:]:
        for name, array in net.by_name(found).items():
            expected = net.by_name(outputs[0])[name]
            np.testing.assert_array_equal(array.view(np.int32), expected.view(np.int32))
    return outputs[0]


def assert_by_hand(net: PackedNet, inputs: np.ndarray) -> None:
    """Every executor gives the outputs of the specification."""
    outputs = net.by_name(run_everywhere(net, inputs))
    for row, sample in enumerate(inputs):
        found = [Fraction(float(x)) for name in net.outputs for x in outputs[name][row].reshape(-1)]
        assert found == by_hand(net, sample)


def random_images(net: PackedNet, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *net.input.shape), dtype=np.uint8)


@pytest.mark.parametrize("form", ["weight-only", "sign", "mixed"])
@pytest.mark.parametrize("widths", [(1, 1), (12, 9, 3), (65, 33, 66, 10)])
def test_nets_of_dense_layers_compute_what_the_specification_says(form: str, widths: tuple[int, ...]) -> None:
    net = make_packed_mlp(widths, form=form)
    assert_by_hand(net, random_images(net, 3))


def test_color_images_are_flattened_and_standardized_by_channel() -> None:
    for form in ("sign", "mixed"):
        net = make_packed_mlp((3 * 4 * 5, 9, 3), form=form, shape=(3, 4, 5))
        assert_by_hand(net, random_images(net, 3))


@pytest.mark.parametrize("form", [*NETS])
def test_nets_of_any_input_compute_what_the_specification_says(form: str) -> None:
    net = NETS[form](0)
    assert_by_hand(net, inputs_of(net, 1))


def drawn(data: st.DataObject, low: int, high: int, count: int = 2) -> tuple[int, ...]:
    return tuple(data.draw(st.tuples(*[st.integers(low, high)] * count)))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), form=st.sampled_from(["sign", "integer", "real"]), transposed=st.booleans())
def test_drawn_convolutions_compute_what_the_specification_says(
    data: st.DataObject, form: str, transposed: bool
) -> None:
    draw = partial(drawn, data)
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
        b.add(op.Sign)
    try:
        if transposed:
            b.add(op.RealConvTranspose if real else op.ConvTranspose, extra=draw(0, 1), **weights, **fields)
        else:
            b.add(op.RealConv if real else op.Conv, padding_value=data.draw(st.integers(-1, 1)), **weights, **fields)
    except FormatError:
        assume(False)
    net = b.net()
    assert_by_hand(net, random_images(net, 2))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), form=st.sampled_from(["sign", "integer", "real"]), average=st.booleans())
def test_drawn_pools_compute_what_the_specification_says(data: st.DataObject, form: str, average: bool) -> None:
    draw = partial(drawn, data)
    b = Builder((2, *draw(1, 6)), seed=data.draw(st.integers(0, 99)))
    if form != "integer":
        b.add(op.Sign) if form == "sign" else b.affine(2)
    fields: dict[str, Any] = {"kernel": draw(1, 3), "stride": draw(1, 3), "dilation": draw(1, 2)}
    # windows entirely in the border are refused: most drawn ones should not be
    most = [min(2, (size - 1) * step) for size, step in zip(fields["kernel"], fields["dilation"], strict=True)]
    fields["padding"] = tuple(data.draw(st.integers(0, most[side // 2])) for side in range(4))
    if average:
        fields |= {"count_padding": data.draw(st.integers(0, 1)), "sums": data.draw(st.integers(0, 1))}
    try:
        b.add(op.AveragePool if average else op.MaxPool, **fields)
    except FormatError:
        assume(False)
    net = b.net()
    assert_by_hand(net, random_images(net, 1))


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
def test_blocks_of_windows_and_batches_do_not_change_the_result(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = IMAGE_NETS[form](1)
    images = random_images(net, 7)
    expected = run_everywhere(net, images)
    np.testing.assert_array_equal(run_everywhere(net, images, batch_size=3), expected)
    for block in (1, 50, 333, 2000):
        monkeypatch.setattr("onebit.runtime.reference_matmul._BLOCK_VALUES", block)
        np.testing.assert_array_equal(run(net, images, executor="reference"), expected)
    monkeypatch.setattr("onebit.runtime.running._BATCH_VALUES", 1)  # one image at a time
    np.testing.assert_array_equal(run(net, images, executor="reference"), expected)


def test_convolutions_that_float32_cannot_hold_are_exact() -> None:
    image = np.full((1, 3, 3, 3), 255, np.uint8)
    image[0, 0, 1, 1] = 254
    total = 511 * (3 * 255 * 49 - 9 * 2)  # 49 pairs of taps, 9 of which contain the darker pixel
    assert int(np.float32(total)) != total
    for above in (0, 1):
        b = Builder((3, 3, 3))
        b.add(op.Conv, signs=pack_signs(np.ones((511, 27))), in_features=27, kernel=(3, 3), padding=(1, 1, 1, 1))
        b.add(op.Conv, signs=pack_signs(np.ones((1, 511 * 9))), in_features=511 * 9, kernel=(3, 3))
        b.add(op.Threshold, threshold=np.array([total + above], np.int32), direction=np.ones(1, np.int8))
        assert run_everywhere(b.net(), image).item() == 1 - 2 * above


@pytest.mark.parametrize("cut", [1, 2, 7])
def test_a_transposed_convolution_may_cut_every_pixel(cut: int) -> None:
    """Only the extra rows are left, to which no kernel contributes."""
    for stride in (1, 2, 3):
        b = Builder((1, 2, 3))
        b.add(
            op.ConvTranspose, **b.signs(2, 2), kernel=(2, 1), stride=(stride, 1), padding=(cut, 0, 0, 0), extra=(9, 0)
        )
        assert_by_hand(b.net(), random_images(b.net(), 1))


def one_layer(node: Node, features: int, *more: Node) -> PackedNet:
    nodes = (op.Flatten(inputs=("input",), output="x"), node, *more)
    return PackedNet(inputs={"input": InputSpec(shape=(1, 1, features))}, nodes=nodes, output=nodes[-1].output)


def test_thresholds_near_the_sum_and_at_the_limits_of_int32() -> None:
    weight = op.Dense(
        inputs=("x",), output="s", signs=pack_signs(np.ones((10, 3))), in_features=3
    )  # every sum is 3 · 255
    threshold = np.array([764, 765, 766, 764, 765, 766, INT32.min, INT32.max, INT32.min, INT32.max], np.int32)
    direction = np.array([1, 1, 1, -1, -1, -1, 1, 1, -1, -1], np.int8)
    net = one_layer(weight, 3, op.Threshold(inputs=("s",), output="t", threshold=threshold, direction=direction))
    white, black = np.full((1, 1, 1, 3), 255, np.uint8), np.zeros((1, 1, 1, 3), np.uint8)
    assert run_everywhere(net, white).tolist() == [[1, 1, -1, -1, 1, 1, 1, -1, -1, 1]]
    assert run_everywhere(net, black).tolist() == [[-1, -1, -1, 1, 1, 1, 1, -1, -1, 1]]


def test_sums_that_float32_cannot_hold_are_exact() -> None:
    features = 2000
    ones = np.ones((features, features), np.int8)
    ones[:, 0] = -1
    first = op.Dense(inputs=("x",), output="a", signs=pack_signs(ones), in_features=features)
    second = op.Dense(inputs=("a",), output="b", signs=pack_signs(ones[:1]), in_features=features)
    total = (255 * (features - 1) - 253) * (features - 2)  # about 10^9, odd times even, not a multiple of 64
    image = np.full((1, 1, 1, features), 255, np.uint8)
    image[..., 0] = 254
    outcomes = []
    for offset in (0, 1):
        at = np.array([total + offset], np.int32)
        rule = op.Threshold(inputs=("b",), output="t", threshold=at, direction=np.ones(1, np.int8))
        outcomes.append(run_everywhere(one_layer(first, features, second, rule), image).item())
    assert int(np.float32(total)) != total
    assert outcomes == [1, -1]


def test_sign_of_zero_and_of_minus_zero_is_plus_one() -> None:
    zero = op.Affine(inputs=("x",), output="z", scale=np.array([0, -0.0, 0], np.float32))
    rectified = [op.Relu(inputs=("z",), output="r"), op.Sign(inputs=("r",), output="s")]
    for chain in ([op.Sign(inputs=("z",), output="s")], rectified):
        images = np.array([[[[0, 127, 255]]], [[[255, 255, 0]]]], np.uint8)
        assert run_everywhere(one_layer(zero, 3, *chain), images).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_batch_sizes_and_layouts_do_not_change_the_result() -> None:
    for form in ("weight-only", "sign", "mixed"):
        net = make_packed_mlp((65, 130, 70, 10), form=form)
        images = random_images(net, 23)
        images.flags.writeable = False
        expected = run_everywhere(net, images)
        for batch_size in (-1, 1, 7, 24):
            np.testing.assert_array_equal(run_everywhere(net, images, batch_size=batch_size), expected)
        for executor in EXECUTORS:  # integers of numpy, too
            with chosen(executor):
                found = run(net, images, batch_size=np.int64(2), threads=np.int32(1))  # type: ignore[arg-type]
                np.testing.assert_array_equal(found, expected)
    net = make_packed_mlp((12, 5), shape=(1, 3, 4))
    images = random_images(net, 4)
    expected = run_everywhere(net, images)
    for same in (images[:, 0], images[:, :, ::-1].copy()[:, :, ::-1], images.copy(order="F")):
        np.testing.assert_array_equal(run_everywhere(net, same), expected)
    assert run_everywhere(net, images[:0]).shape == (0, 5)
    with pytest.raises(UsageError, match="inputs"):
        run(net, images[:, 0, :2])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_parameters_that_overflow_are_found(executor: str) -> None:
    huge = np.full(2, 3e38, np.float32)
    double = op.Affine(inputs=("x",), output="a", scale=huge)
    nan = op.Affine(inputs=("a",), output="b", scale=np.zeros(2, np.float32))  # infinity · 0
    image = np.full((1, 1, 1, 2), 255, np.uint8)
    with chosen(executor):
        with pytest.raises(FormatError, match="finite"):
            run(one_layer(double, 2), image)
        with pytest.raises(NotBinaryError, match="NaN"):
            run(one_layer(double, 2, nan, op.Sign(inputs=("b",), output="s")), image)


def test_softmax_is_a_distribution_even_for_large_logits() -> None:
    probabilities = softmax(np.array([[1000, 0, -1000], [0, 0, 0], [np.log(1), np.log(2), np.log(5)]], np.float32))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, np.array([[1, 0, 0], [1 / 3] * 3, [1 / 8, 2 / 8, 5 / 8]]), rtol=1e-6)


def test_the_runtime_imports_only_what_it_needs(tmp_path: Path) -> None:
    save(make_packed_mlp((12, 5)), tmp_path / "net.1bit")
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
    assert lines == ["['numpy', 'onebit', 'threadpoolctl']", "['numpy', 'onebit', 'safetensors', 'threadpoolctl']"]
