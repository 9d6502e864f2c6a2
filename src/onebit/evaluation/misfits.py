"""Why a model, its inputs and its targets do not fit together: one line in place of an error of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.torch_private import uncompiled
from onebit.errors import DataError, OnebitError, UsageError, first_line
from onebit.evaluation.loaders import kept_globals
from onebit.evaluation.losses import paired, per_sample
from onebit.evaluation.metrics import is_classification
from onebit.evaluation.model_inputs import check_takes, kept_training, model_device, whole_pixels
from onebit.evaluation.nested import all_finite, first_samples, leaves, mapped, shown, size_of
from onebit.evaluation.sources import ArraySamples, Samples
from onebit.layers import InputCoding

OF_TORCH = (RuntimeError, IndexError, TypeError, ValueError, AttributeError, AssertionError)
"""What a forward pass raises for inputs of another kind."""
BATCH_NORM_ALONE = "Expected more than 1 value per channel"


@torch.no_grad()
def outputs_for(model: nn.Module, inputs: Any) -> Any:
    """The outputs for the first two samples in eval mode; nothing changes, also no random state of the CPU."""
    plain, device = uncompiled(model), model_device(model)
    few = mapped(lambda tensor: tensor.to(device), first_samples(inputs, 2))
    with torch.random.fork_rng(devices=[]), kept_globals(), kept_training(plain):
        return plain.eval()(few)


def check_takes_inputs(model: nn.Module, inputs: Any, *, name: str = "") -> Any:
    """Refuse inputs that a model does not take; returns its outputs for the first two."""
    plain = uncompiled(model)
    try:
        with whole_pixels(plain, name=name):
            return outputs_for(model, inputs)
    except OnebitError:
        raise
    except OF_TORCH as error:
        of = f" of {name}" if name else ""
        raise UsageError(
            f"the model does not take the inputs {shown(inputs)}{of} ({first_line(error)}): {_way(plain, inputs)}"
        ) from None


def _way(model: nn.Module, inputs: Any) -> str:
    """How to go on, by the dtype of the inputs and the first layer of the model."""
    dtypes = {leaf.dtype for leaf in leaves(inputs)}
    own = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    other = next((dtype for dtype in dtypes if dtype.is_floating_point and dtype != own), None)
    if other is not None:
        return f"its weights are {str(own).removeprefix('torch.')}, convert the inputs with .to({own})"
    coded, embeds = (any(isinstance(m, kind) for m in model.modules()) for kind in (InputCoding, nn.Embedding))
    if torch.uint8 in dtypes and not (coded or embeds):
        return "pass float32, or begin it with onebit.InputCoding() for uint8 pixels"
    if coded and torch.uint8 not in dtypes:
        return "its InputCoding takes uint8 pixels; leave it out for inputs of other kinds"
    tokens = embeds or not (coded or any(dtype.is_floating_point for dtype in dtypes))
    for path, layer in () if tokens else model.named_modules():
        for attribute, what in (("in_features", "features, (N, {})"), ("in_channels", "channels, (N, {}, …)")):
            if isinstance(size := getattr(layer, attribute, None), int):
                return f"its first layer, {type(layer).__name__} {path!r}, takes {size} {what.format(size)}"
    return "pass inputs of the shape and dtype that its forward expects"


def check_targets(outputs: Any, targets: Any, task: str | None, *, loss: str = "") -> None:
    """Refuse targets that do not fit the outputs and the task.

    Args:
        task: see `onebit.evaluation.loss_table.TASKS`; None for a loss of the user, whose targets are hers.
        loss: its name, for messages.
    """
    if task is None and not is_classification(task, outputs, targets):
        return
    for what, value in (("model returns", outputs), ("targets are", targets)):
        if not isinstance(value, Tensor):
            raise UsageError(
                f"the {what} {shown(value)}, expected a tensor: pass loss=, a function (outputs, targets) -> scalar"
            )
    if not all_finite(targets):
        raise not_finite("targets", targets)
    if task in ("regression", "multi-label"):
        paired(outputs, targets, task, loss=loss)
        low, high = float(targets.min()), float(targets.max())
        if task == "multi-label" and not 0 <= low <= high <= 1:
            raise DataError(f"multi-label: got targets {low:g} to {high:g}, expected 0 to 1 for each label")
        return
    logits, labels = per_sample(outputs, targets)
    check_labels(labels, logits.shape[1])


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels without a logit with a DataError."""
    labels = labels.long()  # torch has no minimum of uint16, uint32 and uint64
    low, high = (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)
    if not 0 <= low <= high < classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"labels: got {wrong}, the model has {classes} logits for the labels 0..{classes - 1}: "
            "number the classes from 0, or give the model more outputs"
        )


@contextmanager
def explained_samples(model: nn.Module, samples: Samples) -> Iterator[None]:
    """Replace an error of torch by that of `check_takes_inputs`, if the model refuses the first batch of samples."""
    try:
        yield
    except OnebitError:
        raise
    except OF_TORCH:
        if (
            isinstance(samples, ArraySamples)
            and samples.shape
            and str(samples.inputs.dtype) == "uint8"
            and len(samples.shape) == 3
        ):
            if not hasattr(model, "output_shape"):  # a U-Net takes tiles of any image
                check_takes(model, samples.shape)
        else:
            check_takes_inputs(model, next(samples.batches())[0], name=samples.name)
        raise


@contextmanager
def explained_targets(outputs: Any, targets: Any, task: str | None) -> Iterator[None]:
    """Replace an error of a loss by that of `check_targets`, if the targets do not fit."""
    try:
        yield
    except OF_TORCH:
        check_targets(outputs, targets, task)
        raise


def checked(samples: Samples, batch_size: int | None = None) -> Iterator[tuple[Any, Any]]:
    """The batches of samples in order; DataError for inputs that are not finite, which binary layers would hide."""
    done = 0
    for inputs, targets in samples.batches(batch_size):
        if not all_finite(inputs):
            raise not_finite("inputs", inputs, before=done, name=samples.name)
        done += size_of(inputs)
        yield inputs, targets


def refuse_not_finite(samples: Samples) -> None:
    """Look for NaN and infinite values in samples, after a loss that is not a number."""
    done = 0
    for inputs, targets in samples.batches():
        for what, value in (("inputs", inputs), ("targets", targets)):
            if value is not None and not all_finite(value):
                raise not_finite(what, value, before=done, name=samples.name)
        done += size_of(inputs)


def not_finite(what: str, value: Any, *, before: int = 0, name: str = "") -> DataError:
    """The error for inputs or targets with NaN or infinite values.

    Args:
        before: number of samples before this batch.
    """
    wrong = next(leaf for leaf in leaves(value) if not all_finite(leaf))
    sample = before + int((~torch.isfinite(wrong)).nonzero()[0][0])
    kind = "NaN" if bool(torch.isnan(wrong).any()) else "infinite values"
    way = "clean them, or fill in what is missing"
    return DataError(f"{name or 'the data'}: the {what} hold {kind}, the first in sample {sample}: {way}")
