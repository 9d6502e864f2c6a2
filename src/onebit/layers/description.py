"""What of a model is binary, what is real, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from onebit.common.text import table
from onebit.common.torch_private import BATCH_NORM, INSTANCE_NORM
from onebit.common.weight_names import WEIGHT_NAME
from onebit.errors import shortened
from onebit.layers.base import BinaryLayer, LatentWeight, binary_layers, input_quantizers, latent_keys
from onebit.layers.binary import BINARY_TWINS
from onebit.layers.parametrized import PARAMETRIZED, BinaryParametrization, binary_parametrizations, kind_name, kind_of
from onebit.layers.rprelu import RPReLU
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, FewBits, Quantizer, scheduled

BIAS = "bias and scales of binary layers"
NOT_CHOSEN = "not chosen by where"
LEFT_REAL = "left real"
REASONS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("normalization", (BATCH_NORM, INSTANCE_NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)),
    ("embedding", (nn.Embedding, nn.EmbeddingBag)),
    ("activation", (nn.PReLU, RPReLU, FewBits)),
)
"""Why a layer stays real -> classes of such layers."""
THE_MODEL = "(the model)"


class BinaryRow(NamedTuple):
    """A layer with binary weights: their number, and the quantizers by name."""

    name: str
    kind: str
    weights: int
    quantizer: str


class RealRow(NamedTuple):
    """A layer with real parameters of its own: their number, and why they are real."""

    name: str
    kind: str
    parameters: int
    reason: str


@dataclass(frozen=True)
class BinarizeReport:
    """What of a model is binary, what is real and why; `print` it for a table.

    Args:
        model: the model itself, which `binarize_` changed in place.
        binary: a row for each layer with binary weights.
        real: a row for each layer that has real parameters.
        warnings: what could have been binary and is not, a line each.
    """

    model: nn.Module = field(repr=False)
    binary: list[BinaryRow]
    real: list[RealRow]
    warnings: list[str]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "kind", "numbers", "")]
        own = [row for row in self.real if row.reason != BIAS]
        for verdict, found in (("binary", self.binary), ("real", own)):
            rows += [(name or THE_MODEL, kind, f"{count:,}", f"{verdict}: {why}") for name, kind, count, why in found]
        if rest := sum(row.parameters for row in self.real if row.reason == BIAS):
            rows.append(("", "", f"{rest:,}", f"real: {BIAS}"))
        lines = [table(rows, right=(2,))]
        binary, real = sum(row.weights for row in self.binary), sum(row.parameters for row in self.real)
        lines.append(f"{binary:,} binary weights, {real:,} real parameters")
        if scheduled(self.model):
            lines.append("its quantizers follow the training: your own loop calls onebit.set_progress before each step")
        return "\n".join([*lines, *(f"warning: {line}" for line in self.warnings)])


def weight_counts(model: nn.Module) -> tuple[int, int]:
    """(binary weights, all weights): embeddings are weights; scales, biases and normalization are not."""
    latents = latent_keys(model)
    binary = sum(latent.layer.weight.numel() for latent in latents.values())
    binary += sum(_packed_sizes(module)[0] for module in model.modules())
    real = 0
    for name, parameter in model.named_parameters():
        named = parameter.dim() > 1 and WEIGHT_NAME.search(name) is not None
        # a scale per channel may have sides of 1
        if name not in latents and (named or sum(side > 1 for side in parameter.shape) > 1):
            real += parameter.numel()
    return binary, binary + real


def describe_layers(model: nn.Module) -> BinarizeReport:
    """What of a model is binary, what is real and why, layer by layer: the report of `binarize_` for any model.

    Example:
        >>> print(describe_layers(nn.Sequential(BinaryLinear(8, 4), nn.ReLU(), nn.Linear(4, 2))))
        layer  kind          numbers
        0      BinaryLinear       32  binary: sign
        2      Linear             10  real: left real
        32 binary weights, 10 real parameters
    """
    return describe(model, None)


def describe(model: nn.Module, where: Callable[[str, nn.Module], bool] | None) -> BinarizeReport:
    """`describe_layers`, in which the layers that `where` leaves out are marked."""
    report = BinarizeReport(model, [], [], [])
    reasons: dict[str, list[str]] = {}
    seen = {id(layer.weight) for _, layer in binary_layers(model)}
    alone = {id(quantizer) for name, quantizer in input_quantizers(model) if not name.endswith("input_quantizer")}
    for name, module in model.named_modules():
        if id(module) not in alone and isinstance(module, (Quantizer, ParametrizationList, BinaryParametrization)):
            continue  # counted with the layer that it belongs to
        signs, real = _packed_sizes(module)
        latents = _latents(module)
        if latents or signs:
            weights = signs or sum(latent.weight.numel() for latent in latents)
            quantizer = _quantizers(latents[0]) if latents else "packed"
            report.binary.append(BinaryRow(name, kind_name(module), weights, quantizer))
        own = {key: parameter for key, parameter in _parameters(module, latents).items() if id(parameter) not in seen}
        if not own and not real:
            continue
        lazy = any(map(is_lazy, own.values()))
        count = 0 if lazy else real + sum(parameter.numel() for parameter in own.values())
        reason, warn = (BIAS, False) if latents or signs else _reason(kind_of(module), own, lazy=lazy)
        if (warn or reason == LEFT_REAL) and _left_out(where, name, module):
            reason, warn = NOT_CHOSEN, False
        if warn:
            reasons.setdefault(reason, []).append(name or THE_MODEL)
        report.real.append(RealRow(name, kind_name(module), count, reason))
    for reason, names in reasons.items():
        few = ", ".join(shortened(repr(name), 60) for name in names[:5]) + ", …" * (len(names) > 5)
        report.warnings.append(f"{reason}: {few}; if that is meant, leave it out with `where`")
    return report


def _left_out(where: Callable[[str, nn.Module], bool] | None, name: str, module: nn.Module) -> bool:
    try:
        return where is not None and not where(name, module)
    except AttributeError:  # `where` may ask for what only the layers have that can be binary
        return False


def _packed_sizes(module: nn.Module) -> tuple[int, int]:
    """(one-bit weights, real numbers) of a layer of `packed_layers_`, (0, 0) of any other module."""
    return getattr(module, "packed_sizes", (0, 0))


def _latents(module: nn.Module) -> list[LatentWeight]:
    if isinstance(module, BinaryLayer):
        return [module] if module.weight_quantizer is not None else []
    return list(binary_parametrizations(module).values())


def _parameters(module: nn.Module, latents: list[LatentWeight]) -> dict[str, Tensor]:
    """The parameters of a module itself and of its quantizers."""
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    parts: list[Any] = [latent.weight_quantizer for latent in latents]
    if is_parametrized(module):  # by weight_norm, for example
        parts.append(module.parametrizations)
    if isinstance(module, BinaryLayer) or any(_packed_sizes(module)):
        parts.append(module.input_quantizer)
    for part in parts:
        if part is not None:
            own |= {f"{id(part)}.{name}": parameter for name, parameter in part.named_parameters()}
    return own


def _quantizers(latent: LatentWeight) -> str:
    """Names of the quantizers: that of the weights, then that of the inputs."""

    def named(quantizer: Any, table: Any) -> str:
        return next((name for name, kind in table.items() if type(quantizer) is kind), type(quantizer).__name__)

    weights = named(latent.weight_quantizer, WEIGHT_QUANTIZERS)
    inputs = latent.input_quantizer
    return weights if inputs is None else f"{weights}, inputs {named(inputs, INPUT_QUANTIZERS)}"


def _reason(kind: type, own: dict[str, Tensor], *, lazy: bool) -> tuple[str, bool]:
    """Why a module with the parameters `own` is real, and whether that may surprise."""
    if lazy:
        return f"a {kind.__name__} has no shape before its first batch", True
    if issubclass(kind, BinaryLayer):
        return "weight_quantizer=None", False
    twins = (*BINARY_TWINS, *PARAMETRIZED)
    if kind in (*twins, nn.modules.linear.NonDynamicallyQuantizableLinear):  # the output projection of attention
        return LEFT_REAL, False
    for reason, classes in REASONS:
        if issubclass(kind, classes):
            return reason, False
    for known in twins:
        if issubclass(kind, known):
            return f"a subclass of {known.__name__}, whose forward is not known", True
    if all(math.prod(parameter.shape[1:]) <= 1 or len(parameter) == 1 for parameter in own.values() if parameter.dim()):
        return "no weight matrix", False
    if kind.__module__.startswith("torch.nn."):
        return f"there is no binary {kind.__name__}", True
    names = [name for name, parameter in own.items() if parameter.dim() > 1 and len(parameter) > 1]
    return f"{kind.__name__} uses {', '.join(names[:3])} itself", True
