"""Convolutions by our kernels: against float64, and where torch must run instead."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from onebit.layers import BinaryConv2d, convolution
from onebit.layers.convolution import convolved
from onebit.native import InstructionSet, instruction_set, training
from onebit.native.library import instruction_sets
from onebit.quantizers import SteSign
from onebit.quantizers.input_signs import InputAdaBin
from support.kernel_inputs import drawn as drawn_as, one_thread

KERNELS = [isa for isa in instruction_sets().values() if isa.run_convolution]
"""Tiles and lookups; the best one is in use, unless the processor is slow at lookups."""
ISA = instruction_set()
TILES = ISA is not None and ISA.byte_tiles > 0
__all__ = ["one_thread"]
pytestmark = pytest.mark.skipif(
    ISA is None or not (TILES or ISA.dot_lut), reason="this processor has neither tiles of bfloat16 nor fast lookups"
)
in_tiles = pytest.mark.skipif(not TILES, reason="lookups need weights of one magnitude, and signs of inputs")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with each call of the kernel of weight gradients."""
    return calls_of(monkeypatch, "_weight_gradient")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The same for the kernel of convolutions with signs of weights."""
    return calls_of(monkeypatch, "_of_signs")


def calls_of(monkeypatch: pytest.MonkeyPatch, kernel: str) -> list[int]:
    made: list[int] = []
    run = getattr(convolution, kernel)
    monkeypatch.setattr(convolution, kernel, lambda *args, **options: made.append(1) or run(*args, **options))
    return made


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return drawn_as(*shape, dtype=dtype, seed=seed)


def drawn_signs(*shape: int, seed: int = 0) -> Tensor:
    return drawn(*shape, dtype=torch.float32, seed=seed).sign()


def raw_gradient(isa: InstructionSet, x: Tensor, gradient: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
    """What the kernel computes, before it is rounded to bfloat16."""
    return convolution._weight_gradient(gradient, x, weight.float(), isa, stride, padding)


def grid(isa: InstructionSet, values: Tensor, terms: Tensor) -> Tensor | int:
    """How far sums of as many values as `terms` says may be off because lookups round them."""
    bits = 0 if isa.byte_tiles else 14 if values.dtype == torch.bfloat16 else 26
    return terms * float(values.abs().max()) * 2.0**-bits if bits else 0


def exact_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
    return torch.ops.aten.convolution_backward(
        *(gradient.double(), x.double(), weight.double(), None),
        *(stride, padding, (1, 1), False, (0, 0), 1, [False, True, False]),
    )[1]


@st.composite
def windows(draw: Any) -> tuple[Any, ...]:
    """Shapes of x and weight, stride and padding of a convolution with at least one output."""
    axis = st.tuples(st.sampled_from((1, 2, 3, 3, 5, 7)), st.integers(1, 4), st.integers(0, 3), st.integers(1, 40))
    axes = [draw(axis), draw(axis)]
    kernel, stride, padding, _ = zip(*axes, strict=True)
    size = [max(size, k - 2 * p, 1) for k, _, p, size in axes]
    channels = st.one_of(st.integers(1, 70), st.sampled_from((16, 32, 64)))
    inputs, outputs = draw(channels), draw(channels)
    return (draw(st.integers(1, 19)), inputs, *size), (outputs, inputs, *kernel), stride, padding


def same_for(threads: int, run: Callable[[], Tensor]) -> bool:
    """Whether `run` has the same bits with this number of threads."""
    found, least = run(), training.PART_PRODUCTS
    try:
        training.PART_PRODUCTS = 1
        torch.set_num_threads(threads)
        return torch.equal(run(), found)
    finally:
        torch.set_num_threads(1)
        training.PART_PRODUCTS = least


@pytest.mark.parametrize("isa", KERNELS, ids=lambda isa: isa.name)
@settings(max_examples=60, deadline=None)
@given(window=windows(), threads=st.integers(2, 9), kind=st.sampled_from(("bf16", "float32", "signs", "bf16 signs")))
def test_sums_are_those_of_float64_and_the_same_for_any_number_of_threads(
    isa: InstructionSet, window: Any, threads: int, kind: str
) -> None:
    shape, weight_shape, stride, padding = window
    dtype = torch.bfloat16 if kind.startswith("bf16") else torch.float32
    x, weight = drawn(*shape, dtype=dtype), drawn(*weight_shape, dtype=dtype, seed=1)
    x = x.sign() if "signs" in kind or not isa.byte_tiles else x
    gradient = drawn(*torch.nn.functional.conv2d(x, weight, None, stride, padding).shape, dtype=dtype, seed=2)
    found = raw_gradient(isa, x, gradient, weight, stride, padding)
    exact = exact_gradient(x, gradient, weight, stride, padding)
    terms = exact_gradient(x.abs(), gradient.abs(), weight, stride, padding)  # rounding is relative to these
    most = 1e-5 * terms + grid(isa, gradient, exact_gradient(x.abs(), gradient.sign().abs(), weight, stride, padding))
    assert ((found.double() - exact).abs() <= most).all()
    assert same_for(threads, lambda: raw_gradient(isa, x, gradient, weight, stride, padding))


@pytest.mark.parametrize("isa", KERNELS, ids=lambda isa: isa.name)
@settings(max_examples=60, deadline=None)
@given(
    window=windows(),
    spread=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    threads=st.integers(2, 9),
    scaled=st.booleans(),
    turned=st.booleans(),
    kind=st.sampled_from(("float32", "bf16 in float32", "±1", "signs")),
)
def test_convolutions_with_signs_are_those_of_float64(
    isa: InstructionSet, window: Any, spread: Any, threads: int, scaled: bool, turned: bool, kind: str
) -> None:
    shape, weight_shape, stride, padding = window
    x = drawn(*shape, dtype=torch.bfloat16 if kind.startswith("bf16") else torch.float32).float()
    x = x.sign() if kind == "±1" else x
    weight, signs = drawn_signs(*weight_shape, seed=1), kind == "signs"
    scales = {"x_scale": torch.rand(shape[1]) + 0.5, "y_scale": torch.rand(weight_shape[0])} if scaled else {}
    if signs:
        scales.pop("x_scale", None)
    apart = torch.zeros(*shape[:2], *((n - 1) * step + 1 for n, step in zip(shape[2:], spread, strict=True)))
    values = x.sign() if signs else x
    apart[:, :, :: spread[0], :: spread[1]] = values * scales.get("x_scale", torch.ones(shape[1])).view(-1, 1, 1)

    def summed(values: Tensor, weight: Tensor) -> Tensor:
        y = torch.nn.functional.conv2d(values.double(), weight.double(), None, stride, padding)
        return y * scales["y_scale"].double().view(-1, 1, 1) if scaled else y

    exact, terms = summed(apart, weight), summed(apart.abs(), weight.abs())

    def run() -> Tensor:
        options = {"stride": stride, "padding": padding, "spread": spread, "x_signs": signs, "turned": turned}
        given = weight.flip(2, 3).transpose(0, 1) if turned else weight
        return convolution._of_signs(isa, x, given, exact.shape[2:], **options, **scales)

    most = 1e-6 * terms + grid(isa, apart, summed(apart.sign().abs(), weight.abs()))
    assert ((run() - exact).abs() <= most).all()
    assert same_for(threads, run)


@pytest.mark.parametrize("isa", [isa for isa in KERNELS if not isa.byte_tiles], ids=lambda isa: isa.name)
@given(window=windows(), large=st.integers(-100, 100))
def test_lookups_in_bfloat16_have_the_rounding_of_the_largest_value(
    isa: InstructionSet, window: Any, large: int
) -> None:
    shape, weight_shape, stride, padding = window
    x, weight = drawn(*shape) * 2.0**large, drawn_signs(*weight_shape, seed=1)
    exact = torch.nn.functional.conv2d(x.double(), weight.double(), None, stride, padding)
    found = convolution._of_signs(isa, x, weight, exact.shape[2:], stride=stride, padding=padding)
    terms = torch.nn.functional.conv2d(x.sign().abs().double(), weight.abs().double(), None, stride, padding)
    assert ((found - exact).abs() <= 2**-8 * exact.abs() + grid(isa, x, terms)).all()


def layer_results(monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    """y and the gradients of a layer to x and to the weight, of a batch that is in `dtype`."""
    with monkeypatch.context() as patch:
        if not native:
            patch.setenv("ONEBIT_NATIVE", "0")
        torch.manual_seed(0)
        conv = BinaryConv2d(24, 40, 3, padding=1, bias=False, **options)
        conv = conv.to(memory_format=torch.channels_last).train()
        x = drawn(9, 24, 11, 13, dtype=dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = conv(x)
        y.backward(drawn(*y.shape, dtype=dtype, seed=2))
        return [y.detach(), x.grad, conv.weight.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("signs", [None, "ste_sign", "rsign"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("quantizer", ["sign", "stochastic", "xnor", "magnitude_aware", "ste_sign"])
def test_float32_layers_are_those_of_torch(
    quantizer: str, stride: int, signs: str | None, products: list[int], calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = {"weight_quantizer": quantizer, "input_quantizer": signs, "stride": stride}
    ours = layer_results(monkeypatch, True, torch.float32, **options)
    made = 2 if TILES or stride == 1 else 1  # forward, and to the inputs
    assert len(products) == made
    assert len(calls) == (signs is not None)
    for found, expected in zip(ours, layer_results(monkeypatch, False, torch.float32, **options), strict=True):
        assert found.stride() == expected.stride()
        assert (found - expected).norm() <= 1e-6 * expected.norm()
    assert len(products) == made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["sign", "xnor"])
@pytest.mark.parametrize("inputs", ["ste_sign", "approx_sign", "swish_sign", "irnet", SteSign(0.5)], ids=str)
def test_the_kernel_takes_the_signs_of_inputs(
    inputs: Any, weights: str, dtype: torch.dtype, products: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"weight_quantizer": weights, "input_quantizer": inputs}
    monkeypatch.setattr(type(BinaryConv2d(2, 2, 1, **options).input_quantizer), "forward", None)
    ours = layer_results(monkeypatch, True, dtype, **options)
    monkeypatch.undo()
    assert len(products) == 2
    most = 1e-6 if dtype == torch.float32 else 2**-7
    for found, expected in zip(ours, layer_results(monkeypatch, False, dtype, **options), strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).norm() <= most * expected.norm()


@pytest.mark.skipif(TILES, reason="tiles multiply both values")
@pytest.mark.parametrize("centre", [0.0, -0.5, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_inputs_of_two_values_have_the_weight_gradient_of_torch(
    stride: int, dtype: torch.dtype, centre: float, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = InputAdaBin()
    inputs.centre.data.fill_(centre)
    options = {"weight_quantizer": "sign", "input_quantizer": inputs, "stride": stride}
    ours = layer_results(monkeypatch, True, dtype, **options)
    assert calls == [1]
    found, expected = ours[2], layer_results(monkeypatch, False, dtype, **options)[2]
    assert (found - expected).norm() <= (1e-6 if dtype == torch.float32 else 2**-7) * expected.norm()
    layer_results(monkeypatch, True, dtype, **options, padding_value=1)
    inputs.register_forward_hook(lambda module, given, result: result * torch.linspace(0, 1, 13))
    layer_results(monkeypatch, True, dtype, **options)
    assert calls == [1]  # of two values alone


@pytest.mark.parametrize("signs", ["ste_sign", "approx_sign"])
def test_second_derivatives_of_signs_are_those_of_torch(signs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for native in ("1", "0"):
        monkeypatch.setenv("ONEBIT_NATIVE", native)
        torch.manual_seed(0)
        conv = BinaryConv2d(16, 16, 3, padding=1, bias=False, input_quantizer=signs)
        x = drawn(2, 16, 6, 6, dtype=torch.float32).requires_grad_()
        first = torch.autograd.grad(conv(x).square().sum(), (x, conv.weight), create_graph=True)
        found.append(torch.autograd.grad(sum(part.square().sum() for part in first), (x, conv.weight)))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("quantizer", ["sign", "stochastic"])
@pytest.mark.parametrize("inputs", [None, "ste_sign"])
def test_checkpointing_repeats_the_forward_pass(quantizer: str, inputs: str | None, use_reentrant: bool) -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        conv = BinaryConv2d(16, 16, 3, padding=1, bias=False, weight_quantizer=quantizer, input_quantizer=inputs)
        x = drawn(2, 16, 6, 6, dtype=torch.float32).requires_grad_()
        y = checkpoint(conv, x, use_reentrant=use_reentrant) if again else conv(x)
        y.square().sum().backward()
        found.append((y, x.grad, conv.weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch
def test_a_compiled_layer_has_the_operations_of_torch(products: list[int]) -> None:
    conv = BinaryConv2d(16, 16, 3, padding=1, bias=False, input_quantizer="ste_sign")
    x = drawn(2, 16, 6, 6, dtype=torch.float32)
    y = torch.compile(conv, backend="eager")(x)
    assert not products
    torch.testing.assert_close(y, conv(x))
    assert products


def test_hooks_of_the_quantizer_see_its_signs() -> None:
    conv, seen = BinaryConv2d(16, 16, 3, padding=1, bias=False, input_quantizer="ste_sign"), []
    conv.input_quantizer.register_forward_hook(lambda module, given, result: seen.append(result))
    conv(drawn(2, 16, 6, 6, dtype=torch.float32))
    assert seen[0].abs().unique().tolist() == [1]


@pytest.mark.parametrize("isa", KERNELS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_gradient_to_one_output_takes_no_bits_of_the_others(isa: InstructionSet, dtype: torch.dtype) -> None:
    x, weight = drawn(9, 16, 8, 8, dtype=dtype).sign(), drawn(16, 16, 3, 3, dtype=dtype, seed=1)
    gradient = drawn(9, 16, 8, 8, dtype=dtype, seed=2)
    gradient[:, 3] *= 2.0**20
    found = raw_gradient(isa, x, gradient, weight, (1, 1), (1, 1))
    exact = exact_gradient(x, gradient, weight, (1, 1), (1, 1))
    error = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert error.max() < (1e-6 if dtype == torch.float32 else 2e-4)


@pytest.mark.parametrize(("size", "padding"), [((2, 2), 0), ((2, 8), 0), ((6, 6), -1)])
def test_windows_that_torch_refuses_are_refused(size: tuple[int, int], padding: int) -> None:
    with pytest.raises(RuntimeError, match=r"size|padding"):
        BinaryConv2d(16, 16, 3, padding=padding, bias=False, input_quantizer="ste_sign")(drawn(2, 16, *size).float())


def test_float32_weights_of_several_magnitudes_run_in_torch(products: list[int]) -> None:
    x = drawn(2, 16, 6, 6, dtype=torch.float32)
    weight = drawn(16, 16, 3, 3, dtype=torch.float32, seed=1).requires_grad_()
    y = convolved(x, weight, None, (1, 1), (1, 1), (1, 1), 1)
    assert torch.equal(y, torch.nn.functional.conv2d(x, weight, None, 1, 1))
    assert not products


@in_tiles
@pytest.mark.parametrize("shape", [(125, 16, 32, 32), (40, 64, 8, 8), (9, 3, 31, 17)])
@pytest.mark.parametrize("stride", [1, 2])
def test_no_more_error_than_torch_and_the_same_other_results(shape: Any, stride: int, calls: list[int]) -> None:
    weight = drawn(48, shape[1], 3, 3, seed=1).float()
    found = []
    for convolve in (convolved, torch.nn.functional.conv2d):
        x, w = drawn(*shape).requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = convolve(x, w, None, (stride, stride), (1, 1), (1, 1), 1)
        gradient = drawn(*y.shape, seed=2)
        y.backward(gradient)
        found.append((y.detach(), x.grad, w.grad))
    (y, to_x, to_w), (torch_y, torch_to_x, torch_to_w) = found
    assert calls == [1]
    assert torch.equal(y, torch_y)
    assert torch.equal(to_x, torch_to_x)
    assert to_w.dtype == torch_to_w.dtype == torch.float32
    exact = exact_gradient(x.detach(), gradient, weight, (stride, stride), (1, 1))
    assert (to_w - exact).norm() <= 1.001 * (torch_to_w - exact).norm()


@pytest.mark.parametrize("isa", KERNELS, ids=lambda isa: isa.name)
def test_nothing_is_read_outside_of_the_tensors(isa: InstructionSet) -> None:
    """NaN around the values does not reach the result."""
    x, gradient, weight = drawn(3, 5, 9, 7), drawn(3, 6, 9, 7, seed=1), drawn(6, 5, 3, 3)
    found = []
    for filler in (float("nan"), 0.0):
        parts = []
        for part in (x, gradient):
            memory = torch.full((part.numel() + 512,), filler, dtype=torch.bfloat16)
            inside = memory[256 : 256 + part.numel()].as_strided(part.shape, part.stride(), 256)
            parts.append(inside.copy_(part))
        found.append(raw_gradient(isa, *parts, weight, (1, 1), (1, 1)))
        found.append(convolution._of_signs(isa, parts[0], weight, (9, 7), padding=(1, 1)))
    assert torch.isfinite(found[0]).all()
    assert torch.isfinite(found[1]).all()
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


@pytest.mark.parametrize("isa", KERNELS, ids=lambda isa: isa.name)
def test_infinity_stays_where_it_is(isa: InstructionSet) -> None:
    x, weight = drawn(2, 32, 9, 9, dtype=torch.float32), drawn_signs(16, 32, 3, 3, seed=1)
    x[0, 3, 4, 4] = float("inf")
    found = convolution._of_signs(isa, x, weight, (9, 9), padding=(1, 1))
    if isa.byte_tiles:
        assert torch.equal(found.isinf(), torch.nn.functional.conv2d(x, weight, None, 1, 1).isinf())
        assert not found.isnan().any()
    else:
        assert found[0].isnan().all()
        assert found[1].isfinite().all()


def layer(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return BinaryConv2d(16, 16, 3, padding=1, **options).to(memory_format=torch.channels_last).train()


def step(conv: nn.Module, x: Tensor, *, dtype: torch.dtype = torch.bfloat16) -> None:
    with torch.autocast("cpu", dtype):
        y = conv(x)
    y.float().square().sum().backward()


IMAGES = torch.linspace(-1, 1, 2 * 16 * 6 * 6).view(2, 16, 6, 6).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_quantizer": None},
        {"input_quantizer": "ste_sign"},
        {"padding_value": 1, "input_quantizer": "ste_sign"},
    ],
    ids=str,
)
def test_layers_use_the_kernel(calls: list[int], options: Any) -> None:
    step(layer(**options), IMAGES)
    assert calls == [1] * (TILES or "input_quantizer" in options)


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2}, {"bias": True}, {"padding_mode": "circular"}], ids=str
)
def test_other_layers_run_in_torch(calls: list[int], options: Any) -> None:
    step(layer(**options), IMAGES)
    assert calls == []


def test_other_values_run_in_torch(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    step(layer().to(memory_format=torch.contiguous_format), IMAGES.contiguous())
    step(layer(), IMAGES, dtype=torch.float16)
    layer()(IMAGES).sum().backward()  # float32
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    step(layer(), IMAGES)
    assert calls == []


def test_second_derivatives_are_those_of_torch(calls: list[int]) -> None:
    found = []
    for convolve in (partial(convolved, signs=True), torch.nn.functional.conv2d):
        x, w = (
            drawn(*shape, seed=seed).sign().requires_grad_()
            for seed, shape in enumerate(((2, 16, 6, 6), (24, 16, 3, 3)))
        )
        y = convolve(x, w, None, (1, 1), (1, 1), (1, 1), 1)
        first = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        found.append(torch.autograd.grad(sum(part.float().square().sum() for part in first), (x, w)))
    assert calls == [1]  # in the last backward pass only: the first ones have gradients of their calls
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=2**-6, atol=2**-7 * float(theirs.abs().max()))


def test_weights_alone_or_inputs_alone(calls: list[int]) -> None:
    x, w = drawn(2, 16, 6, 6).sign(), drawn(24, 16, 3, 3, seed=1).sign()
    window = (None, (1, 1), (1, 1), (1, 1), 1)
    convolved(x, w.requires_grad_(), *window, signs=True).sum().backward()
    assert calls == [1]
    assert w.grad is not None
    convolved(x.requires_grad_(), w.detach(), *window, signs=True).sum().backward()
    assert calls == [1]
    assert x.grad is not None


@in_tiles
def test_saved_tensors_may_come_back_in_another_order(calls: list[int]) -> None:
    layer = nn.Conv2d(16, 8, 3, bias=False).to(torch.bfloat16, memory_format=torch.channels_last)
    gradients = []
    for change in (lambda x: x, lambda x: x.contiguous()):
        with torch.autograd.graph.saved_tensors_hooks(change, lambda x: x):
            y = convolved(drawn(2, 16, 9, 9), layer.weight, None, (1, 1), (1, 1), (1, 1), 1)
        gradients += torch.autograd.grad(y, layer.weight, drawn(*y.shape, seed=1))
    assert len(calls) == 2
    assert torch.equal(*gradients)


def test_a_trace_has_the_operation_of_torch(calls: list[int]) -> None:
    layer = BinaryConv2d(16, 8, 3, bias=False, weight_quantizer=None)
    with torch.autocast("cpu", torch.bfloat16):
        traced = torch.jit.trace(layer, drawn(2, 16, 9, 9), check_trace=False)
    torch.jit.save(traced, io.BytesIO())  # which an operation of Python refuses
    assert not calls
