"""Every picture and every measured number of docs/tutorial.md: python tools/tutorial_pictures.py

Trains one recipe with stochastic and with deterministic weights from several seeds, and evaluates the nets of the last
epoch in every test mode. Writes the pictures and `numbers.txt`, the table that it also prints. The same machine and the
same arguments give the same numbers. Precision is float32, because not every machine supports bf16. Other arguments are
flags of the recipe, as in `onebit train`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from onebit.data import Dataset, Split
from onebit.evaluation.batches import predict_logits
from onebit.evaluation.modes import bn_images, fixed_weights, kept_batch_norm, reestimate_batch_norm_
from onebit.layers import binary_layers
from onebit.quantizers import draw_signs
from onebit.recipe import Recipe, build_recipe, read_settings, recipe_path
from onebit.report.curves import Curve, add_legend, draw_panel, per_epoch
from onebit.report.drawing import COLORS, GREY, INK, NEGATIVE, POSITIVE, curve_color, label_epochs, picture
from onebit.runs.model import build_training
from onebit.runs.run import fit_recipe, load_recipe_data
from onebit.train.history import EpochLog, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = {"deterministic": "sign", "stochastic": "stochastic"}
"""Name in the tutorial -> weight quantizer, the only difference between the two training runs."""
SHIPPED_BN = {"deterministic": "trained", "stochastic": "reestimate"}
"""The BatchNorm statistics that `fit` leaves, and `onebit evaluate` uses for binary weights."""
FLAGS = ("--optimizer.lr", "0.002", "--precision", "fp32", "--device", "cpu")
"""With 6 epochs: twice the epochs of the recipe at a fifth of its learning rate, which is easier to follow."""
HISTOGRAM_BINS = 60  # even, so that 0, where the sign changes, is the edge of a bin
PATH_STEPS = 300
PATH_WEIGHTS = 2000
DRAWS_PER_VALUE = 100_000


@dataclass
class Trained:
    """A net after its last epoch, with records of its training.

    model: with the BatchNorm statistics set by `fit`; raw: the same net with those of the training passes.
    latents: epoch (0 is before training) -> latent weights of the first layer.
    paths: (steps, weights), some latent weights of the first layer after each of the first optimizer steps.
    """

    model: nn.Module
    raw: nn.Module
    history: History
    latents: dict[int, Tensor]
    paths: np.ndarray


@dataclass
class Accuracies:
    """Test accuracies of one net, fractions. `single[mode, bn]` has one entry per draw, or only one without draws."""

    single: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    ensembles: dict[int, list[float]] = field(default_factory=dict)


def train(recipe: Recipe, data: Dataset) -> Trained:
    """Train a recipe and record the latent weights of its first layer."""
    training = build_training(recipe, data)
    model = training.model
    latent = next(binary_layers(model))[1].weight.detach()
    watched = _watched(latent, data.train)
    latents = {0: latent.clone()}
    paths = [latent[watched].tolist()]
    raw: list[nn.Module] = []

    def on_step(done: int, total: int) -> None:
        if done <= PATH_STEPS:
            paths.append(latent[watched].tolist())

    def on_epoch(row: EpochLog) -> None:
        latents[row.epoch] = latent.clone()
        if row.epoch == row.epochs:  # `fit` has not re-estimated BatchNorm yet
            raw.append(copy.deepcopy(model))

    history = fit_recipe(recipe, training, data, on_step=on_step, on_epoch=on_epoch)
    return Trained(model, raw[0], history, latents, np.array(paths))


def _watched(latent: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Indices of random weights, of pixels that are often bright."""
    lit = torch.from_numpy(np.flatnonzero(split.images.reshape(len(split), -1).mean(axis=0) > 64))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(latent), (PATH_WEIGHTS,), generator=generator)
    return rows, lit[torch.randint(len(lit), (PATH_WEIGHTS,), generator=generator)]


@torch.no_grad()
def measure(trained: Trained, data: Dataset, *, draws: int) -> Accuracies:
    """Every test mode, with the BatchNorm statistics of the training passes ("trained") and with re-estimated ones.

    The same as `onebit evaluate` on the last epoch, with the same first N draws.
    """
    images, labels = torch.from_numpy(data.test.images), torch.from_numpy(data.test.labels)
    known = bn_images(data.train)
    found = Accuracies()

    def accuracy(scores: Tensor) -> float:
        return float((scores.argmax(dim=1) == labels).double().mean())

    def both(mode: str, generator: torch.Generator | None = None) -> Tensor:
        with fixed_weights(trained.raw, mode, generator=generator), kept_batch_norm(trained.raw):
            for bn in ("trained", "reestimate"):
                if bn == "reestimate":
                    reestimate_batch_norm_(trained.raw, known)
                logits = predict_logits(trained.raw, images)
                found.single.setdefault((mode, bn), []).append(accuracy(logits))
        return logits

    both("binary")
    both("latent")
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.stack([both("sample", generator).double().softmax(dim=1) for _ in range(draws)])
    size = 1
    while size <= draws:
        groups = probabilities[: draws // size * size].unflatten(0, (-1, size)).mean(dim=1)
        found.ensembles[size] = [accuracy(group) for group in groups]
        size *= 2
    return found


@torch.no_grad()
def scaled_weights(model: nn.Module, data: Dataset, factor: float) -> tuple[int, int, int]:
    """Multiply every binary weight by `factor`; returns (predictions unchanged with BatchNorm re-estimated, predictions
    unchanged with the old statistics, all predictions)."""
    images = torch.from_numpy(data.test.images)
    known = bn_images(data.train)
    with fixed_weights(model, "binary"), kept_batch_norm(model):
        reestimate_batch_norm_(model, known)
        before = predict_logits(model, images).argmax(dim=1)
        for _, layer in binary_layers(model):
            assert layer.fixed_weight is not None
            layer.fixed_weight = factor * layer.fixed_weight
        kept = predict_logits(model, images).argmax(dim=1)
        reestimate_batch_norm_(model, known)
        again = predict_logits(model, images).argmax(dim=1)
    return int((again == before).sum()), int((kept == before).sum()), len(images)


def undecided(model: nn.Module) -> float:
    """Expected share of weights whose draw differs from the sign: the mean of min(p, 1 − p)."""
    latents = torch.cat([layer.weight.detach().flatten() for _, layer in binary_layers(model)])
    return float((0.5 - latents.abs().clamp(max=1) / 2).mean())


# ------------------------------------------------------------------------------------------------------------ pictures
def draw_hard_sigmoid(path: Path) -> float:
    """p(+1) of a latent weight, by the formula and measured with `draw_signs`; returns the largest difference."""
    values = np.linspace(-1.25, 1.25, 41)
    generator = torch.Generator().manual_seed(0)
    drawn = np.array(
        [
            float((draw_signs(torch.full((DRAWS_PER_VALUE,), float(w)), generator=generator) > 0).double().mean())
            for w in values
        ]
    )
    formula = np.clip((values + 1) / 2, 0, 1)
    spread = np.sqrt(formula * (1 - formula) / DRAWS_PER_VALUE)
    with picture(path, width=9, height=3.4) as figure:
        left, right = figure.subplots(1, 2)
        fine = np.linspace(-1.25, 1.25, 501)
        left.plot(fine, np.clip((fine + 1) / 2, 0, 1), color=INK, label="hard sigmoid clip((w + 1)/2, 0, 1)")
        dots = f"drawn: share of +1 in {DRAWS_PER_VALUE:,} draws"
        left.plot(values, drawn, "o", color=POSITIVE, markersize=3.5, label=dots)
        left.plot(fine, fine >= 0, color=NEGATIVE, linestyle=(0, (4, 2)), label="deterministic: +1 for w ≥ 0")
        left.set(xlabel="latent weight w", ylabel="probability of +1", title="the probability that a weight is +1")
        left.legend(loc="upper left", fontsize=7.5)
        left.set_ylim(-0.04, 1.42)
        left.set_yticks(np.linspace(0, 1, 6))
        right.fill_between(values, -200 * spread, 200 * spread, color=GREY, alpha=0.25, linewidth=0)
        right.plot(values, 100 * (drawn - formula), "o", color=POSITIVE, markersize=3.5)
        right.set(xlabel="latent weight w", ylabel="drawn − formula (percentage points)")
        right.set_title("the difference; gray: two standard deviations")
    return float(np.abs(drawn - formula).max())


def draw_paths(path: Path, trained: Trained) -> tuple[float, float]:
    """Some latent weights during the first optimizer steps; returns (mean |change|, share of flips) per step."""
    paths = trained.paths
    flips = (paths[1:] >= 0) != (paths[:-1] >= 0)
    clipped = np.abs(paths).max(axis=0) == 1
    chosen: list[int] = []  # the first weight with each number of flips; the one without flips is clipped
    for count in (0, 1, 1, 3, 5):
        candidates = np.flatnonzero((flips.sum(axis=0) == count) & (clipped | (count > 0)))
        chosen += [int(i) for i in candidates if i not in chosen][:1]
    with picture(path, width=9, height=3.4) as figure:
        axes = figure.subplots()
        axes.axhspan(0, 1.05, color=POSITIVE, alpha=0.07, linewidth=0)
        axes.axhspan(-1.05, 0, color=NEGATIVE, alpha=0.07, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        for index, weight in enumerate(chosen):
            shade = ("#000000", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")[index]
            axes.plot(paths[:, weight], color=shade)
            at = np.flatnonzero(flips[:, weight]) + 1
            axes.plot(at, paths[at, weight], "o", color=shade, markersize=5)
        axes.set(xlabel="optimizer step", ylabel="latent weight", xlim=(0, len(paths) - 1), ylim=(-1.05, 1.05))
        axes.text(1.005, 0.75, "the net\nuses +1", color=POSITIVE, transform=axes.transAxes, va="center")
        axes.text(1.005, 0.25, "the net\nuses −1", color=NEGATIVE, transform=axes.transAxes, va="center")
        axes.set_title(f"{len(chosen)} latent weights, deterministic training; a dot where the sign flips")
    return float(np.abs(np.diff(paths, axis=0)).mean()), float(flips.mean())


def draw_latents(path: Path, nets: dict[str, Trained]) -> None:
    """Histograms of the latent weights of the first layer: a row per method, a column per epoch."""
    last = max(next(iter(nets.values())).latents)
    moments = sorted({0, 1, last})
    names = {0: "before training", 1: "after epoch 1", last: f"after epoch {last}"}
    edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
    half = HISTOGRAM_BINS // 2
    with picture(path, width=9, height=4.6) as figure:
        panels = figure.subplots(len(nets), len(moments), sharex=True, sharey=True, squeeze=False)
        for row, (method, trained) in zip(panels, nets.items(), strict=True):
            for axes, epoch in zip(row, moments, strict=True):
                latent = trained.latents[epoch].numpy()
                counts, _ = np.histogram(latent, edges)
                share = 100 * counts / latent.size
                axes.stairs(share[:half], edges[: half + 1], fill=True, color=NEGATIVE)
                axes.stairs(share[half:], edges[half:], fill=True, color=POSITIVE)
                against = f"{100 * float((0.5 - np.abs(latent) / 2).mean()):.1f} %"
                axes.set_title(f"{method}, {names[epoch]}\na draw differs from the sign in {against}", fontsize=8.5)
            row[0].set_ylabel("share per bin (%)")
        for axes in panels[-1]:
            axes.set_xlabel("latent weight")
            axes.set_xlim(-1.04, 1.04)


def draw_training(path: Path, histories: dict[str, list[History]], *, data: str) -> None:
    """Error and flip ratio per epoch, mean and standard deviation over seeds."""
    curves = [Curve(method, tuple(runs)) for method, runs in histories.items()]
    with picture(path, width=9, height=3.4) as figure:
        error, flips = figure.subplots(1, 2)
        draw_panel(error, curves, "error")
        error.set_title(f"{data}: error")
        for index, curve in enumerate(curves):
            epochs, mean, sd = per_epoch([[(r.epoch, 100 * r.flip_ratio) for r in h] for h in curve.histories])
            shade = curve_color(index, len(curves))
            flips.plot(epochs, mean, "o-", markersize=2.5, color=shade)
            flips.fill_between(epochs, mean - sd, mean + sd, color=shade, alpha=0.18, linewidth=0)
        label_epochs(flips, 1, len(curves[0].histories[0]))
        flips.set_ylim(bottom=0)
        flips.set(ylabel="signs flipped in the epoch (%)", title=f"{data}: flip ratio")
        add_legend(figure, curves)


def draw_freezing(path: Path, found: dict[str, list[Accuracies]], *, data: str) -> None:
    """Accuracy of ensembles of N draws, with the binary and the latent weights as lines."""
    with picture(path, width=9, height=3.8) as figure:
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, (method, nets), shade in zip(panels, found.items(), COLORS, strict=False):
            _draw_ensembles(axes, nets, shade, shipped_bn=SHIPPED_BN[method])
            axes.set(xlabel="draws in the ensemble", title=f"{method} training")
            axes.legend(loc="lower right")
        panels[0].set_ylabel(f"accuracy on {data} test (%)")


def _draw_ensembles(axes: Axes, nets: Sequence[Accuracies], shade: str, *, shipped_bn: str) -> None:
    from matplotlib.ticker import NullLocator

    sizes = list(nets[0].ensembles)
    per_net = [[100 * np.mean(net.ensembles[size]) for size in sizes] for net in nets]
    mean = np.mean(per_net, axis=0)
    everything = [np.concatenate([100 * np.array(net.ensembles[size]) for net in nets]) for size in sizes]
    low, high = [values.min() for values in everything], [values.max() for values in everything]
    axes.vlines(sizes, low, high, color=shade, alpha=0.35, linewidth=5)
    axes.plot(sizes, mean, "o-", color=shade, markersize=4, label="ensemble:N (bar: lowest to highest)")
    for mode, bn, style in (("binary", shipped_bn, "-"), ("latent", "reestimate", (0, (4, 2)))):
        level = 100 * np.mean([net.single[mode, bn][0] for net in nets])
        axes.axhline(level, color=INK, linestyle=style, linewidth=1.0, label=f"{mode} weights, {level:.2f} %")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


# ------------------------------------------------------------------------------------------------------------- numbers
def mean_sd(values: Sequence[float]) -> str:
    """Fractions as `97.08 ± 0.12`, in percent; the standard deviation is that of a sample."""
    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{spread}"


def rows_of(method: str, nets: Sequence[Accuracies]) -> list[tuple[str, ...]]:
    """Lines of the table: method, test mode, BatchNorm, accuracy over seeds, spread over draws."""
    rows: list[tuple[str, ...]] = []
    for (mode, bn), values in nets[0].single.items():
        means = [float(np.mean(net.single[mode, bn])) for net in nets]
        over_draws = ""
        if len(values) > 1:
            over_draws = f"{100 * np.mean([np.std(net.single[mode, bn], ddof=1) for net in nets]):.2f}"
        rows.append((method, mode, bn, mean_sd(means), over_draws))
    for size in nets[0].ensembles:
        means = [float(np.mean(net.ensembles[size])) for net in nets]
        rows.append((method, f"ensemble:{size}", "reestimate", mean_sd(means), ""))
    return rows


def as_table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mnist-tutorial", help="(%(default)s)")
    parser.add_argument("--dataset", default="mnist", help="mnist or mnist-sample (%(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="training runs per method (%(default)s)")
    parser.add_argument("--draws", type=int, default=32, help="random draws per net (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/tutorial"), help="folder (%(default)s)")
    arguments, more_flags = parser.parse_known_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    # each data set has its own number of validation images: mnist-sample has fewer than the 10,000 of the recipe
    settings = {**read_settings(recipe_path(arguments.recipe)), "validation": None}
    first: dict[str, Trained] = {}
    histories: dict[str, list[History]] = {method: [] for method in METHODS}
    found: dict[str, list[Accuracies]] = {method: [] for method in METHODS}
    against: dict[str, list[float]] = {method: [] for method in METHODS}
    for method, quantizer in METHODS.items():
        for seed in range(arguments.seeds):
            flags = ["--dataset", arguments.dataset, "--model.weight_quantizer", quantizer, "--seed", str(seed)]
            flags += ["--epochs", str(arguments.epochs), *FLAGS, *more_flags]
            recipe = build_recipe(settings, flags)
            data = load_recipe_data(recipe)
            trained = train(recipe, data)
            first.setdefault(method, trained)
            histories[method].append(trained.history)
            found[method].append(measure(trained, data, draws=arguments.draws))
            against[method].append(undecided(trained.model))
            print(f"{method}, seed {seed}: {trained.history.rows[-1]}", flush=True)

    out = arguments.out
    difference = draw_hard_sigmoid(out / "hard-sigmoid.png")
    moved, flipped = draw_paths(out / "latent-paths.png", first["deterministic"])
    draw_latents(out / "latents.png", first)
    draw_training(out / "training.png", histories, data=arguments.dataset)
    draw_freezing(out / "freezing.png", found, data=arguments.dataset)
    Image.fromarray(data.test.images[0, 0]).save(out / "digit.png")
    again, kept, count = scaled_weights(first["deterministic"].raw, data, 0.1)

    widths, all_flags = "–".join(map(str, recipe.model.widths or ())), " ".join([*FLAGS, *more_flags])
    lines = [
        f"recipe {recipe.name}: {widths}, {arguments.dataset}, {recipe.epochs:g} epochs, {all_flags}",
        f"seeds 0–{arguments.seeds - 1}, {arguments.draws} draws per net; nets of the last epoch on the test split",
        "accuracy in %: mean ± standard deviation over seeds; over draws: their standard deviation, mean over seeds",
        "",
        *as_table(
            [
                ("training", "test mode", "BatchNorm", "accuracy", "over draws"),
                *(row for method, nets in found.items() for row in rows_of(method, nets)),
            ]
        ),
        "",
        *(f"weights whose draw differs from the sign, {m}: {mean_sd(values)} %" for m, values in against.items()),
        f"share of +1 in {DRAWS_PER_VALUE:,} draws: at most {100 * difference:.2f} points off the hard sigmoid",
        f"deterministic, seed 0, first {PATH_STEPS} steps: a latent weight moves by {moved:.4f} per step, "
        f"{1000 * flipped:.1f} of 1,000 steps flip its sign",
        f"deterministic, seed 0, all binary weights times 0.1: {again:,} of {count:,} predictions unchanged with "
        f"BatchNorm re-estimated, {kept:,} without",
    ]
    (out / "numbers.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
