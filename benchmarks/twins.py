"""The nets that are packed and timed, and their twins in float32."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

import onebit

FLOOR = "torch"
Call = Callable[[], np.ndarray]
"""Computes the logits of a batch."""


@dataclass(frozen=True)
class Net:
    """A row of the table: a model, its quantizers (None for real inputs), and the batches that are timed.

    activations: the bits to which the packed net rounds its activations; None for the exact net.
    """

    model: str
    weights: str
    inputs: str | None
    batches: tuple[int, ...]
    activations: int | None = None


NETS = {
    "mlp-weights": Net("mlp", "sign", None, (1, 256)),
    "mlp-8bit": Net("mlp", "sign", None, (1, 256), activations=8),
    "mlp-signs": Net("mlp", "ste_sign", "ste_sign", (1, 256)),
    "resnet20-weights": Net("resnet20", "sign", None, (1, 64)),
    "resnet20-8bit": Net("resnet20", "sign", None, (1, 64), activations=8),
    "vgg-signs": Net("vgg_small", "ste_sign", "ste_sign", (1, 64)),
}
"""The mlp is 784–3×2048–10, the others take images of 3×32×32 and give 10 classes."""


class Sign(nn.Module):
    """The sign of an input, without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return onebit.sign(x)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Sign) or super().is_leaf_module(m, module_qualified_name)


def build(net: Net, *, width: float = 1.0, seed: int = 0) -> nn.Module:
    """A net with random weights in eval mode whose BatchNorms are like those of a trained net: signs are balanced.

    Their statistics are those of noise, moved by half a standard deviation or so, their scales and shifts are random.
    """
    torch.manual_seed(seed)
    options: dict[str, Any] = {"weight_quantizer": net.weights, "input_quantizer": net.inputs}
    if net.model == "mlp":
        options["widths"] = (784, *[max(1, round(2048 * width))] * 3, 10)
    else:
        options |= {"input_shape": (3, 32, 32), "classes": 10, "width": width, "last_norm": True}
    model = onebit.create_model(net.model, **options)
    onebit.evaluation.modes.reestimate_batch_norm_(model, make_images(model, 64, seed=seed + 1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                noise, *uniform = (torch.empty(norm.num_features) for _ in range(3))
                shift = 0.5 * noise.normal_(generator=generator)
                norm.running_mean += shift * norm.running_var.sqrt()
                norm.running_var *= uniform[0].uniform_(0.5, 2, generator=generator)
                norm.weight.copy_(uniform[1].uniform_(0.5, 1.5, generator=generator))
                norm.bias.copy_(0.5 * noise.normal_(generator=generator))
    return model.eval().requires_grad_(False)


def packed_form(model: nn.Module, activations: int | None) -> onebit.packed.PackedNet:
    """The packed net of a model: exact, or with activations of some bits, calibrated on `calibration_images`."""
    exact = onebit.pack(model)
    return (
        exact if activations is None else onebit.integer_net(exact, calibration_images(model), activations=activations)
    )


def is_plain(net: nn.Module) -> bool:
    """Whether all layers with parameters are from torch.nn."""
    return all(type(m).__module__.startswith("torch.nn.") for m in net.modules() if list(m.parameters(recurse=False)))


def calibration_images(model: nn.Module) -> np.ndarray:
    """Images for the ranges of activations, like those that are timed."""
    return make_images(model, 128, seed=2)


def make_images(model: nn.Module, count: int, *, seed: int = 0) -> np.ndarray:
    """Noise in squares of 4×4 pixels, (count, C, H, W) uint8. With noise of single pixels outputs hardly vary."""
    channels, height, width = model.input_shape  # type: ignore[misc]
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 256, (count, channels, -(-height // 4), -(-width // 4)), dtype=np.uint8)
    return np.ascontiguousarray(squares.repeat(4, 2).repeat(4, 3)[:, :, :height, :width])


def float_twin(model: nn.Module) -> nn.Module:
    """The same net with its binary weights in layers of `torch.nn`."""
    twin = copy.deepcopy(model)
    for path, layer in list(onebit.layers.binary_layers(twin)):
        parent, _, name = path.rpartition(".")
        setattr(twin.get_submodule(parent), name, _plain_layer(layer))
    assert is_plain(twin)
    return twin.eval()


def _plain_layer(layer: Any) -> nn.Module:
    plain: nn.Linear | nn.Conv2d
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        plain = nn.Linear(layer.in_features, layer.out_features, bias)
    else:
        assert isinstance(layer, nn.Conv2d)
        options: Any = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **options, bias=bias)  # type: ignore[arg-type]
    plain.weight = nn.Parameter(layer.dense(layer.binary_weight()))
    plain.bias = layer.bias
    plain.requires_grad_(False)
    return plain if layer.input_quantizer is None else nn.Sequential(Sign(), plain)


def float_nets(twin: nn.Module, images: np.ndarray) -> Iterator[tuple[str, Call]]:
    """(name, call): plain torch first, then the optimized forms; a net that torch fails to freeze is left out."""
    convolves = any(parameter.dim() == 4 for parameter in twin.parameters())
    fused = folded(twin)
    for layout in (torch.contiguous_format, *([torch.channels_last] if convolves else [])):
        x = torch.from_numpy(images).contiguous(memory_format=layout)
        for name, net in ((FLOOR, twin), ("folded", fused), ("frozen", fused)):
            laid_out: Any = copy.deepcopy(net).to(memory_format=layout)  # type: ignore[call-overload]
            if name == "frozen":
                laid_out = frozen(laid_out, x)
            if laid_out is not None:
                variant = name if layout == torch.contiguous_format else f"{name}, channels_last"
                yield variant, _torch_call(laid_out, x)


def folded(twin: nn.Module) -> fx.GraphModule:
    """The same net with each BatchNorm folded into the layer before it; one after a pooling layer stays."""
    graph = _Tracer().trace(twin)
    net = fx.GraphModule(twin, graph)
    layers: dict[Any, Any] = {node: twin.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
    fusing: dict[Any, Any] = {nn.Linear: fuse_linear_bn_eval, nn.Conv2d: fuse_conv_bn_eval}
    for node, norm in layers.items():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            (before,) = node.all_input_nodes
            layer = layers.get(before)
            if type(layer) in fusing and len(before.users) == 1:
                net.set_submodule(before.target, fusing[type(layer)](layer, norm))
                node.replace_all_uses_with(before)
                graph.erase_node(node)
    net.recompile()
    net.delete_all_unused_submodules()
    return net


def frozen(net: nn.Module, x: Tensor) -> Any:
    """The net with its weights prepacked for oneDNN; None if torch fails to freeze it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but only it prepacks weights without a compiler
        try:
            made = torch.jit.optimize_for_inference(torch.jit.trace(net, x))
            for _ in range(3):  # its first calls are slow
                made(x)
        except (RuntimeError, AttributeError):
            return None
        return made


def _torch_call(net: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    def call() -> np.ndarray:
        with torch.inference_mode():
            return net(x).numpy()

    return call
