"""ONNX files compute what packed nets do, with weights of one bit that onnxruntime unpacks once."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from onebit.errors import FormatError, NotBinaryError, UsageError
from onebit.export import export_net
from onebit.export.onnx import target
from onebit.export.onnx.exactness import Uses
from onebit.packed import PackedNet, dumps, nodes as op
from onebit.packed.bits import pack_signs
from onebit.runtime import batches, run
from support.drawn_nets import batches_of, nets
from support.onnx_sessions import operators, optimized, session
from support.packed_nets import NETS, Builder, inputs_of, integer_resnet, make_packed_mlp, signs_conv, with_names

UNPACKING = {"Gather", "Split", "Reshape"}
"""Operators that turn bits into weights; no session runs them, except for a Reshape of the net."""
SLOW_OR_WRONG = {"ConvInteger", "Sign", "MatMulNBits", "DequantizeLinear", "QuantizeLinear"}
"""ONNX's Sign gives 0 for 0; the others round activations, or are slower in onnxruntime than float32."""


def windows(seed: int = 0) -> PackedNet:
    """Groups, centers, dilations and paddings in which ONNX could differ."""
    b = Builder((4, 9, 8), seed=seed, coding="values")
    odd = b.signs(6, 2 * 6, scale=True, centre=True)
    b.add(op.ConvTranspose, **odd, kernel=(2, 3), stride=(2, 1), padding=(1, 0, 2, 1), groups=2, extra=(3, 1))
    b.affine(6)
    first = b.add(
        op.Conv, **b.signs(12, 9, centre=True), kernel=(3, 3), dilation=(2, 1), groups=6, padding=(0, 2, 1, 0)
    )
    b.add(op.AveragePool, kernel=(2, 2), dilation=(2, 1), padding=(1, 0, 0, 1), sums=1)
    b.add(op.Sign, shift=b.real(12))
    b.add(op.MaxPool, kernel=(2, 2), dilation=(1, 2), padding=(0, 1, 1, 1))
    b.add(op.AveragePool, kernel=(3, 2), stride=(2, 1), padding=(1, 2, 0, 1))
    b.add(op.ConvTranspose, **b.signs(4, 12 * 4), kernel=(2, 2), dilation=(1, 2), padding=(0, 1, 1, 0))
    b.add(op.AdaptiveAveragePool, size=(3, 2))
    return b.net((first, b.last))


def far_borders(seed: int = 0) -> PackedNet:
    """Padding as wide as the kernel, and additional rows as many as the stride, which dilations allow."""
    b = Builder((2, 8, 8), seed=seed, coding="values")
    pool = {"kernel": (2, 2), "dilation": (2, 3), "padding": (1, 2, 2, 0)}
    b.add(op.ConvTranspose, **b.signs(4, 18, scale=True, centre=True), kernel=(3, 3), dilation=(2, 3), extra=(1, 2))
    b.affine(4)
    real = b.add(op.MaxPool, **pool)
    b.add(op.Sign, shift=b.real(4))
    b.add(op.MaxPool, **pool)
    b.add(op.Conv, **b.signs(6, 16), kernel=(2, 2))
    b.add(op.MaxPool, **{**pool, "padding": (2, 0, 0, 1)})
    b.threshold(6)
    b.add(op.Flatten)
    b.dense(60)
    b.add(op.Reshape, shape=(3, 4, 5))
    b.add(op.MaxPool, **{**pool, "dilation": (3, 1), "padding": (1, 2, 0, 0)})
    return b.net((real, b.last))


CASES = {
    "windows": windows,
    "far borders": far_borders,
    **{f"mlp {form}": functools.partial(make_packed_mlp, form=form) for form in ("weight-only", "sign", "mixed")},
    "signs in convolutions": signs_conv,
    "integer resnet": integer_resnet,
    **NETS,
}


def write(net: PackedNet, folder: Path, flavor: str = "standard") -> Path:
    path = folder / f"{flavor}.onnx"
    target.write(net, path, flavor=flavor)
    return path


def assert_equal(net: PackedNet, found: dict[str, np.ndarray], inputs: np.ndarray) -> None:
    """Exact values equal those of the reference executor; others are close, unless one was rounded before."""
    expected, uses = net.by_name(run(net, inputs, executor="reference")), Uses(net)
    values = [part.values() for _, part in batches(net, inputs, list(uses.values))]
    largest = max(float(np.abs(value).max()) for part in values for value in part) or 1.0
    signed = any(isinstance(node, op.Sign | op.Quantize) and node.inputs[0] not in uses.exact for node in net.nodes)
    for name in net.outputs:
        assert found[name].dtype == np.float32
        if name in uses.exact:
            np.testing.assert_array_equal(found[name], expected[name])
        elif not signed:
            np.testing.assert_allclose(found[name] / largest, expected[name] / largest, atol=1e-4, rtol=0)
        else:
            assert found[name].shape == expected[name].shape


@pytest.mark.parametrize("flavor", ["standard", "float"])
@pytest.mark.parametrize("name", CASES)
def test_nets_compute_what_the_reference_does(name: str, flavor: str, tmp_path: Path) -> None:
    net = CASES[name]()
    inputs = inputs_of(net, 30)
    made = export_net(net, "onnx", tmp_path / "net.onnx", inputs=inputs, flavor=flavor)
    assert made.files == (tmp_path / "net.onnx",)
    assert made.comparison is not None
    assert made.comparison.samples == 30
    assert made.comparison.bit_exact or not set(net.outputs) <= Uses(net).exact
    onnx.checker.check_model(str(made.files[0]), full_check=True)
    assert_equal(net, target.run(net, made.files[0], inputs, flavor=flavor), inputs)
    if flavor == "standard":
        assert_unpacked_once(net, made.files[0])


def assert_unpacked_once(net: PackedNet, path: Path) -> None:
    """onnxruntime unpacks weights when a session starts, and runs products of integers."""
    assert not operators(onnx.load(str(path)).graph).keys() & SLOW_OR_WRONG
    graph = optimized(path, "extended")  # beyond it layouts depend on the processor, with shapes of their own
    found = operators(graph)
    kinds = {type(node).__name__ for node in net.nodes}
    own = {"Reshape"} if kinds & {"Reshape", "Repeat", "AveragePool"} else set()
    own |= {"Gather"} if "Take" in kinds else set()
    assert not found.keys() & (SLOW_OR_WRONG | UNPACKING - own)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            assert types[node.input[1]] == onnx.TensorProto.INT8
            assert types[node.input[2]] == onnx.TensorProto.UINT8  # the zero point of the inputs, of their dtype
        if node.op_type == "QLinearConv":
            assert types[node.input[3]] == onnx.TensorProto.INT8
            assert types[node.input[2]] == onnx.TensorProto.UINT8
    assert {"Gather", "Split"} <= operators(optimized(path, "as written")).keys()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_drawn_nets_compute_what_the_reference_does(tmp_path_factory: Any, data: st.DataObject) -> None:
    net = data.draw(nets())
    inputs = data.draw(batches_of(net))
    if inputs.dtype == np.float32:  # a pixel of 1e30 would leave nothing of the others on their grid
        inputs = np.clip(inputs, -30, 30)
    try:
        run(net, inputs)
    except (FormatError, NotBinaryError):  # overflow
        return
    try:
        path = write(net, tmp_path_factory.mktemp("drawn"))
    except UsageError as error:
        assert "sums integers" in str(error)  # noqa: PT017 # sums of windows beyond 2^24
        return
    assert_equal(net, target.run(net, path, inputs), inputs)


def test_nets_of_signs_are_graphs_of_integers(tmp_path: Path) -> None:
    found = operators(optimized(write(make_packed_mlp((60, 70, 65, 10), form="sign"), tmp_path)))
    assert found["MatMulInteger"] == 3
    assert not found.keys() & {"MatMul", "Gemm", "FusedGemm", "Relu"}
    found = operators(optimized(write(signs_conv(), tmp_path)))
    assert (found["QLinearConv"], found["MatMulInteger"], found["Conv"], found["Clip"]) == (3, 2, 1, 3)
    # the scale and shift of real activations become part of the convolution
    b = Builder((2, 6, 6), coding="standardise")
    b.add(op.Conv, **b.signs(8, 18), kernel=(3, 3))
    b.affine(8)
    b.add(op.Conv, **b.signs(8, 72), kernel=(3, 3))
    b.affine(8)
    found = operators(optimized(write(b.net(), tmp_path)))
    assert (found["Conv"], found["Mul"], found["Add"]) == (2, 0, 0)


@pytest.mark.parametrize("flavor", ["standard", "float"])
def test_the_sign_of_zero_and_of_a_shift_is_plus_one(flavor: str, tmp_path: Path) -> None:
    zeros = np.float32([0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3, -3])[:, None]
    shift = np.float32([0.1, -2.5, 1e-45, -0.0])
    b = Builder((1,), coding="float32")
    first = b.add(op.Sign)
    b.add(op.Dense, signs=np.ones((1, 1), np.uint64), in_features=1)
    net = b.net((first, b.last))
    found = target.run(net, write(net, tmp_path, flavor), zeros, flavor=flavor)
    for name in net.outputs:
        np.testing.assert_array_equal(found[name][:, 0], [1, 1, 1, -1, 1, -1, 1, -1])
    b = Builder((4,), coding="float32")
    b.add(op.Sign, shift=shift)
    net = b.net()
    inputs = np.stack([shift, np.nextafter(shift, np.float32(-9)), np.nextafter(shift, np.float32(9))])
    found = target.run(net, write(net, tmp_path, flavor), inputs, flavor=flavor)
    np.testing.assert_array_equal(found[b.last], [[1] * 4, [-1] * 4, [1] * 4])


@pytest.mark.parametrize("first", ["dense", "conv", "pooled"])
def test_thresholds_at_every_sum_and_at_the_limits_of_int32(first: str, tmp_path: Path) -> None:
    """A channel for each threshold of either direction; sums of five ±1, so -5 to 5."""
    limits = np.iinfo(np.int32)
    at = np.array([limits.min, limits.min + 1, *range(-7, 8), limits.max - 1, limits.max], np.int64).astype(np.int32)
    at = np.tile(at, 2)
    direction = np.repeat(np.array([1, -1], np.int8), len(at) // 2)
    b = Builder((5,) if first == "dense" else (5, 4, 4), coding="float32")
    b.add(op.Sign)
    if first == "dense":
        b.dense(len(at))
    else:
        b.add(op.Conv, **b.signs(len(at), 5), kernel=(1, 1))
    if first == "pooled":
        b.add(op.MaxPool, kernel=(2, 2), stride=(1, 2), padding=(1, 0, 0, 0))
    b.add(op.Threshold, threshold=at, direction=direction)
    net = b.net()
    inputs = inputs_of(net, 32)
    path = write(net, tmp_path)
    assert first == "dense" or operators(onnx.load(str(path)).graph)["QLinearConv"] == 1
    np.testing.assert_array_equal(target.run(net, path, inputs)[net.output], run(net, inputs))


def mlp(*widths: int, coding: str = "integer") -> PackedNet:
    """Random weights, drawn as words, which is faster than `make_packed_mlp`."""
    b = Builder((widths[0],), coding=coding)
    for inputs, outputs in pairwise(widths):
        words = b.rng.integers(0, 2**64, (outputs, -(-inputs // 64)), dtype=np.uint64)
        if inputs % 64:
            words[:, -1] &= np.uint64((1 << inputs % 64) - 1)
        b.add(op.Dense, signs=words, in_features=inputs)
        b.affine(outputs)
        if outputs != widths[-1]:
            b.add(op.Clamp, low=np.float32([0]))
    return b.net()


def test_files_are_small(tmp_path: Path) -> None:
    net = mlp(784, 2048, 2048, 2048, 10)
    sizes = {flavor: write(net, tmp_path, flavor).stat().st_size for flavor in ("standard", "float")}
    assert sizes["float"] >= 29 * sizes["standard"]


def test_any_number_of_samples_runs_in_one_session(tmp_path: Path) -> None:
    net = make_packed_mlp()
    opened = session(write(net, tmp_path))
    assert opened.get_inputs()[0].shape == ["N", *net.input.shape]
    assert opened.get_inputs()[0].type == "tensor(uint8)"
    assert opened.get_outputs()[0].shape == ["N", 10]
    for count in (1, 3, 130):
        assert opened.run(None, {"input": inputs_of(net, count)})[0].shape == (count, 10)
    b = Builder((3,), coding="float32")
    b.add(op.Dense, **b.signs(1, 3, scale=True))
    b.add(op.Reshape, shape=())
    number = b.net()
    assert target.run(number, write(number, tmp_path), inputs_of(number, 4))[b.last].shape == (4,)


def test_the_metadata_describe_the_net(certificate: Any, tmp_path: Path) -> None:
    net = make_packed_mlp(certificate=certificate)
    fields = session(write(net, tmp_path)).get_modelmeta().custom_metadata_map
    assert (fields["name"], fields["statement"], fields["output"]) == (net.name, net.statement, net.output)
    assert json.loads(fields["classes"]) == list(net.classes or ())
    assert json.loads(fields["input"]) == {
        **{"dtype": "uint8", "shape": list(net.input.shape), "meaning": ""},
        "values": "bytes 0 to 255, gray, white strokes on black, no normalization before",
    }
    assert fields["sha256"] == hashlib.sha256(dumps(net)).hexdigest()
    fields = session(write(NETS["features"](), tmp_path)).get_modelmeta().custom_metadata_map
    assert json.loads(fields["output"]) == {key: key for key in ("gated", "number", "again")}


@pytest.mark.parametrize("flavor", ["standard", "float"])
def test_outputs_have_the_keys_of_a_dict_as_names(flavor: str, tmp_path: Path) -> None:
    """Also where an input, another value or a constant has the name of a key, and a value has several keys."""
    b = Builder((6,), coding="float32")
    hidden = b.add(op.Dense, **b.signs(5, 6))
    last = b.add(op.Clamp, low=np.float32([0]), high=np.float32([6]))
    net = b.net({hidden: last, last: hidden, "input": hidden, "shape/5": last, "a b": hidden})
    inputs = inputs_of(net, 7)
    path = write(net, tmp_path, flavor)
    onnx.checker.check_model(str(path), full_check=True)
    opened = session(path)
    names = [output.name for output in opened.get_outputs()]
    assert names == [hidden, last, "input2", "shape/5", "a b"]
    expected = run(net, inputs, executor="reference")
    for key, found in zip(expected, opened.run(names, {"input": inputs}), strict=True):
        np.testing.assert_allclose(found, expected[key], rtol=1e-5, atol=1e-5)
    assert_equal(net, target.run(net, path, inputs, flavor=flavor), inputs)
    described = json.loads(opened.get_modelmeta().custom_metadata_map["output"])
    assert described == dict(zip(expected, names, strict=True))


def test_names_of_values_do_not_clash_with_names_of_constants(tmp_path: Path) -> None:
    names = ["bits", "uint8", "shape", "float32", "input2", "fc", "n"]
    net = with_names(make_packed_mlp((6, 5, 5, 4), form="sign"), names)
    inputs = inputs_of(net, 9)
    assert_equal(net, target.run(net, write(net, tmp_path), inputs), inputs)


def test_qonnx_marks_binary_weights_and_signs(tmp_path: Path) -> None:
    net = signs_conv()
    model = onnx.load(str(write(net, tmp_path, "qonnx")))
    found = operators(model.graph)
    assert found["BipolarQuant"] == 6 + 5  # of weights, of signs
    assert {opset.domain for opset in model.opset_import} == {"", "qonnx.custom_op.general"}
    assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 12, 12]
    made = export_net(net, "onnx", tmp_path / "net.onnx", flavor="qonnx")
    assert made.comparison is None
    assert "qonnx is not installed" in made.not_compared
    assert made.size > 8 * (write(net, tmp_path).stat().st_size - 4000)


def test_qonnx_marks_integers_of_few_bits(tmp_path: Path) -> None:
    net = NETS["integer"]()
    model = onnx.load(str(write(net, tmp_path, "qonnx")))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Quant":
            settings = {attribute.name: attribute.i for attribute in node.attribute}
            scale, zero, bits = (float(constants[name]) for name in node.input[1:])
            assert (node.domain, scale, zero, settings["narrow"]) == ("qonnx.custom_op.general", 1, 0, 0)
            found.append((node.output[0], settings["signed"], bits))
    rounded = [node for node in net.nodes if hasattr(node, "least")]
    assert found == [(node.output, int(node.least < 0), bits_of(node.least, node.most)) for node in rounded]
    assert {bits for _, _, bits in found} == {2, 4, 8, 10}


def bits_of(least: int, most: int) -> int:
    """The fewest bits whose integers have a range inside; of two's complement if `least` is negative."""
    return next(
        k for k in range(1, 20) if ((-(2 ** (k - 1)) <= least and most < 2 ** (k - 1)) if least else most < 2**k)
    )


def test_sums_beyond_those_of_float32_are_exact_or_an_error(tmp_path: Path) -> None:
    def ones(outputs: int, terms: int) -> dict[str, Any]:
        return {"signs": pack_signs(np.ones((outputs, terms), np.int8)), "in_features": terms}

    b = Builder((300, 1, 1), coding="values")
    b.add(op.Conv, **ones(299, 300), kernel=(1, 1))
    b.add(op.Flatten)
    b.add(op.Dense, **ones(2, 299))
    odd = 299 * 299 * 255  # beyond 2^24, so float32 has only the even numbers beside it
    b.add(op.Threshold, threshold=np.array([odd, odd + 1], np.int32), direction=np.ones(2, np.int8))
    exact = b.net()
    inputs = np.full((1, 300, 1, 1), 255, np.uint8)
    inputs[0, 7] = 0
    found = target.run(exact, write(exact, tmp_path), inputs)[exact.output]
    np.testing.assert_array_equal(found, [[1, -1]])
    del b.nodes[1:]
    b.add(op.Conv, "n0", **ones(2, 299), kernel=(1, 1))
    with pytest.raises(UsageError, match="22,873,500"):
        export_net(b.net(), "onnx", tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_without_onnxruntime_the_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    made = export_net(make_packed_mlp(), "onnx", tmp_path / "net.onnx")
    assert made.comparison is None
    assert "onnxruntime" in made.not_compared


def test_exports_load_onnx_only_to_write() -> None:
    code = "import onebit.export, onebit.export.onnx.target as t, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert not {"onnx", "onnxruntime", "torch"} & set(loaded)
