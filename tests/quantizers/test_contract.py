"""What every quantizer of the two tables promises. A new one is covered by its row in `GRADIENTS`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, Quantizer

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# (table, name) -> the documented factor on the incoming gradient
GRADIENTS: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
    ("weight", "sign"): torch.ones_like,
    ("weight", "stochastic"): torch.ones_like,
    ("weight", "ste_sign"): lambda w: (w.abs() <= 1).to(w.dtype),
    ("input", "ste_sign"): lambda x: (x.abs() <= 1).to(x.dtype),
}
CASES = [("weight", name) for name in WEIGHT_QUANTIZERS] + [("input", name) for name in INPUT_QUANTIZERS]


def make(table: str, name: str, **options: float) -> Quantizer:
    return {"weight": WEIGHT_QUANTIZERS, "input": INPUT_QUANTIZERS}[table][name](**options)


def grid(dtype: torch.dtype = torch.float32) -> Tensor:
    """(2, 9): every place where a sign or its surrogate could go wrong."""
    one, infinity = torch.ones((), dtype=dtype), torch.tensor(torch.inf, dtype=dtype)
    positive = [
        torch.zeros((), dtype=dtype),
        torch.finfo(dtype).tiny * one,
        0.5 * one,
        torch.nextafter(one, -infinity),
        one,
        torch.nextafter(one, infinity),
        2 * one,
        torch.finfo(dtype).max * one,
        infinity,
    ]
    row = torch.stack(positive)
    return torch.stack([row, -row])


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


def test_the_gradient_of_every_quantizer_is_stated_here() -> None:
    assert set(GRADIENTS) == set(CASES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decompose_gives_plus_and_minus_one(case: tuple[str, str], dtype: torch.dtype) -> None:
    latent = grid(dtype)
    signs, scale, centre = make(*case).decompose(latent)
    expected = torch.tensor([[1.0] * 9, [1.0] + [-1.0] * 8], dtype=dtype)
    assert torch.equal(signs, expected)  # +1 at 0 and at −0.0, which opens the second row
    assert signs.dtype == dtype
    for moment in (scale, centre):
        assert moment is None or moment.shape == (2,)
    assert scale is None or bool((scale > 0).all())


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("value", [1.0, 0.37])
def test_eval_forward_is_scale_times_signs_plus_centre(case: tuple[str, str], dtype: torch.dtype, value: float) -> None:
    if value != 1.0:
        try:
            quantizer = make(*case, value=value)
        except TypeError:
            quantizer = make(*case)  # ±1 only
    else:
        quantizer = make(*case)
    latent = torch.cat([grid(dtype), torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).to(dtype)], dim=1)
    assert torch.equal(quantizer.eval()(latent), quantizer.decompose(latent).dense())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_the_documented_one(case: tuple[str, str], dtype: torch.dtype, training: bool) -> None:
    latent = grid(dtype).requires_grad_()
    incoming = torch.arange(-8, 10, dtype=dtype).view(2, 9)
    make(*case).train(training)(latent).backward(incoming)
    assert latent.grad is not None
    assert torch.equal(latent.grad, incoming * GRADIENTS[case](latent.detach()))
    assert latent.grad.dtype == dtype


def test_under_autocast_signs_are_the_same_and_gradients_float32(case: tuple[str, str]) -> None:
    quantizer, latent = make(*case).eval(), grid().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(latent)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.float(), quantizer(latent))
    incoming = torch.linspace(-4, 4, 18).view(2, 9).bfloat16()
    out.backward(incoming)
    assert latent.grad is not None
    assert latent.grad.dtype == torch.float32
    assert torch.equal(latent.grad, incoming.float() * GRADIENTS[case](latent.detach()))


def test_autocast_leaves_float64_alone(case: tuple[str, str]) -> None:
    latent = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        out = make(*case)(latent)
        product = torch.nn.functional.linear(latent, out)  # fails on mixed dtypes
    assert out.dtype == product.dtype == torch.float64


def test_training_takes_two_values_and_leaves_the_latent_alone(case: tuple[str, str]) -> None:
    latent = torch.randn(4, 25, generator=torch.Generator().manual_seed(1))
    before = latent.clone()
    out = make(*case).train()(latent)
    assert set(out.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(latent, before)


def test_the_same_seed_gives_the_same_forward(case: tuple[str, str]) -> None:
    latent = torch.zeros(16, 16)
    quantizer = make(*case).train()
    torch.manual_seed(7)
    first = quantizer(latent)
    torch.manual_seed(7)
    assert torch.equal(quantizer(latent), first)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))], ids=["copy", "pickle"])
def test_a_copy_works_like_the_original(case: tuple[str, str], copied: Callable[[Quantizer], Quantizer]) -> None:
    quantizer = make(*case).eval()
    assert torch.equal(copied(quantizer)(grid()), quantizer(grid()))


def test_these_quantizers_have_no_state_of_their_own(case: tuple[str, str]) -> None:
    assert make(*case).state_dict() == {}


@pytest.mark.parametrize("shape", [(0, 3), (5,), (2, 3, 4, 5)])
def test_any_shape(case: tuple[str, str], shape: tuple[int, ...]) -> None:
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantizer = make(*case)
    assert quantizer.train()(latent).shape == shape
    assert quantizer.eval()(latent).shape == shape


def test_a_transposed_latent_gives_the_transposed_signs(case: tuple[str, str]) -> None:
    latent = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    quantizer = make(*case).eval()
    assert torch.equal(quantizer(latent.t()), quantizer(latent).t())


DYNAMO = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler causes some itself


def _compiled_equals_eager(case: tuple[str, str], backend: str) -> None:
    torch._dynamo.reset()
    quantizer, latent = make(*case), grid().requires_grad_()
    compiled = torch.compile(quantizer, fullgraph=True, backend=backend)
    incoming = torch.arange(-8.0, 10.0).view(2, 9)
    results = []
    for run in (quantizer, compiled):
        out = run(latent)
        results.append((out.detach(), torch.autograd.grad(out, latent, incoming)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


DETERMINISTIC = [case for case in CASES if not make(*case).random]


@DYNAMO
@pytest.mark.parametrize("case", DETERMINISTIC, ids="-".join)
def test_the_whole_forward_and_backward_is_one_graph(case: tuple[str, str]) -> None:
    _compiled_equals_eager(case, "aot_eager")


@DYNAMO
@pytest.mark.nightly
@pytest.mark.parametrize("case", DETERMINISTIC, ids="-".join)
def test_compiled_equals_eager(case: tuple[str, str]) -> None:
    _compiled_equals_eager(case, "inductor")


@pytest.mark.parametrize("case", DETERMINISTIC, ids="-".join)
def test_functional_gradients_work(case: tuple[str, str]) -> None:
    latent = grid()
    gradient = torch.func.grad(lambda w: make(*case)(w).sum())(latent)
    assert torch.equal(gradient, GRADIENTS[case](latent))


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_gradient_of_a_product_in_bf16_reaches_the_latent_in_float32(
    case: tuple[str, str], create_graph: bool
) -> None:
    latent = grid().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        used = make(*case)(latent)
    incoming = torch.arange(-8, 10, dtype=torch.bfloat16).view(2, 9)
    (gradient,) = torch.autograd.grad(used, latent, incoming, create_graph=create_graph)
    assert used.dtype == torch.bfloat16
    assert torch.equal(gradient, GRADIENTS[case](latent) * incoming.float())
    assert torch.equal(incoming, torch.arange(-8, 10, dtype=torch.bfloat16).view(2, 9))  # not written over
