"""The scripts of the web page in node: every output has the bits of the reference executor."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from onebit.errors import FormatError, NotBinaryError, OnebitError
from onebit.export.html import target
from onebit.packed import PackedNet, nodes as op
from onebit.runtime import run
from support.drawn_nets import batches_of, nets
from support.extreme_nets import EXTREMES, extreme_inputs
from support.packed_nets import NETS, Builder, inputs_of, make_packed_mlp, with_names

pytestmark = pytest.mark.skipif(which("node") is None, reason="node is not installed")


def assert_equal(net: PackedNet, page: Path, inputs: np.ndarray) -> None:
    """The page gives the bits of the reference executor."""
    expected = net.by_name(run(net, inputs, executor="reference"))
    target.write(net, page)
    found = target.run(net, page, inputs)
    assert list(found) == list(net.outputs)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name].view(np.int32), values.view(np.int32), err_msg=name)


@pytest.mark.parametrize("name", [*NETS, *EXTREMES])
def test_nets_of_all_operations_give_the_bits_of_the_reference(name: str, tmp_path: Path) -> None:
    net = {**NETS, **EXTREMES}[name]()
    assert_equal(net, tmp_path / "net.html", extreme_inputs(net) if name in EXTREMES else inputs_of(net, 3))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=nets().flatmap(lambda net: st.tuples(st.just(net), batches_of(net, 2))))
def test_drawn_nets_give_the_bits_of_the_reference(drawn: tuple[PackedNet, np.ndarray], tmp_path: Path) -> None:
    net, inputs = drawn
    try:
        run(net, inputs, executor="reference")
    except (FormatError, NotBinaryError):  # real parameters overflow
        assume(False)
    assert_equal(net, tmp_path / "net.html", inputs)


@pytest.mark.parametrize("count", [6, pytest.param(300, marks=pytest.mark.nightly)])
def test_drawn_integer_nets_give_the_bits_of_the_reference(count: int, tmp_path: Path) -> None:
    @settings(max_examples=count)
    @given(net=nets(integers=True))
    def check(net: PackedNet) -> None:
        assert_equal(net, tmp_path / "net.html", extreme_inputs(net))

    check()


def rounding_nets() -> dict[str, PackedNet]:
    """Nets with sums that doubles round, if they are added carelessly."""
    made = {}
    for terms in (2000, 2**15, 2**15 + 3):
        b = Builder((terms,), seed=terms, coding="float32")
        b.add(op.RealDense, weight=b.real(5, terms) ** 5)
        made[f"{terms} real products"] = b.net()
    b = Builder((2**13 + 1, 2, 2), coding="values")
    b.add(op.RealConvTranspose, weight=b.real(2, 4 * (2**13 + 1)), kernel=(2, 2))
    made["long sums of a transposed convolution"] = b.net()
    b = Builder((40, 5, 3))
    b.add(op.Conv, **b.signs(40, 360), kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=-1)
    big = b.last
    for _ in range(9):  # integers beyond 2^24
        big = b.add(op.Add, big, big)
    b.add(op.RealConv, weight=b.real(3, 160), kernel=(2, 2), padding=(1, 0, 0, 0), padding_value=1)
    b.add(op.Multiply, b.last, b.last)
    real = b.add(op.Flatten)
    b.add(op.AveragePool, big, kernel=(2, 3), padding=(1, 0, 0, 1))
    b.add(op.AdaptiveAveragePool, size=(2, 2))
    b.add(op.ConvTranspose, big, **b.signs(40, 9, scale=True, centre=True), kernel=(3, 3), groups=40, stride=(2, 1))
    made["large integers"] = b.net((real, b.nodes[-2].output, b.last))
    b = Builder((33, 4, 4), coding="float32")
    b.add(op.Sign)
    b.add(op.Conv, **b.signs(66, 11 * 9, scale=True), kernel=(3, 3), groups=3, padding=(1, 0, 1, 1), padding_value=1)
    b.add(op.Sign)
    b.add(op.ConvTranspose, **b.signs(37, 66 * 6), kernel=(2, 3), padding=(1, 0, 0, 2), dilation=(1, 2))
    b.add(op.Sign)
    b.add(op.Conv, **b.signs(5, 37 * 4, centre=True), kernel=(2, 2), padding=(1, 1, 1, 1))
    made["signs in groups"] = b.net()
    b = Builder((2, 4, 4), coding="float32")
    large = b.add(op.Affine, scale=np.full(2, 2**20, np.float32))  # beside which a border of 1 is rounded to 0
    window = {"kernel": (2, 2), "padding": (2, 1, 2, 1), "padding_value": 1}
    one = b.add(op.Conv, large, **b.signs(3, 8), **window)
    b.add(op.RealConv, large, weight=b.real(3, 8), **window)
    made["borders of large numbers"] = b.net((one, b.last))
    return made


ROUNDING = rounding_nets()


@pytest.mark.parametrize("name", ROUNDING)
def test_sums_are_rounded_once(name: str, tmp_path: Path) -> None:
    net = ROUNDING[name]
    inputs = inputs_of(net, 2)
    if net.input.dtype == "float32":
        exponents = np.arange(-3, 3, 6 / inputs[0].size, dtype=np.float32).reshape(-1, *inputs.shape[1:])
        inputs = inputs * np.float32(10) ** exponents[:1]
    assert_equal(net, tmp_path / "net.html", inputs)


def test_rounding_nan_is_an_error(tmp_path: Path) -> None:
    b = Builder((3,), coding="float32")
    huge = np.full(3, 3e38, np.float32)
    made = [b.add(op.Affine, "input", scale=scale, shift=np.zeros(3, np.float32)) for scale in (huge, -huge)]
    b.add(op.Add, *made)
    b.add(op.Quantize, least=-7, most=9)
    net, page = b.net(), tmp_path / "net.html"
    target.write(net, page)
    (found,) = target.run(net, page, np.float32([[-0.5, 1, 0]])).values()
    np.testing.assert_array_equal(found, [[0, 0, 0]])
    with pytest.raises(OnebitError, match="NaN"):
        target.run(net, page, np.float32([[0, 2, 0]]))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_error(number: float, tmp_path: Path) -> None:
    b = Builder((3,), coding="float32")
    b.add(op.RealDense, weight=np.full((1, 3), 1e38, np.float32))
    net, page = b.net(), tmp_path / "net.html"
    target.write(net, page)
    with pytest.raises(OnebitError, match="inputs"):
        target.run(net, page, np.float32([[0, number, 0]]))
    with pytest.raises(OnebitError, match="outputs"):
        target.run(net, page, np.float32([[9, 9, 9]]))


def test_values_and_outputs_may_have_any_names(tmp_path: Path) -> None:
    """Such as properties that all objects of JavaScript have, and numbers, by which it sorts keys."""
    b = Builder((2, 3, 1))
    for _ in range(2):
        b.add(op.Flatten)
        b.add(op.Relu)
    net = with_names(
        b.net({"__proto__": "n3", "10": "n2", "2": "n1"}), ("constructor", "__proto__", "toString", "length")
    )
    assert_equal(net, tmp_path / "net.html", inputs_of(net, 2))


def test_numbers_of_another_type_or_count_are_an_error(tmp_path: Path) -> None:
    def error_of(net: PackedNet, numbers: str) -> str:
        target.write(net, tmp_path / "net.html")
        (tmp_path / "run.js").write_text(run_page.replace(sample, f"const sample = {numbers}"))
        command = ["node", str(tmp_path / "run.js"), str(tmp_path / "net.html"), net.input.dtype]
        return subprocess.run([*command, json.dumps(net.outputs)], input=bytes(48), capture_output=True).stderr.decode()

    run_page = (Path(target.__file__).parent / "run_page.js").read_text()
    sample = "const sample = numbers.subarray(start, start + net.count)"
    assert sample in run_page
    net = make_packed_mlp()
    assert error_of(net, "new Uint8Array(12)") == ""
    assert "got Float32Array" in error_of(net, "new Float32Array(12)")
    assert "got Array" in error_of(net, "Array(12).fill(256)")
    assert "got 11 numbers" in error_of(net, "new Uint8Array(11)")
    floats = NETS["features"]()
    assert "got Uint8Array" in error_of(floats, "new Uint8Array(net.count)")
