"""Modules that hold bits, and their operators: the bits of a packed net's node, on every instruction set."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from onebit.errors import UsageError
from onebit.native import NativePlan, instruction_sets
from onebit.native.arena import THREAD
from onebit.packed import Conv, ConvTranspose, Dense, Value
from onebit.packed.bits import bytes_to_words, pack_signs, words_to_bytes
from onebit.runtime import layer_operator
from onebit.runtime.executors import executor_of
from onebit.runtime.layer_operator import PackedWindow, dense_signs, packed_linear
from onebit.runtime.torch_layers import PackedConv, PackedLinear

WAYS = [*instruction_sets(), "numpy"]


def rows_of(rng: np.random.Generator, outputs: int, terms: int) -> np.ndarray:
    return words_to_bytes(pack_signs(rng.choice(np.array([-1, 1], np.int8), (outputs, terms))), terms)


def parameters_of(rng: np.random.Generator, outputs: int, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: torch.from_numpy(rng.standard_normal(outputs).astype(np.float32)) for name in names}


def choose(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBIT_NATIVE", "0" if way == "numpy" else "1")
    if way == "numpy":
        monkeypatch.delenv("ONEBIT_ISA", raising=False)
    else:
        monkeypatch.setenv("ONEBIT_ISA", way)


def of_node(kind: Any, layer: Any, x: Tensor, **fields: Any) -> np.ndarray:
    """What the reference executor of a packed net's node makes of real inputs, plus the bias."""
    scales = {"scale": layer.scale, "centre": layer.center}
    arrays = {name: None if value is None else value.numpy() for name, value in scales.items()}
    words = bytes_to_words(layer.signs.numpy(), layer.terms)
    node = kind(inputs=("x",), output="y", signs=words, in_features=layer.terms, **arrays, **fields)
    values = np.where(x < 0, -1, 1).astype(np.float32) if layer.sign_inputs else x.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        y = executor_of(node, Value(tuple(x.shape[1:]), "real"))(values)
        return y if layer.bias is None else y + layer.bias.numpy().reshape(-1, *[1] * (y.ndim - 2))


def assert_same_bits(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.numpy().view(np.int32), np.ascontiguousarray(expected).view(np.int32))


CHOSEN = st.sets(st.sampled_from(("scale", "center", "bias"))).map(lambda names: tuple(sorted(names)))
SEEDS = st.integers(0, 2**32 - 1)


def inputs_of(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Values whose sums need 32 bits or more in some samples, and whose magnitudes differ from sample to sample."""
    x = rng.standard_normal(shape)
    x[rng.random(len(x)) < 0.3] = 1.75  # all of them the largest: sums grow fastest
    x *= 10.0 ** rng.uniform(-30, 30, (len(x), *[1] * (len(shape) - 1)))
    return torch.from_numpy(x.astype(np.float32))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 80), st.sampled_from((1, 3, 31, 32, 33, 100, 400, 2100))),
    names=CHOSEN,
    signs=st.booleans(),
)
def test_a_dense_layer_has_the_bits_of_the_node(
    way: str, seed: int, shape: tuple[int, int, int], names: tuple[str, ...], signs: bool
) -> None:
    rng, (count, outputs, terms) = np.random.default_rng(seed), shape
    with pytest.MonkeyPatch.context() as patch:
        choose(way, patch)
        rows = rows_of(rng, outputs, terms)
        layer = PackedLinear(rows, terms, sign_inputs=signs, **parameters_of(rng, outputs, names))
        x = inputs_of(rng, (count, terms))
        assert_same_bits(layer(x), of_node(Dense, layer, x))
        np.testing.assert_array_equal(layer.signs.numpy(), rows)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_of_lookups_do_not_overflow(way: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(way, monkeypatch)
    terms = 4 * 1024
    rows = words_to_bytes(pack_signs(np.full((40, terms), sign, np.int8)), terms)
    x = torch.zeros(2, terms)
    x[0, 3::4] = 2**21 - 1  # all bits of the lowest three planes of 7 bits are set
    x[1] = 2**24 - 1
    x[0, 0] = 2**23  # a unit of 1
    layer = PackedLinear(rows, terms)
    assert_same_bits(layer(x), of_node(Dense, layer, x))
    expected = torch.tensor([2.0**23 + 1024 * (2**21 - 1), 4096.0 * (2**24 - 1)])
    assert_same_bits(layer(x), (sign * expected)[:, None].expand(2, 40).numpy())


WINDOWS = st.tuples(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from((1, 2, 6)),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.just((0, 0)),
    st.sampled_from((0, 0, 1, -1)),
).map(lambda fields: PackedWindow(*fields))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    window=WINDOWS,
    outputs=st.sampled_from((6, 12, 54, 72)),
    channels=st.sampled_from((1, 2, 17)),
    size=st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 19)),
    names=CHOSEN,
    signs=st.booleans(),
)
def test_a_convolution_has_the_bits_of_the_node(
    way: str,
    seed: int,
    window: PackedWindow,
    outputs: int,
    channels: int,
    size: tuple[int, int, int],
    names: tuple[str, ...],
    signs: bool,
) -> None:
    rng, (count, height, width) = np.random.default_rng(seed), size
    terms = channels * window.kernel[0] * window.kernel[1]
    layer = PackedConv(
        rows_of(rng, outputs, terms), terms, window=window, sign_inputs=signs, **parameters_of(rng, outputs, names)
    )
    x = inputs_of(rng, (count, channels * window.groups, height, width))
    same = {name: getattr(window, name) for name in ("kernel", "groups", "stride", "padding", "dilation")}
    with pytest.MonkeyPatch.context() as patch:
        choose(way, patch)
        assert_same_bits(layer(x), of_node(Conv, layer, x, padding_value=window.padding_value, **same))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    groups=st.sampled_from((1, 2)),
    names=CHOSEN,
)
def test_a_transposed_convolution_has_the_bits_of_the_node(
    way: str, seed: int, kernel: tuple[int, int], stride: tuple[int, int], groups: int, names: tuple[str, ...]
) -> None:
    rng, terms = np.random.default_rng(seed), 5 * kernel[0] * kernel[1]
    window = PackedWindow(kernel, groups, stride, (1, 0, 0, 1), (1, 2), (stride[0] - 1, 0), transposed=True)
    layer = PackedConv(rows_of(rng, 12, terms), terms, window=window, **parameters_of(rng, 12, names))
    x = inputs_of(rng, (2, 5 * groups, 4, 5))
    fields = ("kernel", "groups", "stride", "padding", "dilation", "extra")
    with pytest.MonkeyPatch.context() as patch:
        choose(way, patch)
        found = layer(x)
        assert_same_bits(found, of_node(ConvTranspose, layer, x, **{name: getattr(window, name) for name in fields}))


@pytest.mark.parametrize("count", [1, 5, 70])
@pytest.mark.parametrize("convolution", [False, True])
def test_threads_give_the_same_bits(count: int, convolution: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    layer: PackedConv | PackedLinear
    if convolution:
        window, more = PackedWindow((3, 3), 2, padding=(1, 1, 1, 1)), parameters_of(rng, 96, ("scale", "center"))
        layer, x = PackedConv(rows_of(rng, 96, 288), 288, window=window, **more), inputs_of(rng, (count, 64, 11, 13))
    else:
        layer = PackedLinear(rows_of(rng, 1000, 3000), 3000, **parameters_of(rng, 1000, ("scale", "center")))
        x = inputs_of(rng, (count, 3000))
    monkeypatch.setenv("ONEBIT_THREADS", "1")
    one = layer(x)
    for threads in ("2", "3", "0", "-3"):
        monkeypatch.setenv("ONEBIT_THREADS", threads)
        assert_same_bits(layer(x), one.numpy())


def test_another_leading_shape_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    layer = PackedLinear(rows_of(rng, 7, 50), 50)
    x = inputs_of(rng, (30, 50))
    assert_same_bits(layer(x.view(2, 3, 5, 50)).view(30, 7), layer(x).numpy())
    assert_same_bits(layer(x[0]), layer(x)[0].numpy())
    assert layer(x[:0]).shape == (0, 7)
    turned = x.t().contiguous().t()
    assert_same_bits(layer(turned), layer(x).numpy())


def test_a_sample_that_is_not_finite_gives_nan_and_leaves_the_others() -> None:
    rng = np.random.default_rng(0)
    layer = PackedLinear(rows_of(rng, 7, 50), 50)
    x = inputs_of(rng, (30, 50))
    expected = layer(x)
    x[3, 4], x[17, 0] = float("nan"), float("inf")
    found = layer(x)
    assert found[[3, 17]].isnan().all()
    others = [n for n in range(30) if n not in (3, 17)]
    assert_same_bits(found[others], expected[others].numpy())
    conv, images = small_conv(), torch.randn(3, 8, 7, 6)
    expected = conv(images)
    images[1, 2, 3, 4] = float("-inf")
    found = conv(images)
    assert found[1].isnan().all()
    assert_same_bits(found[[0, 2]], expected[[0, 2]].numpy())


def small_layer(**more: Any) -> PackedLinear:
    rng = np.random.default_rng(1)
    return PackedLinear(rows_of(rng, 6, 20), 20, **parameters_of(rng, 6, ("scale", "bias")), **more)


def small_conv() -> PackedConv:
    rng = np.random.default_rng(2)
    window = PackedWindow((3, 3), 2, (2, 1), (1, 1, 0, 1))
    return PackedConv(rows_of(rng, 8, 36), 36, window=window, **parameters_of(rng, 8, ("scale", "center")))


def test_the_operators_pass_the_checks_of_torch() -> None:
    layer, conv = small_layer(), small_conv()
    x, images = torch.randn(3, 20), torch.randn(2, 8, 7, 6)
    parameters = layer.signs, layer.scale, layer.center, layer.bias
    torch.library.opcheck(torch.ops.onebit.packed_linear, (x, *parameters, False))
    torch.library.opcheck(torch.ops.onebit.packed_linear, (x.bfloat16(), *parameters, True))
    shared = conv.signs, conv.scale, conv.center, conv.bias
    torch.library.opcheck(torch.ops.onebit.packed_conv, (images, *shared, conv.window.numbers, False))


def test_export_and_compile_take_any_batch() -> None:
    net = nn.Sequential(small_layer(), nn.ReLU())
    x = torch.randn(5, 20)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(net, (torch.randn(3, 20),), dynamic_shapes=({0: batch},))
    assert_same_bits(exported.module()(x), net(x).numpy())
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (3, 5, 1):
        assert_same_bits(compiled(x[:count]), net(x[:count]).numpy())
    images = torch.randn(2, 8, 7, 6)
    conv = small_conv()
    assert_same_bits(torch.compile(conv, fullgraph=True, backend="aot_eager")(images), conv(images).numpy())


class Seen(TorchDispatchMode):
    """Records the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Named(TorchFunctionMode):
    """Records the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_whatever_watches_operators_sees_packed_linear_in_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = small_layer(), torch.randn(3, 20)
    expected, name = layer(x), "onebit.packed_linear.default"
    with torch.inference_mode():
        seen, named = Seen(), Named()
        with seen:
            assert_same_bits(layer(x), expected.numpy())
        assert name in seen.names
        with named:
            assert_same_bits(layer(x), expected.numpy())
        assert name in named.names
        assert name in make_fx(layer)(x).code.replace("torch.ops.", "")
        assert_same_bits(torch.func.vmap(layer)(x), expected.numpy())
        with profile() as recorded:
            layer(x)
        assert "onebit::packed_linear" in {event.key for event in recorded.key_averages()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and it warns of each shape that is compared
            traced = torch.jit.trace(layer, x, check_trace=False)
        assert "onebit::packed_linear" in str(traced.graph)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert_same_bits(compiled(x), expected.numpy())
    exported = torch.export.export(layer, (x,))
    assert name in exported.graph_module.code.replace("torch.ops.", "")
    calls: list[int] = []
    monkeypatch.setattr(layer_operator, "packed_linear", lambda *given: calls.append(1) or packed_linear(*given))
    with torch.inference_mode():
        assert_same_bits(layer(x), expected.numpy())
        assert not calls
    assert_same_bits(layer(x), expected.numpy())
    assert calls


def test_files_hold_the_rows_of_a_packed_net(tmp_path: Path) -> None:
    layer = small_layer()
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    read = load_file(tmp_path / "layer.safetensors")
    assert read["signs"].dtype == torch.uint8
    assert read["signs"].shape == (6, 3)
    assert set(read) == {"signs", "scale", "bias"}
    other = PackedLinear(np.zeros((6, 3), np.uint8), 20, scale=torch.ones(6), bias=torch.zeros(6))
    other.load_state_dict(read, strict=True)
    x = torch.randn(4, 20)
    assert_same_bits(other(x), layer(x).numpy())


def test_copies_pickles_and_other_dtypes_give_the_same_answers() -> None:
    layer, x = small_layer(), torch.randn(4, 20)
    expected = layer(x)
    for other in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        layer.to("cpu"),
        layer.half(),
        layer.double(),
    ):
        assert_same_bits(other(x), expected.numpy())
    assert layer(x.half()).dtype == torch.float16
    torch.testing.assert_close(layer(x.double()).float(), expected)
    meta = copy.deepcopy(layer).to("meta")
    assert meta(x.to("meta")).shape == (4, 6)
    assert meta.state_dict()["signs"].shape == (6, 3)


def test_the_gradient_of_the_input_is_that_of_the_dense_layer() -> None:
    layer, conv = small_layer(), small_conv()
    x = torch.randn(4, 20, requires_grad=True)
    weight = dense_signs(layer.signs, 20) * layer.scale[:, None]  # type: ignore[index]
    found = torch.autograd.grad(layer(x).square().sum(), x)[0]
    expected = torch.autograd.grad(F.linear(x, weight, layer.bias).square().sum(), x)[0]
    torch.testing.assert_close(found, expected)
    images = torch.randn(2, 8, 7, 6, requires_grad=True)
    signs = dense_signs(conv.signs, 36) * conv.scale[:, None] + conv.center[:, None]  # type: ignore[index]
    kernel = signs.view(8, 3, 3, 4).permute(0, 3, 1, 2)
    dense = F.conv2d(F.pad(images, (0, 1, 1, 1)), kernel, None, (2, 1), 0, 1, 2)
    torch.testing.assert_close(conv(images), dense, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(conv(images).square().sum(), images)[0]
    expected = torch.autograd.grad(dense.square().sum(), images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at its first jvp
def test_forward_mode_derivatives_are_refused() -> None:
    """The operator would give zeros in silence."""
    for layer, x in ((small_layer(), torch.randn(4, 20)), (small_conv(), torch.randn(2, 8, 7, 6))):
        with pytest.raises(UsageError, match="packed layers have no forward-mode derivatives"):
            torch.func.jvp(layer, (x,), (x,))
        with forward_ad.dual_level():
            with pytest.raises(UsageError, match="packed layers have no forward-mode derivatives"):
                layer(forward_ad.make_dual(x, x))
            assert forward_ad.unpack_dual(layer(x)).tangent is None  # as the features of a head that is differentiated


@pytest.mark.parametrize("way", WAYS)
def test_wrong_inputs_get_one_line(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(way, monkeypatch)
    layer, conv = small_layer(), small_conv()
    for x, message in (
        (torch.randn(4, 40), r"got a tensor of shape \(4, 40\), expected 20 inputs"),
        (torch.tensor(1.0), r"got a tensor of shape \(\), expected 20 inputs"),
        (torch.ones(4, 20, dtype=torch.int64), "expected floating point"),
    ):
        with pytest.raises(UsageError, match=message):
            layer(x)
    for x, message in (
        (torch.randn(4, 8), r"got a tensor of shape \(4, 8\), expected \(N, 8, H, W\)"),
        (torch.randn(4, 6, 7, 7), r"got a tensor of shape \(4, 6, 7, 7\), expected \(N, 8, H, W\)"),
        (torch.randn(4, 8, 0, 1), "shape"),
        (torch.randn(4, 8, 7, 1), "kernel"),
    ):
        with pytest.raises(UsageError, match=message):
            conv(x)
    with pytest.raises(UsageError, match="scale"):
        torch.ops.onebit.packed_linear(torch.randn(2, 20), layer.signs, torch.ones(3), None, None, False)
    layer.signs = torch.full((6, 3), 255, dtype=torch.uint8)
    with pytest.raises(UsageError, match="bits"):
        layer(torch.randn(2, 20))


def test_changes_of_the_tensors_change_the_answers() -> None:
    """Plans are kept with the weights that they were made of."""
    layer, x, other = small_layer(), torch.randn(4, 20), small_layer()
    other.load_state_dict({"signs": ~layer.signs & 0b1111, "scale": torch.ones(6), "bias": torch.zeros(6)}, strict=True)
    before = layer(x)
    layer.load_state_dict(other.state_dict())
    assert_same_bits(layer(x), of_node(Dense, layer, x))
    assert not torch.equal(layer(x), before)
    layer.bias.data.add_(1)  # type: ignore[union-attr]
    assert_same_bits(layer(x), of_node(Dense, layer, x))
    layer.signs = small_layer().signs
    assert_same_bits(layer(x), of_node(Dense, layer, x))
    with torch.inference_mode():
        inferring = copy.deepcopy(layer)
        assert_same_bits(inferring(x), layer(x).numpy())
        inferring.signs[0] ^= 1
        assert_same_bits(inferring(x), of_node(Dense, inferring, x))
        assert not torch.equal(inferring(x), layer(x))


def test_a_nan_among_signs_counts_as_plus_one() -> None:
    layer, x = small_layer(sign_inputs=True), torch.randn(3, 20)
    x[1, 4] = float("nan")
    assert_same_bits(layer(x), of_node(Dense, layer, x))


@pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")
def test_many_sizes_of_images_share_weights_and_memory() -> None:
    THREAD.memory = None  # of an earlier test's larger net
    rng, terms = np.random.default_rng(0), 128 * 9
    layer = PackedConv(rows_of(rng, 128, terms), terms, window=PackedWindow((3, 3), padding=(1, 1, 1, 1)))
    sizes = range(8, 88, 2)
    for size in sizes:
        layer(torch.randn(1, 128, size, size))
    plans, _ = layer_operator._cached((layer.signs, None, None, None))
    assert len(plans) == len(sizes)
    kept = {
        array.ctypes.data: array.nbytes
        for plan in plans.values()
        if isinstance(plan, NativePlan)
        for array in plan.kept
        if isinstance(array, np.ndarray)
    }
    assert THREAD.memory is not None
    assert sum(kept.values()) + THREAD.memory[0].nbytes <= 30 * 2**20
    assert sum(kept.values()) <= 2**20
    address = layer.signs.data_ptr()
    del layer
    assert address not in layer_operator._LAYERS
