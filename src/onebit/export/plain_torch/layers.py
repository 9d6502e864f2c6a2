"""Operations of packed nets as layers and expressions of torch."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np

from onebit.export.plain_torch.body import Body, pair
from onebit.packed import Node, nodes
from onebit.packed.grid import FLOAT32_EXACT


def sides(padding: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Padding (top, bottom, left, right) in the order of `F.pad`."""
    top, bottom, left, right = padding
    return left, right, top, bottom


def padded(x: str, padding: tuple[int, int, int, int], value: object = 0, channels: tuple[int, ...] = ()) -> str:
    """An image with a border; channels: how many are added before and after."""
    return f"nn.functional.pad({x}, {(*sides(padding), *channels)}{f', value={value}' if value else ''})"


def is_even(padding: tuple[int, int, int, int]) -> bool:
    """Whether opposite sides have equal padding."""
    return padding[0] == padding[1] and padding[2] == padding[3]


# ------------------------------------------------------------------------------------------------------------- weights
def products(body: Body, node: Any, x: str, kind: str, *sizes: int, **fields: Any) -> str:
    """A layer of weights, with scale and center."""
    layer, rank = body.layer(node.output, kind, *sizes, **fields), len(body.values[node.output].shape)
    scale, centre = (getattr(node, name, None) for name in ("scale", "centre"))
    made = f"{layer}({x})"
    if scale is not None:
        made += f" * {body.parameter(f'{node.output}_scale', scale, rank)}"
    if centre is not None:
        made += f" + {body.part('sums')}({layer}, {x}) * {body.parameter(f'{node.output}_center', centre, rank)}"
    return made


def dense(body: Body, node: nodes.DenseLayer, x: str) -> str:
    return products(body, node, x, "nn.Linear", node.terms, node.outputs, bias=False, weight=np.float32(node.rows))


def conv(body: Body, node: nodes.Convolution, x: str) -> str:
    inside = is_even(node.padding) and not node.padding_value
    if not inside and any(node.padding):
        x = body.step(padded(x, node.padding, node.padding_value))
    return windows(body, node, "nn.Conv2d", x, inside=inside)


def windows(body: Body, node: Any, kind: str, x: str, *, inside: bool, **settings: Any) -> str:
    """A convolution; inside: whether the layer pads its input."""
    sizes = node.group_channels * node.groups, node.outputs
    window: dict[str, Any] = {
        "kernel_size": node.kernel,
        "stride": node.stride,
        "padding": node.padding[::2] if inside else 0,
    }
    window |= {**settings, "groups": node.groups, "bias": False, "dilation": node.dilation}
    return products(body, node, x, kind, *sizes, **window, weight=np.float32(node.kernels()))


def conv_transpose(body: Body, node: nodes.Transposed, x: str) -> str:
    (top, bottom, left, right), (down, across) = node.padding, node.extra
    # torch requires output_padding < max(stride, dilation)
    inside = is_even(node.padding) and all(
        more < max(sizes) for more, *sizes in zip(node.extra, node.stride, node.dilation, strict=True)
    )
    extra = node.extra if inside else 0
    made = windows(body, node, "nn.ConvTranspose2d", x, inside=inside, output_padding=extra)
    if inside or not any((*node.padding, *node.extra)):
        return made
    return padded(made, (-top, down - bottom, -left, across - right))


# --------------------------------------------------------------------------------------------------------------- pools
def fits(node: nodes.Pool) -> bool:
    """Whether the pool of torch can pad: equally on opposite sides, at most half a kernel."""
    (top, _, left, _), (height, width) = node.padding, node.kernel
    return is_even(node.padding) and 2 * top <= height and 2 * left <= width


def pool(body: Body, node: nodes.Pool, kind: str, x: str, **settings: Any) -> str:
    """A pool of windows."""
    stride = [] if node.stride == node.kernel else [f"stride={pair(node.stride)}"]
    padding = node.padding[::2] if fits(node) else 0
    return f"{body.layer(node.output, kind, pair(node.kernel), *stride, padding=padding, **settings)}({x})"


def max_pool(body: Body, node: nodes.MaxPool, x: str) -> str:
    if node.whole:
        return f"{x}.amax(dim=(2, 3), keepdim=True)"
    if not fits(node):
        x = body.step(padded(x, node.padding, "-torch.inf"))
    return pool(body, node, "nn.MaxPool2d", x, dilation=node.dilation)


def average_pool(body: Body, node: nodes.AveragePool, x: str) -> str:
    if node.dilation != (1, 1) or not fits(node):
        by = "one" if node.sums else "window" if node.count_padding else "pixels"
        sizes = f"{x}, {node.kernel}, stride={node.stride}, dilation={node.dilation}, padding={sides(node.padding)}"
        return f'{body.part("average_pool")}({sizes}, divide_by="{by}")'
    count_padding = bool(node.count_padding or node.sums or not any(node.padding))
    divide = {"divisor_override": 1} if node.sums else {}
    return pool(body, node, "nn.AvgPool2d", x, count_include_pad=count_padding, **divide)


# ---------------------------------------------------------------------------------------------------- for each channel
def per_channel(body: Body, node: Node, kind: str, **fields: Any) -> str:
    """A module with one number per channel, shaped to broadcast; `multiplier` has a row per input."""
    shape = body.values[node.inputs[0]].shape
    sizes = shape[0], *[1] * (len(shape) - 1)
    for name, array in fields.items():
        if isinstance(array, np.ndarray):
            fields[name] = array.reshape(*array.shape[:-1], *sizes)
    return body.layer(node.output, kind, *sizes, **fields)


def affine(body: Body, node: nodes.Affine, x: str) -> str:
    channels = body.values[node.output].shape[0]
    scale = np.ones(channels, np.float32) if node.scale is None else node.scale
    shift = np.zeros(channels, np.float32) if node.shift is None else node.shift
    return f"{per_channel(body, node, 'Affine', scale=scale, shift=shift)}({x})"


def threshold(body: Body, node: nodes.Threshold, x: str) -> str:
    wide = np.abs(node.threshold.astype(np.int64)).max() > FLOAT32_EXACT
    return compared(body, node, x, node.threshold.astype(np.float64 if wide else np.float32), node.direction)


def compared(body: Body, node: Node, x: str, at: np.ndarray, direction: np.ndarray) -> str:
    """Signs of a comparison with a threshold per channel."""
    body.part("sign")
    return f"{per_channel(body, node, 'Threshold', threshold=at, direction=np.float32(direction))}({x})"


def sign(body: Body, node: nodes.Sign, x: str) -> str:
    if node.shift is None:
        return f"{body.part('sign')}({x})"
    return compared(body, node, x, node.shift, np.ones_like(node.shift))


def bounded(body: Body, node: nodes.Bounded, x: str) -> str:
    ends = zip(("min", "max"), node.bounds, strict=True)
    bounds = [f"{name}={float(str(np.float32(bound)))}" for name, bound in ends if abs(bound) < inf]
    return f"torch.clamp({x}, {', '.join(bounds)})"


def requantize(body: Body, node: nodes.Requantize, *inputs: str) -> str:
    settings = {"inputs": len(inputs), "shift": node.right_shift, "least": node.least, "most": node.most}
    layer = per_channel(body, node, "Requantize", **settings, multiplier=node.multiplier, offset=node.offset)
    return f"{layer}({', '.join(inputs)})"


# --------------------------------------------------------------------------------------------------- moves of values
def slice_(body: Body, node: nodes.Slice, x: str) -> str:
    parts = list[str]()
    for size, start, stop, step in zip(
        body.values[node.inputs[0]].shape, node.start, node.stop, node.step, strict=True
    ):
        # rows and columns from the end, which moves with the size of the image
        end = "" if stop == size else str(stop - size if parts else stop)
        parts.append(f"{start or ''}:{end}{f':{step}' if step > 1 else ''}")
    return f"{x}[:, {', '.join(parts)}]"


def flatten(body: Body, node: nodes.Flatten, x: str) -> str:
    return f"torch.{'flatten' if body.values[node.inputs[0]].shape else 'unsqueeze'}({x}, 1)"


def permute(body: Body, node: nodes.Permute, x: str) -> str:
    return f"torch.permute({x}, ({', '.join(map(str, (0, *(axis + 1 for axis in node.axes))))}))"


def repeat(body: Body, node: nodes.Repeat, x: str) -> str:
    for axis, times in enumerate(node.times, start=1):
        if times > 1:
            x = f"torch.repeat_interleave({x}, {times}, dim={axis})"
    return x


def normalize(body: Body, node: nodes.Normalize, x: str) -> str:
    more = "" if node.whole else ", whole=False"
    more += "" if node.centered else ", centered=False"
    return f"{body.part('normalize')}({x}, groups={node.groups}, eps={float(str(node.eps[0]))}{more})"


LAYERS: dict[type, Callable[..., str]] = {
    nodes.Flatten: flatten,
    nodes.DenseLayer: dense,
    nodes.Convolution: conv,
    nodes.Transposed: conv_transpose,
    nodes.MaxPool: max_pool,
    nodes.AveragePool: average_pool,
    nodes.AdaptiveAveragePool: lambda body, node, x: (
        f"{body.layer(node.output, 'nn.AdaptiveAvgPool2d', pair(node.size))}({x})"
    ),
    nodes.Affine: affine,
    nodes.Threshold: threshold,
    nodes.Sign: sign,
    nodes.Relu: lambda body, node, x: f"torch.relu({x})",
    nodes.Prelu: lambda body, node, x: (
        f"{body.layer(node.output, 'nn.PReLU', len(node.slope), weight=node.slope)}({x})"
    ),
    nodes.Bounded: bounded,
    nodes.Activation: lambda body, node, x: node.torch.format(x=x),
    nodes.Add: lambda body, node, a, b: f"{a} + {b}",
    nodes.Concat: lambda body, node, *inputs: f"torch.cat([{', '.join(inputs)}], dim=1)",
    nodes.Slice: slice_,
    nodes.Take: lambda body, node, x: f"{x}[{':, ' * (node.axis + 1)}{node.indices.tolist()}]",
    nodes.Pad: lambda body, node, x: padded(x, node.padding, node.value, node.channels if any(node.channels) else ()),
    nodes.Reshape: lambda body, node, x: f"{x}.reshape({', '.join(map(str, (f'len({x})', *node.shape)))})",
    nodes.Permute: permute,
    nodes.Repeat: repeat,
    nodes.Product: lambda body, node, a, b: f'torch.einsum("nkbt,nkbs->nsbt", {a}, {b})',
    nodes.Normalize: normalize,
    nodes.Softmax: lambda body, node, x: f"torch.softmax({x}, dim=1)",
    nodes.Multiply: lambda body, node, a, b: f"{a} * {b}",
    nodes.Requantize: requantize,
    nodes.Quantize: lambda body, node, x: f"{body.part('quantize')}({x}, least={node.least}, most={node.most})",
}
"""Operation, or base class of operations -> function of (body, node, variables of its inputs) for its output."""
