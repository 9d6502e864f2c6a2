"""Where BatchNorm runs as one operation, where the modules run instead, and what models make of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.layers.fused_norm import Chain, normalized, normalized_twice
from onebit.native import instruction_sets
from support.kernel_inputs import SHAPE, drawn, fused, norm_of, one_thread, results

__all__ = ["fused", "one_thread"]
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


class OwnNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("x", "norm", "activation"),
    [
        (drawn(*SHAPE), norm_of(SHAPE).eval(), nn.ReLU()),
        (drawn(*SHAPE), norm_of(SHAPE), nn.GELU()),
        (drawn(*SHAPE), norm_of(SHAPE, momentum=None), nn.ReLU()),
        (drawn(*SHAPE), OwnNorm(16), nn.ReLU()),
        (drawn(*SHAPE), nn.GroupNorm(4, 16), nn.ReLU()),
        (drawn(*SHAPE), nn.SyncBatchNorm(16).eval(), nn.ReLU()),
        (drawn(*SHAPE).double(), norm_of(SHAPE).double(), nn.ReLU()),
        (drawn(*SHAPE).bfloat16(), norm_of(SHAPE).bfloat16(), nn.ReLU()),
        (drawn(*SHAPE).contiguous(), norm_of(SHAPE), nn.ReLU()),
        (drawn(*SHAPE)[:, :, ::2], norm_of(SHAPE), nn.ReLU()),
        (drawn(4, 16, 6), nn.BatchNorm1d(16), nn.ReLU()),
    ],
    ids=["eval", "gelu", "momentum", "own", "group", "sync", "double", "bf16", "nchw", "strided", "1d"],
)
def test_the_modules_run_where_the_operation_would_differ(
    x: Tensor, norm: nn.Module, activation: nn.Module, fused: list[int]
) -> None:
    twin = copy.deepcopy(norm)
    assert torch.equal(normalized(x, norm, activation), activation(twin(x)))
    assert not fused
    for a, b in zip(norm.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


def test_a_shortcut_of_another_kind(fused: list[int]) -> None:
    x, norm = drawn(*SHAPE), norm_of(SHAPE)
    for shortcut in (drawn(*SHAPE).contiguous(), drawn(4, 16, 1, 1), drawn(*SHAPE).double()):
        y = normalized(x, copy.deepcopy(norm), nn.ReLU(), shortcut)
        assert torch.equal(y, (copy.deepcopy(norm)(x) + shortcut).relu())
    assert not fused


def test_errors_of_torch_stay() -> None:
    with pytest.raises(ValueError, match="value"):
        normalized(drawn(1, 16, 1, 1), norm_of(SHAPE), nn.ReLU())
    with pytest.raises(ValueError, match="eps"):
        normalized(drawn(*SHAPE), norm_of(SHAPE, eps=0.0), nn.ReLU())
    with pytest.raises(RuntimeError):
        normalized(drawn(2, 8, 3, 3), norm_of(SHAPE), nn.ReLU())
    x = drawn(*SHAPE).requires_grad_()
    y = normalized(x * 1, norm_of(SHAPE), nn.ReLU(), x)
    with torch.no_grad():
        y.add_(1)  # needed for the sign
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


@pytest.mark.parametrize("changed", [0, 1])
def test_two_uses_refuse_a_change_in_place(changed: int) -> None:
    """They share memory: the other would change without a gradient that knows of it."""
    x = drawn(*SHAPE).requires_grad_()
    uses = normalized_twice(x, norm_of(SHAPE))
    with pytest.raises(RuntimeError, match="inplace"):
        (nn.functional.hardtanh_(uses[changed]) + uses[1 - changed]).sum().backward()


def test_hooks_are_called(fused: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    norm, relu, seen = norm_of(SHAPE), nn.ReLU(), []
    for module in (norm, relu):
        with_hook = module.register_forward_hook(lambda *_: seen.append(1))
        normalized(drawn(*SHAPE), norm, relu)
        with_hook.remove()
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        normalized(drawn(*SHAPE), norm, relu)
    assert len(seen) == 2
    assert not fused
    normalized(drawn(*SHAPE), norm, relu)
    assert len(fused) == 1
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    normalized(drawn(*SHAPE), norm, relu)
    assert len(fused) == 1


def test_transforms_see_the_modules(fused: list[int]) -> None:
    x, norm = drawn(*SHAPE), norm_of(SHAPE, track_running_stats=False)
    loss = lambda x: normalized(x, norm, nn.ReLU()).square().sum()  # noqa: E731
    plain = lambda x: norm(x).relu().square().sum()  # noqa: E731
    assert torch.equal(torch.func.grad(loss)(x), torch.func.grad(plain)(x))
    tangent = drawn(*SHAPE, seed=3)
    for a, b in zip(torch.func.jvp(loss, (x,), (tangent,)), torch.func.jvp(plain, (x,), (tangent,)), strict=True):
        assert torch.equal(a, b)
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        assert forward.unpack_dual(loss(forward.make_dual(x, tangent))).tangent is not None
    assert Chain()(x) is x
    graph = torch.fx.symbolic_trace(Chain(norm, nn.ReLU()))
    assert [node.op for node in graph.graph.nodes].count("call_module") == 2
    assert not fused


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.layer(self.body(x))) + x)


def test_a_net_of_ones_own_is_fused_when_it_becomes_binary(fused: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = Residual().to(memory_format=torch.channels_last)
    real, keys = copy.deepcopy(net), [*net.state_dict()]
    onebit.binarize_(net)
    assert [*net.state_dict()] == keys
    assert isinstance(net.norm, nn.BatchNorm2d)
    found = []
    for native in ("1", "0"):
        monkeypatch.setenv("ONEBIT_NATIVE", native)
        twin, x = copy.deepcopy(net), drawn(*SHAPE).requires_grad_()
        twin(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in twin.parameters()), *twin.buffers()])
        assert len(fused) == 2
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    onebit.dense_(net)
    assert [type(module) for module in net.modules()] == [type(module) for module in real.modules()]


def test_the_default_dtype_and_device_do_not_matter() -> None:
    shape = (4, 16, 5, 5)
    given = norm_of(shape), drawn(*shape), drawn(*shape, seed=1), drawn(*shape, seed=2)
    call = lambda x, norm, s: normalized(x, norm, nn.ReLU(), s)  # noqa: E731
    expected = results(call, copy.deepcopy(given[0]), *given[1:])
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = results(call, *given)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def smooth_(model: nn.Module) -> nn.Module:
    """No ReLU is ever at its corner, where rounding decides about the gradient."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.constant_(module.bias, 8)
    return model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {}),
        ("resnet20", {"activation": "rprelu"}),
        ("resnet18", {"width": 0.25, "bireal": True, "input_quantizer": None}),
        ("resnet50", {"width": 0.125}),
        ("vgg_small", {"width": 0.125}),
        ("unet", {"width": 0.1, "input_shape": (1, 32, 32)}),
    ],
)
def test_models_have_the_gradients_of_the_modules(
    name: str, options: dict[str, Any], fused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"input_shape": (3, 32, 32), "classes": 10, **options}
    torch.manual_seed(0)
    model = smooth_(onebit.create_model(name, weight_quantizer="sign", **options)).train()
    model.to(memory_format=torch.channels_last)
    x = torch.randint(0, 256, (8, *model.input_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = []
    for native in ("1", "0"):
        monkeypatch.setenv("ONEBIT_NATIVE", native)
        model.zero_grad()
        y = model(x)
        (y * drawn(*y.shape, seed=5)).sum().backward()
        found.append({"y": y.detach(), **{key: p.grad.clone() for key, p in model.named_parameters()}})
    assert len(fused) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    # a bias in front of another BatchNorm has no gradient but what rounding makes of it
    largest = max(float(value.norm()) for value in found[1].values())
    for key, expected in found[1].items():
        away = float((found[0][key] - expected).norm() / max(float(expected.norm()), 0.03 * largest))
        assert away < 2e-3, (key, away)


@pytest.mark.parametrize(
    ("name", "watched", "of_inputs"),
    [
        ("resnet20", "layer1", False),
        ("resnet20", "layer1.1", False),
        ("resnet20", "layer1.1.conv1", True),
        ("resnet20", "layer2.0.downsample", True),
        ("resnet18", "layer1.1.conv2", True),
    ],
)
def test_a_value_that_a_hook_sees_gets_its_whole_gradient(
    name: str, watched: str, of_inputs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two uses of a value are two tensors inside a stage only if nobody sees them."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"input_shape": (3, 16, 16)}
    if name == "resnet18":
        options = {"width": 0.25, "bireal": True, "input_quantizer": None, "input_shape": (3, 64, 64)}
    model = smooth_(onebit.create_model(name, **options)).train().to(memory_format=torch.channels_last)
    x = torch.randint(0, 256, (4, *model.input_shape), dtype=torch.uint8)
    seen: list[Tensor] = []
    model.get_submodule(watched).register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0] if of_inputs else output)
    )
    found = []
    for native in ("1", "0"):
        monkeypatch.setenv("ONEBIT_NATIVE", native)
        y = model(x)
        found.append(torch.autograd.grad((y * drawn(*y.shape, seed=5)).sum(), seen.pop())[0])
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 2e-3
