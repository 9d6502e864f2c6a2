"""What single weight quantizers promise beyond the contract: arguments, schedules, scales, also per group; packing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import onebit
from onebit.errors import FoldError, UsageError
from onebit.layers import BinaryConv2d, BinaryLinear, binary_layers
from onebit.quantizers import (
    INPUT_QUANTIZERS,
    WEIGHT_QUANTIZERS,
    AdaBin,
    BinaryWeight,
    EdeSign,
    IRNet,
    ReCU,
    Sign,
    SwishSign,
)
from support.tensors import normal

NEW = ["xnor", "magnitude_aware", "swish_sign", "irnet", "recu", "adabin"]


def small_net(weight_quantizer: str | None) -> Any:
    return onebit.create_model("mlp", widths=(16, 12, 3), input_shape=(1, 4, 4), weight_quantizer=weight_quantizer)


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        *((kind, "value", (0.0, -1.0, math.nan, math.inf)) for kind in (Sign, WEIGHT_QUANTIZERS["stochastic"])),
        (WEIGHT_QUANTIZERS["ste_sign"], "clip_value", (0.0, -1.0, math.nan, math.inf)),
        (WEIGHT_QUANTIZERS["concrete_sign"], "temperature", (0.0, -1.0, math.nan, math.inf)),
        *((SwishSign, "beta", (0.0,)), (IRNet, "t_start", (-1.0,)), (EdeSign, "t_end", (math.inf,))),
        *((AdaBin, "t_end", (0.0,)), (ReCU, "tau_start", (0.5,)), (ReCU, "tau_end", (1.0, math.nan))),
        (INPUT_QUANTIZERS["uint4"], "range", ("lsp",)),
    ],
)
def test_wrong_arguments_are_refused(kind: type, name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=name):
            kind(**{name: value})


@pytest.mark.parametrize(("assign", "progress"), [(False, 0.0), (False, 0.5), (True, 0.5)])
def test_a_model_from_meta_has_its_scheduled_numbers(assign: bool, progress: float) -> None:
    def build() -> torch.nn.Sequential:
        return torch.nn.Sequential(
            BinaryLinear(6, 5, weight_quantizer="irnet", input_quantizer="irnet"),
            BinaryLinear(5, 4, weight_quantizer="recu"),
        )

    model = build()
    with torch.device("meta"):
        empty = build()
    for one in (model, empty):
        onebit.set_progress(one, progress)
    if not assign:
        empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict(), assign=assign)
    expected = dict(model.named_buffers())
    assert len(expected) == 3
    for name, buffer in empty.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    x = normal(3, 6)
    for one in (model, empty):
        one(x).square().sum().backward()
    assert torch.equal(empty[0].weight.grad, model[0].weight.grad)
    assert float(model.double()[0].weight_quantizer.t) == 0.1 * 100**progress  # not that of float32


@pytest.mark.parametrize("kind", [IRNet, EdeSign, AdaBin])
def test_t_grows_geometrically(kind: type[EdeSign]) -> None:
    quantizer = kind()
    for progress, t in ((0.0, 0.1), (0.25, 0.1 * 10**0.5), (0.5, 1.0), (1 - 1e-9, 10.0)):
        quantizer.set_progress(progress)
        assert quantizer.t.item() == pytest.approx(t)
    assert kind(t_start=1e-3, t_end=2.0).t.item() == pytest.approx(1e-3)


def test_tau_grows_exponentially() -> None:
    quantizer, slope = ReCU(), 0.14 / (math.e - 1)
    for progress, tau in ((0.0, 0.85), (0.5, slope * math.exp(0.5) + 0.85 - slope), (1 - 1e-9, 0.99)):
        quantizer.set_progress(progress)
        assert quantizer.tau.item() == pytest.approx(tau)


def test_a_negative_learned_scale_ships_as_opposite_signs() -> None:
    layer = BinaryConv2d(2, 3, 3, weight_quantizer="recu").eval()
    quantizer: Any = layer.weight_quantizer
    assert dict(layer.named_parameters())["weight_quantizer.scale"] is quantizer.scale
    before = layer.binary_weight()
    with torch.no_grad():
        quantizer.scale.copy_(torch.tensor([0.5, -0.5, 0.0]))
    after = layer.binary_weight()
    assert after.scale.tolist() == pytest.approx([0.5, 0.5, 1e-12])
    assert torch.equal(after.signs, before.signs * torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1))
    assert torch.equal(layer.effective_weight(), layer.dense(after))
    (layer.effective_weight() * normal(3, 2, 3, 3)).sum().backward()
    assert float(quantizer.scale.grad[2]) != 0  # a scale of 0 can leave it


def test_a_learned_scale_starts_uniform() -> None:
    quantizer = ReCU()
    quantizer.bind(torch.zeros(1000, 2))
    scale = quantizer.scale.detach()
    assert 0 <= float(scale.min()) < 0.05
    assert 0.95 < float(scale.max()) < 1


def test_a_fixed_scale_stays_1_and_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    layer = BinaryLinear(5, 4, weight_quantizer=ReCU(learn_scale=False))
    torch.manual_seed(3)
    plain = BinaryLinear(5, 4)
    assert torch.equal(layer.weight, plain.weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, weight_decay=0.1)
    before = layer.weight.detach().clone()
    (layer(normal(3, 5)) * normal(3, 4)).sum().backward()
    optimizer.step()
    quantizer: Any = layer.weight_quantizer
    assert not torch.equal(layer.weight, before)
    assert quantizer.scale.tolist() == [1.0] * 4
    assert set(layer.effective_weight().unique().tolist()) == {-1.0, 1.0}
    assert repr(quantizer) == "ReCU(tau_start=0.85, tau_end=0.99, learn_scale=False)"


@pytest.mark.parametrize("name", NEW)
def test_a_packed_net_agrees(name: str) -> None:
    torch.manual_seed(0)
    model = small_net(name)
    images = torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model(images)  # BatchNorm statistics
    with torch.no_grad():
        for _, layer in binary_layers(model):
            for parameter in layer.weight_quantizer.parameters():
                parameter.sub_(0.5)
            layer.weight[1] = 0.25  # a channel of equal latents
    assert onebit.verify(model.eval(), onebit.pack(model), images.numpy()).ok


@pytest.mark.parametrize("name", ["xnor", "magnitude_aware"])
def test_a_channel_of_zeros_has_two_values_and_finite_gradients(name: str) -> None:
    layer = BinaryLinear(4, 2, weight_quantizer=name)
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[1] = 1e-4  # what float16 holds stays
    with torch.autocast("cpu", torch.float16):
        weight = layer.effective_weight()
        layer(normal(3, 4)).float().sum().backward()
    assert weight.dtype == torch.float16
    assert (weight[0] > 0).all()
    assert torch.equal(weight[1], torch.full((4,), 1e-4).half())
    assert layer.weight.grad.isfinite().all()
    scale = WEIGHT_QUANTIZERS[name]().decompose(torch.zeros(2, 3)).scale
    assert scale.tolist() == pytest.approx([1e-12, 1e-12])


def test_a_whole_number_and_the_same_real_number_are_one_setting() -> None:
    """Checkpoints compare these texts."""
    assert repr(Sign(value=1)) == repr(Sign(value=1.0)) == "Sign(value=1)"


# ------------------------------------------------------------------------------------------- scales per group of inputs
NAMES = ["magnitude_aware", "xnor"]


def quantizer(name: str, group: int | None = None) -> Any:
    return WEIGHT_QUANTIZERS[name](group=group)


@pytest.mark.parametrize("name", NAMES)
@given(rows=st.integers(1, 5), groups=st.integers(1, 4), group=st.sampled_from([1, 2, 8, 128]), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_weight_and_gradient_follow_the_formula_in_each_group(
    name: str, rows: int, groups: int, group: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    latent, g = (torch.randn(rows, groups * group, generator=generator) for _ in range(2))
    latent.requires_grad_()
    weight = quantizer(name, group)(latent)
    weight.backward(g)
    values, given_ = latent.detach().numpy().astype(np.float64), g.numpy().astype(np.float64)
    scales = np.zeros((rows, groups))
    for row in range(rows):
        for at in range(groups):
            part = slice(at * group, (at + 1) * group)
            w, gradient = values[row, part], given_[row, part]
            scales[row, at] = np.float16(np.abs(w).mean(dtype=np.float32))
            signs = np.where(w >= 0, 1.0, -1.0)
            expected = scales[row, at] * gradient * (np.abs(w) <= 1)
            if name == "xnor":
                expected += signs * (gradient * signs).mean()
            np.testing.assert_allclose(latent.grad[row, part], expected, rtol=2e-3, atol=1e-5)
            np.testing.assert_allclose(weight.detach()[row, part], scales[row, at] * signs, rtol=1e-3)
    shipped = quantizer(name, group).decompose(latent)
    assert shipped.scale.shape == (rows, groups)
    assert torch.equal(shipped.dense(), weight)
    assert torch.equal(shipped.scale.half().float(), shipped.scale)


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_the_whole_row_differs_only_by_the_rounding_of_its_scale(name: str) -> None:
    latent = torch.randn(4, 24)
    torch.testing.assert_close(quantizer(name, 24)(latent), quantizer(name)(latent), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_groups_of_zeros_and_of_huge_latents_keep_two_finite_values(name: str) -> None:
    scale = quantizer(name, 2).decompose(torch.tensor([[0.0, 0.0, 1e9, -1e9]])).scale
    assert scale.tolist() == [[2.0**-14, 65504.0]]


def test_dense_weights_of_groups_have_the_scale_of_their_group() -> None:
    signs = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    weight = BinaryWeight(signs, torch.tensor([[2.0, 3.0]]))
    assert weight.grouped
    assert weight.dense().tolist() == [[2, -2, 3, 3]]
    assert not BinaryWeight(signs, torch.tensor([[2.0]])).grouped


def test_rows_that_are_no_multiple_of_the_group_are_refused() -> None:
    with pytest.raises(UsageError, match="group"):
        BinaryLinear(100, 3, weight_quantizer=quantizer("xnor", 8))
    with pytest.raises(UsageError, match="group"):
        BinaryConv2d(8, 3, 3, weight_quantizer=quantizer("xnor", 8))


def test_a_net_with_groups_trains_and_does_not_pack_whole() -> None:
    net = nn.Sequential(BinaryLinear(8, 16, weight_quantizer=quantizer("magnitude_aware", 4)), nn.Linear(16, 2))
    data = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32), np.arange(20) % 2
    onebit.fit(net, data, torch.optim.Adam(net.parameters()), epochs=1, batch_size=10)
    assert onebit.evaluate(net, data).count == 20
    assert "group=4" in repr(net[0])
    with pytest.raises(FoldError, match="group"):
        onebit.pack(net, torch.from_numpy(data[0]))
