"""The operators of packed layers in torch programs: traces, exports, copies, gradients and changed tensors."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from onebit.errors import UsageError
from onebit.modules import operators
from onebit.modules.layers import PackedLinear
from onebit.modules.operators import dense_signs, packed_linear
from onebit.packed import Dense
from onebit.quantizers import BinaryWeight
from support.executors import EXECUTORS, chosen
from support.one_bit_layers import assert_same_bits, of_node, small_conv, small_layer


def test_the_operators_pass_the_checks_of_torch() -> None:
    layer, conv = small_layer(), small_conv()
    x, images = torch.randn(3, 20), torch.randn(2, 8, 7, 6)
    parameters = layer.signs, layer.scale, layer.center, layer.bias
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

    __torch_function__ = Seen.__torch_dispatch__


def test_modes_traces_and_profiles_see_the_operator_in_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(operators, "packed_linear", lambda *given: calls.append(1) or packed_linear(*given))
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert_same_bits(layer(x), expected.numpy())
            assert not calls
    with torch.no_grad():
        assert copy.deepcopy(layer).to("meta")(x.to("meta")).shape == expected.shape
    assert calls == [1]
    assert_same_bits(layer(x), expected.numpy())
    assert calls == [1, 1]


def test_files_hold_the_rows_of_a_packed_net(tmp_path: Path) -> None:
    layer = small_layer()
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    read = load_file(tmp_path / "layer.safetensors")
    assert read["signs"].dtype == torch.uint8
    assert read["signs"].shape == (6, 3)
    assert set(read) == {"signs", "scale", "bias"}
    other = PackedLinear(BinaryWeight(-torch.ones(6, 20), torch.ones(6)), torch.zeros(6))
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


def test_forward_mode_derivatives_are_refused() -> None:
    """The operators would give tangents of 0."""
    for layer, x in ((small_layer(), torch.randn(4, 20)), (small_conv(), torch.randn(2, 8, 7, 6))):
        with pytest.raises(UsageError, match="forward-mode"):
            torch.func.jvp(layer, (x,), (x,))
        with forward_ad.dual_level():
            with pytest.raises(UsageError, match="forward-mode"):
                layer(forward_ad.make_dual(x, x))
            assert forward_ad.unpack_dual(layer(x)).tangent is None  # as the features of a head that is differentiated


@pytest.mark.parametrize("executor", EXECUTORS)
def test_wrong_inputs_are_refused(executor: str) -> None:
    layer, conv = small_layer(), small_conv()
    linears = torch.randn(4, 40), torch.tensor(1.0), torch.ones(4, 20, dtype=torch.int64)
    images = torch.randn(4, 8), torch.randn(4, 6, 7, 7), torch.randn(4, 8, 0, 1), torch.randn(4, 8, 7, 1)
    with chosen(executor):
        for one, x in (*((layer, x) for x in linears), *((conv, x) for x in images)):
            with pytest.raises(UsageError):
                one(x)
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
