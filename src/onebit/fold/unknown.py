"""The message for an operation that packed nets do not have: what to use in its place, or how to go on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_NORM = "nn.BatchNorm1d or nn.BatchNorm2d, whose statistics are fixed after training,"
_SMOOTH = "nn.Hardswish or nn.ReLU"
INSTEAD = {
    **dict.fromkeys(("sigmoid", "logsigmoid"), "nn.Hardsigmoid"),
    **dict.fromkeys(("tanh", "softsign"), "nn.Hardtanh"),
    **dict.fromkeys(("silu", "gelu", "mish", "elu", "selu", "celu", "softplus", "rrelu", "glu"), _SMOOTH),
    **dict.fromkeys(("layernorm", "groupnorm", "rmsnorm"), _NORM),
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), _NORM),
    "pixelshuffle": "nn.Upsample or a transposed convolution",
    "max": "x.amax(dim)",
    "pixel_shuffle": "nn.Upsample or a transposed convolution",
    "conv2d": "the layer nn.Conv2d or onebit.BinaryConv2d",
    "conv1d": "the layer nn.Conv1d or onebit.BinaryConv1d",
    "batch_norm": "the layer nn.BatchNorm1d or nn.BatchNorm2d",
}
"""Lower-case name of a layer, function or method -> what is packed and does a similar thing."""

ONLY_IN_TORCH = {
    *("lstm", "gru", "rnn", "multiheadattention", "scaled_dot_product_attention", "embedding", "bmm", "baddbmm"),
    *("einsum", "normalize", "std", "var", "topk", "gather", "argmax", "where", "gt", "lt", "ge", "le", "eq", "sqrt"),
    *("pow", "exp", "log", "rsqrt", "cumsum", "softmin", "transformerencoderlayer", "lstmcell", "grucell"),
}
"""What has nothing like it in a packed net."""
PROBABILITIES = {"sigmoid", "softmax", "log_softmax", "logsigmoid", "logsoftmax"}
"""Functions of the logits that change no label; at the end of a net, a loss that takes logits has them inside."""
LAYER_BY_LAYER = "pack layer by layer with onebit.packed_layers_(model)"


def unknown_operation(name: str, known: Iterable[Any], *, last: bool = False) -> str:
    """Why an operation is refused that is not in the table, and how to go on.

    Args:
        name: of the class, function or method.
        known: keys of the table.
        last: its result is an output of the net.
    """
    if last and name.lower() in PROBABILITIES:
        return (
            f"a packed net has no {name}; return the logits, without training again, and apply it to the packed outputs"
        )
    if instead := INSTEAD.get(name.lower().rstrip("_")):
        return f"a packed net has no {name}; use {instead} in its place and train again, or {LAYER_BY_LAYER}"
    if name.lower().rstrip("_") in ONLY_IN_TORCH:
        return f"a packed net has no {name}; {LAYER_BY_LAYER}"
    names = [kind.__name__ for kind in known if isinstance(kind, type)]
    layers = ", ".join(x for x in names if not x.startswith("Binary") and f"{x.removesuffix('1d')}2d" not in names)
    return f"known layers are {layers}, and their 1d and binary twins; {LAYER_BY_LAYER}, or move it out of the model"
