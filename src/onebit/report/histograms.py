"""Histograms of latent weights per layer, with their two values and the share of each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from onebit.common.safetensors_file import open_safetensors
from onebit.common.weight_names import WEIGHT_NAME
from onebit.errors import DataError, FormatError, shortened
from onebit.packed.bits import sign
from onebit.report.drawing import INK, NEGATIVE, POSITIVE, REAL, add_title, picture
from onebit.report.run_folders import RunResults, recipe_label
from onebit.report.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 100  # even, so that 0, where the sign changes, is the edge of a bin
PANEL = 3.7
"""Inches of the width of a panel, with its labels."""


@dataclass(frozen=True)
class LayerHistogram:
    """Counts of the weights of one layer in BINS bins from −limit to +limit.

    value: the two values are ±value; None if they differ within the layer, or for real weights.
    positive: share of weights that become +value; None for real weights.
    at_bound: share of latents at or beyond ±value; None without a value.
    """

    name: str
    shape: tuple[int, ...]
    counts: np.ndarray
    limit: float
    mean: float
    sd: float
    value: float | None
    positive: float | None
    at_bound: float | None

    @property
    def is_latent(self) -> bool:
        """Whether the weights are latent: not yet equal to their two values."""
        return self.positive is not None and self.at_bound != 1


def layer_histogram(
    name: str, weight: np.ndarray, *, value: float | None = None, signs: np.ndarray | None = None
) -> LayerHistogram:
    """Count the weights of one layer.

    Args:
        weight: (O, …) latents, or real weights if `value` and `signs` are None.
        value: the two values are ±value.
        signs: of the latents, ±1 in the shape of `weight`; sign(latent) if only `value` is given.
    """
    weight = np.asarray(weight, np.float32)
    limit = float(np.abs(weight).max(initial=0))
    if not math.isfinite(limit):
        raise DataError(f"{name}: weights that are not finite numbers")
    limit = max(limit, value or 0.0) or 1.0
    counts, _ = np.histogram(weight, bins=BINS, range=(-limit, limit))
    if value is not None and signs is None:
        signs = sign(weight)
    return LayerHistogram(
        name=shortened(printable(name), 40),
        shape=weight.shape,
        counts=counts,
        limit=limit,
        mean=float(weight.mean(dtype=np.float64)),
        sd=float(weight.std(dtype=np.float64)),
        value=value,
        positive=None if signs is None else float(np.count_nonzero(signs > 0) / weight.size),
        at_bound=None if value is None else float(np.count_nonzero(np.abs(weight) >= value) / weight.size),
    )


def plot_weights(
    model_or_state: Any, path: str | os.PathLike[str], *, value: float | None = None, title: str = "latent weights"
) -> None:
    """Draw the histogram of the weights of each layer into one PNG.

    Args:
        model_or_state: a torch module; or a state_dict (name -> tensor or array), whose tensors with two or more axes
            and a name ending in `weight` are drawn.
        path: ends in .png.
        value: for a state_dict: the two values are ±value; if None, a layer of ±c is drawn as binary and any other
            layer as real.
        title: of the picture.

    Raises:
        DataError: no such weights, or some that are not finite.
        UsageError: `path` is not a .png.
        OnebitError: the file cannot be written.

    Example:
        >>> plot_weights(model, "weights.png", title="mnist-fast: latent weights after epoch 3")  # doctest: +SKIP
    """
    if isinstance(model_or_state, Mapping):
        arrays = ((name, _array(tensor)) for name, tensor in model_or_state.items())
        layers = [
            layer_histogram(name, array, value=_exact_value(array) if value is None else value)
            for name, array in arrays
            if _is_weight(name, array.ndim)
        ]
    else:
        layers = list(_model_layers(model_or_state))
    draw_weights(layers, path, title=title)


def plot_run_weights(run: RunResults, path: Path) -> None:
    """Draw the weights of a run folder, read without torch from `run.weights`, which must not be None."""
    assert run.weights is not None
    facts, names, binary, read = open_weights(run.weights)
    value = run.settings.get("model.value", 1.0)
    layers = []
    for name in names:
        weight = read(name)
        try:
            layers.append(layer_histogram(name, weight, value=_value(value, weight) if name in binary else None))
        except (DataError, TypeError, ValueError) as error:
            raise FormatError(f"{run.weights}: {error}") from None
    recipe = f" ({recipe_label(run)})" if recipe_label(run) != run.name else ""
    title = f"{run.name}{recipe}: {'latent weights' if binary else 'weights'}"
    if isinstance(facts.get("epoch"), int):
        title += f" after epoch {facts['epoch']}"
    if run.weights.stem == "best" and run.history.best.validation_error is not None:
        title += ", the best on validation"
    draw_weights(layers, path, title=title)


def open_weights(path: Path) -> tuple[dict[str, Any], list[str], set[str], Callable[[str], np.ndarray]]:
    """(facts, names of weights in the order of the net, latent ones, function that reads one) of a safetensors file."""
    import safetensors

    damaged = (safetensors.SafetensorError, AttributeError, TypeError, ValueError, RecursionError, OSError)
    try:
        file, facts = open_safetensors(path)
        latents = set(facts.pop("latents", []))
        places = {name: place for place, name in enumerate(facts.pop("order", []))}
        axes = {name: len(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except damaged as error:
        raise FormatError(f"{path}: damaged, or not a safetensors file ({printable(error)})") from None

    def read(name: str) -> np.ndarray:
        try:
            return file.get_tensor(name)
        except damaged as error:  # AttributeError for a dtype that numpy lacks
            raise FormatError(f"{path}: {printable(name)} cannot be read ({printable(error)})") from None

    names = [name for name in axes if _is_weight(name, axes[name]) or name in latents]
    return facts, sorted(names, key=lambda name: places.get(name, len(places))), latents, read


def _value(value: Any, weight: np.ndarray) -> float:
    if value == "glorot":
        from onebit.layers import glorot_bound  # imports torch; the formula needs the shape only

        return glorot_bound(cast(Any, weight))
    return float(value)


def _exact_value(weight: np.ndarray) -> float | None:
    """c if every weight is exactly +c or −c, else None."""
    magnitude = np.abs(weight)
    low, high = (float(magnitude.min()), float(magnitude.max())) if weight.size else (0.0, 0.0)
    return high if 0 < low == high < math.inf else None


def _model_layers(model: Any) -> Iterator[LayerHistogram]:
    from onebit.layers import latent_keys

    binary = latent_keys(model)
    for name, parameter in model.named_parameters():
        if name not in binary:
            if _is_weight(name, parameter.dim()):
                yield layer_histogram(name, _array(parameter))
            continue
        name, layer = binary[name]
        signs, scale, center = layer.binary_weight()
        one_value = center is None and (scale is None or bool((scale == scale[0]).all()))
        value = (1.0 if scale is None else float(scale[0])) if one_value else None
        yield layer_histogram(name, _array(parameter), value=value, signs=_array(signs))


def _array(tensor: Any) -> np.ndarray:
    """A tensor or array as numpy, without importing torch."""
    return tensor.detach().float().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)


def _is_weight(name: str, axes: int) -> bool:
    """Whether a tensor is a layer's weight; the weight of a BatchNorm has one axis."""
    return axes >= 2 and WEIGHT_NAME.search(name) is not None


def draw_weights(layers: Sequence[LayerHistogram], path: str | os.PathLike[str], *, title: str) -> None:
    """One panel per layer; DataError without layers."""
    if not layers:
        raise DataError(f"{printable(title)}: there are no weights with two or more axes to draw")
    columns = min(math.ceil(math.sqrt(len(layers))), 6)
    rows = math.ceil(len(layers) / columns)
    with picture(path, width=max(PANEL * columns, 5.5), height=2.5 * rows + 0.6) as figure:
        add_title(figure, title)
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat[len(layers) :]:
            axes.remove()
        for axes, layer in zip(panels.flat, layers, strict=False):
            _draw_layer(axes, layer)


def _draw_layer(axes: Axes, layer: LayerHistogram) -> None:
    from matplotlib.ticker import MaxNLocator

    edges = np.linspace(-layer.limit, layer.limit, BINS + 1)
    share = 100 * layer.counts / max(1, layer.counts.sum())
    half = BINS // 2
    if layer.positive is None:
        axes.stairs(share, edges, fill=True, color=REAL)
    else:
        axes.stairs(share[:half], edges[: half + 1], fill=True, color=NEGATIVE)
        axes.stairs(share[half:], edges[half:], fill=True, color=POSITIVE)
    for value in () if layer.value is None else (-layer.value, layer.value):
        axes.axvline(value, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.set_xlim(-1.06 * layer.limit, 1.06 * layer.limit)
    title = f"{layer.name}  ({'×'.join(map(str, layer.shape))})\n{_caption(layer)}"
    axes.set_title(title, fontsize=7.5)
    axes.set_xlabel("latent weight" if layer.is_latent else "weight")
    axes.set_ylabel("share per bin (%)")


def _caption(layer: LayerHistogram) -> str:
    if layer.positive is None:
        return f"mean {layer.mean:.4f}, sd {layer.sd:.4f}".replace("-", "−")
    value = "value" if layer.value is None else f"{layer.value:.3g}"
    text = f"−{value}: {100 * (1 - layer.positive):.2f} %   +{value}: {100 * layer.positive:.2f} %"
    if layer.at_bound is not None and layer.is_latent:
        text += f"   |w| ≥ {value}: {100 * layer.at_bound:.1f} %"
    return text
