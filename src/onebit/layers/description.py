"""Which parts of a model are binary, which are real, and why."""

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
from onebit.errors import UsageError, shortened
from onebit.layers.base import BinaryLayer, LatentWeight, binary_layers, input_quantizers, unwrapped
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
    """A layer with real parameters: their number, and why they are real."""

    name: str
    kind: str
    parameters: int
    reason: str


@dataclass(frozen=True)
class BinarizeReport:
    """Which parts of a model are binary, which are real and why; `print` it for a table.

    Args:
        model: the model, which `binarize_` changed in place.
        binary: a row for each layer with binary weights.
        real: a row for each layer with real parameters.
        warnings: a line for each reason why layers that could have been binary are not.
    """

    model: nn.Module = field(repr=False)
    binary: list[BinaryRow]
    real: list[RealRow]
    warnings: list[str]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "kind", "numbers", "")]
        real_layers = [row for row in self.real if row.reason != BIAS]
        for verdict, found in (("binary", self.binary), ("real", real_layers)):
            rows += [(name or THE_MODEL, kind, f"{count:,}", f"{verdict}: {why}") for name, kind, count, why in found]
        if rest := sum(row.parameters for row in self.real if row.reason == BIAS):
            rows.append(("", "", f"{rest:,}", f"real: {BIAS}"))
        lines = [table(rows, right=(2,))]
        binary, real = sum(row.weights for row in self.binary), sum(row.parameters for row in self.real)
        lines.append(f"{binary:,} binary weights, {real:,} real parameters")
        if scheduled(self.model):
            lines.append("its quantizers follow a schedule: a custom loop calls onebit.set_progress before each step")
        return "\n".join([*lines, *(f"warning: {line}" for line in self.warnings)])


def describe_layers(model: nn.Module, where: Callable[[str, nn.Module], bool] | None = None) -> BinarizeReport:
    """The report of `binarize_` for any model: which layers are binary, which are real and why.

    Args:
        where: of `binarize_`; layers that it leaves out are marked.

    Example:
        >>> print(describe_layers(nn.Sequential(BinaryLinear(8, 4), nn.ReLU(), nn.Linear(4, 2))))
        layer  kind          numbers
        0      BinaryLinear       32  binary: sign
        2      Linear             10  real: left real
        32 binary weights, 10 real parameters
    """
    report = BinarizeReport(model, [], [], [])
    reasons: dict[str, list[str]] = {}
    latent_ids = {id(layer.weight) for _, layer in binary_layers(model)}
    modules = {id(quantizer) for name, quantizer in input_quantizers(model) if not name.endswith("input_quantizer")}
    holders: dict[int, str] = {}
    counted = set[int]()
    for name, module in model.named_modules():
        if id(module) not in modules and isinstance(module, (Quantizer, ParametrizationList, BinaryParametrization)):
            continue  # part of a layer
        signs, real = packed_sizes(module)
        latents = latents_of(module)
        if latents or signs:
            weights = signs or sum(latent.weight.numel() for latent in latents if id(latent.weight) not in counted)
            counted |= {id(latent.weight) for latent in latents}
            quantizer = _quantizers(latents[0]) if latents else "packed"
            report.binary.append(BinaryRow(name, kind_name(module), weights, quantizer))
        parameters = {key: p for key, p in _parameters(module).items() if id(p) not in latent_ids}
        if not parameters and not real:
            continue
        held = {holders.setdefault(id(parameter), name) for parameter in parameters.values()} - {name}
        parameters = {key: p for key, p in parameters.items() if holders[id(p)] == name}  # each counts once
        lazy = any(map(is_lazy, parameters.values()))
        count = 0 if lazy else real + sum(parameter.numel() for parameter in parameters.values())
        reason, warn = (BIAS, False) if latents or signs else _reason(kind_of(module), parameters, lazy=lazy)
        if reason == LEFT_REAL and held:
            reason = f"its weight is that of {', '.join(map(repr, held))}"
        if (warn or reason == LEFT_REAL) and _left_out(where, name, module):
            reason, warn = NOT_CHOSEN, False
        if warn:
            reasons.setdefault(reason, []).append(name or THE_MODEL)
        report.real.append(RealRow(name, kind_name(module), count, reason))
    for reason, names in reasons.items():
        shown = ", ".join(shortened(repr(name), 60) for name in names[:5]) + ", …" * (len(names) > 5)
        report.warnings.append(f"{reason}: {shown}; if this is intended, exclude it with `where`")
    return report


def _left_out(where: Callable[[str, nn.Module], bool] | None, name: str, module: nn.Module) -> bool:
    try:
        return where is not None and not where(name, module)
    except AttributeError:  # `where` may read attributes that only layers that can be binary have
        return False


def packed_sizes(module: nn.Module) -> tuple[int, int]:
    """(one-bit weights, real numbers) of a layer of `packed_layers_`, else (0, 0)."""
    return getattr(module, "packed_sizes", (0, 0))


def latents_of(module: nn.Module) -> list[LatentWeight]:
    """The latent weights of a module, without those of submodules."""
    if isinstance(module, BinaryLayer):
        return [module] if module.weight_quantizer is not None else []
    return list(binary_parametrizations(module).values())


def _parameters(module: Any) -> dict[str, Tensor]:
    """The parameters of a module, without those of submodules, and of its quantizers and parametrizations."""
    found: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    parts = [module.parametrizations] if is_parametrized(module) else []
    if isinstance(module, BinaryLayer) or any(packed_sizes(module)):
        parts += [getattr(module, "weight_quantizer", None), module.input_quantizer]
    for part in filter(None, parts):
        found |= {f"{id(part)}.{name}": parameter for name, parameter in part.named_parameters()}
    return found


def _quantizers(latent: LatentWeight) -> str:
    """Names of the quantizers of weights and of inputs."""
    weights = _named(latent.weight_quantizer, WEIGHT_QUANTIZERS)
    inputs = latent.input_quantizer
    return weights if inputs is None else f"{weights}, inputs {_named(inputs, INPUT_QUANTIZERS)}"


def _named(quantizer: Any, table: Any) -> str:
    return next((name for name, kind in table.items() if type(quantizer) is kind), type(quantizer).__name__)


def quantizer_config(model: nn.Module) -> dict[str, Any]:
    """Which layers are binary, and by which quantizers, as JSON to store beside the latent weights.

    `onebit.binarize_from_config_` reads it, and so does `from_pretrained` after `onebit.register_transformers()`.

    Example:
        >>> model.config.quantization_config = quantizer_config(model)
        >>> model.save_pretrained("folder")
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, module in unwrapped(model).named_modules():
        weights = next((latent.weight_quantizer for latent in latents_of(module)), None)
        inputs = getattr(module, "input_quantizer", None)
        whole = isinstance(module, BinaryLayer) or kind_of(module) in PARAMETRIZED  # no part of an attention layer
        if whole and not (weights is inputs is None):
            shipped = None if weights is None else weights.shipped
            group = {"weights": _noted(shipped, WEIGHT_QUANTIZERS), "inputs": _noted(inputs, INPUT_QUANTIZERS)}
            groups.setdefault(repr(group), {**group, "layers": []})["layers"].append(name)
    return {"quant_method": "onebit", "quantizers": [*groups.values()]}


def _noted(quantizer: Any, table: Any) -> dict[str, Any]:
    """The name and the arguments of a quantizer, as `with_options` takes them."""
    name = None if quantizer is None else _named(quantizer, table)
    return {"quantizer": name, "options": quantizer.options() if isinstance(quantizer, Quantizer) else {}}


def noted_config(model: nn.Module) -> dict[str, Any]:
    """What `quantizer_config` noted in the configuration of a model; {} without."""
    noted: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    return noted if isinstance(noted, dict) and noted.get("quant_method") == "onebit" else {}


def refuse_latents(model: nn.Module) -> None:
    """Refuse a model with latents in layers that were not made binary."""
    if noted_config(model).get("quantizers") and not quantizer_config(model)["quantizers"]:
        raise UsageError("latents in real layers: call onebit.register_transformers() before from_pretrained")


def _reason(kind: type, parameters: dict[str, Tensor], *, lazy: bool) -> tuple[str, bool]:
    """Why a module with these parameters is real, and whether to warn of it."""
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
            return f"a subclass of {known.__name__} with an unknown forward", True
    if all(math.prod(p.shape[1:]) <= 1 or len(p) == 1 for p in parameters.values() if p.dim()):
        return "no weight matrix", False
    if kind.__module__.startswith("torch.nn."):
        return f"there is no binary {kind.__name__}", True
    names = [name for name, parameter in parameters.items() if parameter.dim() > 1 and len(parameter) > 1]
    return f"{kind.__name__} uses {', '.join(names[:3])} directly", True
