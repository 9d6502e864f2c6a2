"""`check`: what of a model is binary, how it packs, and what will go wrong in training, before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from onebit.common.text import NetSize
from onebit.errors import OnebitError, first_line, shortened
from onebit.evaluation.health import constant_inputs
from onebit.fold import eval_copy, refusals_of
from onebit.fold.shipped import no_binary_layers
from onebit.fold.trace import random_inputs
from onebit.layers import BinarizeReport, BinaryLayer, binary_layers, input_quantizers
from onebit.layers.base import unwrapped
from onebit.layers.description import BIAS, REASONS, describe_layers, weight_counts
from onebit.quantizers import Quantizer

REASON_LENGTH = 100
"""Characters of a reason in the line of a training."""
TRIED = 4
"""Samples of random numbers that show which binary inputs are constant."""


@dataclass(frozen=True)
class CheckReport:
    """What of a model is binary, whether it packs whole, and warnings; `print` it for a table.

    Args:
        layers: what is binary and what is real, layer by layer.
        whole: whether `onebit.pack` packs the whole graph.
        reasons: why it does not: path of the operation and the message, for each that is refused.
        warnings: what will go wrong in training, a line each.
        problem: why the model could not be checked, "" if it could.
    """

    layers: BinarizeReport
    whole: bool
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problem: str = ""

    @property
    def line(self) -> str:
        """One line, as a training begins with: how much is binary, how it packs, and the number of warnings."""
        kinds = {row.name for row in self.layers.real if row.reason in _WEIGHTS}
        count, rest = len(self.layers.binary), len(kinds - {row.name for row in self.layers.binary})
        share = f"{NetSize(*weight_counts(self.layers.model), 0).share} of weights"
        text = f"check: {count} of {count + rest} layers binary ({share}); {self._packs}"
        found = len(self.warnings)
        return text + (f"; {found} warning{'s' * (found > 1)}: onebit.check(model, example)" if found else "")

    @property
    def _packs(self) -> str:
        if self.problem:
            return f"not checked further: {self.problem}"
        if self.whole:
            return "packs whole"
        if not self.layers.binary:
            return "nothing to pack"
        path, reason = next(iter(self.reasons.items()), ("", ""))
        if path:
            return f"packs layer by layer, because of {path!r}"
        return f"packs layer by layer: {shortened(reason, REASON_LENGTH)}" if reason else "packs layer by layer"

    def __str__(self) -> str:
        lines = [str(self.layers)]
        if self.problem:
            lines.append(f"not checked further: {self.problem}")
        elif self.whole:
            lines.append("packs whole: onebit.pack(model, example)")
        elif self.layers.binary:
            lines.append("packs layer by layer: onebit.packed_layers_(model); not whole, because")
            lines += [f"  {reason}" for reason in dict.fromkeys(self.reasons.values())]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


_AS_USUAL = {BIAS, "no weight matrix", "weight_quantizer=None", *(reason for reason, _ in REASONS)}
_WEIGHTS = ("left real", "not chosen by where", "weight_quantizer=None")


def check(model: nn.Module, example: Any = None, *, preprocess: nn.Module | None = None) -> CheckReport:
    """What of a model is binary, whether it packs whole or only layer by layer and why, and warnings, before training.

    A model that cannot be checked is not an error: the report says why. Only shapes and dtypes of the example count.

    Args:
        example: a batch as the model is fed, (N, …), or (inputs, targets); optional if the model has the attribute
            `input_shape`.
        preprocess: what is applied outside the model, as in `onebit.pack`.

    Example:
        >>> net = nn.Sequential(onebit.BinaryLinear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
        >>> check(net, torch.zeros(1, 64)).line
        'check: 1 of 2 layers binary (97.0 % of weights); packs whole'
    """
    model = unwrapped(model)  # the names in its graph are those without a wrapper
    layers = describe_layers(model)
    if not any(True for _ in binary_layers(model)):
        return CheckReport(layers, False, problem=no_binary_layers(model))
    if reason := _unfit(example):
        return CheckReport(layers, False, {"": reason})
    try:
        graph, refusals = refusals_of(model, _float(example), preprocess=preprocess)
    except (OnebitError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        return CheckReport(layers, False, problem=first_line(error))
    reasons = {path: first_line(error) for path, error in refusals.items()}
    if graph is None:
        return CheckReport(layers, False, reasons)
    whole = model if preprocess is None else nn.Sequential(preprocess, model)
    (example,) = [node.meta["value"] for node in graph.nodes if node.op == "placeholder"]
    warnings = tuple(mistakes(eval_copy(whole), lambda: random_inputs(example, TRIED)))
    return CheckReport(layers, not reasons, reasons, warnings)


def mistakes(model: nn.Module, inputs: Callable[[], Any]) -> Iterator[str]:
    """Why a training of this model would come to nothing, or would not be one of a binary net, a line each.

    Args:
        inputs: makes those of a few samples; called for a model with binary inputs.
    """
    layers = describe_layers(model)
    # a net of ours, or of a recipe, is real on purpose
    meant = hasattr(model, "input_shape") or hasattr(model, "meant_real")
    if not (layers.binary or meant or any(isinstance(part, (BinaryLayer, Quantizer)) for part in model.modules())):
        yield no_binary_layers(model)
    weights = {row.name: False for row in layers.real if row.reason not in _AS_USUAL}
    weights |= {row.name: True for row in layers.binary}
    names = [name for name, _ in model.named_modules() if name in weights]
    if len(names) > 2 and [weights[name] for name in names] == [True, *[False] * (len(names) - 2), True]:
        yield f"only the ends are binary, {names[0]!r} and {names[-1]!r}: all layers between them are real"
    if any(True for _ in input_quantizers(model)) and (names := constant_inputs(model, inputs())):
        yield f"the binary inputs are all the same value, as after a ReLU: {', '.join(names)}"


def _unfit(example: Any) -> str:
    """Why no packed net takes such inputs; "" if it may."""
    if isinstance(example, Mapping):
        return "the model takes a dict or tuple of inputs, a packed net takes one tensor"
    first = example[0] if isinstance(example, (tuple, list)) and example else example
    dtype = str(getattr(first, "dtype", "")).removeprefix("torch.")
    if dtype.startswith(("int", "uint", "bool")) and dtype != "uint8":
        return f"the model takes {dtype}, such as tokens, a packed net takes uint8 or float32"
    return ""


def _float(example: Any) -> Any:
    """An example in float32, if it has another real dtype; its first tensor, if it is a batch with targets."""
    if isinstance(example, (tuple, list)) and example:
        example = example[0]
    if example is None or str(getattr(example, "dtype", "")).endswith(("uint8", "float32")):
        return example
    return torch.as_tensor(example).float()
