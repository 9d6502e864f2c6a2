"""The nets that the training benchmarks compare: one in plain torch, and the same net with each method of onebit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from benchmarks.shared import own_kernels

WIDTHS = (784, 2048, 2048, 2048, 10)
IMAGES, CLASSES = (3, 32, 32), 10
EVERY_LAYER = {"last_norm": True}
"""Options of a net whose last layer is binary, too."""
CPU = torch.device("cpu")
CERTAIN = 10.0
"""|λ| above which every draw of BayesBiNN has the sign of λ."""


@dataclass(frozen=True)
class Variant:
    """A net to train; `weights` and `inputs` are quantizers, None for real.

    optimizer: "adam", "sgd", "bop" or "bayesbinn". activation: of `create_model`. recompute: see `recompute_inputs_`.
    kernels: with those of onebit.
    """

    name: str
    weights: str | None = None
    inputs: str | None = None
    compiled: bool = False
    optimizer: str = "adam"
    activation: str = "relu"
    recompute: bool = False
    kernels: bool = True


FLOOR = Variant("plain torch", kernels=False)
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("sign", "sign"),
        Variant("stochastic", "stochastic"),
        Variant("ste_sign", "ste_sign"),
        Variant("bnn", "ste_sign", "ste_sign"),
        Variant("real"),
        *(Variant(name, name) for name in ("xnor", "magnitude_aware", "swish_sign", "irnet", "recu", "adabin")),
        Variant("react", "magnitude_aware", "rsign", activation="rprelu"),
        Variant("bop", "sign", optimizer="bop"),
        Variant("bayesbinn", "concrete_sign", optimizer="bayesbinn"),
        Variant("proxquant", "prox"),
        Variant("bnn-recompute", "ste_sign", "ste_sign", recompute=True),
    )
}
EAGER = COMPILED = ("sign", "stochastic", "ste_sign", "bnn")
"""Measured unless others are asked for; `compile_update_` compiles no others."""


@dataclass(frozen=True)
class Setting:
    """How a net is trained; `memory_format` is "contiguous" (NCHW for images) or "channels_last"."""

    precision: str
    memory_format: str = "contiguous"


@dataclass
class Run:
    """A net with its optimizer and a training batch."""

    variant: Variant
    setting: Setting
    net: nn.Module
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor

    def step(self) -> None:
        """An optimizer step."""
        with own_kernels(self.variant.kernels):
            with onebit.evaluation.precision.autocast(self.setting.precision, CPU):
                logits = self.net(self.x)
            F.cross_entropy(logits.float(), self.y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def settings_of(model: str) -> list[Setting]:
    """The settings that a model is trained with, that of the floor first."""
    settings = [Setting("fp32")] if model == "mlp" else [Setting("fp32"), Setting("fp32", "channels_last")]
    if onebit.evaluation.precision.multiplies_bf16(CPU):
        settings.append(Setting("bf16", settings[-1].memory_format))
    return settings


def mlp_widths(width: float) -> tuple[int, ...]:
    """Units of each layer, the hidden ones times `width`."""
    return (WIDTHS[0], *(max(1, round(units * width)) for units in WIDTHS[1:-1]), WIDTHS[-1])


def plain_net(widths: Sequence[int]) -> nn.Sequential:
    """The floor of the mlp: torch's Linear, BatchNorm, ReLU."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _mlp(variant: Variant, widths: Sequence[int]) -> nn.Module:
    if variant is FLOOR:
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
