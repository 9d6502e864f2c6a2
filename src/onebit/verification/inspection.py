"""Whether the weights in a torch, safetensors or packed file are binary: counts and ranges."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.common.weight_names import WEIGHT_NAME
from onebit.errors import FormatError
from onebit.nets import is_packed, net_path
from onebit.packed import InputSpec, costs
from onebit.packed.bits import unpack_signs
from onebit.packed.certificate import PROMISES
from onebit.packed.file import load_with_digest
from onebit.packed.net import INPUT

if TYPE_CHECKING:
    from torch import Tensor, nn

BINS = 21


@dataclass(frozen=True)
class LayerReport:
    """A weight tensor with at least two axes; axis 0 is the output channel, axis 1 in a transposed convolution.

    verdict: "binary" (exactly two values per output channel, not always ±1, see `is_binary`), "clipped" (inside
        [−1, 1], not binary) or "real".
    minus_one, plus_one: number of values that are exactly −1, +1; between: inside (−1, 1); outside: beyond ±1.
    distance: mean distance of |w| to 1. bits: per weight when packed, 1 or 32; in a GGUF or ONNX file, as stored there.
    histogram: counts in 21 equal bins of [low, high].
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    verdict: str
    low: float
    high: float
    minus_one: int
    plus_one: int
    between: int
    outside: int
    not_numbers: int
    distance: float
    bits: float
    histogram: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """The contents of a file; `verdict` is that of all layers, or "mixed"."""

    file: str
    kind: str
    verdict: str
    layers: tuple[LayerReport, ...]
    total: dict[str, Any]
    facts: dict[str, Any]
    tensors: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_weight(name: str, weight: np.ndarray, *, dtype: str) -> LayerReport:
    """Inspect one weight of shape (O, …), or (I, O, …) in a transposed convolution.

    Args:
        weight: its values, in float32 or float64.
        dtype: the stored type.
    """
    numbers = weight[np.isfinite(weight)]
    whole = numbers.size == weight.size
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (math.nan, math.nan)
    binary = whole and is_binary(weight)
    clipped = whole and low >= -1 and high <= 1
    magnitude = np.abs(numbers)
    histogram = np.zeros(BINS, np.int64)
    # ValueError, IndexError: a range too narrow to be divided into bins
    with suppress(ValueError, IndexError), np.errstate(all="ignore"):
        if math.isfinite(high - low):
            histogram = np.histogram(numbers, BINS, (low, high))[0]
    return LayerReport(
        name=name,
        shape=weight.shape,
        dtype=dtype,
        verdict="binary" if binary else "clipped" if clipped else "real",
        low=low,
        high=high,
        minus_one=int(np.count_nonzero(numbers == -1)),
        plus_one=int(np.count_nonzero(numbers == 1)),
        between=int(np.count_nonzero(magnitude < 1)),
        outside=int(np.count_nonzero(magnitude > 1)),
        not_numbers=weight.size - numbers.size,
        distance=float(np.abs(magnitude - 1).mean(dtype=np.float64)) if numbers.size else math.nan,
        bits=1 if binary else 32,
        histogram=tuple(histogram.tolist()),
    )


def is_binary(weight: np.ndarray) -> bool:
    """Whether a finite weight of an unknown layer, (O, …) or (I, O, …), has two values per output channel.

    Channels of one or two weights always have: those must be ±c, or share their values.
    """
    layouts = [weight] if weight.ndim < 3 else [weight, np.moveaxis(weight, 1, 0)]
    return any(_binary_rows(layout.reshape(len(layout), -1)) for layout in layouts)


def _binary_rows(rows: np.ndarray) -> bool:
    if rows.shape[1] > 2 or not holds_two_values(rows):
        return holds_two_values(rows)
    magnitude = np.abs(rows)
    opposite = rows.shape[1] == 2 and bool((magnitude[:, 0] == magnitude[:, 1]).all())
    shared = rows.size > 2 and len(np.unique(rows)) <= 2
    return opposite or shared or bool((magnitude == 1).all())


def holds_two_values(rows: np.ndarray) -> bool:
    """Whether each row has at most two values; a single value counts as ±c unless it is 0."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    return bool(((rows == low) | (rows == high)).all() and (low[low == high] != 0).all())


def inspect_state(state: dict[str, Tensor], *, file: str, kind: str, facts: dict[str, Any]) -> Inspection:
    """Inspect every weight tensor of a state_dict.

    A tensor of another name that may hold weights makes the verdict "mixed": its use is unknown.
    """
    numbers = {name: tensor for name, tensor in state.items() if str(tensor.dtype) != "torch.bool"}
    layers = tuple(
        inspect_weight(name, _values(tensor), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in numbers.items()
        if tensor.dim() >= 2 and WEIGHT_NAME.search(name) and not (tensor.is_complex() or tensor.is_quantized)
    )
    if not layers:
        raise FormatError(f"{file}: no weight tensors found (two or more axes, named …weight)")
    verdicts = {layer.verdict for layer in layers}
    warnings = []
    found = {layer.name for layer in layers}
    # a scale per channel has one axis longer than 1
    others = [name for name, t in numbers.items() if name not in found and sum(side > 1 for side in t.shape) > 1]
    if others:
        if verdicts == {"binary"}:
            verdicts = {"mixed"}
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        warnings.append(f"not named as weights, but perhaps real weights: {', '.join(others[:3])}{more}")
    for layer in layers:
        if layer.not_numbers:
            warnings.append(f"{layer.name}: {layer.not_numbers} values are not numbers")
        zeros = math.prod(layer.shape) - layer.plus_one - layer.minus_one
        if layer.verdict != "binary" and zeros and zeros == int((state[layer.name] == 0).sum()):
            warnings.append(f"{layer.name}: {zeros} weights are exactly 0: a ternary net, not a binary one?")
    from onebit.evaluation.counts import state_size  # imports torch, which packed files do not need

    total = _sizes(*state_size(state, found)) | {
        "weights": sum(state[name].numel() for name in (*found, *others)),
        "binary_weights": sum(math.prod(layer.shape) for layer in layers if layer.bits == 1),
        "bytes_in_file": sum(t.numel() * t.element_size() for t in state.values()),
        "macs": None,  # they depend on the input
    }
    return Inspection(
        file=file,
        kind=kind,
        verdict=verdicts.pop() if len(verdicts) == 1 else "mixed",
        layers=layers,
        total=total,
        facts=facts,
        tensors=tuple(
            {"name": n, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for n, t in state.items()
        ),
        warnings=tuple(warnings),
    )


def _values(tensor: Tensor) -> np.ndarray:
    """The values as numpy float32 or float64: numpy has no bfloat16, and float16 sums overflow."""
    return (tensor if str(tensor.dtype) == "torch.float64" else tensor.float()).detach().numpy()


def _sizes(binary: int, real: int, packed: int) -> dict[str, Any]:
    return {"parameters": binary + real, "bytes_at_1_bit": packed, "bytes_at_32_bit": 4 * (binary + real)}


def net_totals(model: nn.Module) -> dict[str, Any]:
    """Totals of a known model, which unlike a bare state_dict shows its real layers and MACs."""
    from onebit.evaluation.counts import summary

    whole = summary(model)
    binary, real, packed, macs = map(whole.total, ("binary_weights", "real_parameters", "bytes_packed", "macs"))
    return _sizes(binary, real, packed) | {"macs": macs}


def inspect_file(path: str | Path) -> Inspection:
    """Inspect a run folder, a folder of a language model, or a torch, safetensors or .1bit file."""
    if is_packed(path):
        return _inspect_packed(path)
    if (Path(path) / "config.json").is_file():
        from onebit.runs.language import read_pretrained

        # the signs that ship: a row may have a scale for each group of weights
        parameters = read_pretrained(path)[1].items()
        state = {name: x if quantizer is None else quantizer.decompose(x).signs for name, (x, quantizer) in parameters}
        return inspect_state(state, file=str(path), kind="transformers", facts={})
    from onebit.train.weights import read_state, weight_file

    path = weight_file(Path(path))
    state, facts = read_state(path)
    kind = "safetensors" if path.suffix == ".safetensors" else "torch"
    return inspect_state(state, file=str(path), kind=kind, facts=facts)


def _input_facts(spec: InputSpec) -> dict[str, Any]:
    statistics = {} if spec.mean is None or spec.std is None else {"mean": spec.mean.tolist(), "std": spec.std.tolist()}
    coding = "standardize" if spec.coding == "standardise" else spec.coding
    sizes = {"sizes": spec.sizes} if spec.sizes == "any" else {}
    facts = {"dtype": spec.dtype, "shape": list(spec.shape), "meaning": spec.meaning, "coding": coding}
    return facts | sizes | statistics


def _inspect_packed(path: str | Path) -> Inspection:
    net, digest = load_with_digest(path)
    layers = []
    for node in net.nodes:
        if node.output in net.repeats:
            continue
        if (signs := getattr(node, "signs", None)) is not None:
            unpacked = unpack_signs(signs, node.in_features, dtype=np.float32)  # type: ignore[attr-defined]
            layers.append(inspect_weight(node.output, unpacked, dtype="bit"))
        elif (weight := getattr(node, "weight", None)) is not None:
            layers.append(inspect_weight(node.output, weight, dtype="float32"))
    rows = costs(net)
    inputs = {name: _input_facts(spec) for name, spec in net.inputs.items()}
    binary, real = sum(r.binary_weights for r in rows), sum(r.real_parameters for r in rows)
    return Inspection(
        file=str(path),
        kind="packed",
        verdict="binary" if not any(row.op.startswith("real_") for row in rows) else "mixed",
        layers=tuple(layers),
        total=_sizes(binary, real, sum(r.bytes for r in rows))
        | {
            "weights": sum(math.prod(layer.shape) for layer in layers),
            "binary_weights": binary,
            "bytes_in_file": net_path(path).stat().st_size,
            "macs": sum(r.macs for r in rows),
        },
        facts={
            **({"input": inputs[INPUT]} if [*inputs] == [INPUT] else {"inputs": inputs}),
            "outputs": [
                {"key": key, "name": name, "shape": list(net.values[name].shape)} for key, name in net.keyed.items()
            ],
            "card": net.card and net.card.to_json(),
            "certificate": net.certificate and net.certificate.as_dict(),
            "promise": net.certificate and f"{net.promise}: {PROMISES[net.promise]}",
            "name": net.name,
            "digest": digest,
        },
        tensors=tuple({"name": r.name, "shape": list(r.shape), "dtype": r.op} for r in rows),
        warnings=() if net.certificate else ("the packed net has no certificate",),
    )
