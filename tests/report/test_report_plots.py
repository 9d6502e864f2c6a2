"""The pictures that users of the library draw themselves."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from report_runs import RECIPE, check_picture, make_run, row
from safetensors.numpy import save_file

from onebit.errors import DataError, FormatError, OnebitError, UsageError
from onebit.evaluation.losses import cross_entropy
from onebit.layers import BinaryConv2d, BinaryLinear
from onebit.recipe import ModelRecipe
from onebit.report import (
    drawing,
    histograms,
    plot_answers,
    plot_health,
    plot_history,
    plot_predictions,
    plot_weights,
    write_report,
)
from onebit.report.curves import least_cross_entropy
from onebit.report.drawing import (
    NEGATIVE,
    POSITIVE,
    STYLE,
    WRONG,
    choose_scale,
    curve_color,
    label_epochs,
    picture,
    scale_words,
)
from onebit.report.histograms import BINS, layer_histogram, plot_run_weights
from onebit.report.run_folders import read_runs
from onebit.train.history import EpochLog, History
from onebit.train.weights import save_weights


def count_pixels(path: Path, color: str) -> int:
    """Pixels of exactly this color."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    with Image.open(path) as image:
        return int((np.asarray(image.convert("RGB")) == wanted).all(axis=2).sum())


def test_a_history_becomes_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    plot_history(History([row(epoch) for epoch in (1, 2, 3)]), path, data="mnist")
    assert check_picture(path) == (1650, 510)
    with pytest.raises(DataError, match="the history has no epoch to draw"):
        plot_history(History(), path)


def test_the_same_picture_has_the_same_bytes_and_the_users_settings_stay(tmp_path: Path) -> None:
    history = History([row(1), row(2, validation_loss=None, validation_error=None)])
    plot_history(history, tmp_path / "a.png")
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "axes.grid": False, "savefig.dpi": 30, "font.size": 30}):
        plot_history(history, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before
    assert set(STYLE) <= set(before)


@pytest.mark.parametrize("name", ["curves.pdf", "curves"])
def test_only_png_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a file that ends in \.png"):
        plot_history(History([row(1)]), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_picture_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path: Path) -> None:
    with pytest.raises(OnebitError, match=r"cannot write .*curves\.png.* does not exist") as info:
        plot_history(History([row(1)]), tmp_path / "gone" / "curves.png")
    assert "\n" not in str(info.value)
    path = tmp_path / "weights.png"
    path.write_bytes(b"old")
    with pytest.raises(DataError):
        plot_weights({}, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.png"]


def test_the_axis_is_logarithmic_where_values_span_a_decade() -> None:
    axes = Figure().subplots()
    assert choose_scale(axes, [2.0, 3.0, 0.0]) is None
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ("linear", 0)
    assert scale_words(axes) == ""
    assert choose_scale(axes, [0.0]) is None
    assert axes.get_ylim()[1] > 0
    assert choose_scale(axes, [0.3, 4.0]) is None
    assert axes.get_yscale() == "log"
    assert 0.2 < axes.get_ylim()[0] < 0.3
    assert 4 < axes.get_ylim()[1] < 6
    assert scale_words(axes) == " The axis is logarithmic."
    assert choose_scale(axes, [0.0, 0.3, 4.0]) == 0.2
    assert axes.get_yscale() == "symlog"
    assert -0.1 < axes.get_ylim()[0] < 0
    assert axes.get_yticks().tolist() == [0.0, 0.2, 0.5, 1.0, 2.0, 5.0]
    assert scale_words(axes) == " The axis is logarithmic above 0.2 and linear below, down to 0."
    for extreme in ([0.0, 5e-324, 1.0], [1e-320, 5e-324], [1e-300, 1e300], [0.1, 1e12, 3.0]):
        assert choose_scale(axes, extreme) is None or len(axes.get_yticks()) < 100
    label_epochs(axes, 1, 250)
    assert 0 < axes.get_xlim()[0] < 1
    assert axes.get_xlim()[1] > 250
    assert len({matplotlib.colors.to_hex(curve_color(i, 12)) for i in range(12)}) == 12


def test_the_british_names_of_earlier_versions_still_work() -> None:
    for old, new in {"COLOURS": "COLORS", "colour": "curve_color"}.items():
        with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}"):
            assert getattr(drawing, old) is getattr(drawing, new)


def drawn(
    monkeypatch: pytest.MonkeyPatch, folder: Path, runs: Sequence[Path]
) -> tuple[dict[str, Figure], dict[str, str]]:
    """(the figures of a report, the captions on its page) by file name."""
    figures: dict[str, Figure] = {}

    @contextmanager
    def keep(path: Path, **size: float) -> Iterator[Figure]:
        with picture(path, **size) as figure:
            figures[path.name] = figure
            yield figure

    monkeypatch.setattr("onebit.report.curves.picture", keep)
    files = write_report(runs, folder)
    captions = re.findall("<figcaption>(.*?)</figcaption>", files[-1].read_text(encoding="utf-8"))
    return figures, dict(zip([file.name for file in files], captions, strict=False))


def curve_points(axes: Axes) -> dict[str, list[float]]:
    """The y values of what is drawn: "training", "validation", "circle", and lines with a label of their own."""
    found = {}
    for line in axes.lines:
        label = str(line.get_label())
        kind = "circle" if line.get_markersize() > 5 else "validation" if line.get_alpha() is None else "training"
        found[kind if label.startswith("_") else label] = [float(y) for y in np.asarray(line.get_ydata())]
    return found


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_what_the_legend_names_is_drawn_and_the_caption_names_the_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, captions = drawn(monkeypatch, tmp_path / "report", [make_run(tmp_path / "run")])
    for name, best in {"error.png": 100 * 0.1 / 3, "loss.png": 0.3}.items():
        [axes] = figures[name].axes
        assert curve_points(axes)["circle"] == [pytest.approx(best)], name
        texts = legend_texts(figures[name])
        assert texts == ["training (mean over the epoch)", "validation", "best validation error: 3.33 % in epoch 3"]
        assert axes.get_yscale() == "linear"
    assert captions["error.png"] == "Error per epoch."
    assert captions["loss.png"] == "Loss per epoch."
    rows = [row(epoch, train_loss=10.0**-epoch, validation_loss=3 * 10.0**-epoch) for epoch in (1, 2, 3)]
    figures, captions = drawn(monkeypatch, tmp_path / "steep", [make_run(tmp_path / "two", rows=rows)])
    assert figures["loss.png"].axes[0].get_yscale() == "log"
    assert captions["loss.png"] == "Loss per epoch. The axis is logarithmic."


def test_a_training_error_that_falls_to_zero_stays_in_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [0.4, 1e-4, 2e-6, 0.0]
    rows = [row(epoch, train_error=error, validation_error=0.1 / epoch) for epoch, error in enumerate(errors, 1)]
    figures, captions = drawn(monkeypatch, tmp_path / "report", [make_run(tmp_path / "run", rows=rows)])
    [axes] = figures["error.png"].axes
    assert curve_points(axes)["training"] == pytest.approx([100 * error for error in errors])
    heights = axes.transAxes.inverted().transform(axes.transData.transform([(1, 100 * e) for e in errors]))[:, 1]
    assert (np.diff(heights) < 0).all()
    assert heights[-1] > 0.005
    assert heights[0] < 1
    # the validation has most of the height: 10 % and 2.5 % are far apart
    best, worst = axes.transAxes.inverted().transform(axes.transData.transform([(1, 2.5), (1, 10.0)]))[:, 1]
    assert worst - best > 0.25
    assert axes.get_ylabel() == "error (%), linear below 2"
    assert captions["error.png"] == ("Error per epoch. The axis is logarithmic above 2 and linear below, down to 0.")


def test_label_smoothing_has_a_least_loss_and_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = replace(RECIPE, loss="cross_entropy", label_smoothing=0.1)
    figures, captions = drawn(monkeypatch, tmp_path / "report", [make_run(tmp_path / "run", recipe=smooth)])
    name = "least possible with label smoothing 0.1, 10 classes: 0.500"
    assert curve_points(figures["loss.png"].axes[0])[name] == [pytest.approx(0.50027, abs=1e-4)] * 2
    assert legend_texts(figures["loss.png"])[-1] == name
    assert len(legend_texts(figures["error.png"])) == 3
    assert captions["loss.png"] == "Loss per epoch. No loss can fall below the dotted line."
    # of own images the number of classes is in the weights; a teacher's part of the loss has another bound
    own = replace(smooth, dataset="own", name="own")
    other, taught = make_run(tmp_path / "own", recipe=own), replace(smooth, teacher="runs/x", name="taught")
    facts = json.dumps({"classes": ["cat", "dog"]})
    save_file({"a.weight": np.zeros((2, 2), np.float32)}, other / "best.safetensors", metadata={"onebit": facts})
    figures, _ = drawn(monkeypatch, tmp_path / "other", [other, make_run(tmp_path / "taught", recipe=taught)])
    assert [text for text in legend_texts(figures["loss.png"]) if "least" in text] == [
        "least possible with label smoothing 0.1, 2 classes: 0.199"
    ]


@pytest.mark.parametrize("title", ["a-very-long-name-" * 9 + ": latent weights after epoch 12", "w" * 150, "short"])
def test_the_titles_of_weights_fit_their_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, title: str) -> None:
    ends: list[float] = []

    def seen(figure: Figure, *args: Any, **options: Any) -> None:
        figure.draw_without_rendering()
        texts = [*figure.texts, *(axes.title for axes in figure.axes), *(axes._left_title for axes in figure.axes)]  # type: ignore[attr-defined]
        ends.extend(text.get_window_extent().x1 / figure.bbox.width for text in [figure._suptitle, *texts])  # type: ignore[attr-defined]

    monkeypatch.setattr(Figure, "savefig", seen)
    layer = "encoder.layers.11.self_attention.output_projection.inner.weight"
    signs = np.where(np.arange(512 * 512).reshape(512, 512) % 2, 0.03612, -0.03612).astype(np.float32)
    plot_weights({layer: signs}, tmp_path / "weights.png", title=title)
    assert max(ends) <= 1


def test_a_long_name_leaves_room_for_a_long_line_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = replace(RECIPE, loss="cross_entropy", label_smoothing=0.1)
    runs = [make_run(tmp_path / name, recipe=replace(smooth, name=name * 40)) for name in "ab"]
    figures, _ = drawn(monkeypatch, tmp_path / "report", runs)
    for figure in figures.values():
        figure.canvas.draw()
        boxes = [legend.get_window_extent() for legend in figure.legends]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(("smoothing", "classes"), [(0.1, 10), (0.3, 2), (0.0, 10), (0.9, 100)])
def test_the_least_loss_is_that_of_the_net_that_predicts_the_targets(smoothing: float, classes: int) -> None:
    targets = torch.full((1, classes), smoothing / classes, dtype=torch.float64)
    targets[0, 0] += 1 - smoothing
    best = cross_entropy(targets.log().clamp(min=-1e300), torch.tensor([0]), label_smoothing=smoothing)
    assert least_cross_entropy(smoothing, classes) == pytest.approx(float(best), abs=1e-12)


def test_the_histogram_counts_every_weight_and_zero_is_plus_one() -> None:
    weight = np.array([[-1.0, -0.5, -0.0, 0.0], [0.25, 1.0, 1.0, -1e-30]], np.float32)
    found = layer_histogram("fc", weight, value=1.0)
    assert found.counts.sum() == 8
    assert found.counts[: BINS // 2].sum() == 3
    assert found.positive == 5 / 8
    assert found.at_bound == 3 / 8
    assert found.limit == 1.0
    assert found.shape == (2, 4)
    real = layer_histogram("fc", weight * 3)
    assert (real.value, real.positive, real.at_bound, real.limit) == (None, None, None, 3.0)
    assert real.mean == pytest.approx(3 * 0.75 / 8)
    assert real.sd == pytest.approx(np.std(weight * 3))
    assert layer_histogram("fc", np.zeros((2, 2)), value=0.1).limit == 0.1
    assert layer_histogram("fc", np.zeros((2, 2))).counts.sum() == 4


@pytest.mark.parametrize("weight", [np.full((2, 2), np.nan), np.array([[np.inf]]), np.zeros((0, 4))])
def test_weights_that_cannot_be_drawn_are_named(tmp_path: Path, weight: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"^fc\.weight: has no weights, or weights that are not finite"):
        plot_weights({"fc.weight": weight}, tmp_path / "a.png")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_value_must_be_positive(tmp_path: Path, value: float) -> None:
    with pytest.raises(UsageError, match="value must be a positive number"):
        plot_weights({"fc.weight": np.ones((2, 2))}, tmp_path / "a.png", value=value)


def capture_layers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layers that the next picture draws."""
    found: list[Any] = []
    draw = histograms.draw_weights

    def keep(layers: list[Any], path: Path, *, title: str) -> None:
        found.extend(layers)
        draw(layers, path, title=title)

    monkeypatch.setattr(histograms, "draw_weights", keep)
    return found


def test_a_state_dict_of_exact_values_is_drawn_as_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signs = np.where(np.arange(24).reshape(4, 6) % 3 == 0, -1, 1).astype(np.float32)
    found = capture_layers(monkeypatch)
    state = {"a.weight": signs, "b.weight": 0.25 * signs, "c.weight": signs * np.array([[1], [1], [1], [2]])}
    plot_weights(state | {"d.weight": 0 * signs}, tmp_path / "a.png")
    assert [layer.value for layer in found] == [1.0, 0.25, None, None]
    assert [layer.positive for layer in found] == [16 / 24, 16 / 24, None, None]
    assert not any(layer.is_latent for layer in found)


def test_a_weight_file_names_the_order_and_the_latent_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential()
    model.add_module("z", torch.nn.Conv2d(3, 4, 3))
    model.add_module("m", BinaryConv2d(4, 4, 3, weight_quantizer="sign"))
    model.add_module("a", torch.nn.Linear(4, 2))
    run = make_run(tmp_path / "run")
    save_weights(run / "best.safetensors", model, {})
    found = capture_layers(monkeypatch)
    plot_run_weights(read_runs([run])[0], tmp_path / "a.png")
    assert [(layer.name, layer.value) for layer in found] == [("z.weight", None), ("m.weight", 1.0), ("a.weight", None)]


def test_an_older_weight_file_is_drawn_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelRecipe(name="resnet20", real_first=True, real_last=True)
    run = make_run(tmp_path / "run", recipe=replace(RECIPE, model=model))
    names = {"conv1.weight": (4, 3, 3, 3), "layer1.weight": (4, 4, 3, 3), "fc.weight": (2, 4)}
    arrays = {name: np.full(shape, 0.5, np.float32) for name, shape in names.items()}
    save_file(arrays, run / "final.safetensors")
    found = capture_layers(monkeypatch)
    plot_run_weights(read_runs([run])[0], tmp_path / "a.png")
    assert {layer.name: layer.value for layer in found} == dict.fromkeys(names) | {"layer1.weight": 1.0}


def test_a_model_knows_its_binary_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        BinaryLinear(8, 6, weight_quantizer="sign", value=0.5), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 4)
    )
    found = capture_layers(monkeypatch)
    plot_weights(model, tmp_path / "model.png", title="my $net")
    first, second = found
    assert (first.name, first.value, second.name, second.value) == ("0.weight", 0.5, "2.weight", None)
    assert first.positive == pytest.approx(float((model.state_dict()["0.weight"] >= 0).float().mean()))
    check_picture(tmp_path / "model.png")
    assert count_pixels(tmp_path / "model.png", POSITIVE) > 1000 < count_pixels(tmp_path / "model.png", NEGATIVE)
    plot_weights(model.state_dict(), tmp_path / "state.png")
    assert [layer.positive for layer in found[2:]] == [None, None]
    assert count_pixels(tmp_path / "state.png", POSITIVE) == 0
    plot_weights(BinaryLinear(8, 6), tmp_path / "lone.png")
    assert found[-1].name == "weight"
    assert found[-1].value == 1.0


@pytest.mark.usefixtures("no_ink")
def test_the_recipe_of_a_run_names_its_binary_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, model=ModelRecipe(value="glorot", real_last=True))
    run = make_run(tmp_path / "run", recipe=recipe)
    rng = np.random.default_rng(0)
    state = {f"linear{i}.weight": rng.uniform(-0.3, 0.3, (6, 4)).astype(np.float32) for i in (1, 2, 10)}
    save_file(state, run / "final.safetensors")
    found = capture_layers(monkeypatch)
    files = write_report([run], tmp_path / "report")
    assert files[3].name == "weights-run.png"
    assert [layer.name for layer in found] == ["linear1.weight", "linear2.weight", "linear10.weight"]
    bound = math.sqrt(1.5 / 10)
    assert [layer.value for layer in found] == [pytest.approx(bound), pytest.approx(bound), None]


@pytest.mark.usefixtures("no_ink")
def test_weights_of_a_kind_that_numpy_lacks_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_tensors

    run = make_run(tmp_path / "run")
    save_tensors({"a.weight": torch.zeros(2, 2, dtype=torch.float8_e4m3fn)}, run / "best.safetensors")
    with pytest.raises(FormatError, match=r"best\.safetensors: a\.weight cannot be read \(") as info:
        write_report([run], tmp_path / "report")
    assert "\n" not in str(info.value)


def predictions(count: int = 12, channels: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    predicted = labels.copy()
    predicted[1] = (predicted[1] + 1) % 10
    return {
        "images": rng.integers(0, 256, (count, channels, 28, 28)).astype(np.uint8),
        "labels": labels,
        "predicted": predicted,
        "probabilities": rng.uniform(0.5, 1, count),
        "classes": tuple("0123456789"),
    }


def test_classified_images_are_drawn_and_wrong_ones_marked(tmp_path: Path) -> None:
    made = predictions()
    plot_predictions(path=tmp_path / "wrong.png", data="mnist", **made)
    assert check_picture(tmp_path / "wrong.png") == (1500, 463)
    plot_predictions(path=tmp_path / "right.png", data="mnist", **(made | {"predicted": made["labels"]}))
    assert count_pixels(tmp_path / "wrong.png", WRONG) > 500
    assert count_pixels(tmp_path / "right.png", WRONG) == 0
    long_names = ("a long $name", *map(str, range(9)))
    plot_predictions(path=tmp_path / "rgb.png", **(predictions(2, 3) | {"classes": long_names}))
    check_picture(tmp_path / "rgb.png")


def test_wrong_answers_are_drawn_beside_right_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = predictions(300)
    wrong = np.arange(3, 300, 15)
    made["predicted"] = made["labels"].copy()
    made["predicted"][wrong] = (made["labels"][wrong] + 1) % 10
    made["probabilities"][wrong[:15]] = np.linspace(0.99, 0.9, 15)
    made["probabilities"][wrong[15:]] = 0.4
    found: list[Figure] = []

    @contextmanager
    def keep(path: Path, **size: float) -> Iterator[Figure]:
        with picture(path, **size) as figure:
            found.append(figure)
            yield figure

    monkeypatch.setattr("onebit.report.predictions.picture", keep)
    plot_answers(path=tmp_path / "answers.png", data="mnist test", **made)
    check_picture(tmp_path / "answers.png")
    right = [index for index in range(300) if index not in wrong]
    expected = []
    for line in range(3):
        for index in [*right[5 * line : 5 * line + 5], *wrong[5 * line : 5 * line + 5]]:
            label, answer = made["labels"][index], made["predicted"][index]
            name = f"{answer}" if label == answer else f"{answer}, not {label}"
            expected.append(f"{name}\n{100 * made['probabilities'][index]:.1f} %")
            shown = found[0].axes[len(expected) - 1].images[0].get_array()
            assert np.array_equal(np.asarray(shown), made["images"][index, 0])
    assert [axes.get_title(loc="center") for axes in found[0].axes] == expected
    assert found[0].get_suptitle() == (
        "300 images of mnist test: 280 right, 20 wrong (packed weights)\n"
        "left: the first 15 right answers; right: the 15 most certain wrong ones"
    )
    few = predictions(3) | {"classes": ("a long name", *map(str, range(9)))}
    plot_answers(path=tmp_path / "few.png", **few)
    plot_answers(path=tmp_path / "right.png", **(few | {"predicted": few["labels"]}))
    assert count_pixels(tmp_path / "few.png", WRONG) > 500
    assert count_pixels(tmp_path / "right.png", WRONG) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": np.zeros((12, 28, 28), np.uint8)},
            r"got images uint8 \(12, 28, 28\), expected uint8 \(N, C, H, W\)",
        ),
        ({"images": np.zeros((12, 1, 28, 28))}, "got images float64"),
        ({"images": np.zeros((12, 2, 28, 28), np.uint8)}, "with C 1 or 3"),
        ({"images": np.zeros((0, 1, 28, 28), np.uint8)}, "got 0 images, expected 1 to 200"),
        ({"labels": np.zeros(3, np.int64)}, r"got labels of shape \(3,\), expected \(12,\)"),
        ({"probabilities": np.zeros((12, 10))}, r"got probabilities of shape \(12, 10\)"),
        ({"predicted": np.full(12, 10)}, "predicted must be class numbers from 0 to 9"),
        ({"labels": np.full(12, 0.5)}, "labels must be class numbers"),
        ({"probabilities": np.full(12, 97.0)}, "probabilities must be between 0 and 1"),
        ({"probabilities": np.full(12, np.nan)}, "probabilities must be between 0 and 1"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plot_predictions(path=tmp_path / "a.png", **(predictions() | change))
    with pytest.raises(UsageError, match="at least 1" if "1 to 200" in message else message):
        plot_answers(path=tmp_path / "a.png", **(predictions() | change))
    assert os.listdir(tmp_path) == []


# -------------------------------------------------------------------------------------------------------------- health
def healthy(epoch: int, layers: int = 2) -> EpochLog:
    return row(epoch, layers={f"linear{i}": {"flip_ratio": 0.1 / epoch, "zero_gradients": 0.0} for i in range(layers)})


@pytest.mark.parametrize(("epochs", "layers"), [(1, 1), (3, 2), (40, 60)])
def test_health_is_drawn_per_layer_and_epoch(tmp_path: Path, epochs: int, layers: int) -> None:
    history = History([healthy(epoch, layers) for epoch in range(1, epochs + 1)])
    plot_health(history, tmp_path / "health.png", name="run $x$")
    check_picture(tmp_path / "health.png")


def test_a_layer_that_comes_and_goes_leaves_a_gap(tmp_path: Path) -> None:
    plot_health(History([row(1), healthy(2), healthy(3, 1)]), tmp_path / "health.png")
    check_picture(tmp_path / "health.png")


def test_without_health_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no health of a layer"):
        plot_health(History([row(1)]), tmp_path / "health.png")


@pytest.mark.usefixtures("no_ink")
def test_a_report_shows_the_health_of_runs_that_have_it(tmp_path: Path) -> None:
    make_run(tmp_path / "new", rows=[healthy(1), healthy(2)])
    make_run(tmp_path / "old")
    files = write_report([tmp_path / "new", tmp_path / "old"], tmp_path / "report")
    assert [file.name for file in files if file.name.startswith("health")] == ["health-new.png"]
    assert "Health of each layer of new" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    "layers", ["x", {"linear1": 0.5}, {"linear1": {"flip_ratio": "0.5"}}, {"linear1": {"flip_ratio": 2}}]
)
def test_damaged_health_is_reported_with_its_line(tmp_path: Path, layers: Any) -> None:
    run = make_run(tmp_path / "run", rows=[row(1), row(2, layers=layers)])
    with pytest.raises(FormatError, match=r"metrics\.jsonl, line 2: damaged \("):
        write_report([run], tmp_path / "report")


def test_rows_of_earlier_versions_are_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    old = [
        json.dumps({k: v for k, v in json.loads(line).items() if k not in ("layers", "validation_mean_iou")})
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    (run / "metrics.jsonl").write_text("\n".join(old) + "\n")
    assert len(write_report([run], tmp_path / "report")) == 4
