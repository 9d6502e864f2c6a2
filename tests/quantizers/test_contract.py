"""What every weight quantizer of the table promises. A new row needs its formula in `formulas.py`, nothing else."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.errors import OnebitError, UsageError
from onebit.layers import BinaryLinear, binary_layers
from onebit.quantizers import WEIGHT_QUANTIZERS, Quantizer, scheduled
from support.formulas import WEIGHT_FORMULAS
from support.tensors import normal

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
DYNAMO = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler causes some itself


def make(name: str, latent: Tensor) -> Quantizer:
    """A quantizer bound to `latent`, with parameters of both signs and in the middle of its schedule."""
    quantizer = WEIGHT_QUANTIZERS[name]()
    quantizer.bind(latent)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.copy_(torch.linspace(-0.7, 0.6, parameter.numel()).view_as(parameter))
    quantizer.set_progress(0.5)
    return quantizer


def special(dtype: torch.dtype = torch.float32) -> Tensor:
    """(2, 9): every latent where a sign or its surrogate could go wrong, and infinities."""
    one, infinity = torch.ones((), dtype=dtype), torch.tensor(torch.inf, dtype=dtype)
    info = torch.finfo(dtype)
    neighbors = torch.nextafter(one, -infinity), one, torch.nextafter(one, infinity)
    row = torch.stack([0 * one, info.tiny * one, 0.5 * one, *neighbors, 2 * one, info.max * one, infinity])
    return torch.stack([row, -row])


def moderate(dtype: torch.dtype = torch.float32) -> Tensor:
    """(3, 8), for means of a channel. The first has the mean 0, the others no latent at their mean."""
    first = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.25, -0.25, 0.5, -0.5])
    return torch.stack([first, torch.linspace(-1.3, 0.9, 8), torch.linspace(-1, 2, 8) + 40]).to(dtype)


@pytest.fixture(params=list(WEIGHT_QUANTIZERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def of_one_latent(name: str) -> bool:
    """Whether a weight depends on its own latent alone: no statistics of a channel."""
    shipped = make(name, special()).decompose(special())
    return shipped.scale is None and shipped.centre is None


def grids(name: str, dtype: torch.dtype) -> list[Tensor]:
    return [moderate(dtype), *([special(dtype)] if of_one_latent(name) else [])]


def gradients(quantizer: Quantizer, latent: Tensor, incoming: Tensor) -> list[Tensor]:
    """[weight, gradient to the latent, gradients to the parameters of the quantizer]."""
    latent = latent.detach().requires_grad_()
    weight = quantizer(latent)
    return [weight.detach(), *torch.autograd.grad(weight, [latent, *quantizer.parameters()], incoming.to(weight.dtype))]


def documented(name: str, quantizer: Quantizer, latent: Tensor, incoming: Tensor) -> list[Tensor]:
    """What `gradients` should give, in float64 from the formula."""
    latent = latent.detach().double().requires_grad_()
    weight = WEIGHT_FORMULAS[name](latent, quantizer)
    found = torch.autograd.grad(weight, [latent, *quantizer.parameters()], incoming.double())
    return [weight.detach(), *found]


def agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        largest = float(other[other.isfinite()].abs().max())
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance * largest)


def random_or_relaxed(name: str) -> bool:
    return WEIGHT_QUANTIZERS[name].random or WEIGHT_QUANTIZERS[name].relaxed


def test_every_quantizer_has_its_formula() -> None:
    assert set(WEIGHT_FORMULAS) == set(WEIGHT_QUANTIZERS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decompose_gives_signs_and_scales_and_eval_mode_uses_them(name: str, dtype: torch.dtype) -> None:
    equal = torch.zeros(3, 8, dtype=dtype), torch.full((3, 1), 0.1, dtype=dtype)
    for latent in (*grids(name, dtype), normal(6, 50).to(dtype), *equal):
        quantizer = make(name, latent).eval()
        signs, scale, centre = quantizer.decompose(latent)
        assert set(signs.unique().tolist()) <= {-1.0, 1.0}
        assert signs.dtype == dtype
        assert signs.shape == latent.shape
        for moment in (scale, centre):
            assert moment is None or (moment.shape == latent.shape[:1] and bool(moment.isfinite().all()))
        assert scale is None or bool((scale > 0).all())
        assert torch.equal(quantizer(latent), quantizer.decompose(latent).dense())
    latent = torch.tensor([[-1.0, -0.0, 0.0, 1.0]] * 2, dtype=dtype)
    quantizer = WEIGHT_QUANTIZERS[name]()
    quantizer.bind(latent)
    assert quantizer.decompose(latent).signs.tolist() == [[-1, 1, 1, 1]] * 2
    assert quantizer.decompose(torch.zeros(2, 5, dtype=dtype)).signs.tolist() == [[1.0] * 5] * 2


@pytest.mark.parametrize("kind", ["sign", "stochastic"])
def test_eval_forward_with_a_value_is_what_ships(kind: str) -> None:
    for value in (0.37, 2.0):
        quantizer, latent = WEIGHT_QUANTIZERS[kind](value=value).eval(), normal(6, 50)
        assert torch.equal(quantizer(latent), quantizer.decompose(latent).dense())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_and_gradients_are_the_documented_ones(name: str, dtype: torch.dtype) -> None:
    for training in {False, not random_or_relaxed(name)}:  # the formula is that of what ships
        for latent in (*grids(name, dtype), normal(6, 50).to(dtype), 0.3 * normal(5, 4, 3, 3).to(dtype)):
            quantizer = make(name, latent).to(dtype).train(training)
            incoming = normal(*latent.shape[::-1]).permute(*range(latent.dim())[::-1]).to(dtype)
            found, expected = gradients(quantizer, latent, incoming), documented(name, quantizer, latent, incoming)
            assert all(one.dtype == dtype for one in found)
            agree(found, expected, TOLERANCE[dtype])


def test_schedules_are_followed(name: str) -> None:
    latent, incoming = normal(4, 30), normal(30, 4).t()
    for progress in (0.0, 0.3, 0.999999):
        quantizer = make(name, latent).eval()
        quantizer.set_progress(progress)
        agree(gradients(quantizer, latent, incoming), documented(name, quantizer, latent, incoming), 1e-5)
        assert set(quantizer.state_dict()) == {key for key, _ in quantizer.named_parameters()}  # for resuming
        again = make(name, latent).eval()
        for other in (0.9, progress):
            again.set_progress(other)
        assert all(torch.equal(a, b) for a, b in zip(quantizer.buffers(), again.buffers(), strict=True))
    assert (scheduled(nn.Sequential(quantizer)) == [quantizer]) == bool(list(quantizer.buffers()))


def test_gradients_of_equal_latents_are_finite(name: str) -> None:
    for latent in (torch.zeros(3, 8), torch.full((3, 8), 0.1), torch.full((3, 1), -2.0)):
        for training in (False, True):
            found = gradients(make(name, latent).train(training), latent, normal(*latent.shape))
            assert all(bool(one.isfinite().all()) for one in found)
            assert float(found[1].abs().max()) < 1e4 or name == "concrete_sign"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_latent_that_is_not_finite_is_refused_at_packing_or_stays_in_its_channel(name: str, bad: float) -> None:
    model = onebit.create_model("mlp", widths=(16, 6, 3), input_shape=(1, 4, 4), weight_quantizer=name).eval()
    layer = next(layer for _, layer in binary_layers(model))
    clean = layer.binary_weight()
    onebit.pack(model)
    with torch.no_grad():
        layer.weight[2, 3] = bad
    if math.isnan(bad) or (layer.binary_weight().scale is not None and name != "recu"):
        with pytest.raises(OnebitError):
            onebit.pack(model)
    others = [0, 1, 3, 4, 5]
    for one, other in zip(layer.binary_weight(), clean, strict=True):
        assert one is other is None or torch.equal(one[others], other[others])


def test_under_autocast_weights_are_rounded_and_gradients_float32(name: str) -> None:
    latent, incoming = normal(6, 50), normal(50, 6).t().bfloat16()
    quantizer = make(name, latent).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(quantizer, latent, incoming)
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], quantizer(latent).bfloat16())
    assert all(one.dtype == torch.float32 for one in found[1:])
    agree(found, documented(name, quantizer, latent, incoming), 2e-2)


def test_autocast_leaves_float64_alone(name: str) -> None:
    latent = normal(3, 4).double()
    with torch.autocast("cpu", torch.bfloat16):
        out = make(name, latent)(latent)
        product = torch.nn.functional.linear(latent, out)  # fails on mixed dtypes
    assert out.dtype == product.dtype == torch.float64


def test_incoming_gradients_are_not_overwritten(name: str) -> None:
    for create_graph in (False, True):
        latent, incoming = normal(6, 50).requires_grad_(), normal(50, 6).t().contiguous()
        kept = incoming.clone()
        quantizer = make(name, latent).eval()
        (found,) = torch.autograd.grad(quantizer(latent), latent, incoming, create_graph=create_graph)
        assert torch.equal(incoming, kept)
        agree([found], documented(name, quantizer, latent, incoming)[1:2], 1e-5)


def test_weights_and_gradients_have_the_memory_format_of_latents(name: str) -> None:
    latent, incoming = normal(6, 4, 3, 3), normal(4, 3, 3, 6).permute(3, 0, 1, 2).contiguous()
    last = torch.channels_last
    for training in {False, not random_or_relaxed(name)}:  # draws differ
        quantizer = make(name, latent).train(training)
        expected = gradients(quantizer, latent, incoming)
        for gradient in (incoming, incoming.contiguous(memory_format=last)):
            found = gradients(quantizer, latent.contiguous(memory_format=last), gradient)
            agree(found, expected, 1e-5)
            assert found[0].is_contiguous(memory_format=last)
            assert found[1].is_contiguous(memory_format=last) or gradient is incoming


def test_any_shape(name: str) -> None:
    for shape in ((0, 3), (5, 1), (2, 3, 4, 5)):
        latent = normal(*shape)
        quantizer = make(name, latent)
        assert quantizer.train()(latent).shape == shape
        assert quantizer.eval()(latent).shape == shape


def test_training_keeps_the_latent_and_takes_two_values_per_channel(name: str) -> None:
    latent = normal(4, 25)
    before = latent.clone()
    out = make(name, latent).train()(latent)
    assert torch.equal(latent, before)
    if not random_or_relaxed(name):
        assert all(len(row.unique()) == 2 for row in out)


def test_the_same_seed_gives_the_same_quantizer_and_forward(name: str) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        layer = BinaryLinear(16, 16, weight_quantizer=name)
        found.append(layer.effective_weight().detach())
    assert torch.equal(*found)


def test_a_copy_works_like_the_original(name: str) -> None:
    quantizer = make(name, moderate()).eval()
    for copied in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(copied(moderate()), quantizer(moderate()))


def test_repr_names_every_argument(name: str) -> None:
    kind = WEIGHT_QUANTIZERS[name]
    told = repr(kind())
    assert told.startswith(kind.__name__ + "(")
    code = kind.__init__.__code__
    arguments = [a for a in code.co_varnames[1 : code.co_argcount] if kind.__init__ is not nn.Module.__init__]
    assert [a for a in arguments if f"{a}=" not in told] == []


DETERMINISTIC = [name for name, kind in WEIGHT_QUANTIZERS.items() if not kind.random]


class All(nn.Module):
    """Every deterministic quantizer of one latent: compiled at once, which takes a fraction of the time."""

    def __init__(self, latent: Tensor) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(make(name, latent) for name in DETERMINISTIC)

    def forward(self, latent: Tensor) -> list[Tensor]:
        return [quantizer(latent * 1) for quantizer in self.quantizers]


def compiled_equals_eager(backend: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    latent, incoming = normal(6, 50).requires_grad_(), normal(50, 6).t()
    model = All(latent)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for progress in (0.2, 0.8):
        onebit.set_progress(model, progress)
        for name, quantizer, found, weight in zip(
            DETERMINISTIC, model.quantizers, compiled(latent), model(latent), strict=True
        ):
            # the sums in a scale may run in another order, which of two values a weight takes may not change
            assert torch.equal(found == found.amax(1, keepdim=True), weight == weight.amax(1, keepdim=True)), name
            wanted = [latent, *quantizer.parameters()]
            grads = [torch.autograd.grad(one, wanted, incoming, retain_graph=True) for one in (found, weight)]
            agree([found.detach(), *grads[0]], [weight.detach(), *grads[1]], 1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 1


@DYNAMO
def test_forward_and_backward_are_one_graph() -> None:
    compiled_equals_eager("aot_eager")


@DYNAMO
@pytest.mark.nightly
def test_compiled_equals_eager() -> None:
    compiled_equals_eager("inductor")


@DYNAMO
@pytest.mark.parametrize("name", ["ste_sign", "xnor", "irnet"])
def test_a_compiled_quantizer_of_a_frozen_latent_equals_eager(name: str) -> None:
    """Cases without gradients are in tests/layers/test_programs.py."""
    torch._dynamo.reset()
    quantizer = make(name, moderate()).eval()
    found = torch.compile(quantizer, fullgraph=True, backend="eager")(moderate())
    torch.testing.assert_close(found, quantizer.decompose(moderate()).dense(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_functional_gradients_work(name: str) -> None:
    latent, incoming = normal(6, 50), normal(50, 6).t()
    quantizer = make(name, latent)
    found = torch.func.grad(lambda w: (quantizer(w) * incoming).sum())(latent)
    agree([found], gradients(quantizer, latent, incoming)[1:2], 1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_gradients_per_sample_and_ensembles_work_under_vmap(name: str) -> None:
    latent, x, incoming = normal(6, 50), normal(5, 50), normal(5, 6)
    quantizer = make(name, latent).eval()

    def loss(w: Tensor, x: Tensor, g: Tensor) -> Tensor:
        return (torch.nn.functional.linear(x, quantizer(w)) * g).sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(latent, x, incoming)
    expected = torch.stack([torch.func.grad(loss)(latent, *pair) for pair in zip(x, incoming, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    latents = torch.stack([latent, -latent])
    torch.testing.assert_close(torch.func.vmap(quantizer)(latents), torch.stack([*map(quantizer, latents)]))


def test_set_progress_reaches_all_quantizers() -> None:
    model = torch.nn.Sequential(
        onebit.BinaryLinear(4, 3, weight_quantizer="irnet", input_quantizer="irnet"),
        onebit.BinaryLinear(3, 2, weight_quantizer="recu"),
    )
    onebit.set_progress(model, 0.5)
    assert [float(t) for name, t in model.named_buffers() if name.endswith(".t")] == pytest.approx([1.0, 1.0])
    onebit.set_progress(model, 1)
    assert float(model[1].weight_quantizer.tau) == pytest.approx(0.99)
    assert "onebit.set_progress" in str(onebit.describe_layers(model))
    assert "set_progress" not in str(onebit.describe_layers(torch.nn.Sequential(onebit.BinaryLinear(4, 3))))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="progress"):
            onebit.set_progress(model, wrong)


def test_gradients_of_several_losses_in_one_pass(name: str) -> None:
    """`is_grads_batched`, as for vectorized Jacobians."""
    torch.manual_seed(0)
    layer = BinaryLinear(6, 4, weight_quantizer=name)
    y = layer(normal(3, 6)).sum(dim=0)
    one_by_one = [torch.autograd.grad(y[k], layer.weight, retain_graph=True)[0] for k in range(4)]
    (batched,) = torch.autograd.grad(y, layer.weight, torch.eye(4), is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack(one_by_one))
