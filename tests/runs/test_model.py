"""Recipe -> objects: every field arrives, wrong combinations are refused, and what ships trains."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onebit.data import DATASETS, Dataset, Split
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.forward import in_tiles, predict_logits
from onebit.evaluation.losses import LOSSES
from onebit.evaluation.modes import evaluate
from onebit.layers import BinaryLinear, binary_layers
from onebit.optim import OPTIMIZERS
from onebit.quantizers import sign
from onebit.recipe import (
    Recipe,
    build_recipe,
    merge,
    method_settings,
    read_settings,
    recipe_path,
)
from onebit.runs.model import build_model
from onebit.runs.plain_state import plain_state_dict
from onebit.runs.training import prepare
from onebit.train.loop import fit
from onebit.train.settings import SCHEDULES
from onebit.train.weights import load_weights, save_weights
from support.covering import covering, recipe_traits
from support.recipe_nets import RECIPES, small, whole, without_runs
from support.toy_training import TOY


def recipe(**settings: Any) -> Recipe:
    return build_recipe(merge(TOY, settings))


# ------------------------------------------------------------------------------------------------------- fields arrive
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_built_and_takes_a_step(data: Dataset, name: str) -> None:
    model = {"weight_quantizer": "concrete_sign" if name == "bayesbinn" else "sign"}
    optimizer = {"name": name, "lr": 0.01, "gamma": 1.0, "threshold": 0.0}
    training = prepare(recipe(optimizer=optimizer, model=model, epochs=0.25), data)
    assert type(training.optimizer) is OPTIMIZERS[name]
    before = training.model.linear1.weight.clone()
    fit(training.model, data, training.optimizer, epochs=0.25, batch_size=32, schedule=training.schedule)
    assert not torch.equal(training.model.linear1.weight, before)


def test_the_groups_are_those_of_the_recipe(data: Dataset) -> None:
    settings = {"name": "sgd", "lr": 0.5, "lr_scale": "glorot", "latent_clip": 0.5}
    settings |= {"weight_decay": 0.1, "momentum": 0.9}
    built = prepare(recipe(optimizer=settings, model={"real_last": True}), data)
    groups = built.optimizer.param_groups
    scale = 1 / math.sqrt(1.5 / 80)
    rates = [group["initial_lr"] for group in groups]
    assert rates == pytest.approx([0.5 * scale, 0.5, 0.5])
    assert [group.get("latent_clip") for group in groups] == [0.5, None, None]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1, 0.0]
    assert {group["momentum"] for group in groups} == {0.9}


def test_the_loss_and_label_smoothing(data: Dataset) -> None:
    assert prepare(recipe(loss="hinge"), data).loss is LOSSES["hinge"]
    logits, labels = torch.tensor([[2.0, 0.0, -1.0, 0.5]]), torch.tensor([0])
    found = prepare(recipe(label_smoothing=0.2), data).loss(logits, labels)
    assert float(found) == pytest.approx(float(nn.CrossEntropyLoss(label_smoothing=0.2)(logits, labels)))


def test_class_weights_reach_the_loss_and_need_classes(data: Dataset) -> None:
    rows = []
    for weights in (None, [5, 1, 1, 1], [0, 0, 0, 0]):
        training = prepare(recipe(class_weights=weights), data)
        rows.append(training.fit(data).rows[0].train_loss)
    assert rows[2] == 0
    assert len({*rows}) == 3
    with pytest.raises(UsageError, match="class_weights"):
        prepare(recipe(class_weights="balanced", loss="mse"), data)


@pytest.mark.parametrize("name", sorted({*SCHEDULES} - {"plateau"}))
def test_every_schedule_is_built_in_steps_of_the_data(data: Dataset, name: str) -> None:
    """128 images in batches of 32 are 4 steps an epoch, 40 in 10 epochs."""
    schedule = {"name": name, "final_lr": 0.001, "warmup": 1.0, "milestones": [3, 5.5], "step_size": 2.5, "gamma": 0.1}
    built = prepare(recipe(schedule=schedule, epochs=10, optimizer={"lr": 0.1}), data)
    found = []
    for _ in range(41):
        found.append(built.optimizer.param_groups[-1]["lr"])
        built.optimizer.step()
        built.schedule.step()
    if name == "one_cycle":  # half a cosine from 1/25 to 1
        assert found[:4] == pytest.approx([0.004 + 0.096 * (1 - math.cos(math.pi * i / 4)) / 2 for i in range(4)])
    else:
        assert found[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert found[4] == pytest.approx(0.1)
    falls = [step for step in range(5, 41) if found[step] < found[step - 1] * 0.5]
    if name in ("constant", "milestones", "step"):
        assert falls == {"constant": [], "milestones": [12, 22], "step": [10, 20, 30, 40]}[name]
    else:
        assert found[40] == pytest.approx(0.001)


def test_a_plateau_lowers_every_rate_by_one_factor_down_to_the_final_rate(data: Dataset) -> None:
    schedule = {"name": "plateau", "gamma": 0.1, "patience": 1, "final_lr": 0.003}
    built = prepare(recipe(schedule=schedule, optimizer={"lr": 0.1, "lr_scale": "glorot"}), data)
    first = [group["lr"] for group in built.optimizer.param_groups]
    found = []
    for error in (0.5, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3):  # lowered after the fourth and the seventh
        built.schedule.step(error)  # type: ignore[arg-type]
        found.append([group["lr"] / lr for group, lr in zip(built.optimizer.param_groups, first, strict=True)])
    assert [rates[-1] for rates in found] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.03, 0.03, 0.03])
    assert all(rates == pytest.approx([rates[0]] * len(rates)) for rates in found)


def test_a_plateau_and_a_decay_of_bop_exclude_each_other(data: Dataset) -> None:
    settings = {"model": {"weight_quantizer": "sign"}, "optimizer": {"name": "bop", "decay_epochs": 1}}
    with pytest.raises(UsageError, match="decay_epochs"):
        prepare(recipe(**settings, schedule={"name": "plateau"}), data)


def test_the_final_rate_of_bop_is_that_of_its_real_parameters(data: Dataset) -> None:
    settings = {"model": {"weight_quantizer": "sign"}, "optimizer": {"name": "bop", "gamma": 0.01, "real_lr": 0.1}}
    built = prepare(recipe(**settings, schedule={"name": "linear", "final_lr": 0.001}, epochs=2), data)
    for _ in range(8):
        built.optimizer.step()
        built.schedule.step()
    latent, real = built.optimizer.param_groups[0], built.optimizer.param_groups[-1]
    assert real["lr"] == pytest.approx(0.001)
    assert latent["lr"] == pytest.approx(0.0001)


def test_augmentation_is_built_if_the_recipe_has_some(data: Dataset) -> None:
    """128 images shown 3 times in batches of 32 are 12 steps an epoch."""
    assert prepare(recipe(), data).augmentation is None
    settings = {"schedule": {"name": "linear"}, "optimizer": {"lr": 0.1}, "augmentation": {"repeats": 3}}
    repeated = prepare(recipe(**settings, epochs=2), data)
    for _ in range(12):
        repeated.optimizer.step()
        repeated.schedule.step()
    assert repeated.optimizer.param_groups[-1]["lr"] == pytest.approx(0.05)
    built = prepare(recipe(augmentation={"crop_padding": 2, "flip": True}), data).augmentation
    assert built is not None
    assert (built.crop_padding, built.flip) == (2, True)


def test_standardize_takes_the_statistics_of_the_training_images(data: Dataset) -> None:
    model = prepare(recipe(model={"coding": "standardize"}), data).model
    pixels = data.train.images.astype(float)
    assert model.coding.mean.flatten().tolist() == pytest.approx([pixels.mean()])
    assert model.coding.std.flatten().tolist() == pytest.approx([pixels.std()])
    coded = model.coding(torch.from_numpy(data.train.images))
    assert (float(coded.mean()), float(coded.std())) == pytest.approx((0, 1), abs=1e-3)


def test_the_seed_decides_the_initial_weights(data: Dataset) -> None:
    first, again, other = (prepare(recipe(seed=seed), data).model.linear1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ------------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("settings", "noun"),
    [
        ({"optimizer": {"name": "rprop", "weight_decay": 0.1}}, "weight_decay"),
        ({"model": {"real_first": True, "real_last": True, "widths": [64, 16, 4]}}, "no binary layer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data: Dataset, settings: dict[str, Any], noun: str) -> None:
    with pytest.raises(UsageError, match=noun):
        prepare(recipe(**settings), data)


@pytest.mark.parametrize("name", ["cifar10-bayesbinn", "cifar100-ste"])
def test_the_vgg_of_bayesbinn_has_the_norms_of_its_authors(name: str) -> None:
    """As in their models/models.py: momentum 0.2 behind convolutions, that of torch behind dense layers."""
    with torch.device("meta"):
        settings = build_recipe(read_settings(recipe_path(name))).model
        model = build_model(settings, input_shape=(3, 32, 32), classes=10)
    norms = [layer for layer in model.modules() if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    assert [norm.momentum for norm in norms] == [0.2] * 6 + [0.1] * 3
    assert {(norm.eps, norm.affine) for norm in norms} == {(1e-5, False)}


def test_a_plain_module_in_place_of_a_binary_net_is_refused(data: Dataset) -> None:
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    with pytest.raises(UsageError, match="no binary layer"):
        prepare(recipe(), data, model=plain)
    assert prepare(recipe(model={"weight_quantizer": None}), data, model=plain).model is plain


# ---------------------------------------------------------------------------------------------------------- what ships
def shrunken(name: str) -> tuple[Recipe, Dataset]:
    """A shipped recipe with thin layers and two steps on small random images."""
    shipped = without_runs(RECIPES[name])
    model, shape, classes = small(shipped)
    if shipped.teacher:  # a packed net takes images of one size
        shape = whole(shipped)[1]
    masks, rng = model.name == "unet", np.random.default_rng(0)
    side = shape[1] if masks else shipped.augmentation.crop_size
    if masks and model.padding == "valid":
        shape, side = (1, 100, 100), 188
    names, images = DATASETS[shipped.dataset].classes or map(str, range(classes)), 8 if masks else 64

    def draw(count: int) -> Split:
        images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        labels = rng.integers(0, classes, (count, *shape[1:]), dtype=np.uint8)
        return Split(images, labels if masks else np.arange(count, dtype=np.int64) % classes)

    thin = dataclasses.replace(
        shipped,
        model=model,
        augmentation=dataclasses.replace(shipped.augmentation, repeats=1, crop_size=side),
        schedule=dataclasses.replace(shipped.schedule, warmup=0.0),
        epochs=1,
        batch_size=images // 2,
        device="cpu",
    )
    return thin, Dataset(shipped.dataset, draw(images), draw(8), draw(8), tuple(names)[:classes])


@pytest.mark.parametrize("name", covering(RECIPES, of=lambda name: recipe_traits(RECIPES[name])))
def test_a_shipped_recipe_trains_two_steps(name: str) -> None:
    """Daily those that have every trait of a recipe among them."""
    recipe, tiny = shrunken(name)
    built = prepare(recipe, tiny)
    before = {key: value.clone() for key, value in built.model.state_dict().items()}
    history = built.fit(tiny)
    assert history.rows[-1].step == 2
    weights = [key for key, value in before.items() if value.dim() >= 2 and "coding" not in key]
    assert weights
    assert all(not torch.equal(built.model.state_dict()[key], before[key]) for key in weights)
    assert evaluate(built.model, tiny.test).weights == ("binary" if recipe.model.weight_quantizer else "real")
    for _, layer in binary_layers(built.model):
        assert set(layer.binary_weight().signs.unique().tolist()) == {-1.0, 1.0}
    if recipe.model.weight_quantizer:
        goes_to_a_plain_twin_and_back(recipe, tiny, built.model)


def goes_to_a_plain_twin_and_back(recipe: Recipe, data: Dataset, trained: nn.Module) -> None:
    """The ±1 weights in ordinary layers, and those loaded as latent weights, make the predictions of the net.

    AdaBin's two values have another center as latents: the mean of a channel, which may have more of one of them.
    """
    shape: dict[str, Any] = {"input_shape": data.input_shape, "classes": len(data.classes)}
    plain = dataclasses.replace(recipe.model, weight_quantizer=None, weight_options=None, value=1.0)
    twin, back = (build_model(model, **shape).eval() for model in (plain, recipe.model))
    load_weights(twin, plain_state_dict(trained), source="twin")
    assert not any(True for _ in binary_layers(twin))
    load_weights(back, twin.state_dict(), source="back")
    trained.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # sums in one order
    images = in_tiles(trained, data.test).images
    logits = predict_logits(trained, images)
    # a scale of its own in each channel, the mean of equal magnitudes, may be rounded
    weights = [layer.binary_weight() for _, layer in binary_layers(trained)]
    most = 1e-5 if any(weight.scale is not None for weight in weights) else 0
    if all(weight.centre is None for weight in weights):
        torch.testing.assert_close(predict_logits(back, images), logits, rtol=most, atol=most)
    torch.testing.assert_close(predict_logits(twin, images), logits, rtol=most, atol=most)


# ----------------------------------------------------------------------------------------------------------- two stages
@pytest.mark.parametrize(("method", "size"), [("bayesbinn", 10.0), ("binaryconnect-stochastic", 1.0)])
def test_small_latents_that_are_drawn_start_at_full_size(
    data: Dataset, tmp_path: Path, method: str, size: float
) -> None:
    """Draws of weights of a real net would be coin flips: the training would forget its start."""
    real = prepare(recipe(model={"weight_quantizer": None}, optimizer={"latent_clip": None}), data)
    save_weights(tmp_path / "real.safetensors", real.model, {})
    start = {"init_from": str(tmp_path / "real.safetensors")}
    drawn = build_recipe(merge(merge(TOY, method_settings(method)), start))
    started = prepare(drawn, data)
    weights = real.model.state_dict()
    for name, layer in binary_layers(started.model):
        assert torch.equal(layer.weight, sign(weights[f"{name}.weight"]) * size)

    save_weights(tmp_path / "drawn.safetensors", started.model, {})
    again = prepare(dataclasses.replace(drawn, init_from=str(tmp_path / "drawn.safetensors")), data)
    assert all(torch.equal(w, v) for w, v in zip(again.model.parameters(), started.model.parameters(), strict=True))


def test_missing_tensors_of_a_start_keep_initial_values_except_weights(data: Dataset, tmp_path: Path) -> None:
    source = dict(prepare(recipe(seed=5), data).model.state_dict())
    norm = {name: source.pop(name) for name in list(source) if "norm2" in name}
    torch.save(source, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=f"{len(norm)} tensors"):
        started = prepare(recipe(init_from=str(tmp_path / "w.pth")), data).model
    assert float(started.norm2.weight.detach().min()) == 1
    torch.save({name: t for name, t in source.items() if name != "linear1.weight"}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="linear1"):
        prepare(recipe(init_from=str(tmp_path / "less.pth")), data)
    with pytest.raises(UsageError, match="none"):
        prepare(recipe(init_from=str(tmp_path / "none")), data)


def test_a_last_layer_with_other_outputs_is_reset(data: Dataset, tmp_path: Path) -> None:
    widths = TOY["model"]["widths"]
    part = np.zeros((4, *data.input_shape), np.uint8), np.arange(4) % 2
    few = Dataset.from_arrays(part, part)
    source = prepare(recipe(model={"widths": [*widths[:-1], 2]}, seed=5), few).model
    save_weights(tmp_path / "w.safetensors", source, {})
    with pytest.warns(UserWarning, match="linear2"):
        started = prepare(recipe(init_from=str(tmp_path / "w.safetensors")), data).model.state_dict()
    new = prepare(recipe(), data).model.state_dict()
    for name, tensor in source.state_dict().items():
        assert torch.equal(started[name], new[name] if name.startswith(("linear2", "norm2")) else tensor)
    wrong = {**source.state_dict(), "linear2.weight": torch.zeros(2, 3)}
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match="linear2"):
        prepare(recipe(init_from=str(tmp_path / "wrong.pth")), data)


class HeadFirst(nn.Module):
    """Declares its last layer before the others; `twice` calls it twice."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.head, self.norm = BinaryLinear(64, 64 if twice else 4, weight_quantizer="sign"), nn.BatchNorm1d(4)
        self.body, self.twice = BinaryLinear(64, 64, weight_quantizer="sign"), twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x.float().flatten(1))
        return self.head(self.head(x))[:, :4] if self.twice else self.norm(self.head(x))


def test_the_last_layer_called_is_reset_for_other_classes(data: Dataset, tmp_path: Path) -> None:
    known, asked = {"classes": list("abcd")}, recipe(init_from=str(tmp_path / "w.safetensors"))
    trained, new, named = HeadFirst(), HeadFirst(), dataclasses.replace(data, classes=tuple("efgh"))
    save_weights(tmp_path / "w.safetensors", trained, known)
    before = {key: value.clone() for key, value in new.state_dict().items()}
    prepare(asked, named, model=new)
    assert new.training
    for key, value in new.state_dict().items():
        assert torch.equal(value, (trained.state_dict() if key == "body.weight" else before)[key])
    save_weights(tmp_path / "w.safetensors", HeadFirst(twice=True), known)
    with pytest.raises(CheckpointError, match="classes"):
        prepare(asked, named, model=HeadFirst(twice=True))


def test_recompute_inputs_reaches_the_layers(data: Dataset) -> None:
    model = {**TOY["model"], "input_quantizer": "ste_sign"}
    for asked in (False, True):
        built = prepare(build_recipe({**TOY, "model": model, "recompute_inputs": asked}), data).model
        assert {layer.recompute_inputs for _, layer in binary_layers(built)} == {asked}
