"""`fit`: what the net learns, and the batches it gets."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onebit.data import Augmentation, Dataset, Split
from onebit.evaluation.losses import cross_entropy
from onebit.evaluation.modes import evaluate
from onebit.layers import binary_layers
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import IRNet
from onebit.train.loop import fit
from support.toy_training import DATA, EPOCHS, Case, Recorder, build, flat, numbered, toy_data


# ------------------------------------------------------------------------------------------------------------ learning
@pytest.mark.parametrize(
    "case",
    [
        Case("sign"),
        Case("stochastic"),
        Case("ste_sign", inputs="ste_sign"),
        Case(None),
        Case("sign", loss="cross_entropy", precision="bf16"),
        Case("sign", loss="hinge", optimizer="sgd", lr=0.5),
    ],
    ids=str,
)
def test_it_learns_the_toy_patterns(case: Case) -> None:
    data = toy_data(512, 128, 128)
    toy = build(dataclasses.replace(case, schedule=None))
    before = evaluate(toy.model, data.test).accuracy
    history = toy.fit(data, epochs=6)
    score = evaluate(toy.model, data.test)
    assert score.weights == ("real" if case.quantizer is None else "binary")
    assert before < 0.6
    assert score.accuracy > 0.93
    assert history.rows[-1].train_loss < 0.7 * history.rows[0].train_loss
    assert not toy.model.training


def test_settings_of_the_step_reach_it() -> None:
    states = []
    for settings in ({}, {"accumulate": 3}, {"clip_grad_norm": 0.01}, {"clip_grad_value": 1e-3}, {"samples": 2}):
        toy = build(Case("stochastic", optimizer="sgd"))
        toy.fit(DATA, epochs=1, **settings)
        states.append(flat(toy.model.state_dict()))
    assert all(one != other for i, one in enumerate(states) for other in states[:i])


def test_a_loss_may_refer_to_a_variable_without_a_value(tmp_path: Path) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets) if targets is not None else later

    toy = build(Case("sign"))
    history = fit(toy.model, DATA, optimizer=toy.optimizer, loss=loss, epochs=1, folder=tmp_path / "run")
    later = len(history.rows)
    assert later == 1


@pytest.mark.parametrize("copied", [False, True])
def test_latents_stay_in_the_clip_also_with_a_copied_optimizer(copied: bool) -> None:
    toy, largest = build(Case("sign", lr=0.5, schedule=None)), []
    if copied:
        toy.model, toy.optimizer = copy.deepcopy((toy.model, toy.optimizer))

    def look(done: int, total: int) -> None:
        largest.append(max(float(layer.weight.detach().abs().max()) for _, layer in binary_layers(toy.model)))

    toy.fit(DATA, on_step=look)
    assert max(largest) == 1.0


# ------------------------------------------------------------------------------------------------------------- batches
def recorded(count: int, **options: Any) -> list[list[int]]:
    torch.manual_seed(0)
    model = Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    fit(model, numbered(count), optimizer, **({"batch_size": min(4, count), "epochs": 1} | options))
    return model.batches


@pytest.mark.parametrize(
    ("count", "sizes"), [(12, [4, 4, 4]), (13, [4, 4, 5]), (14, [4, 4, 4, 2]), (5, [5]), (3, [3]), (1, [1])]
)
def test_every_image_is_shown_once_an_epoch_and_none_alone(count: int, sizes: list[int]) -> None:
    batches = recorded(count)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(i for batch in batches for i in batch) == list(range(count))


def test_the_seed_gives_each_epoch_another_order() -> None:
    first, again, other = (recorded(300, epochs=2, batch_size=300, seed=seed) for seed in (0, 0, 1))
    assert first == again
    orders = [first[0], first[1], other[0], other[1], list(range(300))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert all(sorted(order) == list(range(300)) for order in orders)


@pytest.mark.parametrize(("epochs", "sizes"), [(0.25, [4]), (1.5, [4, 4, 4, 5, 4, 4])])
def test_fractional_epochs(epochs: float, sizes: list[int]) -> None:
    batches = recorded(17, epochs=epochs)
    assert [len(batch) for batch in batches] == sizes
    whole = recorded(17, epochs=math.ceil(epochs))
    assert batches == whole[: len(batches)]  # the same images in the same order


def test_the_log_of_a_fraction_of_an_epoch_counts_what_was_shown() -> None:
    model = Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rows = fit(model, numbered(17, 6), optimizer, epochs=1.5, batch_size=4, precision="fp32").rows
    assert [(row.epoch, row.epochs, row.step) for row in rows] == [(1, 2, 4), (2, 2, 6)]
    shown = torch.tensor([i for batch in model.batches[4:] for i in batch])
    x = torch.stack([shown % 256, shown // 256], 1).float()
    with torch.no_grad():
        logits = model.linear(x)
    assert rows[1].train_error == pytest.approx(float((logits.argmax(1) != shown % 2).double().mean()))
    assert rows[1].train_loss == pytest.approx(float(cross_entropy(logits, shown % 2)), rel=1e-5)


@pytest.mark.parametrize("samples", [3, 7])
def test_the_error_of_right_answers_is_exactly_0(samples: int, tmp_path: Path) -> None:
    """Each sample of the weights counts a share of the answers, and such shares are rounded."""
    images = np.zeros((64, 1, 2, 2), np.uint8)
    split = Split(images, np.zeros(64, np.int64))
    data = Dataset("zeros", split, split[:0], split, classes=("0", "1"))
    model = nn.Sequential(nn.Flatten(), AlwaysFirst())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fit(model, data, optimizer, epochs=1, batch_size=32, samples=samples, folder=tmp_path)
    rows = fit(model, data, optimizer, epochs=1, batch_size=32, samples=samples, folder=tmp_path, resume=True)
    assert [row.train_error for row in rows] == [0.0]


class AlwaysFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), 2)


def test_augmentation_changes_training_images_only() -> None:
    images = np.zeros((40, 1, 4, 4), np.uint8)
    images[:, :, :, 0] = 255  # a bar on the left
    split = Split(images, np.zeros(40, np.int64))
    data = Dataset("bars", split, split, split, ("bar",))
    seen: dict[bool, set[str]] = {True: set(), False: set()}

    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.uint8
            seen[self.training] |= {str(image.tolist()) for image in x[:, 0]}
            return self.linear(x.flatten(1).float())

    model = Look()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fit(model, data, optimizer, epochs=1, batch_size=20, augmentation=Augmentation(flip=True))
    bar, mirrored = str([[255, 0, 0, 0]] * 4), str([[0, 0, 0, 255]] * 4)
    assert seen == {True: {bar, mirrored}, False: {bar}}
    assert (images[:, :, :, 0] == 255).all()


@pytest.mark.parametrize("within", ["nothing", "a user's autocast"])
def test_each_step_in_bf16_uses_the_current_real_weights(within: str) -> None:
    toy, steps = build(Case(precision="bf16")), []

    def check(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        weight, bias = layer.weight.detach().bfloat16(), None if layer.bias is None else layer.bias.detach().bfloat16()
        assert torch.equal(output, nn.functional.linear(inputs[0].detach().bfloat16(), weight, bias))
        steps.append(weight.flatten()[0].item())

    toy.model.linear2.weight_quantizer = None
    toy.model.linear2.register_forward_hook(check)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=within != "nothing"):
        assert toy.fit(DATA).precision == "bf16"
    assert len(set(steps)) > EPOCHS  # the weights change
    assert all(p.dtype == torch.float32 for p in toy.model.parameters())


def test_the_schedule_moves_once_a_step_and_keeps_the_factor_of_each_group() -> None:
    toy = build(Case("sign", schedule=None))
    toy.optimizer = clip_latents_(torch.optim.Adam(latent_groups(toy.model, lr=0.1, lr_scale="glorot")))
    first = [group["lr"] for group in toy.optimizer.param_groups]
    toy.schedule = torch.optim.lr_scheduler.LambdaLR(toy.optimizer, lambda step: 0.5**step)
    rates = []
    history = toy.fit(DATA, on_step=lambda done, total: rates.append([g["lr"] for g in toy.optimizer.param_groups]))
    assert len(rates) == EPOCHS * 4
    assert len(set(first)) > 1
    for step, now in enumerate(rates, 1):
        assert now == pytest.approx([rate * 0.5**step for rate in first], rel=1e-12)
    assert [row.lr for row in history] == pytest.approx([0.1 * 0.5**step for step in (4, 8, 12)])


def test_quantizers_get_the_progress_before_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(IRNet, "set_progress", lambda quantizer, progress: seen.append(progress))
    toy = build(Case("irnet"))
    layers, steps = sum(isinstance(module, IRNet) for module in toy.model.modules()), EPOCHS * 4
    toy.fit(DATA)
    assert seen == [step / steps for step in range(steps) for _ in range(layers)]
