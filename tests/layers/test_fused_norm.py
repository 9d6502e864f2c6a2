"""BatchNorm, sum and ReLU as one operation: values and gradients against the modules in float64."""

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

from onebit.layers import fused_norm
from onebit.layers.fused_norm import normalized, normalized_twice
from onebit.native import instruction_sets
from support.kernel_inputs import DTYPES, SHAPE, Tensors, drawn, norm_of, one_thread, results

__all__ = ["one_thread"]
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")

BOUNDS = {None: (-math.inf, math.inf), nn.ReLU: (0, math.inf), nn.Hardtanh: (-1, 1)}


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
        whole = 4e-6 * condition * (true.square().mean().sqrt() + 1e-3)  # sums of numbers that cancel
        wrong = (value.double() - true).abs() > each + whole * (8 if name == "x" else 4)
        assert not wrong.any(), (name, value[wrong][:4], true[wrong][:4])


shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 9), st.integers(2, 9)),
    st.tuples(st.integers(2, 70), st.integers(1, 200), st.just(1), st.just(1)),
    st.just((6, 16, 32, 32)),
    st.just((3, 64, 33, 17)),
    st.just((700, 33, 1, 1)),
    st.just((2, 512, 9, 9)),
)


CASES = st.tuples(
    *(shapes, st.sampled_from(DTYPES), st.sampled_from(list(BOUNDS)), *[st.booleans()] * 4),
    *(st.sampled_from((1.0, 1e-3, 1e4)), st.sampled_from((0.0, 3.0))),
)


@settings(max_examples=60, deadline=None)
@given(case=CASES)
def test_forward_and_all_gradients_are_those_of_the_modules_in_float64(case: Any) -> None:
    shape, dtype, activation, adds, twice, affine, tracks, scale, shift = case
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
    if x.numel() // shape[1] < 8:  # the variance of few values: dx is a small difference of large numbers
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
@pytest.mark.parametrize("where", ["x", "shortcut", "gradient", "weight", "bias"])
def test_values_that_are_not_finite_are_where_torch_has_them(dtype: torch.dtype, where: str) -> None:
    shape = (4, 16, 7, 9)
    for activation, bad in zip(BOUNDS, (math.nan, math.inf, -math.inf), strict=True):
        given = {"x": drawn(*shape, dtype=dtype), "shortcut": drawn(*shape, dtype=dtype, seed=1)}
        given["gradient"] = drawn(*shape, dtype=dtype, seed=2)
        norm = norm_of(shape)
        with torch.no_grad():
            (norm.get_parameter(where)[3:4] if where in ("weight", "bias") else given[where][2, 3, 4:5, 5]).fill_(bad)
        module = (activation or nn.Identity)()
        call = lambda x, norm, s, module=module: normalized(x, norm, module, s)  # noqa: E731
        modules = lambda x, norm, s, module=module: module(norm(x) + s)  # noqa: E731
        found = results(call, copy.deepcopy(norm), *given.values())
        expected = results(modules, copy.deepcopy(norm), *given.values())
        for name, value in expected.items():
            assert torch.equal(found[name].isfinite(), value.isfinite()), name
            if where != "weight":  # the order of sums and products with an infinite factor makes it NaN or infinite
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
    norm, twin, untracked = (norm_of((4, 16, 5, 5)) for _ in range(3))
    untracked.track_running_stats = False
    for step in range(3):
        x = drawn(4, 16, 5, 5, seed=step) + step
        with torch.no_grad():  # they are updated without gradients too
            normalized(x, norm, nn.ReLU())
        normalized(x, untracked, nn.ReLU())
        twin(x)
    assert norm.num_batches_tracked == twin.num_batches_tracked == 3
    torch.testing.assert_close(norm.running_mean, twin.running_mean)
    torch.testing.assert_close(norm.running_var, twin.running_var)
    assert untracked.num_batches_tracked == 0
    assert torch.equal(untracked.running_mean, torch.zeros(16))
    assert torch.equal(untracked.running_var, torch.ones(16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_threads_or_instruction_set(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (30, 24, 33, 33)
    x, shortcut = drawn(*shape, dtype=dtype), drawn(*shape, dtype=dtype, seed=1)
    gradients = drawn(*shape, dtype=dtype, seed=2), drawn(*shape, dtype=dtype, seed=3)
    call = lambda x, norm, s: normalized_twice(x, norm, nn.ReLU(), s)  # noqa: E731
    expected = results(call, norm_of(shape), x, shortcut, *gradients)
    for name in instruction_sets():
        monkeypatch.setenv("ONEBIT_ISA", name)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = results(call, norm_of(shape), x, shortcut, *gradients)
            assert all(torch.equal(found[key], expected[key]) for key in expected), (name, threads)


@pytest.mark.parametrize(
    ("change", "activation", "adds"),
    [
        (lambda x: x.contiguous(), nn.ReLU, True),
        (lambda x: x.to(torch.bfloat16), nn.Hardtanh, False),
        (lambda x: x.to(torch.float64), nn.ReLU, True),
    ],
)
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


def test_gradients_that_are_not_needed() -> None:
    """Of frozen parameters, of an input without gradient, of a shortcut without one, and of one use alone."""
    shape = (4, 16, 5, 5)
    gradient = drawn(*shape, seed=2)
    for to_x, to_shortcut, to_weight in ((1, 0, 0), (0, 1, 1), (1, 1, 0), (0, 0, 1)):
        found = []
        for fuses in (True, False):
            x = drawn(*shape).requires_grad_(bool(to_x))
            shortcut = drawn(*shape, seed=1).requires_grad_(bool(to_shortcut))
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


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_gradients_in_another_layout_and_several_at_once() -> None:
    x, norm = drawn(*SHAPE).requires_grad_(), norm_of(SHAPE)
    gradients = torch.stack([drawn(*SHAPE, seed=2), drawn(*SHAPE, seed=3).contiguous(), torch.ones(()).expand(SHAPE)])
    (found,) = torch.autograd.grad(normalized(x, norm, nn.ReLU()), x, gradients, is_grads_batched=True)
    for value, gradient in zip(found, gradients, strict=True):
        for y in (normalized(x, norm, nn.ReLU()), norm(x).relu()):
            torch.testing.assert_close(value, torch.autograd.grad(y, x, gradient)[0], rtol=1e-4, atol=1e-5)


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
