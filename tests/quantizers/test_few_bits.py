"""Quantizers of inputs to few bits: values and gradients by the formulas of the papers, and how a range begins."""

from __future__ import annotations

import copy
import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from onebit.layers import BinaryConv2d, BinaryLinear, binarize_, input_quantizers, recompute_inputs_
from onebit.quantizers import INPUT_QUANTIZERS, FewBits
from onebit.quantizers.few_bits import Range
from support.tensors import normal

NAMES = [name for name, entry in INPUT_QUANTIZERS.entries().items() if entry.bits > 1]
RANGES = get_args(Range)
LEARNED = ("lsq", "pact")
BOUNDS = {"uint8": (0, 255), "uint4": (0, 15), "uint2": (0, 3), "int8": (-128, 127), "int4": (-8, 7), "int2": (-2, 1)}


def make(name: str, range: str = "lsq", limit: float = 1.5) -> FewBits:
    quantizer = INPUT_QUANTIZERS[name](range=range)
    if range != "dorefa":
        with torch.no_grad():
            quantizer.limit.fill_(limit)
    return quantizer


def rounded(v: Tensor) -> Tensor:
    """round(v) with the straight-through gradient 1."""
    return v + (v.round() - v).detach()


def lsq(x: Tensor, limit: Tensor, least: int, most: int) -> Tensor:
    """Algorithm 1 of LSQ's appendix with step = limit/most; a move of the limit by g·∂L/∂step · most moves the step
    as the paper does, by g·∂L/∂step."""
    g = 1 / math.sqrt(x[0].numel() * most)
    step = limit / most
    times = g * most * most  # of ∂L/∂limit = ∂L/∂step / most
    step = (step - step * times).detach() + step * times
    return rounded((x / step).clamp(least, most)) * step


def pact(x: Tensor, limit: Tensor, least: int, most: int) -> Tensor:
    """Equations 2 and 3: clipping, with its gradients, and rounding, through which gradients pass unchanged."""
    clipped = torch.minimum(torch.maximum(x, limit * least / most), limit)
    return clipped + ((clipped * most / limit).round() * limit / most - clipped).detach()


def fixed(x: Tensor, limit: Tensor, least: int, most: int) -> Tensor:
    """Equations 5 and 11 of DoReFa-Net, for any limit."""
    return pact(x, limit.detach(), least, most) + 0 * limit


FORMULAS: dict[str, Any] = {"lsq": lsq, "pact": pact, "dorefa": fixed, "follow": fixed}


def limit_of(quantizer: FewBits) -> Tensor:
    return torch.ones(()) if quantizer.range == "dorefa" else quantizer.limit.detach().clone()


each_rule = pytest.mark.parametrize("rule", RANGES)
some_pairs = pytest.mark.parametrize(("name", "rule"), [*zip(NAMES, [*RANGES, *RANGES], strict=False), ("int4", "lsq")])


def test_every_name_and_range_has_its_bounds_and_formula() -> None:
    assert set(BOUNDS) == set(NAMES)
    assert set(FORMULAS) == set(RANGES)
    for name, bounds in BOUNDS.items():
        assert (INPUT_QUANTIZERS[name].least, INPUT_QUANTIZERS[name].most) == bounds
        assert bounds[1] - bounds[0] + 1 == 2 ** INPUT_QUANTIZERS.entry(name).bits


@each_rule
@pytest.mark.parametrize(("name", "limit"), [*zip(NAMES, [1.5, -0.4] * 3, strict=True)])
def test_values_and_gradients_are_those_of_the_paper(name: str, rule: str, limit: float) -> None:
    quantizer = make(name, rule, limit).double().eval()
    x, g = normal(6, 4, 3, 3).double().requires_grad_(), normal(6, 4, 3, 3, seed=1).double()
    y = quantizer(x)
    y.backward(g)
    twin, size = x.detach().clone().requires_grad_(), limit_of(quantizer).double().abs().requires_grad_()
    expected = FORMULAS[rule](twin, size, quantizer.least, quantizer.most)
    expected.backward(g)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-12, atol=1e-12)
    if rule in LEARNED:
        assert float(size.grad) != 0
        torch.testing.assert_close(quantizer.limit.grad, size.grad * math.copysign(1, limit), rtol=1e-9, atol=1e-12)
    else:
        assert not list(quantizer.parameters())


def test_values_by_hand() -> None:
    quantizer = make("uint4", limit=7.5).eval()  # a step of one half
    x = torch.tensor([-3.0, -0.1, -0.0, 0.0, 0.24, 0.25, 0.26, 0.75, 3.1, 7.2, 7.5, 90.0, math.inf, -math.inf])
    made = [0, 0, 0, 0, 0, 0, 0.5, 1.0, 3.0, 7.0, 7.5, 7.5, 7.5, 0]
    assert quantizer(x).tolist() == made
    assert bool(quantizer(torch.tensor(math.nan)).isnan())
    signed = make("int2", limit=0.5).eval()
    assert signed(torch.tensor([-9.0, -0.8, -0.7, -0.2, 0.0, 0.3, 4.0])).tolist() == [-1, -1, -0.5, 0, 0, 0.5, 0.5]


@pytest.mark.parametrize("rule", ["lsq", "pact", "follow"])
def test_no_gradient_passes_at_the_ends_of_the_range(rule: str) -> None:
    quantizer = make("int4", rule, limit=7.0).eval()
    x = torch.tensor([[-9.0, -8.0, 7.0, 8.0, 0.0, 6.9, -7.9]], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [[0, 0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_sgd_moves_the_step_as_in_the_paper(name: str) -> None:
    quantizer, x, g = make(name), normal(5, 40), normal(5, 40, seed=1)
    before = quantizer.integer_input().step
    step = before.clone().requires_grad_()
    (rounded((x / step).clamp(quantizer.least, quantizer.most)) * step).backward(g)
    moved = before - 0.01 * step.grad / math.sqrt(40 * quantizer.most)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.01)
    quantizer(x).backward(g)
    optimizer.step()
    assert float(moved) != float(before)
    torch.testing.assert_close(quantizer.integer_input().step, moved, rtol=1e-4, atol=1e-7)


@some_pairs
def test_eval_forward_is_what_the_quantizer_states(name: str, rule: str) -> None:
    for quantizer in (make(name, rule).eval(), INPUT_QUANTIZERS[name](range=rule).eval()):
        state = copy.deepcopy(quantizer.state_dict())
        step, least, most = quantizer.integer_input()
        x = 3 * normal(50, 20)
        assert torch.equal(quantizer(x), (x / step).round().clamp(least, most) * step)
        assert torch.equal(quantizer(x), quantizer(x))
        assert quantizer.binary_input() is None
        assert all(torch.equal(value, state[key]) for key, value in quantizer.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_first_batch_of_training_sets_a_learned_range(name: str) -> None:
    for rule in LEARNED:
        quantizer = INPUT_QUANTIZERS[name](range=rule)
        x = normal(50, 20)
        assert float(quantizer.integer_input().step) * quantizer.most == pytest.approx(4.0)  # four standard deviations
        quantizer.eval()(x)
        assert quantizer.limit.item() == 0
        quantizer.train()(x)
        seen = x.abs() if quantizer.least else x.clamp(min=0)
        step = 2 * float(seen.mean()) / math.sqrt(quantizer.most)
        assert float(quantizer.integer_input().step) == pytest.approx(step, rel=1e-5)
        quantizer(100 * x)
        assert float(quantizer.integer_input().step) == pytest.approx(step, rel=1e-5)


def test_a_followed_range_is_the_running_mean_of_the_largest_magnitude() -> None:
    for name, sign in (("uint8", 1), ("int8", -1)):
        quantizer = INPUT_QUANTIZERS[name](range="follow")
        quantizer(torch.tensor([[0.5, sign * 2.0]]))
        assert quantizer.limit.item() == 2
        quantizer(torch.tensor([[0.5, sign * 4.0]]))
        assert quantizer.limit.item() == pytest.approx(2.2)  # a tenth of the way, as in BatchNorm
        kept = quantizer.limit.item()
        quantizer.eval()(torch.tensor([[100.0]]))
        assert quantizer.limit.item() == kept
        quantizer.train()(torch.tensor([[math.nan, 1.0]]))
        assert quantizer.limit.item() == kept


def test_a_batch_of_zeros_sets_no_range() -> None:
    for rule in ("lsq", "pact", "follow"):
        quantizer = INPUT_QUANTIZERS["uint4"](range=rule)
        assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))
        assert quantizer.limit.item() == 0
        quantizer(torch.ones(2, 3))
        assert quantizer.limit.item() > 0


@each_rule
def test_a_stored_range_stays(rule: str) -> None:
    if rule == "dorefa":
        assert not make("uint4", rule).state_dict()
        return
    trained = make("uint4", rule, limit=0.75)
    again = INPUT_QUANTIZERS["uint4"](range=rule)
    again(torch.full((2, 3), 9.0))  # has begun with another range
    again.load_state_dict(trained.state_dict())
    assert again.limit.item() == 0.75
    again(torch.full((2, 3), 5.0))
    assert again.limit.item() == (pytest.approx(0.75 + 0.425) if rule == "follow" else 0.75)
    empty = INPUT_QUANTIZERS["uint4"](range=rule)
    again.load_state_dict(empty.state_dict())  # of a net that saw no batch: the next one sets the range
    again(torch.full((2, 3), 5.0))
    assert again.limit.item() > 0.75


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler causes some itself
@pytest.mark.parametrize(
    ("name", "rule"), [("uint4", "lsq"), ("int8", "pact"), ("uint4", "dorefa"), ("int8", "follow")]
)
def test_compiled_equals_eager(name: str, rule: str) -> None:
    torch._dynamo.reset()
    eager, x = INPUT_QUANTIZERS[name](range=rule), normal(6, 20)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
    for step in range(2):
        results = []
        for quantizer in (eager, compiled):
            given = ((step + 1) * x).requires_grad_()
            y = quantizer(given)
            grads = torch.autograd.grad(y, [given, *quantizer.parameters()], normal(6, 20, seed=2))
            results.append([y.detach(), *grads, *quantizer.buffers()])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@some_pairs
def test_under_autocast_values_are_rounded_and_gradients_float32(name: str, rule: str) -> None:
    quantizer, x = make(name, rule).eval(), normal(6, 20).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = quantizer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, quantizer(x).bfloat16())
    y.backward(normal(6, 20, seed=1).bfloat16())
    assert x.grad.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 for parameter in quantizer.parameters())


@some_pairs
def test_any_shape_and_dtype(name: str, rule: str) -> None:
    for shape in ((0, 3), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)):
        assert INPUT_QUANTIZERS[name](range=rule)(normal(*shape).requires_grad_()).shape == shape
    for dtype in (torch.bfloat16, torch.float16):
        quantizer, x = make(name, rule), normal(6, 20).to(dtype).requires_grad_()
        y = quantizer(x)
        y.sum().backward()
        assert y.dtype == x.grad.dtype == dtype
        assert bool(x.grad.isfinite().all())
        assert len(y.unique()) <= quantizer.most - quantizer.least + 1


def test_the_limit_is_in_the_state_dict() -> None:
    assert list(BinaryConv2d(5, 4, 3, input_quantizer="uint4").state_dict()) == ["weight", "input_quantizer.limit"]
    net = binarize_(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), input_quantizer="int8").model
    assert [name for name, _ in input_quantizers(net)] == ["2.input_quantizer"]
    assert repr(INPUT_QUANTIZERS["uint4"](range="pact")) == "UInt4(range='pact')"


@each_rule
@pytest.mark.parametrize("dims", [2, 3])
def test_recomputed_inputs_give_the_same_and_move_a_range_once(rule: str, dims: int) -> None:
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        layer = BinaryLinear(8, 6, input_quantizer=INPUT_QUANTIZERS["uint4"](range=rule))
        recompute_inputs_(layer, recompute)
        for step in range(2):
            x = (normal(*(3, 5, 8)[-dims:], seed=step)).requires_grad_()
            layer(x).square().sum().backward()
        found.append([x.grad, layer.weight.grad, *(p.grad for p in layer.input_quantizer.parameters())])
        found[-1] += list(layer.input_quantizer.state_dict().values())
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@each_rule
def test_checkpointing_repeats_a_pass_with_its_limit(rule: str) -> None:
    made = []
    for call in (lambda model, x: model(x), lambda model, x: checkpoint(model, x, use_reentrant=False)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), INPUT_QUANTIZERS["uint4"](range=rule), nn.Linear(16, 4))
        model(normal(16, 8))
        x = (3 * normal(16, 8, seed=1)).requires_grad_()
        call(model, x).square().sum().backward()
        made.append((x.grad, model[1].integer_input().step))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])
