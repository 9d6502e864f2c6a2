"""Layers with binary inputs that get inputs of one sign, as after a ReLU: their input carries no information."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from onebit.data import Images, StreamedImages
from onebit.evaluation.batches import predict_logits
from onebit.evaluation.modes import kept_batch_norm, reestimate_batch_norm_
from onebit.layers import BinaryLayer
from onebit.quantizers import Quantizer

LOOK_IMAGES = 100
"""Number of training images on which a model is checked before it is trained."""
ADVICE = "leave out the ReLU, or another activation that is never negative, before a layer with binary inputs"


def one_signed_inputs(model: nn.Module, images: Images | StreamedImages | Tensor) -> list[str]:
    """The layers whose input quantizer gives the same value for every input of every image.

    The net runs in eval mode with the BatchNorm statistics of these images, so that a new net shows them as well as a
    trained one. Weights, statistics and mode do not change.

    Args:
        images: uint8 (N, C, H, W), two or more, in one batch.
    """
    spans: dict[str, list[Tensor]] = {}

    def record(name: str, quantizer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        spans.setdefault(name, []).append(torch.stack(output.detach().aminmax()))

    with ExitStack() as kept:
        kept.enter_context(kept_batch_norm(model))
        reestimate_batch_norm_(model, images, batch_size=len(images))
        for name, layer in model.named_modules():
            quantizer = layer.input_quantizer if isinstance(layer, BinaryLayer) else None
            few_bits = isinstance(quantizer, Quantizer) and quantizer.integer_input() is not None
            if quantizer is not None and not few_bits:
                kept.callback(quantizer.register_forward_hook(partial(record, name)).remove)
        predict_logits(model, images, batch_size=len(images))
    return [name for name, found in spans.items() if len(torch.stack(found).unique()) == 1]


def one_sign_warning(model: nn.Module, images: Images | StreamedImages | Tensor) -> str | None:
    """One line about the layers of `one_signed_inputs`; None if there are none."""
    names = one_signed_inputs(model, images)
    if not names:
        return None
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    layers = f"{'layers' if len(names) > 1 else 'layer'} {', '.join(names[:4])}{more}"
    return f"{layers}: all inputs have one sign, so they carry no information: {ADVICE}"
