"""BatchNorm, sum and ReLU as one operation: against the modules in float64, and where the modules must run instead."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import onebit
from onebit.layers import fused_norm
from onebit.layers.fused_norm import Chain, normalized, normalized_twice
from onebit.native import instruction_sets
from support.kernel_inputs import DTYPES, drawn, one_thread

__all__ = ["one_thread"]
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")
Tensors = dict[str, Tensor]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with each fused operation."""
    calls: list[int] = []
    run = fused_norm._fused

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return run(*args, **options)

    monkeypatch.setattr(fused_norm, "_fused", counted)
    return calls


def norm_of(shape: tuple[int, ...], **options: Any) -> nn.Module:
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1], **options)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(drawn(shape[1], seed=7))
            norm.bias.copy_(drawn(shape[1], seed=8))
    return norm


def results(
    call: Callable[..., Any], norm: nn.Module, x: Tensor, shortcut: Tensor | None, *gradients: Tensor
) -> Tensors:
    """What a forward and a backward pass of `call(x, norm, shortcut)` give."""
    x = x.detach().clone().requires_grad_()
    shortcut = None if shortcut is None else shortcut.detach().clone().requires_grad_()
    outs = call(x, norm, shortcut)
    outs = outs if isinstance(outs, tuple) else (outs,)
    torch.autograd.backward(outs, [g.to(outs[0].dtype) for g in gradients])
    found = {"y": outs[0].detach(), "x": x.grad}
    if shortcut is not None:
        found["shortcut"] = shortcut.grad
    found |= {f"to {name}": p.grad for name, p in norm.named_parameters()}
    found |= {name: b.clone() for name, b in norm.named_buffers()}
    return {name: value for name, value in found.items() if value is not None}


BOUNDS = {None: (-math.inf, math.inf), nn.ReLU: (0, math.inf), nn.Hardtanh: (-1, 1)}
activations = pytest.mark.parametrize("activation", BOUNDS)


def in_modules(bounds: tuple[float, float] = BOUNDS[None], mask: Tensor | None = None) -> Callable[..., Tensor]:
    """The modules; `mask` tells what is inside the bounds, which rounding may change where y is near one."""

    def call(x: Tensor, norm: nn.Module, shortcut: Tensor | None) -> Tensor:
        y = norm(x)
        y = y if shortcut is None else y + shortcut
        y = y if mask is None else torch.where(mask, y, y.detach())
        return y + (y.clamp(*bounds) - y).detach()

    return call


def check_close(found: Tensors, exact: Tensors, dtype: torch.dtype, condition: float = 1.0) -> None:
    """condition: by how much normalizing enlarges the rounding of x."""
    assert found.keys() == exact.keys()
    for name, value in found.items():
        true = exact[name].double()
        values = name in ("y", "x", "shortcut") and dtype == torch.bfloat16
        each = (2.0**-8 if values else 2.0**-20) * true.abs()
        together = 4e-6 * condition * (true.square().mean().sqrt() + 1e-3)  # sums of numbers that cancel
        wrong = (value.double() - true).abs() > each + together * (8 if name == "x" else 4)
        assert not wrong.any(), (name, value[wrong][:4], true[wrong][:4])


shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 9), st.integers(2, 9)),
    st.tuples(st.integers(2, 70), st.integers(1, 200)),
    st.just((6, 16, 32, 32)),
    st.just((3, 64, 33, 17)),
    st.just((700, 33)),
    st.just((2, 512, 9, 9)),
)


@settings(max_examples=150, deadline=None)
@given(
    shape=shapes,
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(list(BOUNDS)),
    adds=st.booleans(),
    twice=st.booleans(),
    affine=st.booleans(),
    tracks=st.booleans(),
    scale=st.sampled_from((1.0, 1e-3, 1e4)),
    shift=st.sampled_from((0.0, 3.0)),
)
def test_forward_and_all_gradients_are_those_of_the_modules_in_float64(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    activation: type[nn.Module] | None,
    adds: bool,
    twice: bool,
    affine: bool,
    tracks: bool,
    scale: float,
    shift: float,
) -> None:
    x = (drawn(*shape, dtype=torch.float32) * scale + shift * scale).to(dtype)
    shortcut = drawn(*shape, dtype=dtype, seed=1) if adds else None
    gradients = [drawn(*shape, dtype=dtype, seed=seed) for seed in ((2, 3) if twice else (2,))]
    norm = norm_of(shape, affine=affine, track_running_stats=tracks, momentum=0.3)
    exact_norm = copy.deepcopy(norm).double()
    module = activation() if activation else None

    def call(x: Tensor, norm: nn.Module, shortcut: Tensor | None) -> Any:
        assert fused_norm._instruction_set(x, norm, module, shortcut) is not None
        return (normalized_twice if twice else normalized)(x, norm, module, shortcut)

    found = results(call, norm, x, shortcut, *gradients)
    whole = sum(gradients).to(dtype) if adds or twice else gradients[0]  # rounded as the kernel keeps it
    least, most = bounds = BOUNDS[activation]
    mask = (found["y"] > least) & (found["y"] < most)
    doubles = [None if t is None else t.double() for t in (x, shortcut, whole)]
    exact = results(in_modules(bounds, mask), exact_norm, *doubles)  # type: ignore[arg-type]
    few = x.numel() // shape[1] < 8  # a variance of few values: dx is a small difference of large numbers
    if few:
        for name in ("x", "to weight"):
            found.pop(name, None), exact.pop(name, None)
    flat = x.double().transpose(0, 1).flatten(1)
    condition = 1 + float((flat.mean(1).abs() / (flat.var(1, unbiased=False) + norm.eps).sqrt()).max())
    check_close(found, exact, dtype, condition)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("adds", [False, True])
def test_no_more_error_than_torch(dtype: torch.dtype, adds: bool) -> None:
    """Also where the mean is far from 0, and where the first values are far from all others."""
    shape = (40, 16, 16, 16)
    shortcut = drawn(*shape, dtype=dtype, seed=1) if adds else None
    gradient = drawn(*shape, dtype=dtype, seed=2)
    jumps = drawn(*shape)
    jumps[:1] += 300
    for x in (drawn(*shape), drawn(*shape) + 100, jumps):
        norm = norm_of(shape)
        made = results(
            lambda x, norm, s: normalized(x, norm, None, s), copy.deepcopy(norm), x.to(dtype), shortcut, gradient
        )
        torchs = results(in_modules(), copy.deepcopy(norm), x.to(dtype), shortcut, gradient)
        doubles = [None if t is None else t.double() for t in (x.to(dtype), shortcut, gradient)]
        exact = results(in_modules(), copy.deepcopy(norm).double(), *doubles)  # type: ignore[arg-type]
        for name, true in ((name, value.double()) for name, value in exact.items()):
            made_error, torch_error = (float((of[name].double() - true).norm() / true.norm()) for of in (made, torchs))
            assert made_error <= 1.1 * torch_error + 3e-6, name


@pytest.mark.parametrize("dtype", DTYPES)
@activations
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["x", "shortcut", "gradient", "weight", "bias"])
def test_what_is_not_finite_is_so_where_torch_has_it(
    dtype: torch.dtype, activation: type[nn.Module] | None, bad: float, place: str
) -> None:
    shape = (4, 16, 7, 9)
    given = {"x": drawn(*shape, dtype=dtype), "shortcut": drawn(*shape, dtype=dtype, seed=1)}
    given["gradient"] = drawn(*shape, dtype=dtype, seed=2)
    norm = norm_of(shape)
    with torch.no_grad():
        (norm.get_parameter(place)[3:4] if place in ("weight", "bias") else given[place][2, 3, 4:5, 5]).fill_(bad)
    module = (activation or nn.Identity)()
    call = lambda x, norm, s: normalized(x, norm, module, s)  # noqa: E731
    modules = lambda x, norm, s: module(norm(x) + s)  # noqa: E731
    found = results(call, copy.deepcopy(norm), *given.values())
    expected = results(modules, copy.deepcopy(norm), *given.values())
    for name, value in expected.items():
        assert torch.equal(found[name].isfinite(), value.isfinite()), name
        if place != "weight":  # the order of sums and products with an infinite factor makes it NaN or infinite
            assert torch.equal(found[name].isnan(), value.isnan()), name


def test_a_constant_channel() -> None:
    x = drawn(8, 16, 4, 4)
    x[:, 5] = 3
    norm = norm_of(tuple(x.shape))
    gradient = drawn(8, 16, 4, 4, seed=2)
    found = results(lambda x, norm, _: normalized(x, norm, nn.ReLU()), copy.deepcopy(norm), x, None, gradient)
    expected = results(lambda x, norm, _: norm(x).relu(), norm, x, None, gradient)
    assert found["y"][:, 5].unique().numel() == 1
    for name in ("y", "x", "running_var", "running_mean"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_running_statistics_over_steps() -> None:
    norm, twin = norm_of((4, 16, 5, 5)), norm_of((4, 16, 5, 5))
    for step in range(5):
        x = drawn(4, 16, 5, 5, seed=step) + step
        with torch.no_grad():  # they are followed without gradients too
            normalized(x, norm, nn.ReLU())
        twin(x)
    assert norm.num_batches_tracked == twin.num_batches_tracked == 5
    torch.testing.assert_close(norm.running_mean, twin.running_mean)
    torch.testing.assert_close(norm.running_var, twin.running_var)


def test_running_statistics_that_are_turned_off_stay() -> None:
    norm = norm_of((4, 16, 5, 5))
    norm.track_running_stats = False
    normalized(drawn(4, 16, 5, 5) + 3, norm, nn.ReLU())
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(16))
    assert torch.equal(norm.running_var, torch.ones(16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_threads_or_instruction_set(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (30, 24, 33, 33)
    x, shortcut = drawn(*shape, dtype=dtype), drawn(*shape, dtype=dtype, seed=1)
    gradients = drawn(*shape, dtype=dtype, seed=2), drawn(*shape, dtype=dtype, seed=3)
    call = lambda x, norm, s: normalized_twice(x, norm, nn.ReLU(), s)  # noqa: E731
    expected = results(call, norm_of(shape), x, shortcut, *gradients)
    for name in instruction_sets():
        monkeypatch.setenv("ONEBIT_ISA", name)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = results(call, norm_of(shape), x, shortcut, *gradients)
            assert all(torch.equal(found[key], expected[key]) for key in expected), (name, threads)


@pytest.mark.parametrize("change", [
    lambda x: x.contiguous(), lambda x: x.to(torch.bfloat16), lambda x: x.to(torch.float64),
])  # fmt: skip
@pytest.mark.parametrize(("activation", "adds"), [(nn.ReLU, True), (nn.Hardtanh, False)])
def test_saved_tensors_may_come_back_in_another_order_or_dtype(
    change: Callable[[Tensor], Tensor], activation: type[nn.Module], adds: bool
) -> None:
    shortcut, gradient = drawn(*SHAPE, seed=1) if adds else None, drawn(*SHAPE, seed=2)
    norm, call = norm_of(SHAPE), lambda x, norm, s: normalized(x, norm, activation(), s)
    expected = results(call, copy.deepcopy(norm), drawn(*SHAPE), shortcut, gradient)
    same = lambda x: change(x) if x.shape == SHAPE else x  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(same, lambda x: x):
        found = results(call, copy.deepcopy(norm), drawn(*SHAPE), shortcut, gradient)
    most = 0.02 if change(torch.zeros(1)).dtype == torch.bfloat16 else 1e-5  # rounded values may be at the bounds
    for name, value in expected.items():
        assert (found[name] - value).double().norm() <= most * value.double().norm(), name


@pytest.mark.parametrize("adds", [False, True])
def test_a_second_derivative(adds: bool) -> None:
    x, norm = drawn(4, 16, 5, 5).requires_grad_(), norm_of((4, 16, 5, 5))
    shortcut = drawn(4, 16, 5, 5, seed=1).requires_grad_() if adds else None
    parts = [x, norm.weight, *([] if shortcut is None else [shortcut])]
    found = []
    for call in (
        lambda: normalized(x, norm, nn.ReLU(), shortcut),
        lambda: (norm(x) if shortcut is None else norm(x) + shortcut).relu(),
    ):
        first = torch.autograd.grad(call(), parts, drawn(4, 16, 5, 5, seed=2), create_graph=True)
        loss = sum(part.square().sum() for part in first)
        found.append(torch.autograd.grad(loss, (x, norm.weight)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_many_gradients_at_once() -> None:
    x, norm = drawn(*SHAPE).requires_grad_(), norm_of(SHAPE)
    gradients = torch.stack([drawn(*SHAPE, seed=2), drawn(*SHAPE, seed=3)])
    y = normalized(x, norm, nn.ReLU())
    (found,) = torch.autograd.grad(y, x, gradients, is_grads_batched=True, retain_graph=True)
    for value, gradient in zip(found, gradients, strict=True):
        torch.testing.assert_close(value, torch.autograd.grad(y, x, gradient, retain_graph=True)[0])


def test_gradients_that_are_not_needed() -> None:
    """Of frozen parameters, of an input without gradient, of a shortcut without one, and of one use alone."""
    shape = (4, 16, 5, 5)
    gradient = drawn(*shape, seed=2)
    for to_x, to_shortcut, to_weight in ((1, 0, 0), (0, 1, 1), (1, 1, 0), (0, 0, 1)):
        found = []
        for fuses in (True, False):
            x, shortcut = (
                drawn(*shape).requires_grad_(bool(to_x)),
                drawn(*shape, seed=1).requires_grad_(bool(to_shortcut)),
            )
            norm = norm_of(shape).requires_grad_(bool(to_weight))
            if fuses:
                _, again = normalized_twice(x, norm, nn.ReLU(), shortcut)
                again.backward(gradient)
            else:
                (norm(x) + shortcut).relu().backward(gradient)
            found.append([x.grad, shortcut.grad, norm.weight.grad, norm.bias.grad])
        for a, b in zip(*found, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


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


def test_a_gradient_in_another_layout() -> None:
    x = drawn(4, 16, 6, 6).requires_grad_()
    norm = norm_of((4, 16, 6, 6))
    normalized(x, norm, nn.ReLU()).mean(dim=(2, 3)).square().sum().backward()  # an expanded one
    twin = x.detach().clone().requires_grad_()
    norm(twin).relu().mean(dim=(2, 3)).square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_bits(reentrant: bool) -> None:
    shape = (4, 16, 6, 6)
    found = []
    for checkpointed in (False, True):
        x, norm = drawn(*shape).requires_grad_(), norm_of(shape)
        part = lambda x, norm=norm: normalized(x, norm, nn.ReLU(), x)  # noqa: E731
        y = checkpoint(part, x, use_reentrant=reentrant) if checkpointed else part(x)
        y.backward(drawn(*shape, seed=2))
        found.append((y.detach(), x.grad, norm.weight.grad))
    assert all(map(torch.equal, *found))


def changed(norm: nn.Module, **fields: Any) -> nn.Module:
    for name, value in fields.items():
        setattr(norm, name, value)
    return norm


class OwnNorm(nn.BatchNorm2d):
    pass


SHAPE = (4, 16, 6, 6)


@pytest.mark.parametrize(
    ("x", "norm", "activation"),
    [
        (drawn(*SHAPE), norm_of(SHAPE).eval(), nn.ReLU()),
        (drawn(*SHAPE), norm_of(SHAPE), nn.GELU()),
        (drawn(*SHAPE), changed(norm_of(SHAPE), momentum=None), nn.ReLU()),
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
def test_the_modules_run_where_the_operation_would_not_be_theirs(
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
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalized(drawn(1, 16, 1, 1), norm_of(SHAPE), nn.ReLU())
    with pytest.raises(ValueError, match="eps must be positive"):
        normalized(drawn(*SHAPE), norm_of(SHAPE, eps=0.0), nn.ReLU())
    with pytest.raises(RuntimeError):
        normalized(drawn(2, 8, 3, 3), norm_of(SHAPE), nn.ReLU())
    x = drawn(*SHAPE).requires_grad_()
    y = normalized(x * 1, norm_of(SHAPE), nn.ReLU(), x)
    with torch.no_grad():
        y.add_(1)  # needed for the sign
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("changed", [0, 1])
def test_two_uses_refuse_a_change_in_place(changed: int) -> None:
    """They share memory: the other would change without a gradient that knows of it."""
    x = drawn(*SHAPE).requires_grad_()
    uses = normalized_twice(x, norm_of(SHAPE))
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|being modified inplace"):
        (nn.functional.hardtanh_(uses[changed]) + uses[1 - changed]).sum().backward()


def test_hooks_are_called(fused: list[int]) -> None:
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
    assert fused


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
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


def test_the_native_library_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, fused: list[int]) -> None:
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    norm = norm_of(SHAPE)
    assert torch.equal(normalized(drawn(*SHAPE), norm, nn.ReLU()), copy.deepcopy(norm)(drawn(*SHAPE)).relu())
    assert not fused


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
        ("resnet18", {"width": 0.25}),
        ("resnet18", {"width": 0.25, "bireal": True, "input_quantizer": None}),
        ("resnet50", {"width": 0.125}),
        ("vgg_small", {"width": 0.125}),
        ("unet", {"width": 0.1, "input_shape": (1, 32, 32)}),
    ],
)
def test_models_have_the_gradients_of_their_modules(
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
    assert len(fused) == sum(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in model.modules())
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
        ("resnet20", "layer1.2", False),
        ("resnet20", "layer1.1.conv1", True),
        ("resnet20", "layer2.0.downsample", True),
        ("resnet18", "layer1.1.conv2", True),
    ],
)
def test_a_watched_value_gets_its_whole_gradient(
    name: str, watched: str, of_inputs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two uses of a value are two tensors inside a stage only if nobody sees them."""
    torch.manual_seed(0)
    options = (
        {"width": 0.25, "bireal": True, "input_quantizer": None, "input_shape": (3, 64, 64)}
        if name == "resnet18"
        else {}
    )
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_with_and_without_it_learns_the_same(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    x = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = x.float().mean(dim=(2, 3)).argmax(dim=1)
    for native in ("1", "0"):
        monkeypatch.setenv("ONEBIT_NATIVE", native)
        torch.manual_seed(0)
        model = onebit.create_model("resnet20", weight_quantizer=None, width=0.5)
        model.train().to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        losses.append([])
        for _ in range(8):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                y = model(x)
            loss = nn.functional.cross_entropy(y.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    made, plain = losses
    assert made[-1] < 0.8 * made[0]
    assert all(abs(a - b) < (0.02 if precision == "fp32" else 0.15) for a, b in zip(made, plain, strict=True)), losses
