"""Histograms of latent weights per layer, with their two values and the share of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onebit.common.files import AnyPath
from onebit.common.safetensors_file import open_safetensors
from onebit.common.weight_names import WEIGHT_NAME
from onebit.errors import DataError, FormatError
from onebit.report.drawing import INK, NEGATIVE, POSITIVE, REAL, picture
from onebit.report.run_folders import RunResults
from onebit.report.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 100  # even, so that 0 is the edge of a bin
PANEL = 3.7
"""Inches of the width of a panel, with its labels."""


class Layer(NamedTuple):
    """The weights (O, …) of a layer.

    signs: ±1 in their shape; None for real weights. value: the two values are ±value; None if they differ within the
    layer, or for real weights.
    """

    name: str
    weight: np.ndarray
    signs: np.ndarray | None = None
    value: float | None = None


def plot_weights(model_or_state: Any, path: AnyPath, *, title: str = "latent weights") -> None:
    """Draw the histogram of the weights of each layer into one PNG.

    Args:
        model_or_state: a torch module; or a state_dict (name -> tensor), whose tensors with two or more axes and a name
            ending in `weight` are drawn as real weights.
        path: ends in .png.
        title: of the picture.

    Raises:
        DataError: no such weights.
        UsageError: `path` is not a .png.
        OnebitError: the file cannot be written.

    Example:
        >>> plot_weights(model, "weights.png", title="mnist-fast: latent weights after epoch 3")  # doctest: +SKIP
    """
    if isinstance(model_or_state, Mapping):
        layers = [Layer(name, _array(tensor)) for name, tensor in model_or_state.items() if _is_weight(name, tensor)]
    else:
        layers = list(_model_layers(model_or_state))
    draw_weights(layers, path, title=title)


def plot_run_weights(run: RunResults, path: Path) -> None:
    """Draw the weights of a run folder, read without torch from `run.weights`, which must not be None."""
    import safetensors

    assert run.weights is not None
    try:
        file, facts = open_safetensors(run.weights)
        latents = set(facts.get("latents", []))
        positions = {name: position for position, name in enumerate(facts.get("order", []))}
        value = run.settings.get("model.value", 1.0)
        value = None if value == "glorot" else float(value)
        layers = []
        for name in sorted(file.keys(), key=lambda name: positions.get(name, len(positions))):
            array = file.get_tensor(name)
            if name in latents:
                layers.append(Layer(name, array, np.where(array < 0, -1, 1), value))
            elif _is_weight(name, array):
                layers.append(Layer(name, array))
    except (safetensors.SafetensorError, AttributeError, TypeError, ValueError, RecursionError, OSError) as error:
        raise FormatError(f"{run.weights}: damaged, or not a safetensors file ({error})") from None
    draw_weights(layers, path, title=f"{run.name}: {'latent weights' if latents else 'weights'}, {run.weights.name}")


def _model_layers(model: Any) -> Iterator[Layer]:
    from onebit.layers import latent_keys

    binary = latent_keys(model)
    for name, parameter in model.named_parameters():
        if name in binary:
            name, _, layer = binary[name]
            signs, scale, center = layer.binary_weight()
            one_value = center is None and (scale is None or bool((scale == scale.flatten()[0]).all()))
            value = (1.0 if scale is None else float(scale.flatten()[0])) if one_value else None
            yield Layer(name, _array(parameter), _array(signs), value)
        elif _is_weight(name, parameter):
            yield Layer(name, _array(parameter))


def _array(tensor: Any) -> np.ndarray:
    """A tensor or array as numpy, without importing torch."""
    return tensor.detach().float().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)


def _is_weight(name: str, tensor: Any) -> bool:
    """Whether a tensor is a layer's weight; the weight of a BatchNorm has one axis."""
    return tensor.ndim >= 2 and WEIGHT_NAME.search(name) is not None


def draw_weights(layers: Sequence[Layer], path: AnyPath, *, title: str) -> None:
    """One panel per layer; DataError without layers."""
    if not layers:
        raise DataError(f"{title}: no weights with two or more axes")
    columns = min(math.ceil(math.sqrt(len(layers))), 6)
    rows = math.ceil(len(layers) / columns)
    with picture(path, width=max(PANEL * columns, 5.5), height=2.5 * rows + 0.6, title=title) as figure:
        for place, layer in enumerate(layers, start=1):
            draw_layer(figure.add_subplot(rows, columns, place), layer)


def draw_layer(axes: Axes, layer: Layer) -> None:
    """The share of the weights in BINS bins around 0, with lines at ±value."""
    from matplotlib.ticker import MaxNLocator

    weight, signs, value = np.asarray(layer.weight, np.float32), layer.signs, layer.value
    limit = max(float(np.abs(weight).max(initial=0)), value or 0.0) or 1.0
    counts, edges = np.histogram(weight, bins=BINS, range=(-limit, limit))
    share, half = 100 * counts / max(1, weight.size), BINS // 2
    if signs is None:
        axes.stairs(share, edges, fill=True, color=REAL)
        mean, sd = weight.mean(dtype=np.float64), weight.std(dtype=np.float64)
        caption = f"mean {mean:.4f}, sd {sd:.4f}".replace("-", "−")
    else:
        axes.stairs(share[:half], edges[: half + 1], fill=True, color=NEGATIVE)
        axes.stairs(share[half:], edges[half:], fill=True, color=POSITIVE)
        shown, positive = "value" if value is None else f"{value:.3g}", 100 * float(np.mean(signs > 0))
        caption = f"−{shown}: {100 - positive:.2f} %   +{shown}: {positive:.2f} %"
        if value is not None:
            caption += f"   |w| ≥ {shown}: {100 * float(np.mean(np.abs(weight) >= value)):.1f} %"
    for bound in () if value is None else (-value, value):
        axes.axvline(bound, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    name = printable(layer.name, limit=40)
    axes.set_title(f"{name}  ({'×'.join(map(str, weight.shape))})\n{caption}", fontsize=7.5)
    xlabel = "weight" if signs is None else "latent weight"
    axes.set(xlim=(-1.06 * limit, 1.06 * limit), xlabel=xlabel, ylabel="share per bin (%)")
