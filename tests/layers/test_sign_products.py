"""Dense layers that train by lookups: the products against exact ones, and layers against torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from onebit.layers import BinaryLinear, sign_products
from onebit.layers.sign_products import multiply, packed_signs, unpacked_signs, weight_gradient
from onebit.native import instruction_set, instruction_sets
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import Sign, SteSign, Stochastic
from support.covering import covering
from support.kernel_inputs import one_thread

SETS = [name for name, isa in instruction_sets().items() if isa.run_product]
__all__ = ["one_thread"]
pytestmark = pytest.mark.skipif(not SETS, reason="this processor looks up no sums in registers")


@pytest.fixture(autouse=True, params=SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each instruction set, and small layers too."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sign_products, "MIN_PRODUCTS", {torch.float32: 1 << 10, torch.bfloat16: 1 << 10})
    patch.setenv("ONEBIT_ISA", request.param)
    yield
    patch.undo()


def integers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, whose sums are exact in float32."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def signs(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0)


def product(x: Tensor, panels: Tensor, outputs: int, **more: Tensor) -> Tensor:
    y = x.new_empty(len(x), outputs)
    multiply(instruction_set(), x, panels, y, **more)
    return y


@given(
    st.integers(1, 40) | st.integers(300, 320), st.integers(1, 300), st.integers(1, 150),
    st.sampled_from([torch.float32, torch.bfloat16]), st.integers(1, 3), st.sampled_from([0, 0.5, 1]),
)  # fmt: skip
@settings(max_examples=25)
def test_products_and_gradients_of_integers_are_exact(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, threads: int, zeros: float
) -> None:
    x, weight = integers(rows, inputs, dtype=dtype), integers(outputs, inputs, seed=1)
    x[:, 20:] *= torch.rand(rows, max(inputs - 20, 0)) >= zeros  # inputs of 0 are left out of sums
    gradient, scale = integers(rows, outputs, seed=2, dtype=dtype), torch.rand(outputs) + 0.5
    mean = integers(outputs, seed=3)
    isa, before = instruction_set(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        panels, transposed, most = packed_signs(isa, weight)
        assert torch.equal(unpacked_signs(isa, transposed, weight), signs(weight))
        x_panels, x_transposed, _ = packed_signs(isa, x)
        plain = product(x, panels, outputs)
        scaled = product(x.float(), panels, outputs, scale=scale)
        counted = product(signs(x.float()), panels, outputs, x_panels=x_panels)
        to_weight = weight_gradient(isa, gradient, x, latent=weight, most=most, bound=3.0)
        from_signs = weight_gradient(isa, gradient, x, x_transposed)
        changes = {"latent": weight, "most": most, "bound": 3.0, "mean": mean, "signs": transposed}
        changed = [weight_gradient(isa, gradient, x, kind, **changes) for kind in (None, x_transposed)]
    finally:
        torch.set_num_threads(before)
    x, gradient = x.float(), gradient.float()
    exact = x @ signs(weight).T
    assert torch.equal(plain, exact.to(dtype))
    assert torch.equal(scaled, exact * scale)
    assert torch.equal(counted, signs(x) @ signs(weight).T)
    assert torch.equal(to_weight, (gradient.T @ x) * (weight.abs() <= 3))
    assert torch.equal(from_signs, gradient.T @ signs(x))
    for found, inputs in zip(changed, (x, signs(x)), strict=True):
        assert torch.equal(found, (gradient.T @ inputs) * (weight.abs() <= 3) + mean[:, None] * signs(weight))


def test_results_are_equal_for_any_number_of_threads_and_close_to_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.native.training.PART_DENSE", 1)
    monkeypatch.setattr("onebit.native.training.PART_VALUES", 1)
    torch.manual_seed(0)
    x, weight, gradient = torch.randn(337, 1000), torch.randn(70, 1000), torch.randn(337, 70)
    x[:, 500:].relu_()
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        y, drawn = (
            product(x, packed_signs(instruction_set(), weight, *draw)[0], 70) for draw in [(), ((3, 4), 2.0**22)]
        )
        found.append([drawn, y, weight_gradient(instruction_set(), gradient, x)])
    assert all(map(torch.equal, *found))
    *_, y, to_weight = found[0]
    for close, exact in ((y, x.double() @ signs(weight).double().T), (to_weight, gradient.double().T @ x.double())):
        assert (close - exact).norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize("share", [0.5, 1.0])  # of inputs that are not 0
def test_sums_over_many_equal_rows_keep_their_digits(share: float) -> None:
    torch.manual_seed(0)
    x, gradient = (0.5 + torch.rand(1, columns).repeat(16384, 1) for columns in (17, 24))
    x *= torch.rand(16384, 1) < share
    exact = gradient.double().T @ x.double()
    assert (weight_gradient(instruction_set(), gradient, x) - exact).norm() <= 5e-6 * exact.norm()


class Dropped(SteSign):
    """Input signs, some of them 0 in training."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (torch.arange(x.shape[-1]) % 5 > 0)


def hooked() -> SteSign:
    quantizer = SteSign()
    quantizer.register_forward_hook(lambda module, args, y: y / 2)
    return quantizer


def trained(
    quantizer: object, inputs: object, *, bf16: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """The outputs and gradients of a layer."""
    monkeypatch.setenv("ONEBIT_NATIVE", str(int(native)))
    torch.manual_seed(0)
    layer = BinaryLinear(100, 70, True, weight_quantizer=quantizer, input_quantizer=inputs)
    x = torch.randn(2, 10, 100, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = layer(x)
    assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
    (y.float() * torch.linspace(-1, 1, 70)).sum().backward()
    return [y.detach().float(), x.grad, layer.weight.grad, layer.bias.grad]


def on_each_set(*arguments: list[object]) -> list[object]:
    """Cases of an instruction set, dtype, quantizer and inputs: daily each pair of the first two and of the others."""
    return covering(
        itertools.product(SETS, [False, True], *arguments), of=lambda isa, bf16, *others: ((isa, bf16), others)
    )


@pytest.mark.parametrize(
    ("isa", "bf16", "quantizer", "inputs"),
    on_each_set(
        ["sign", Sign(value=0.1), "ste_sign", SteSign(0.05), "magnitude_aware", "xnor", "irnet"],
        [None, "ste_sign", "rsign", Dropped(), hooked()],
    ),
    indirect=["isa"],
)
def test_layers_agree_with_torch(
    monkeypatch: pytest.MonkeyPatch, quantizer: object, inputs: object, bf16: bool
) -> None:
    ours, theirs = (
        trained(quantizer, inputs, bf16=bf16, native=native, monkeypatch=monkeypatch) for native in (True, False)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= (1e-2 if bf16 else 1e-6) * b.norm()


@pytest.mark.parametrize("inputs", [None, "ste_sign"])
def test_the_slope_of_the_concrete_weight_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, inputs: str | None) -> None:
    found = []
    for native in (True, False):
        monkeypatch.setenv("ONEBIT_NATIVE", str(int(native)))
        torch.manual_seed(0)
        layer = BinaryLinear(100, 70, weight_quantizer="concrete_sign", input_quantizer=inputs)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-12, 12, 7000)[torch.randperm(7000)].view(70, 100))
        (layer(integers(20, 100)) * torch.arange(70)).sum().backward()  # depends on no draw
        found.append(layer.weight.grad)
    torch.testing.assert_close(*found, rtol=1e-3, atol=0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each product by the kernel."""
    made: list[int] = []
    run = sign_products.multiply
    monkeypatch.setattr(sign_products, "multiply", lambda *args, **more: made.append(1) or run(*args, **more))
    return made


class Halved(Sign):
    """A quantizer of a user's, which overrides the forward pass alone."""

    def forward(self, latent: Tensor) -> Tensor:
        return super().forward(latent) / 2


def compiled(layer: nn.Module) -> nn.Module:
    return torch.compile(layer, backend="aot_eager")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler causes some itself
@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: BinaryLinear(64, 64), 1),
        (lambda: BinaryLinear(64, 64, weight_quantizer="concrete_sign"), 1),
        (lambda: BinaryLinear(64, 64, weight_quantizer=Halved), 0),
        (lambda: BinaryLinear(64, 64).double(), 0),
        (lambda: BinaryLinear(64, 64).eval(), 0),
        (lambda: BinaryLinear(8, 8), 0),
        (lambda: compiled(BinaryLinear(64, 64)), 0),
    ],
)
def test_where_the_kernels_run(calls: list[int], make: Callable[[], nn.Module], count: int) -> None:
    layer = make()
    parameter = next(layer.parameters())
    layer(torch.randn(4, parameter.shape[1], dtype=parameter.dtype))
    assert len(calls) == count


def test_hooks_of_a_quantizer_are_called(calls: list[int]) -> None:
    layer, seen = BinaryLinear(64, 64), []
    layer.weight_quantizer.register_forward_hook(lambda *args: seen.append(args))
    layer(torch.randn(4, 64))
    assert seen
    assert not calls


class Whole(nn.Module):
    """Inputs of another dtype, which torch refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.int8)


def test_quantized_inputs_of_another_dtype_do_not_reach_the_kernels() -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        BinaryLinear(64, 64, input_quantizer=Whole())(torch.randn(20, 64))


@pytest.mark.parametrize("size", [8, 64])
def test_inputs_in_bfloat16_need_autocast_as_in_torch(calls: list[int], size: int) -> None:
    layer, x = BinaryLinear(size, size, bias=True), torch.randn(20, size).bfloat16()
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x)
    assert not calls
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert bool(calls) == (size == 64)


@pytest.mark.parametrize("quantizer", ["stochastic", "concrete_sign"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_goes_back_through_the_weights_of_the_forward_pass(quantizer: str, use_reentrant: bool) -> None:
    layer, x = BinaryLinear(64, 64, weight_quantizer=quantizer), torch.randn(20, 64, requires_grad=True)
    y = checkpoint(layer, x, use_reentrant=use_reentrant)
    y.sum().backward()
    torch.testing.assert_close(y.sum(1), (x * x.grad).sum(1), rtol=1e-4, atol=1e-3)


def test_draws_have_their_probability_and_are_repeated_by_checkpointing(calls: list[int]) -> None:
    layer = BinaryLinear(400, 64, weight_quantizer=Stochastic(value=0.5))
    with torch.no_grad():
        layer.weight[:16], layer.weight[16:32], layer.weight[32:] = 0.5, -0.5, 0.25
    x = torch.eye(400, requires_grad=True)
    torch.manual_seed(0)
    y = checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(y.abs(), torch.full_like(y, 0.5))
    assert (y[:, :16] > 0).all()
    assert (y[:, 16:32] < 0).all()
    assert abs(float((y[:, 32:] > 0).double().mean()) - 0.75) < 0.02
    assert not torch.equal(layer(x), layer(x))
    drawn = y.detach()
    (y * torch.randn(64)).sum().backward()
    assert torch.equal(x.grad != 0, torch.ones_like(x, dtype=torch.bool))
    torch.manual_seed(0)
    again = x.detach().requires_grad_()
    layer(again).backward(torch.eye(400)[:, :64])
    assert torch.equal(again.grad[:64], drawn[:, :].T)


def test_a_latent_that_is_not_a_number_counts_as_1() -> None:
    layer = BinaryLinear(64, 64)
    with torch.no_grad():
        layer.weight.fill_(-1)[0, 0] = torch.nan
        layer.weight[1, 1] = -0.0
    y = layer(torch.eye(64))
    assert y[0, 0] == y[1, 1] == 1
    assert y.sum() == 4 - 64 * 64


@pytest.mark.parametrize(
    ("isa", "bf16", "quantizer", "inputs"),
    on_each_set(["sign", Sign(value=0.1), SteSign(0.05), "magnitude_aware", "xnor"], [None, "ste_sign"]),
    indirect=["isa"],
)
def test_the_same_numbers_are_not_finite_as_in_torch(
    monkeypatch: pytest.MonkeyPatch, quantizer: object, inputs: str | None, bf16: bool
) -> None:
    torch.manual_seed(1)
    width = 64 if bf16 and inputs is None else 50  # of 50, oneDNN's AMX gives NaN for a row before one with an infinity
    given = torch.randn(330, width).relu(), torch.randn(330, 40)
    for row, column, value in [(3, 7, torch.inf), (3, 8, torch.inf), (3, 9, -torch.inf), (320, 11, torch.nan)]:
        given[0][row + 1, column] = given[1][row, column] = value
    given[0][:, 5], given[0][3, 12] = 0, 0  # no output of the layer shows these products of 0
    found = []
    for native in (True, False):
        monkeypatch.setenv("ONEBIT_NATIVE", str(int(native)))
        torch.manual_seed(0)
        layer = BinaryLinear(width, 40, weight_quantizer=quantizer, input_quantizer=inputs)
        x = given[0].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = layer(x)
        y.backward(given[1].to(y.dtype))
        found.append([part.isfinite() for part in (y, x.grad, layer.weight.grad)])
    assert all(map(torch.equal, *found))
    assert not all(part.all() for part in found[0])


def test_a_gradient_scaler_sees_an_overflow_behind_inputs_of_0() -> None:
    layer, scaler = BinaryLinear(64, 64), torch.amp.GradScaler("cpu", init_scale=2.0**126)
    before, optimizer = layer.weight.detach().clone(), torch.optim.SGD(layer.parameters(), lr=1.0)
    scaler.scale((layer(torch.zeros(20, 64)) * 8).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer.weight, before)
    assert scaler.get_scale() == 2.0**125


def penalized(quantizer: object, inputs: str | None, *, native: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The gradients of a gradient penalty to the inputs and the parameters of a net."""
    monkeypatch.setenv("ONEBIT_NATIVE", str(int(native)))
    torch.manual_seed(0)
    first = BinaryLinear(64, 96, True, weight_quantizer=quantizer)
    second = BinaryLinear(96, 16, weight_quantizer=quantizer, input_quantizer=inputs)
    with torch.no_grad():
        second.weight.normal_(std=0.5)  # some are beyond the bounds
    x = torch.randn(50, 64, requires_grad=True)
    y = second(first(x / 8).tanh()) / 10
    (gradient,) = torch.autograd.grad(y.sigmoid().sum(), x, create_graph=True)
    (gradient.norm(dim=1) - 1).square().mean().backward()
    return [x.grad, first.weight.grad, first.bias.grad, second.weight.grad]


@pytest.mark.parametrize("inputs", [None, "ste_sign"])
@pytest.mark.parametrize("quantizer", ["sign", Sign(value=0.1), SteSign(0.5), "magnitude_aware", "xnor"])
def test_gradient_penalties_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, quantizer: object, inputs: str | None
) -> None:
    ours, theirs = (penalized(quantizer, inputs, native=native, monkeypatch=monkeypatch) for native in (True, False))
    for a, b in zip(ours, theirs, strict=True):
        assert b.norm() > 0
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_a_second_derivative_has_the_weights_that_were_drawn() -> None:
    layer, x = BinaryLinear(64, 64, weight_quantizer=Stochastic(value=0.5)), torch.eye(64, requires_grad=True)
    y, gradient, other = layer(x), torch.randn(64, 64, requires_grad=True), torch.randn(64, 64)
    (to_x,) = torch.autograd.grad(y, x, gradient, create_graph=True)
    to_gradient, to_latent = torch.autograd.grad(to_x, (gradient, layer.weight), other)
    torch.testing.assert_close(to_gradient, other @ y)  # y is the transposed weight
    torch.testing.assert_close(to_latent, gradient.T @ other)


@pytest.mark.parametrize("inputs", [None, "ste_sign"])
@pytest.mark.parametrize("quantizer", ["sign", SteSign(0.05), "xnor"])
def test_gradients_in_batches_are_those_of_each(quantizer: object, inputs: str | None) -> None:
    layer = BinaryLinear(64, 64, weight_quantizer=quantizer, input_quantizer=inputs)
    x, gradients = torch.randn(20, 64, requires_grad=True), torch.randn(3, 20, 64)
    to, y = (x, layer.weight), layer(x)
    batched = torch.autograd.grad(y, to, gradients, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, to, gradient, retain_graph=True) for gradient in gradients]
    for found, parts in zip(batched, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")  # by torch's compiler
@pytest.mark.parametrize("isa", SETS[:1], indirect=True)  # the compiler sees none of them
def test_compiled_autograd_gives_the_same_gradients() -> None:
    layer = BinaryLinear(64, 64, weight_quantizer="xnor", input_quantizer="ste_sign")
    x = torch.randn(20, 64, requires_grad=True)
    loss = layer(x).square().sum()
    exact = torch.autograd.grad(loss, (x, layer.weight), retain_graph=True)
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda loss: loss.backward(), backend="eager")(loss)
    torch.testing.assert_close((x.grad, layer.weight.grad), exact, rtol=1e-4, atol=1e-3)


def test_negative_views_count_with_their_sign() -> None:
    layer, x = BinaryLinear(64, 64), torch.randn(20, 64)
    lazy = torch._neg_view(x)
    layer(lazy).backward(torch._neg_view(torch.ones(20, 64)))
    assert torch.equal(layer(lazy), layer(-x))
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(64, 64))
    layer.weight.grad = torch._neg_view(torch.ones(64, 64))
    before = layer.weight.detach().clone()
    clip_latents_(torch.optim.SGD(latent_groups(layer, lr=0.1), momentum=0.9)).step()
    torch.testing.assert_close(layer.weight, (before + 0.1).clamp(max=1))
