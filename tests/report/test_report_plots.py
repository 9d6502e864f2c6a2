"""The pictures that users of the library draw themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from onebit.errors import DataError, FormatError, OnebitError, UsageError
from onebit.layers import BinaryConv2d, BinaryLinear
from onebit.packed.bits import sign
from onebit.report import (
    histograms,
    plot_answers,
    plot_health,
    plot_history,
    plot_predictions,
    plot_weights,
    predictions as predictions_module,
    write_report,
)
from onebit.report.curves import draw_panel
from onebit.report.drawing import NEGATIVE, POSITIVE, STYLE, WRONG, curve_color, picture
from onebit.report.histograms import BINS, Layer, draw_layer, plot_run_weights
from onebit.report.run_folders import read_runs
from onebit.train.history import EpochLog, History
from onebit.train.weights import save_weights
from support.report_runs import check_picture, history_group, make_run, row


def count_pixels(path: Path, color: str) -> int:
    """Pixels of exactly this color."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    with Image.open(path) as image:
        return int((np.asarray(image.convert("RGB")) == wanted).all(axis=2).sum())


def test_the_same_picture_has_the_same_bytes_and_the_users_settings_stay(tmp_path: Path) -> None:
    history = History([row(1), row(2, validation_loss=None, validation_error=None)])
    plot_history(history, tmp_path / "a.png")
    assert check_picture(tmp_path / "a.png")[0] == 1665
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "axes.grid": False, "savefig.dpi": 30, "font.size": 30}):
        plot_history(history, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before
    assert set(STYLE) <= set(before)


def test_what_cannot_be_written_is_named_and_the_old_picture_stays(tmp_path: Path) -> None:
    for name in ("curves.pdf", "curves", "gone/curves.png"):
        with pytest.raises(OnebitError, match="curves"):
            plot_history(History([row(1)]), tmp_path / name)
    path = tmp_path / "weights.png"
    path.write_bytes(b"old")
    with pytest.raises(DataError, match="no weights"):
        plot_weights({}, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.png"]


def test_the_axis_is_logarithmic_where_values_span_a_decade() -> None:
    def axis(errors: Sequence[float], validated: Sequence[float]) -> Axes:
        rows = [
            row(epoch, train_error=error, validation_error=value)
            for epoch, (error, value) in enumerate(zip(errors, validated, strict=True), start=1)
        ]
        axes = Figure().subplots()
        draw_panel(axes, [history_group(rows)], "error")
        assert axes.lines[0].get_ydata() == pytest.approx([100 * error for error in errors])
        assert axes.lines[1].get_ydata() == pytest.approx([100 * error for error in validated])
        assert axes.lines[2].get_ydata() == pytest.approx([100 * min(validated)])
        return axes

    flat = axis([0.2, 0.1], [0.2, 0.15])
    assert (flat.get_yscale(), flat.get_ylim()[0]) == ("linear", 0)
    # a training error that falls to 0 does not flatten the validation
    steep = axis([0.4, 1e-4, 2e-6, 0.0], [0.1, 0.05, 0.04, 0.03])
    assert steep.get_yscale() == "log"
    assert 0.4 < steep.get_ylim()[0] < 3 < 40 < steep.get_ylim()[1]
    assert axis([0.0], [0.0]).get_yscale() == "linear"
    assert len(axis([5e-324, 1.0], [1e-320, 1.0]).get_yticks()) < 100
    assert len({matplotlib.colors.to_hex(curve_color(i, 12)) for i in range(12)}) == 12


def test_the_legend_names_what_is_drawn(tmp_path: Path) -> None:
    from onebit.report.curves import add_legend

    with picture(tmp_path / "a.png", width=8, height=4) as figure:
        curves = [history_group([row(1), row(2)], label="a" * 99, seeds=2), history_group([row(1)], label="b")]
        draw_panel(figure.subplots(), curves, "loss")
        add_legend(figure, curves)
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
    names = [f"{'a' * 99}, 2 seeds, binary weights", "b, binary weights"]
    assert texts == [*names, "training (mean over the epoch)", "validation", "± standard deviation over seeds"]


def test_the_histogram_counts_every_weight_and_zero_is_plus_one() -> None:
    def drawn(layer: Layer) -> Axes:
        axes = Figure().subplots()
        draw_layer(axes, layer)
        return axes

    weight = np.array([[-1.0, -0.5, -0.0, 0.0], [0.25, 1.0, 1.0, -1e-30]], np.float32)
    axes = drawn(Layer("fc", weight, sign(weight), 1.0))
    negative, positive = (patch.get_data().values for patch in axes.patches)  # type: ignore[attr-defined]
    assert (negative.sum(), positive.sum(), len(negative)) == (37.5, 62.5, BINS // 2)
    assert axes.get_title() == "fc  (2×4)\n−1: 37.50 %   +1: 62.50 %   |w| ≥ 1: 37.5 %"
    assert axes.get_xlabel() == "latent weight"
    real = drawn(Layer("fc", weight * 3))
    assert real.get_title().endswith(f"mean 0.2812, sd {np.std(weight * 3):.4f}")
    assert real.get_xlim() == pytest.approx((-3.18, 3.18))
    assert drawn(Layer("fc", np.zeros((2, 2)))).patches[0].get_data().values.sum() == 100  # type: ignore[attr-defined]


def capture_layers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layers that the next picture draws."""
    found: list[Any] = []
    draw = histograms.draw_weights

    def keep(layers: list[Any], path: Path, *, title: str) -> None:
        found.extend(layers)
        draw(layers, path, title=title)

    monkeypatch.setattr(histograms, "draw_weights", keep)
    return found


@pytest.mark.usefixtures("no_ink")
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


def test_a_model_knows_its_binary_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        BinaryLinear(8, 6, weight_quantizer="sign", value=0.5), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 4)
    )
    found = capture_layers(monkeypatch)
    plot_weights(model, tmp_path / "model.png", title="my $net")
    first, second = found
    assert (first.name, first.value, second.name, second.value) == ("0.weight", 0.5, "2.weight", None)
    assert np.array_equal(first.signs, sign(first.weight))
    check_picture(tmp_path / "model.png")
    assert count_pixels(tmp_path / "model.png", POSITIVE) > 1000 < count_pixels(tmp_path / "model.png", NEGATIVE)
    plot_weights(model.state_dict(), tmp_path / "state.png")
    assert [layer.signs for layer in found[2:]] == [None, None]
    assert count_pixels(tmp_path / "state.png", POSITIVE) == 0
    plot_weights(BinaryLinear(8, 6), tmp_path / "lone.png")
    assert found[-1].name == "weight"
    assert found[-1].value == 1.0


@pytest.mark.usefixtures("no_ink")
def test_weights_of_a_kind_that_numpy_lacks_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_tensors

    run = make_run(tmp_path / "run")
    save_tensors({"a.weight": torch.zeros(2, 2, dtype=torch.float8_e4m3fn)}, run / "best.safetensors")
    with pytest.raises(FormatError, match="best"):
        write_report([run], tmp_path / "report")


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
    with pytest.raises(UsageError, match="uint8"):
        plot_predictions(path=tmp_path / "real.png", **(made | {"images": made["images"] / 255}))
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
    def kept(path: Path, **how: Any) -> Iterator[Figure]:
        with picture(path, **how) as figure:
            found.append(figure)
            yield figure

    monkeypatch.setattr(predictions_module, "picture", kept)
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
    few = predictions(3)
    plot_answers(path=tmp_path / "right.png", **(few | {"predicted": few["labels"]}))
    assert count_pixels(tmp_path / "right.png", WRONG) == 0


# -------------------------------------------------------------------------------------------------------------- health
def healthy(epoch: int, layers: int = 2) -> EpochLog:
    return row(epoch, layers={f"linear{i}": {"flip_ratio": 0.1 / epoch, "zero_gradients": 0.0} for i in range(layers)})


@pytest.mark.parametrize(("epochs", "layers"), [(1, 1), (30, 40)])
def test_health_is_drawn_per_layer_and_epoch(tmp_path: Path, epochs: int, layers: int) -> None:
    # a layer that comes and goes leaves a gap
    history = History([healthy(1), *(healthy(epoch, layers) for epoch in range(2, epochs + 1))])
    plot_health(history, tmp_path / "health.png", name="run $x$")
    check_picture(tmp_path / "health.png")


@pytest.mark.usefixtures("no_ink")
def test_a_report_shows_the_health_of_runs_that_have_it(tmp_path: Path) -> None:
    make_run(tmp_path / "new", rows=[healthy(1), healthy(2)])
    make_run(tmp_path / "old")
    files = write_report([tmp_path / "new", tmp_path / "old"], tmp_path / "report")
    assert [file.name for file in files if file.name.startswith("health")] == ["health-new.png"]
    assert "Health of each layer of new" in (tmp_path / "report" / "index.html").read_text()
