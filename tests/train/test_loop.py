"""`fit`: what it learns, what it shows the net, what it writes, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_training import CASES, DATA, EPOCHS, Case, Stop, build, flat, stop_at_step, toy_data

import onebit.files
from onebit.data import Augmentation, Dataset, Split
from onebit.errors import OnebitError, TrainingError, UsageError
from onebit.evaluation import evaluate
from onebit.layers import binarize_, binary_layers
from onebit.losses import cross_entropy
from onebit.optim import clip_latents_, latent_groups
from onebit.train.history import EpochLog
from onebit.train.loop import fit
from onebit.train.weights import load_weights, read_weights


# ------------------------------------------------------------------------------------------------------------ learning
@pytest.mark.parametrize(
    "case",
    [
        Case("sign"),
        Case("stochastic"),
        Case("ste_sign"),
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


def test_a_model_of_somebody_else_trains_here_too(tmp_path: Path) -> None:
    """No `input_shape`, its own cast of the pixels, all layers under `self.model`, one of them used twice."""

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shared = nn.Linear(32, 32)
            self.model = nn.Sequential(
                nn.Linear(64, 32), nn.LayerNorm(32), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(32, 4)
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x.flatten(1).float() / 128 - 1)

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = binarize_(Foreign(), weight_quantizer="sign", where=lambda name, layer: name != "model.6")
        return model, clip_latents_(torch.optim.AdamW(latent_groups(model, lr=0.01), lr=0.01))

    model, optimizer = make()
    fit(model, DATA, optimizer, epochs=10, batch_size=16, folder=tmp_path, precision="fp32")
    assert evaluate(model, DATA.train).accuracy > 0.9
    again, optimizer = make()
    fit(again, DATA, optimizer, epochs=10, batch_size=16, folder=tmp_path, precision="fp32", resume=True)
    assert flat(again.state_dict()) == flat(model.state_dict())
    third, _ = make()
    load_weights(third, read_weights(tmp_path / "final.safetensors")[0], source="final")
    assert flat(third.state_dict()) == flat(model.state_dict())


def test_latents_stay_in_the_clip_during_training() -> None:
    toy, largest = build(Case("sign", lr=0.5)), []

    def look(done: int, total: int) -> None:
        largest.append(max(float(layer.weight.detach().abs().max()) for _, layer in binary_layers(toy.model)))

    toy.fit(DATA, on_step=look)
    assert max(largest) == 1.0


def test_the_clip_is_put_back_on_a_copied_optimizer() -> None:
    toy = build(Case("sign", lr=0.5))
    toy.model, toy.optimizer, toy.schedule = copy.deepcopy((toy.model, toy.optimizer, None))
    toy.fit(DATA)
    assert max(float(layer.weight.detach().abs().max()) for _, layer in binary_layers(toy.model)) == 1.0


# ------------------------------------------------------------------------------------------------------ what is shown
class Recorder(nn.Module):
    """Writes down which images it is shown: each carries its number in two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.batches: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batches.append((x[:, 0, 0, 0].long() + 256 * x[:, 0, 0, 1].long()).tolist())
        return self.linear(x.flatten(1).float())


def numbered(count: int, validation: int = 0) -> Dataset:
    numbers = np.arange(count + validation)
    images = np.stack([numbers % 256, numbers // 256], 1).astype(np.uint8).reshape(-1, 1, 1, 2)
    split = Split(images, numbers % 2)
    return Dataset("numbered", split[:count], split[count:], split[:0], ("even", "odd"))


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


def test_each_epoch_has_its_own_order_from_the_seed() -> None:
    first, again, other = (recorded(300, epochs=2, batch_size=300, seed=seed) for seed in (0, 0, 1))
    assert first == again
    orders = [first[0], first[1], other[0], other[1], list(range(300))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert all(sorted(order) == list(range(300)) for order in orders)


@pytest.mark.parametrize(
    ("epochs", "sizes"),
    [(0.5, [4, 4]), (1.5, [4, 4, 4, 5, 4, 4]), (0.25, [4]), (2, [4, 4, 4, 5] * 2)],
)
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


def test_images_and_labels_stay_together() -> None:
    """A net that sees only the number can tell the label of every image it is shown."""
    seen = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels.tolist())
        return cross_entropy(logits, labels)

    batches = recorded(50, loss=loss, epochs=2)
    assert [[i % 2 for i in batch] for batch in batches] == seen


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
    fit(
        model,
        data,
        torch.optim.SGD(model.parameters(), lr=0.0),
        epochs=1,
        batch_size=20,
        augmentation=Augmentation(flip=True),
    )
    bar, mirrored = str([[255, 0, 0, 0]] * 4), str([[0, 0, 0, 255]] * 4)
    assert seen == {True: {bar, mirrored}, False: {bar}}
    assert (images[:, :, :, 0] == 255).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_is_that_of_the_products(precision: str) -> None:
    toy, found = build(Case(precision=precision)), set()
    toy.model.linear2.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    toy.fit(DATA)
    assert found == {torch.bfloat16 if precision == "bf16" else torch.float32}
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


# ------------------------------------------------------------------------------------------------------ what is logged
def test_the_log_holds_what_was_measured(tmp_path: Path) -> None:
    toy, rows = build(Case("sign")), []
    history = toy.fit(DATA, tmp_path, on_epoch=rows.append)
    assert rows == history.rows
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [dataclasses.asdict(row) for row in rows]
    assert set(lines[0]) == {
        "epoch", "epochs", "step", "train_loss", "train_error", "validation_loss", "validation_error",
        "validation_weights", "lr", "seconds", "flip_ratio", "saturation", "images_per_second", "layers",
        "validation_mean_iou",
    }  # fmt: skip
    assert [row.epoch for row in rows] == [1, 2, 3]
    for row in rows:
        assert 0 < row.flip_ratio < 1
        assert 0 <= row.saturation < 1
        assert row.seconds > 0
        assert row.images_per_second > 129 / row.seconds  # training alone is shorter


def test_the_flip_ratio_of_an_epoch_is_since_the_epoch_before() -> None:
    toy, signs = build(Case("sign", lr=0.05)), []

    def read(*_: object) -> None:
        signs.append(torch.cat([(layer.weight.detach() >= 0).flatten() for _, layer in binary_layers(toy.model)]))

    read()
    history = toy.fit(DATA, on_epoch=read)
    expected = [float((a != b).double().mean()) for a, b in itertools.pairwise(signs)]
    assert [row.flip_ratio for row in history] == pytest.approx(expected)


def test_without_a_validation_split_nothing_is_chosen(tmp_path: Path) -> None:
    history = build(Case("sign")).fit(toy_data(validation=0), tmp_path)
    assert all(row.validation_error is None and row.validation_loss is None for row in history)
    assert history.best is history.rows[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.safetensors", "last.ckpt", "metrics.jsonl"]


@pytest.mark.parametrize(("quantizer", "mode"), [("sign", "binary"), ("stochastic", "binary"), (None, "real")])
def test_validation_is_the_evaluation_of_the_weights_that_ship(quantizer: str | None, mode: str) -> None:
    toy = build(Case(quantizer))
    scores = []

    def check(row: EpochLog) -> None:
        score = evaluate(
            toy.model,
            DATA.validation,
            weights="binary",
            loss="squared_hinge",
            train=DATA.train,
            bn="reestimate" if quantizer == "stochastic" else "trained",
        )
        scores.append((score.loss, score.error, score.weights))
        toy.model.train()

    history = toy.fit(DATA, on_epoch=check)
    assert [(row.validation_loss, row.validation_error, row.validation_weights) for row in history] == scores
    assert {row.validation_weights for row in history} == {mode}


@pytest.mark.parametrize("name", ["sign", "stochastic"])
def test_validation_leaves_batch_norm_as_training_had_it(name: str) -> None:
    states = []
    for data in (DATA, dataclasses.replace(DATA, validation=DATA.validation[:0])):
        toy, after = build(CASES[name]), []
        toy.fit(data, on_epoch=lambda row, toy=toy, after=after: after.append(flat(toy.model.state_dict())))
        states.append(after)
    assert states[0] == states[1]


def test_after_random_training_batch_norm_belongs_to_the_signs() -> None:
    toy, trained = build(Case("stochastic")), {}
    toy.fit(DATA, on_epoch=lambda row: trained.update(flat(toy.model.state_dict())))
    assert flat(toy.model.state_dict()) != trained
    stored = evaluate(toy.model, DATA.test, bn="trained")
    again = evaluate(toy.model, DATA.test, bn="reestimate", train=DATA.train)
    assert (stored.correct, stored.loss) == (again.correct, again.loss)


# ----------------------------------------------------------------------------------------------------- what is written
@pytest.mark.parametrize("name", ["sign", "stochastic", "own generator", "real", "sign activations"])
def test_the_best_weights_are_those_of_the_best_epoch_and_reach_its_error_again(tmp_path: Path, name: str) -> None:
    case = dataclasses.replace(CASES[name], lr=0.2, schedule=None)  # so high that the last epoch is not the best
    history = build(case).fit(DATA, tmp_path, epochs=6, facts={"recipe": {"name": "toy"}})
    errors = [row.validation_error for row in history]
    assert history.best.epoch == errors.index(min(errors)) + 1 != 6
    state, facts = read_weights(tmp_path / "best.safetensors")
    assert facts == {
        "recipe": {"name": "toy"},
        "epoch": history.best.epoch,
        "validation_error": history.best.validation_error,
    }
    fresh = build(case, seed=5).model
    load_weights(fresh, state, source="best")
    score = evaluate(fresh, DATA.validation, loss="squared_hinge" if case.loss == "squared_hinge" else "cross_entropy")
    assert (score.error, score.loss) == (history.best.validation_error, history.best.validation_loss)


def test_of_equal_epochs_the_first_is_kept(tmp_path: Path) -> None:
    model = Recorder()
    data = numbered(16, 8)
    history = fit(model, data, torch.optim.SGD(model.parameters(), lr=0.0), epochs=3, batch_size=8, folder=tmp_path)
    assert len({row.validation_error for row in history}) == 1
    assert history.best.epoch == 1
    assert read_weights(tmp_path / "best.safetensors")[1]["epoch"] == 1


def test_the_final_weights_are_those_of_the_model(tmp_path: Path) -> None:
    toy = build(Case("stochastic"))
    toy.fit(DATA, tmp_path, facts={"a": 1})
    state, facts = read_weights(tmp_path / "final.safetensors")
    assert facts == {"a": 1, "epoch": EPOCHS}
    assert flat(state) == flat(dict(sorted(toy.model.state_dict().items())))


def test_no_folder_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build(Case("sign")).fit(DATA)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- divergence
def loss_that_breaks(at: int, value: float) -> Any:
    """cross-entropy until call `at` in training, then `value`."""
    calls = 0

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += logits.requires_grad
        found = cross_entropy(logits, labels)
        return found * 0 + value if calls == at and logits.requires_grad else found

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("at", "epoch"), [(1, 1), (4, 1), (5, 2), (11, 3)])
def test_a_loss_that_is_no_number_stops_at_its_epoch_and_step(
    tmp_path: Path, value: float, at: int, epoch: int
) -> None:
    toy, kept = build(Case("sign")), [b""]
    with pytest.raises(TrainingError) as caught:
        toy.fit(
            DATA,
            tmp_path,
            loss=loss_that_breaks(at, value),
            on_epoch=lambda row: kept.append((tmp_path / "last.ckpt").read_bytes()),
        )
    text = str(caught.value)
    assert f"the loss became {value} in epoch {epoch}, step {at}: lower the learning rate" in text
    assert "\n" not in text
    assert len(kept) == epoch
    if epoch > 1:
        assert text.endswith(f"; {tmp_path / 'last.ckpt'} is kept")
        assert (tmp_path / "last.ckpt").read_bytes() == kept[-1]
    else:
        assert not (tmp_path / "last.ckpt").exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == epoch - 1


def test_a_long_epoch_is_stopped_before_its_end() -> None:
    steps = []
    with pytest.raises(TrainingError, match=r"epoch 1, step 7:"):
        build(Case("sign", schedule=None)).fit(
            toy_data(400, 8), batch_size=2, loss=loss_that_breaks(7, math.nan), on_step=lambda *s: steps.append(s)
        )
    assert len(steps) == 50


def test_the_first_of_several_bad_steps_is_named() -> None:
    toy = build(Case("sign", schedule=None))
    with torch.no_grad():
        toy.model.norm1.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 1, step 1:"):
        toy.fit(DATA)


@pytest.mark.parametrize("quantizer", ["sign", None])
def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path, quantizer: str | None) -> None:
    """The sign of NaN is +1: a binary net may go on with a finite loss. Here only the gradient breaks, in epoch 2."""
    calls = 0

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += logits.requires_grad
        found = cross_entropy(logits, labels)
        if calls == 8 and logits.requires_grad:
            found = found + (logits - logits.detach()).abs().sum().sqrt()  # 0, with a gradient of 0/0
        return found

    toy = build(Case(quantizer))
    with pytest.raises(TrainingError, match=r"linear1\.weight holds .* in epoch 2, step 8: .*last\.ckpt is kept"):
        toy.fit(DATA, tmp_path, loss=loss)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert held["rows"][-1]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in held["model"].values())


# ----------------------------------------------------------------------------------------------------- refusals, Ctrl-C
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "nothing to train: 129 training images, 0 epochs"),
        ({"epochs": 0.01}, "nothing to train: 129 training images, 0.01 epochs"),
        ({"epochs": -1}, "nothing to train"),
        ({"epochs": math.nan}, "nothing to train"),
        ({"epochs": math.inf}, "nothing to train"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"loss": "hing"}, "did you mean 'hinge'?"),
    ],
)
def test_wrong_options_are_one_clear_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(Case("sign")).fit(DATA, tmp_path, **options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_images_no_training() -> None:
    with pytest.raises(UsageError, match="nothing to train: 0 training images"):
        build(Case("sign")).fit(dataclasses.replace(DATA, train=DATA.train[:0]))


def test_a_disk_that_is_full_is_one_clear_line_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        build(Case("sign")).fit(DATA, tmp_path, on_step=stop_at_step(5))
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(path: Path, flags: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onebit.files, "_fsync", full)
    with pytest.raises(OnebitError, match="No space left on device") as caught:
        build(Case("sign")).fit(DATA, tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_ctrl_c_during_a_write_ends_the_run_after_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []

    def interrupted(path: Path, flags: int) -> None:
        writes.append(path.suffix)
        if writes.count(".ckpt") == 2 and path.suffix == ".ckpt":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(onebit.files, "_fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(Case("sign")).fit(DATA, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["rows"][-1]["epoch"] == 2
    assert not list(tmp_path.glob(".onebit-*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_progress_is_told_step_by_step() -> None:
    told = []
    build(Case("sign")).fit(DATA, on_step=lambda *step: told.append(step))
    assert told == [(step, 12) for step in range(1, 13)]


def test_a_net_without_binary_layers_neither_flips_nor_saturates() -> None:
    history = build(CASES["real"]).fit(DATA)
    assert all(row.flip_ratio == row.saturation == 0 for row in history)
