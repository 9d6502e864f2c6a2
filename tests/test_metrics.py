"""Flips, saturation, the summary, and accuracy against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from sklearn.metrics import accuracy_score
from torch import nn

from onebit.errors import UsageError
from onebit.evaluation import score_logits
from onebit.layers import BinaryLinear, binary_layers
from onebit.metrics import binary_signs, flip_ratio, saturation, summary
from onebit.models import MLP


def net(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return MLP((16, 12, 4), **options)  # type: ignore[arg-type]


def test_signs_are_read_from_what_ships() -> None:
    model = net()
    signs = binary_signs(model)
    assert list(signs) == ["linear1", "linear2"]
    assert torch.equal(signs["linear1"], model.linear1.weight >= 0)
    assert binary_signs(net(weight_quantizer=None)) == {}


def test_the_flip_ratio_sums_counts_before_it_divides() -> None:
    model = net()
    before = binary_signs(model)
    with torch.no_grad():
        model.linear1.weight[0, :3] *= -1
        model.linear2.weight[:, 0] *= -1
    assert flip_ratio(before, binary_signs(model)) == (3 + 4) / (16 * 12 + 12 * 4)
    assert flip_ratio(before, before) == 0
    assert flip_ratio({}, {}) == 0


def test_a_latent_that_only_moves_is_no_flip() -> None:
    model = net()
    before = binary_signs(model)
    with torch.no_grad():
        model.linear1.weight.mul_(0.5)
    assert flip_ratio(before, binary_signs(model)) == 0


@pytest.mark.parametrize("value", [1.0, 0.3, "glorot"])
def test_saturation_counts_latents_clipped_to_their_bound(value: float | str) -> None:
    model = net(value=value)
    assert saturation(model) == 0
    for _, layer in binary_layers(model):
        assert layer.weight_quantizer is not None
        bound = layer.weight_quantizer.latent_bound
        assert bound is not None
        with torch.no_grad():
            layer.weight[0].fill_(9).clamp_(-bound, bound)  # as the latent clip does
            layer.weight[1].fill_(-9).clamp_(-bound, bound)
    assert saturation(model) == (2 * 16 + 2 * 12) / (16 * 12 + 12 * 4)


def test_real_layers_do_not_saturate() -> None:
    assert saturation(net(weight_quantizer=None)) == 0


@pytest.mark.parametrize("classes", [2, 10])
def test_accuracy_is_that_of_scikit_learn_and_torchmetrics(classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(317, classes, generator=generator)
    labels = torch.randint(0, classes, (317,), generator=generator)
    score = score_logits(logits, labels, loss="cross_entropy", weights="binary", bn="trained")
    predicted = logits.argmax(1)
    assert score.accuracy == accuracy_score(labels.numpy(), predicted.numpy())
    micro = tm.multiclass_accuracy(logits, labels, num_classes=classes, average="micro")
    assert score.accuracy == pytest.approx(float(micro), rel=1e-6)
    confusion = tm.multiclass_confusion_matrix(logits, labels, num_classes=classes)
    assert score.correct == int(confusion.trace())
    assert score.count == int(confusion.sum()) == 317
    assert score.error == 1 - score.accuracy


def test_the_summary_counts_weights_bytes_and_macs() -> None:
    layers = {layer.name: layer for layer in summary(net()).layers}
    first, norm = layers["linear1"], layers["norm1"]
    assert (first.binary_weights, first.real_parameters, first.binary_macs, first.real_macs) == (192, 0, 192, 0)
    assert (first.bytes_packed, first.bytes_float32) == (24, 768)
    assert (norm.binary_weights, norm.real_parameters) == (0, 4 * 12)  # weight, bias, mean, variance
    total = summary(net())
    assert total.total("binary_weights") == 192 + 48
    assert "240" in str(total).splitlines()[-1]


def test_the_summary_of_real_layers_has_real_macs() -> None:
    layers = {layer.name: layer for layer in summary(net(real_last=True)).layers}
    assert (layers["linear2"].binary_macs, layers["linear2"].real_macs) == (0, 48)
    assert layers["linear1"].binary_macs == 192


def test_a_layer_that_acts_on_every_position_counts_each() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = BinaryLinear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(x.float().flatten(1, 2))  # (N, 4, 5) -> (N, 4, 3)

    assert summary(Rows(), input_shape=(1, 4, 5)).layers[0].binary_macs == 4 * 3 * 5


def test_the_summary_leaves_the_model_as_it_was() -> None:
    model = net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    summary(model)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_foreign_model_needs_a_shape() -> None:
    with pytest.raises(UsageError, match="input_shape"):
        summary(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


def test_counts_are_plain_numbers() -> None:
    assert isinstance(flip_ratio({"a": torch.ones(2)}, {"a": torch.zeros(2)}), float)
    assert np.isclose(flip_ratio({"a": torch.ones(2)}, {"a": torch.zeros(2)}), 1)
