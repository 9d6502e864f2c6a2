"""Segmentation: training, evaluation, packing and prediction of masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from onebit.__main__ import main
from onebit.data import VOID, Dataset, Split
from onebit.evaluation.forward import in_tiles
from onebit.evaluation.modes import evaluate
from onebit.evaluation.scores import whole_score
from onebit.layers import BinaryConv2d
from onebit.optim import latent_groups
from onebit.recipe import build_recipe
from onebit.runs.training import prepare
from onebit.train.loop import fit
from support.image_folders import write
from support.toy_training import flat, whole_and_resumed

SETTINGS: dict[str, Any] = {
    "dataset": "segmentation",
    "model": {"name": "unet", "width": 1 / 16, "weight_quantizer": "sign", "last_norm": True, "norm_momentum": 0.5},
    "optimizer": {"lr": 0.01},
    "augmentation": {"repeats": 2, "crop_size": 32, "flip": True, "elastic": 1.0, "rotate": True},
    "epochs": 2,
    "batch_size": 4,
    "threads": 1,
    "precision": "fp32",
}


def discs(count: int, side: int, seed: int) -> Split:
    """Bright discs on a dark ground, of which the masks are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    centre, radius = rng.uniform(0, side, (2, count, 3, 1, 1)), rng.uniform(4, 9, (count, 3, 1, 1))
    masks = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2).any(axis=1)
    pixels = 90 + 80 * masks + rng.integers(-30, 31, masks.shape)
    return Split(pixels[:, np.newaxis].astype(np.uint8), masks.astype(np.uint8))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset("discs", discs(8, 48, 0), discs(2, 48, 1), discs(3, 48, 2), ("ground", "disc"))


def trained(data: Dataset, **changes: Any) -> tuple[Any, Any]:
    recipe = build_recipe({**SETTINGS, **changes})
    training = prepare(recipe, data)
    return training.model, training.fit(data)


def test_bayesbinn_counts_the_pixels_over_which_its_loss_is_a_mean(data: Dataset) -> None:
    bayes = {
        "model": {**SETTINGS["model"], "weight_quantizer": "concrete_sign"},
        "optimizer": {"name": "bayesbinn", "lr": 0.01, "latent_clip": None},
    }
    labels = data.train.labels.copy()
    labels[0, :2] = VOID
    some = replace(data, train=Split(data.train.images, labels))
    for known, count in ((data, 8 * 48**2), (some, 8 * 48**2 - 2 * 48)):
        optimizer = prepare(build_recipe({**SETTINGS, **bayes}), known).optimizer
        assert optimizer.param_groups[0]["count"] == count


def test_a_net_learns_masks_and_mean_iou_selects_the_best_epoch(data: Dataset) -> None:
    model, history = trained(data, epochs=8)
    losses = [row.train_loss for row in history]
    assert losses[-1] < 0.7 * losses[0]
    score = evaluate(model, data.test)
    constant = np.bincount(data.test.labels.ravel(), minlength=2).max() / data.test.labels.size / 2
    assert score.mean_iou > constant + 0.2
    assert score.count == data.test.labels.size
    assert score.as_dict()["dice"] > score.mean_iou
    assert history.best.validation_mean_iou == max(row.validation_mean_iou for row in history)
    assert sum(row.step for row in history.rows[:1]) == 4  # 8 images, each twice, four at a time


def test_training_on_masks_resumes_bit_for_bit(data: Dataset, tmp_path: Path) -> None:
    recipe = build_recipe(SETTINGS)

    def train(folder: Path, **options: Any) -> dict[str, Any]:
        training = prepare(recipe, data)
        training.fit(data, folder=folder, **options)
        return flat(training.model.state_dict())

    whole, resumed = whole_and_resumed(train, tmp_path)
    assert resumed == whole


def test_valid_padding_trains_on_the_center_and_evaluates_in_tiles() -> None:
    data = Dataset("discs", discs(2, 100, 0), discs(1, 100, 1), discs(2, 100, 2), ("ground", "disc"))
    model = {**SETTINGS["model"], "width": 1 / 64, "padding": "valid"}
    border = {"crop_size": 188, "crop_padding": 92, "padding_mode": "reflect"}
    net, _ = trained(data, model=model, augmentation=border, epochs=1, batch_size=2)
    small = data.changed(lambda split: Split(split.images[:1, :, :8, :8], split.labels[:1, :8, :8]))
    assert evaluate(net, small, weights="latent", train=data.validation).count == 64
    tiles = in_tiles(net, data.test)
    assert tiles.images.shape[1:] == net.input_shape
    assert (tiles.labels != VOID).sum() == data.test.labels.size


class Net(torch.nn.Module):
    """A net without statistics of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = BinaryConv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x / 255.0)
        return logits


def test_a_void_batch_changes_neither_loss_nor_error_of_an_epoch(data: Dataset) -> None:
    images, labels = data.train.images[:1].repeat(4, axis=0), data.train.labels[:1].repeat(4, axis=0)
    labels[2:] = VOID
    rows = set()
    for seed in range(6):  # some orders make a batch of the two void images
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(latent_groups(model, lr=0.0))
        masked = replace(data, train=Split(images, labels), validation=data.test)
        row = fit(model, masked, optimizer, epochs=1, batch_size=2, seed=seed, precision="fp32").rows[-1]
        rows.add((round(row.train_loss, 4), round(row.train_error, 4)))
    assert len(rows) == 1


def test_a_void_part_counts_nothing_and_a_void_whole_is_refused(data: Dataset) -> None:
    model = prepare(build_recipe(SETTINGS), data).model
    void = Split(data.test.images[:1], np.full_like(data.test.labels[:1], VOID))
    some, none = evaluate(model, data.test), evaluate(model, void)
    assert (none.count, none.loss, none.entropy) == (0, 0, 0)
    assert whole_score([some, none]) == whole_score([some])
    for wanted in (lambda: whole_score([none, none]), lambda: none.accuracy, lambda: none.ece, none.as_dict):
        with pytest.raises(ZeroDivisionError):
            wanted()


def test_from_training_to_written_masks(data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    for i, (image, mask) in enumerate(zip(data.train.images, data.train.labels, strict=True)):
        write(folder / "image" / f"{i}.png", image[0])
        write(folder / "label" / f"{i}.png", mask * np.uint8(255))
    (tmp_path / "r.json").write_text(json.dumps({**SETTINGS, "name": "r", "epochs": 2, "validation": 2}))
    run, net = str(tmp_path / "run"), str(tmp_path / "net.1bit")
    assert main(["train", str(tmp_path / "r.json"), "--data", str(folder), "--out", run, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["chosen_by"] == "validation mean IoU"
    assert 0 < result["test"]["binary"]["mean_iou"] < 1
    assert main(["pack", run, "-o", net, "--data", str(folder)]) == 0
    counted = result["test"]["binary"]["count"]
    assert f"{counted:,} segmentation test pixels" in capsys.readouterr().out
    main(["verify", run, "--data", str(folder)])
    verified = capsys.readouterr().out
    # after two epochs the net need not do better than the largest class everywhere; all other claims must hold
    assert "mean IoU above" in verified
    assert [line for line in verified.splitlines() if line.startswith("FAIL") and "binary accuracy" not in line] == []
    assert main(["evaluate", net, "--data", str(folder), "--json"]) == 0
    packed = json.loads(capsys.readouterr().out)
    assert packed["confusion"] == result["test"]["binary"]["confusion"]
    wide, masks = tmp_path / "wide.png", tmp_path / "masks"
    Image.new("L", (70, 50), 90).save(wide)  # of another size than the net takes
    images = [str(folder / "image" / "3.png"), str(wide)]
    assert main(["predict", net, *images, "--masks", str(masks), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["predictions"]
    shown = {path.name: np.asarray(Image.open(path)) for path in masks.iterdir()}
    assert set(first["shares"]) == {"0", "255"}
    assert first["accuracy"] == pytest.approx((shown["3.png"] == data.train.labels[3] * 255).mean())
    assert "accuracy" not in second
    assert {name: array.shape for name, array in shown.items()} == {
        **{"3.png": (48, 48), "3-beside.png": (48, 3 * 48 + 2 * 6, 3)},
        **{"wide.png": (50, 70), "wide-beside.png": (50, 2 * 70 + 6, 3)},
    }
