"""Integer nets as programs in torch and as ONNX files: every bit is that of the reference executor."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from onebit.errors import UsageError
from onebit.export import export_net
from onebit.export.onnx import products, target
from onebit.export.onnx.byte_conv import MAX_WEIGHT, channel_scales, gives, rising_sums
from onebit.packed import Affine, Clamp, Conv, Multiply, PackedNet, Quantize, Requantize, Sign
from onebit.runtime import run
from support.drawn_nets import nets
from support.onnx_sessions import LEVELS, operators, optimized, session
from support.packed_nets import Builder, inputs_of, integer_net, integer_resnet

WIDE = onnx.helper.make_attribute("to", onnx.TensorProto.DOUBLE)


def answers(net: PackedNet, to: str, inputs: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """The outputs of an exported net; to: "torch", or a flavor of onnx."""
    if to == "torch":
        (program, weights) = export_net(net, "torch", folder / "net.safetensors", inputs=inputs).files
        with torch.inference_mode():
            made = net.by_name(runpy.run_path(str(program))["load"](weights)(torch.from_numpy(inputs)))
        return {name: value.numpy() for name, value in made.items()}
    path = folder / "net.onnx"
    target.write(net, path, flavor=to)
    return target.run(net, path, inputs, flavor=to)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(net=nets(integers=True), flavor=st.sampled_from(["standard", "float"]))
def test_drawn_nets_in_onnxruntime(tmp_path_factory: Any, net: PackedNet, flavor: str) -> None:
    inputs = inputs_of(net, 6)
    path = tmp_path_factory.mktemp("drawn") / "net.onnx"
    try:
        target.write(net, path, flavor=flavor)
    except UsageError as error:
        assert "sums integers" in str(error)  # noqa: PT017 # activations of 16 bits
        return
    expected = net.by_name(run(net, inputs, executor="reference"))
    for level in LEVELS:
        for name, found in zip(net.outputs, session(path, level).run(None, {"input": inputs}), strict=True):
            np.testing.assert_array_equal(found, expected[name], err_msg=level)


LIMIT = 2**52 - 1


ROUNDINGS: dict[str, dict[str, Any]] = {
    "no shift": {"multiplier": [[1, -1, 3, 2**31 - 1]], "offset": [-7, 200, -300, -(2**31) * 100], "shift": 0},
    "a shift of 52": {"multiplier": [[2**31 - 1, -(2**31) + 1, 1, -1]], "offset": [LIMIT - 255 * (2**31 - 1)] * 4},
    "a shift of 52, below zero": {"multiplier": [[-(2**31) + 1, 1, -1, 0]], "offset": [-LIMIT + 255 * 2**31] * 4},
    "multipliers below zero": {"multiplier": [[-1, -128, -129, -(2**15)]], "offset": [0, 2**15, -1, 2**50], "shift": 8},
    "two equal halves": {"multiplier": [[1, 1, -1, -1]], "offset": [1, 0, 1, 0], "shift": 1},
    "three times the input": {
        "multiplier": [[1, -1, 2**30, -(2**30)], [2, 1, -(2**30), 2**30], [-2, 1, 5, -5]],
        "offset": [3, -3, -400, 2**20],
        "shift": 3,
    },
}


ENDS = [(0, 255), (-128, 127), (-1, 1), (-7, 300), (0, 2**16)]


@pytest.mark.parametrize("coding", ["values", "integer"])
@pytest.mark.parametrize("to", ["torch", "standard", "float"])
def test_every_byte_is_requantized_as_in_integers(to: str, coding: str, tmp_path: Path) -> None:
    """Compared with Python's integers for all bytes; all cases are outputs of one net."""
    bytes_ = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
    x = bytes_.astype(object) * (2 if coding == "integer" else 1) - (255 if coding == "integer" else 0)
    b = Builder((4,), coding=coding)
    expected = {}
    for ends in ENDS:
        for case in ROUNDINGS.values():
            rows, offset, shift = case["multiplier"], case["offset"], case.get("shift", 52)
            arrays = {"multiplier": np.array(rows, np.int32), "offset": np.array(offset, np.int64)}
            name = b.add(Requantize, *["input"] * len(rows), **arrays, right_shift=shift, least=ends[0], most=ends[1])
            total = x * np.array(rows, object).sum(axis=0) + np.array(offset, object)
            expected[name] = np.clip(total >> shift, *ends).astype(np.float32)
    net = b.net(tuple(expected))
    for node in net.nodes:
        node.check_values(*[net.input.value] * len(node.inputs))
    found = answers(net, to, bytes_, tmp_path)
    for k, name in enumerate(expected):
        case_name = f"{ENDS[k // len(ROUNDINGS)]}, {[*ROUNDINGS][k % len(ROUNDINGS)]}"
        np.testing.assert_array_equal(found[name], expected[name], err_msg=case_name)
    assert sum(len(np.unique(numbers)) for numbers in expected.values()) > 60


@pytest.mark.parametrize("to", ["torch", "standard", "float"])
def test_halves_become_even_and_large_numbers_the_ends(to: str, tmp_path: Path) -> None:
    halves = np.arange(-6, 7, dtype=np.float32) / 2
    near = [np.nextafter(halves, np.float32(end)) for end in (-np.inf, np.inf)]
    numbers = np.concatenate([halves, *near, np.float32([-0.0, 1e30, -1e30, 3e38, 1e-45])])
    b = Builder((1,), coding="float32")
    with np.errstate(over="ignore"):
        huge_numbers = numbers * np.float32(1e30)
    assert np.isinf(huge_numbers).any()
    huge = b.add(Affine, scale=np.float32([1e30]))
    expected = {}
    for ends in ((0, 3), (-2, 2), (-300, 300)):
        for source, x in (("input", numbers), (huge, huge_numbers)):
            expected[b.add(Quantize, source, least=ends[0], most=ends[1])] = np.clip(np.rint(x), *ends)
    found = answers(b.net(tuple(expected)), to, numbers[:, None], tmp_path)
    for name, integers in expected.items():
        np.testing.assert_array_equal(found[name][:, 0], integers)


@pytest.mark.parametrize(("to", "wide"), [("torch", False), ("torch", True), ("standard", True), ("float", False)])
def test_an_affine_map_is_rounded_to_float32_before_integers(to: str, wide: bool, tmp_path: Path) -> None:
    """2.5 ± 2^-30 is 2.5 in float32, which rounds to the even 2; `wide`: also in programs that compute in float64."""
    b = Builder((4,), coding="values")
    shift, scale = np.float32([2.5, 3.5, 2.5, 3.5]), np.float32([-(2.0**-31), -(2.0**-31), 2.0**-31, 2.0**-31])
    b.add(Affine, scale=scale, shift=shift)
    rounded = b.add(Quantize, least=0, most=9)
    b.last = "input"
    for _ in range(4 * wide):
        b.dense(70)
    assert (b.values[b.last].bound or 0) > 2**24 or not wide
    net = b.net((rounded, b.last) if wide else rounded)
    inputs = np.full((1, 4), 2, np.uint8)
    found = answers(net, to, inputs, tmp_path)
    for name, expected in net.by_name(run(net, inputs, executor="reference")).items():
        np.testing.assert_array_equal(found[name], expected)
    np.testing.assert_array_equal(found[rounded], [[2, 4, 2, 4]])


def test_a_session_takes_an_empty_batch(tmp_path: Path) -> None:
    net = integer_resnet()
    target.write(net, tmp_path / "net.onnx")
    (found,) = session(tmp_path / "net.onnx").run(None, {"input": np.zeros((0, *net.input.shape), net.input.dtype)})
    assert found.shape == (0, *run(net, inputs_of(net, 1)).shape[1:])


def test_nan_is_an_error_in_torch(tmp_path: Path) -> None:
    b = Builder((1,), coding="float32")
    big = b.add(Affine, scale=np.float32([3e38]))
    low = b.add(Clamp, "input", high=np.float32([0]))
    b.add(Multiply, big, low)
    b.add(Quantize, least=0, most=3)
    net = b.net()
    program, weights = export_net(net, "torch", tmp_path / "net.safetensors", inputs=np.float32([[-0.5]])).files
    loaded = runpy.run_path(str(program))["load"](weights)
    with pytest.raises(ValueError, match="NaN"):
        loaded(torch.tensor([[1e30]]))  # infinity times zero


@pytest.mark.parametrize("ends", [(0, 1), (-1, 1)])
def test_a_sign_follows_a_convolution_of_integers_within_one(ends: tuple[int, int], tmp_path: Path) -> None:
    """Their codes have another zero point than those of ±1, or values between them."""
    b = Builder((3, 5, 5), coding="values")
    b.requantize(least=ends[0], most=ends[1])
    assert b.values[b.last].bound == 1
    b.add(Conv, **b.signs(8, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.threshold(8, most=4)
    b.add(Conv, "n0", **b.signs(8, 27), kernel=(3, 3))
    b.add(Sign)
    net = b.net(("n2", "n4"))
    inputs = inputs_of(net, 9)
    found = answers(net, "standard", inputs, tmp_path)
    for name, expected in net.by_name(run(net, inputs, executor="reference")).items():
        assert len(np.unique(expected)) == 2
        np.testing.assert_array_equal(found[name], expected)


@st.composite
def roundings(draw: Any) -> tuple[Requantize, tuple[int, int]]:
    """One channel of a requantization, and the limits of its sums."""
    bits, shift = draw(st.sampled_from([1, 2, 4, 8])), draw(st.integers(0, 40))
    least = draw(st.sampled_from([0, -(2 ** (bits - 1)) if bits > 1 else -1]))
    most = max(1, least + 2**bits - 1)
    widest = draw(st.sampled_from([3, 255, 9 * 255, 144 * 255, 576 * 255]))
    slope = draw(st.floats(2.0**-8, 2)) * 2.0**bits / widest * draw(st.sampled_from([1, 8, 32]))
    multiplier = draw(st.sampled_from([0, 1])) or min(max(1, round(slope * 2**shift)), 2**31 - 1)
    offset = draw(st.integers(-widest, widest)) * multiplier + draw(st.integers(0, 2**shift))
    array = {"multiplier": np.array([[multiplier]], np.int32), "offset": np.array([offset])}
    node = Requantize(inputs=("x",), output="y", right_shift=shift, least=least, most=most, **array)
    return node, (-widest + draw(st.integers(0, widest)), widest)


@settings(max_examples=100, deadline=None)
@given(roundings())
def test_scales_that_are_found_give_the_integer_of_every_sum(drawn: tuple[Requantize, tuple[int, int]]) -> None:
    node, limits = drawn
    multiplier, offset = int(node.multiplier[0, 0]), int(node.offset[0])
    rises = rising_sums(multiplier, offset - (node.least << node.right_shift), node)
    found = channel_scales(rises, limits, multiplier / 2.0**node.right_shift)
    if found is None:
        return
    w, bias, scale = found
    sums = np.arange(limits[0], limits[1] + 1)
    expected = np.clip((multiplier * sums + offset) >> node.right_shift, node.least, node.most) - node.least
    product = (w * sums + bias).astype(np.float32) * np.float32(scale)
    np.testing.assert_array_equal(np.clip(np.rint(product), 0, node.most - node.least), expected)
    assert 0 <= w <= MAX_WEIGHT
    if ((rises > limits[0]) & (rises <= limits[1])).any():  # one rise a sum earlier or later is another rounding
        at = int(np.flatnonzero((rises > limits[0]) & (rises <= limits[1]))[0])
        for change in (-1, 1):
            other = rises.copy()
            other[at] += change
            assert not gives(w, bias, scale, np.sort(other), limits) or not limits[0] < other[at] <= limits[1]


def test_scales_are_found_for_nearly_all_channels() -> None:
    rng = np.random.default_rng(0)
    found = Counter[bool]()
    for terms in (27, 144, 576):
        for _ in range(100):
            slope, shift = 255 / (np.sqrt(terms) * 80 * rng.uniform(2, 6)), 30
            array = {"multiplier": np.array([[round(slope * 2**shift)]], np.int32)}
            array["offset"] = np.array([int(rng.uniform(-100, 200) * 2**shift)])
            node = Requantize(inputs=("x",), output="y", right_shift=shift, least=0, most=255, **array)
            rises = rising_sums(int(node.multiplier[0, 0]), int(node.offset[0]), node)
            found[channel_scales(rises, (-terms * 128, terms * 128), slope) is not None] += 1
    assert found[True] >= 294, found


@pytest.mark.parametrize("fused", [True, False])
def test_convolutions_multiply_bytes_where_that_is_exact(
    fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setattr(products, "scales", lambda *_: None)
    net = integer_resnet()
    inputs, path = inputs_of(net, 30), tmp_path / "net.onnx"
    target.write(net, path)
    expected = run(net, inputs, executor="reference")
    for level in LEVELS:
        dump = tmp_path / f"{level}.onnx"
        (found,) = session(path, level, dump).run(None, {"input": inputs})
        np.testing.assert_array_equal(found, expected)
        kinds = operators(onnx.load(str(dump)).graph)
        # the first one and one of each block; the sums of the others are added to a shortcut, and one is the pool
        assert (kinds["QLinearConv"], kinds["Conv"] + kinds["FusedConv"]) == ((3, 3) if fused else (0, 6))
        assert not kinds.keys() & {"ConvInteger", "QLinearAdd", "QuantizeLinear", "DequantizeLinear", "MatMulNBits"}


@pytest.mark.parametrize("make", [integer_net, integer_resnet])
def test_a_rounding_moves_no_float64_and_scales_and_shifts_in_one_pass(make: Any, tmp_path: Path) -> None:
    net = make()
    path = tmp_path / "net.onnx"
    target.write(net, path)
    graph = optimized(path)
    kinds = operators(graph)
    roundings = [node for node in net.nodes if isinstance(node, Requantize)]
    last = sum(isinstance(node, Affine) for node in net.nodes)
    assert kinds["BatchNormalization"] == len(roundings) - kinds["QLinearConv"]
    assert kinds["Mul"] - last == sum(len(node.inputs) - 1 for node in roundings)
    made = {name: node for node in graph.node for name in node.output}
    moved = [made[node.input[0]] for node in graph.node if node.op_type == "Transpose" and node.input[0] in made]
    assert not [node for node in moved if node.op_type == "Mul" or list(node.attribute) == [WIDE]]


def test_dense_layers_multiply_bytes(tmp_path: Path) -> None:
    b = Builder((40,), coding="values")
    for width in (50, 30):
        b.dense(width)
        b.requantize(least=-128 if width == 50 else 0, most=127)
    b.dense(5)
    b.affine(5)
    path = tmp_path / "net.onnx"
    target.write(b.net(), path)
    found = operators(optimized(path))
    assert found["MatMulInteger"] == 3
    assert not found.keys() & {"MatMul", "Gemm", "FusedGemm", "Floor", "MatMulIntegerToFloat", "DynamicQuantizeLinear"}


def test_files_are_small(tmp_path: Path) -> None:
    """One bit a weight, 12 bytes a channel that is requantized, and the bytes of the nodes."""
    net = integer_resnet((16, 32, 64), size=32)
    target.write(net, tmp_path / "net.onnx")
    roundings = [node for node in net.nodes if isinstance(node, Requantize)]
    channels = sum(node.multiplier.size for node in roundings)
    weights = sum(node.binary_weights for node in net.nodes)
    assert (tmp_path / "net.onnx").stat().st_size <= weights / 8 + 12 * channels + 1200 * len(roundings)
