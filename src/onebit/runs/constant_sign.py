"""Layers with binary inputs that receive inputs of one sign, as those after a ReLU do: their input says nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from onebit.data import Images, StreamedImages
from onebit.evaluation.batches import predict_logits
from onebit.evaluation.modes import kept_batch_norm, reestimate_batch_norm_
from onebit.layers import BinaryLayer

ADVICE = "leave out the ReLU, or another activation that is never negative, before a layer with binary inputs"


def one_signed_inputs(model: nn.Module, images: Images | StreamedImages | Tensor) -> list[str]:
    """The layers whose input quantizer gives the same value for every input, of every image.

    They are looked for in eval mode with the BatchNorm statistics of these images, so that a new net shows them as a
    trained one does. Weights, statistics and the mode stay as they are.

    Args:
        images: uint8 (N, C, H, W), two or more; all of them at a time.
    """
    spans: dict[str, list[Tensor]] = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(quantizer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            spans.setdefault(name, []).append(torch.stack(output.detach().aminmax()))

        return note

    with ExitStack() as kept:
        kept.enter_context(kept_batch_norm(model))
        reestimate_batch_norm_(model, images, batch_size=len(images))
        for name, layer in model.named_modules():
            if isinstance(layer, BinaryLayer) and layer.input_quantizer is not None:
                kept.callback(layer.input_quantizer.register_forward_hook(noting(name)).remove)
        predict_logits(model, images, batch_size=len(images))
    return [name for name, found in spans.items() if len(torch.stack(found).unique()) == 1]


def one_sign_warning(model: nn.Module, images: Images | StreamedImages | Tensor) -> str | None:
    """One line about the layers of `one_signed_inputs`; None where there is none."""
    names = one_signed_inputs(model, images)
    if not names:
        return None
    told = f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
    return f"{'layers' if len(names) > 1 else 'layer'} {told}: all inputs have one sign, which says nothing: {ADVICE}"
