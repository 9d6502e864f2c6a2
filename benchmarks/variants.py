"""The nets that the training benchmarks compare: one in plain torch, and the same net with each method of onebit."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from benchmarks.shared import add_process_options, own_kernels

WIDTHS = (784, 2048, 2048, 2048, 10)
IMAGES, CLASSES = (3, 32, 32), 10
FLOOR = "plain torch"
EVERY_LAYER = {"last_norm": True}
"""Options of a net whose last layer is binary, too."""
CPU = torch.device("cpu")
CERTAIN = 10.0
"""|λ| above which every draw of BayesBiNN has the sign of λ."""


@dataclass(frozen=True)
class Variant:
    """A net to train; `weights` and `inputs` are quantizers, None for real.

    optimizer: "adam", "sgd", "bop" or "bayesbinn". activation: of `create_model`. recompute: see `recompute_inputs_`.
    """

    name: str
    weights: str | None = None
    inputs: str | None = None
    compiled: bool = False
    optimizer: str = "adam"
    activation: str = "relu"
    recompute: bool = False


EAGER = (
    Variant(FLOOR),
    Variant("sign", "sign"),
    Variant("stochastic", "stochastic"),
    Variant("ste_sign", "ste_sign"),
    Variant("bnn", "ste_sign", "ste_sign"),
)
METHODS = (
    Variant("real"),
    *(Variant(name, name) for name in ("xnor", "magnitude_aware", "swish_sign", "irnet", "recu", "adabin")),
    Variant("react", "magnitude_aware", "rsign", activation="rprelu"),
    Variant("bop", "sign", optimizer="bop"),
    Variant("bayesbinn", "concrete_sign", optimizer="bayesbinn"),
    Variant("proxquant", "prox"),
    Variant("bnn-recompute", "ste_sign", "ste_sign", recompute=True),
)
"""Measured only if requested by name."""
COMPILED = {v.name: Variant(f"{v.name}, compiled", v.weights, v.inputs, True) for v in EAGER[1:]}
"""The compiled forms of variants; `compile_update_` has none for other quantizers and optimizers."""


@dataclass(frozen=True)
class Setting:
    """How a net is trained; `memory_format` is "contiguous" (NCHW for images) or "channels_last"."""

    precision: str
    memory_format: str = "contiguous"

    def __str__(self) -> str:
        return f"{self.precision} {self.memory_format}"


@dataclass
class Run:
    """A net with its optimizer and a training batch."""

    variant: Variant
    setting: Setting
    net: nn.Module
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor

    def step(self, *, kernels: bool | None = None) -> None:
        """An optimizer step; `kernels` of onebit for its fused operations, None for all nets but the floor."""
        with own_kernels(self.variant.name != FLOOR if kernels is None else kernels):
            with onebit.evaluation.precision.autocast(self.setting.precision, CPU):
                logits = self.net(self.x)
            F.cross_entropy(logits.float(), self.y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def add_net_options(parser: argparse.ArgumentParser) -> None:
    """Flags for the nets to compare."""
    parser.add_argument("--model", default="mlp", help="mlp (784–3×2048–10), resnet20, vgg_small, … on 32×32 images")
    parser.add_argument("--width", type=float, default=1.0, help="factor on channels and hidden units (1)")
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        help=f"which of {','.join(v.name for v in (*EAGER[1:], *METHODS))} (the first four)",
    )
    parser.add_argument("--batch", type=int, help="images per step (100 for the mlp, 125 for other nets)")
    add_process_options(parser)


def chosen(names: Sequence[str | Variant] | None, *, compile: bool = False) -> list[Variant]:
    """The floor, the variants with these names (EAGER for None), and with `compile` their compiled forms.

    Args:
        names: names or `Variant` objects.

    Raises:
        UnknownNameError: no such variant. UsageError: one that has no compiled form, with `compile`.
    """
    table = {variant.name: variant for variant in (*EAGER[1:], *METHODS)}
    names = EAGER[1:] if names is None else names
    found = [
        name if isinstance(name, Variant) else onebit.common.tables.resolve(table, name, kind="variant")
        for name in names
    ]
    if not compile:
        return [EAGER[0], *found]
    if unlike := [variant.name for variant in found if variant.name not in COMPILED]:
        raise onebit.errors.UsageError(f"{', '.join(unlike)}: no compiled form; known: {', '.join(COMPILED)}")
    return [EAGER[0], *found, *(COMPILED[variant.name] for variant in found)]


def settings_of(model: str) -> list[Setting]:
    """The settings that a model is trained with, that of the floor first."""
    settings = [Setting("fp32")] if model == "mlp" else [Setting("fp32"), Setting("fp32", "channels_last")]
    return (
        [*settings, Setting("bf16", settings[-1].memory_format)]
        if onebit.evaluation.precision.multiplies_bf16(CPU)
        else settings
    )


def batch_size(model: str, batch: int | None) -> int:
    """`batch`, or the batch size of the model's recipe.

    Raises:
        UsageError: a batch that BatchNorm cannot train on.
    """
    batch = (100 if model == "mlp" else 125) if batch is None else batch
    if batch < 2:
        raise onebit.errors.UsageError(f"BatchNorm needs a batch of 2 or more, got {batch}")
    return batch


def mlp_widths(width: float) -> tuple[int, ...]:
    """Units of each layer, the hidden ones times `width`.

    Raises:
        UsageError: a width that is not positive.
    """
    if not 0 < width < math.inf:
        raise onebit.errors.UsageError(f"width must be positive, got {width:g}")
    return (WIDTHS[0], *(max(1, round(units * width)) for units in WIDTHS[1:-1]), WIDTHS[-1])


def plain_net(widths: Sequence[int]) -> nn.Sequential:
    """The floor of the mlp: torch's Linear, BatchNorm, ReLU."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _mlp(variant: Variant, widths: Sequence[int]) -> nn.Module:
    if variant.name == FLOOR:
        return plain_net(widths)
    model = onebit.create_model(
        "mlp",
        widths=widths,
        weight_quantizer=variant.weights,
        input_quantizer=variant.inputs,
        activation=variant.activation,
    )
    return nn.Sequential(*list(model.children())[2:])  # the floor does not have input coding and flattening either


def is_plain(net: nn.Module) -> bool:
    """Whether all layers with parameters are from torch.nn."""
    return all(type(m).__module__.startswith("torch.nn.") for m in net.modules() if list(m.parameters(recurse=False)))


def build(
    variant: Variant,
    setting: Setting,
    *,
    model: str,
    batch: int,
    width: float = 1.0,
    widths: Sequence[int] = WIDTHS,
    options: Mapping[str, Any] = EVERY_LAYER,
) -> Run:
    """A variant with its optimizer and a batch of noise, the same seed for all.

    Args:
        model: "mlp", whose floor is `plain_net`, or a convolutional model, whose floor is the same model without
            quantizers.
        width, options: of a convolutional model; widths: of the mlp.

    Raises:
        UnknownNameError, UsageError: no such model, or one that does not take images of 32×32 pixels.
    """
    torch.manual_seed(0)
    if model == "mlp":
        net = _mlp(variant, widths)
        x, classes = torch.rand(batch, widths[0]) * 2 - 1, widths[-1]
    else:
        net = onebit.create_model(
            model,
            input_shape=IMAGES,
            classes=CLASSES,
            width=width,
            weight_quantizer=variant.weights,
            input_quantizer=variant.inputs,
            activation=variant.activation,
            **options,
        )
        layout = onebit.evaluation.precision.resolve_memory_format(setting.memory_format, net)
        net.to(memory_format=layout)  # type: ignore[call-overload]
        x, classes = torch.randint(0, 256, (batch, *IMAGES), dtype=torch.uint8).to(memory_format=layout), CLASSES
    y = torch.randint(0, classes, (batch,))
    assert is_plain(net) or variant.weights is not None
    groups = onebit.latent_groups(net, lr=1e-3)
    optimizer: torch.optim.Optimizer
    if variant.optimizer == "bop":
        optimizer = onebit.optim.Bop(groups)
    elif variant.optimizer == "bayesbinn":
        optimizer = onebit.optim.BayesBiNN(groups, count=60_000, lr=1e-4)
    elif variant.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.Adam(groups, fused=True)
    if variant.weights == "prox":
        onebit.optim.prox_latents_(optimizer, growth=1e-6)
    onebit.layers.recompute_inputs_(net, variant.recompute)
    if variant.weights is not None:
        onebit.clip_latents_(optimizer)
        if variant.compiled:
            onebit.optim.compile_update_(optimizer, net, precision=setting.precision)
    return Run(variant, setting, net.train(), optimizer, x, y)


def check(net: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], None]) -> None:
    """Take steps with a large learning rate, check the weights of a forward pass and the clip, then restore the net.

    Raises:
        NotBinaryError: a weight of a forward pass is not ±1 or not that of its latent, or a latent is beyond its clip.
    """
    used: dict[nn.Module, tuple[Tensor, onebit.quantizers.BinaryWeight]] = {}

    def look(quantizer: onebit.quantizers.Quantizer, inputs: tuple[Tensor], weight: Tensor) -> None:
        # copied: a compiled update overwrites the weight, and the step changes parameters of the quantizer
        used[quantizer] = weight.detach().float().clone(), quantizer.decompose(inputs[0])

    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    layers = list(onebit.layers.binary_layers(net))
    latents = [layer.weight.detach().clone() for _, layer in layers]
    hooks = [layer.weight_quantizer.register_forward_hook(look) for _, layer in layers]  # type: ignore[union-attr]
    step()
    for hook in hooks:
        hook.remove()
    net.load_state_dict(before)
    for (name, layer), latent in zip(layers, latents, strict=True):
        quantizer = layer.weight_quantizer
        assert quantizer is not None
        weight, shipped = used[quantizer]
        if quantizer.relaxed:
            wrong = 0
        elif quantizer.random:
            certain = latent.abs() >= (quantizer.latent_bound or CERTAIN)
            wrong = int(((weight.abs() != 1) | ((weight != shipped.signs) & certain)).sum())
        else:
            expected = shipped.dense()
            wrong = int(((weight - expected).abs() > 0.01 * expected.abs()).sum())  # bf16 rounds to 1/256
        if wrong:
            raise onebit.errors.NotBinaryError(
                f"layer {name}: {wrong:,} weights of a training step are not the binary weights of its latents"
            )
        bound, largest = quantizer.latent_bound, float(latent.abs().max())
        if bound is not None and largest != bound:
            raise onebit.errors.NotBinaryError(
                f"layer {name}: the largest latent after a large step is {largest}, not its clip {bound:g}"
            )
