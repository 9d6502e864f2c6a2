"""`check` a model before training: its binary layers, how it packs, and likely mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from onebit.errors import OnebitError, first_line, shortened
from onebit.evaluation.counts import net_size
from onebit.evaluation.health import constant_inputs
from onebit.fold import refusals_of
from onebit.fold.shipped import no_binary_layers
from onebit.fold.trace import Inputs, random_inputs
from onebit.layers import BinarizeReport, BinaryLayer, binary_layers, input_quantizers
from onebit.layers.base import unwrapped
from onebit.layers.description import LEFT_REAL, NOT_CHOSEN, describe_layers
from onebit.quantizers import Quantizer

REASON_LENGTH = 100
"""Characters of a reason in `CheckReport.line`."""
TRIED = 4
"""Number of random samples that show which binary inputs are constant."""


@dataclass(frozen=True)
class CheckReport:
    """The binary layers of a model, whether it packs whole, and warnings; `print` it for a table.

    Args:
        layers: which layers are binary and which are real.
        whole: whether `onebit.pack` packs the whole graph.
        reasons: why it does not: path of each operation that cannot be packed -> message.
        warnings: likely mistakes, one line each.
    """

    layers: BinarizeReport
    whole: bool
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """One line, which `fit` also prints: share of binary weights, how it packs, and the number of warnings."""
        count, real = len(self.layers.binary), {row.name for row in self.layers.real if row.reason in _WEIGHTS}
        total = len(real | {row.name for row in self.layers.binary})
        packs, path = "packs whole", next(iter(self.reasons), "")
        if path:
            packs = f"packs layer by layer, because of {path!r}"
        elif not self.whole:
            packs = f"does not pack whole: {shortened(self.reasons[path], REASON_LENGTH)}"
        share = net_size(self.layers.model).share
        text = f"check: {count} of {total} layers binary ({share} of weights); {packs}"
        found = len(self.warnings)
        return text + (f"; {found} warning{'s' * (found > 1)}: onebit.check(model, example)" if found else "")

    def __str__(self) -> str:
        lines = [str(self.layers), "packs whole: onebit.pack(model, example)"]
        if not self.whole:
            layers = "" if "" in self.reasons else ", only layer by layer with onebit.packed_layers_(model)"
            lines[1] = f"does not pack whole{layers}, because"
            lines += [f"  {reason}" for reason in dict.fromkeys(self.reasons.values())]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


_WEIGHTS = (LEFT_REAL, NOT_CHOSEN, "weight_quantizer=None")


def check(model: nn.Module, example: Any = None, *, preprocess: nn.Module | None = None) -> CheckReport:
    """Check before training which layers are binary, whether the model packs whole or why not, and likely mistakes.

    A model that cannot be checked is no error: the report has the reason. Only shapes and dtypes of the example matter.

    Args:
        example: a batch of inputs, as for `onebit.pack`; optional if the model has the attribute `input_shape`.
        preprocess: a module that is applied outside of the model, as in `onebit.pack`.

    Example:
        >>> net = nn.Sequential(onebit.BinaryLinear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
        >>> check(net, torch.zeros(1, 64)).line
        'check: 1 of 2 layers binary (97.0 % of weights); packs whole'
    """
    layers = describe_layers(unwrapped(model))  # the graph has the names without a wrapper
    try:
        copy, batch, refusals = refusals_of(model, example, preprocess=preprocess)
    except (OnebitError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        return CheckReport(layers, False, {"": first_line(error)})
    reasons = {path: first_line(error) for path, error in refusals.items()}
    warnings = tuple(mistakes(copy, lambda: _drawn(batch)))
    return CheckReport(layers, not reasons, reasons, warnings)


def _drawn(batch: Inputs) -> Any:
    drawn = random_inputs(batch, TRIED)
    return drawn if len(drawn) > 1 else next(iter(drawn.values()))


def mistakes(model: nn.Module, inputs: Callable[[], Any]) -> Iterator[str]:
    """Mistakes that keep a model from learning or from being binary, one line each.

    Args:
        inputs: returns inputs of some samples; called for models with binary inputs.
    """
    # models of onebit and of recipes are real on purpose
    meant = hasattr(model, "input_shape") or hasattr(model, "meant_real")
    binary = any(binary_layers(model))
    if not (binary or meant or any(isinstance(part, (BinaryLayer, Quantizer)) for part in model.modules())):
        yield no_binary_layers(model)
    if any(input_quantizers(model)) and (names := constant_inputs(model, inputs())):
        yield f"the binary inputs are all the same value, as after a ReLU: {', '.join(names)}"
