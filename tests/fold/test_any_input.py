"""Inputs of any shape and dtype, their preprocessing inside and outside of the model, and several outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import OnebitError, UsageError
from onebit.fold import pack
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryLinear, Normalize
from onebit.packed import dumps, loads
from onebit.quantizers import SteSign
from support.fold_nets import Model, answers, assert_answers, inputs_of, kinds


class Foreign(nn.Module):
    """torchvision's Normalize, as a person writes it: buffers and arithmetic."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.3]).view(1, 3, *[1] * (rank - 1)))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25]).view(3, *[1] * (rank - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.float32) / 255 - self.mean) / self.std


def apply_both(m: Any, x: Tensor) -> Any:
    return m.net(m.begin(x))


def net_of(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    size = int(np.prod(shape))
    return nn.Sequential(
        nn.Flatten(), BinaryLinear(size, 16), nn.BatchNorm1d(16), nn.ReLU(), BinaryLinear(16, 4)
    ).eval()


@pytest.mark.parametrize(("shape", "count"), [((7,), 1), ((3, 10), 2), ((3, 6, 5), 5), ((2, 3, 4, 5), 1)])
def test_any_shape_and_batch_is_an_example(shape: tuple[int, ...], count: int) -> None:
    net, inputs = net_of(shape), inputs_of(shape)
    packed = pack(net, inputs[:count])
    assert (packed.input.shape, packed.input.dtype, packed.input.coding) == (shape, "float32", "values")
    assert_answers(net, packed, inputs)
    assert dumps(packed) == dumps(pack(net, torch.from_numpy(inputs[:count])))
    assert_answers(net, loads(dumps(packed)), inputs)


@pytest.mark.parametrize(
    "begin",
    [
        lambda x: x.float().div_(255).sub_(0.5).mul_(2),
        lambda x: torch.div(x, 255) - 0.13,
        lambda x: (x.type(torch.float32) - 127.5) / 60,
        lambda x: 2 * (x.flatten(1) / 255) - 1,
        lambda x: x.int().long().float() - 100,
        Foreign(3),
        Normalize([0.4, 0.5, 0.3], [0.2, 0.3, 0.25]),
        Normalize(0.4, [0.2, 0.3, 0.25]),
        Normalize(0.0, 1.0),
    ],
)
def test_preprocessing_in_the_model_is_found(begin: Callable[[Tensor], Tensor]) -> None:
    inputs = inputs_of((3, 6, 5), "uint8")
    model = Model(apply_both, begin=begin, net=net_of((3, 6, 5)))
    packed = pack(model, inputs)
    assert (packed.input.dtype, packed.input.coding) == ("uint8", "values")
    assert_answers(model, packed, inputs)
    assert dumps(packed) == dumps(pack(model, input_shape=(3, 6, 5)))


def test_scaled_pixels_stay_integers_up_to_the_threshold() -> None:
    torch.manual_seed(0)
    for begin in (lambda x: x / 255, lambda x: x.float() * -2, Normalize(0, 0.5)):
        first, norm = BinaryConv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        body = nn.Sequential(first, norm, SteSign(), nn.Flatten(), BinaryLinear(240, 3))
        with torch.no_grad():
            norm.running_mean.normal_(0, 1)
        model = Model(apply_both, begin=begin, net=body).eval()
        packed = pack(model, inputs_of((3, 6, 5), "uint8"))
        assert kinds(packed) == ["Conv", "Threshold", "Flatten", "Dense"]
        assert_answers(model, packed, inputs_of((3, 6, 5), "uint8", count=40))


def test_a_scale_is_not_deferred_past_a_padded_border() -> None:
    torch.manual_seed(0)
    body = BinaryConv2d(3, 4, 3, padding=1, padding_value=-1)
    model = Model(lambda m, x: m.body(x / 255), body=body).eval()
    packed = pack(model, inputs_of((3, 6, 5), "uint8"))
    assert kinds(packed) == ["Affine", "Conv"]
    assert_answers(model, packed, inputs_of((3, 6, 5), "uint8"))


@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 10), (3,)])
def test_preprocessing_outside_the_model_is_packed_with_it(shape: tuple[int, ...]) -> None:
    net, begin = net_of(shape), Normalize([0.4, 0.5, 0.3], [0.2, 0.3, 0.25])
    pixels = inputs_of(shape, "uint8")
    floats = begin(torch.from_numpy(pixels))
    packed = pack(net, floats, preprocess=begin)
    assert packed.input.dtype == "uint8"
    assert dumps(packed) == dumps(pack(net, pixels, preprocess=begin))
    assert dumps(packed) == dumps(pack(nn.Sequential(begin, net), pixels))
    with torch.no_grad():
        np.testing.assert_allclose(answers(packed, pixels), net(floats).numpy(), rtol=1e-4, atol=1e-4)
        wrong = answers(pack(net, floats, preprocess=Normalize(0.0, 1.0)), pixels)
        assert np.abs(wrong - net(floats).numpy()).max() > 1
    raw = inputs_of(shape)
    assert_answers(nn.Sequential(begin, net), pack(nn.Sequential(begin, net), raw), raw)


def test_wrong_examples_and_preprocessing() -> None:
    net, x = net_of((3,)), inputs_of((3,))
    with pytest.raises(UsageError, match="float64"):
        pack(net, x.astype(np.float64))
    with pytest.raises(OnebitError):
        pack(net, x[0])
    with pytest.raises(UsageError, match="pixels"):
        pack(net, x, preprocess=Normalize(33.3, 78.6))


def test_normalize_computes_what_torchvision_does() -> None:
    pixels = torch.from_numpy(inputs_of((3, 6, 5), "uint8"))
    torch.testing.assert_close(Normalize([0.4, 0.5, 0.3], [0.2, 0.3, 0.25])(pixels), Foreign(3)(pixels))
    features = torch.tensor([[57.0, 3.0]])
    torch.testing.assert_close(Normalize([50.0, 1.0], [7.0, 2.0])(features), torch.tensor([[1.0, 1.0]]))
    with pytest.raises(UsageError, match="pixels"):
        Normalize(33.3, 78.6)(pixels)


def trunk_and_head(m: Any, x: Tensor) -> Any:
    y = F.relu(m.norm(m.trunk(x)) - 0.3)
    return m.answer(y, m.head(y.flatten(1) - 0.2))


@pytest.mark.parametrize(
    "answer",
    [
        lambda y, z: [z, y.mean(2)],
        lambda y, z: {"logits": z, "features": y},
        lambda y, z: (z, z, y * z.sum(1, keepdim=True)[:, :, None]),
        lambda y, z: {"a": y.sum((1, 2)), "b": z.unbind(1)[0]},
    ],
)
def test_several_outputs(answer: Callable[[Tensor, Tensor], Any]) -> None:
    torch.manual_seed(0)
    parts = {"trunk": BinaryConv1d(3, 4, 3), "norm": nn.BatchNorm1d(4)}
    head = BinaryLinear(32, 2, input_quantizer="ste_sign")
    model, inputs = Model(trunk_and_head, **parts, head=head, answer=answer).eval(), inputs_of((3, 10))
    packed = pack(model, inputs)
    assert_answers(model, packed, inputs)
    assert_answers(model, loads(dumps(packed)), inputs)


def test_the_input_itself_as_output_is_refused() -> None:
    for begin in (lambda x: (x, F.relu(x)), lambda x: (x.unsqueeze(1).squeeze(1), F.relu(x))):
        with pytest.raises(OnebitError, match="input"):
            pack(Model(lambda m, x, begin=begin: (*begin(x), m.fc(x)), fc=BinaryLinear(3, 3)), inputs_of((3,)))
